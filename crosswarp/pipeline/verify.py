"""Verification of packaged bundles that nobody vouches for: all is read and compared, nothing is executed.

A bundle is a program all the same: what passes is whole, is what its author packaged, and does what it says
as far as data can say it. Whoever runs it trusts the author with the code in ``scripts/`` and with the
expressions in its configs, which is why these are listed.
"""

from __future__ import annotations

import ast
import io
import json
import operator
import pickletools
import re
import stat
import zipfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema
import torch
from monai.networks import nets
from torch import Tensor, nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from .. import networks

META = "crosswarp"
STAGES = ("registration_augmentation", "source_segmentation", "domain_adaptation", "multimodal_registration")
MODEL_INFO = "model_info.json"
WEIGHTS_FILE = "models/model.pt"
SCHEMA = Path(__file__).with_name("meta_schema_20240725.json")

MAX_MEMBERS = 10_000
MAX_BYTES = 4 * 2**30
MAX_RATIO = 100  # text compresses tenfold; deflate can do a thousandfold
SMALL = 2**20  # what a member may unpack to at any ratio
LARGEST_TEXT = 2**22  # bytes; parsed JSON takes tens of times its size

# what a network's definition may ask for, so that no file of a few bytes keeps the computer busy for hours
LARGEST_NUMBER = 2**16
MAX_ENTRIES = 10_000
MAX_TENSORS = 10_000

CONFIGS = ("metadata.json", "inference.json", "train.json")
REQUIRED = ("LICENSE", "docs/README.md", "configs/logging.conf", *(f"configs/{name}" for name in CONFIGS))
REQUIRED_OF_STAGE = ("configs/evaluate.json",)
REQUIRED_OF_ZIP = (WEIGHTS_FILE, "scripts/__init__.py", MODEL_INFO)
TEXT = (".json", ".conf", ".py", ".html", ".css", ".js", ".md", ".svg", "")

# the classes that may stand in a network's definition to be built and compared with the weights: those that
# neither fetch weights nor call what their arguments name
MONAI_NETWORKS = (
    *("AttentionUnet", "BasicUNet", "BasicUNetPlusPlus", "DynUNet", "HighResNet", "RegUNet", "SegResNet"),
    *("SwinUNETR", "UNETR", "UNet", "VNet"),
)
NETWORKS: dict[str, type[nn.Module]] = {
    **{name: getattr(nets, name) for name in MONAI_NETWORKS},
    **{f"monai.networks.nets.{name}": getattr(nets, name) for name in MONAI_NETWORKS},
    **{f"scripts.networks.{name}": getattr(networks, name) for name in networks.__all__},
}
ARITHMETIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}
TARGET_ROOTS = ("monai", "torch", "ignite", "scripts")
# what the pickle in a state dictionary names, beside storages; torch would also make, say, a huge bytearray
PICKLED = ("collections OrderedDict", "torch._utils _rebuild_tensor_v2", "torch._utils _rebuild_parameter")


class BundleError(ValueError):
    """A bundle that is refused, with all its faults."""


@dataclass
class Inspection:
    """What was found in a zip.

    Attributes:
        path: the zip.
        faults: why to refuse it; empty where there is no reason.
        expressions: by config, the Python that it evaluates and the dotted names that it calls when it runs.
        name: the bundle.
        version: its version.
        digest: SHA-256 of the zip.
        num_files: files in it.
        num_bytes: their size.
    """

    path: str
    faults: list[str] = field(default_factory=list)
    expressions: dict[str, list[str]] = field(default_factory=dict)
    name: str = ""
    version: str = ""
    digest: str = ""
    num_files: int = 0
    num_bytes: int = 0

    def report(self) -> str:
        """The findings as text."""
        if self.faults:
            return "\n".join([f"{self.path}: refused", *(f"- {fault}" for fault in self.faults)])
        size = f"{self.num_files} files, {self.num_bytes / 2**20:.1f} MiB"
        lines = [f"{self.path}: {self.name} {self.version}, {size}, sha256 {self.digest}"]
        unique = dict.fromkeys(each for expressions in self.expressions.values() for each in expressions)
        lines += [f"  runs the code in scripts/ and what its configs say, {len(unique)} entries:"]
        return "\n".join([*lines, *(f"    {expression}" for expression in unique)])


def verify(*zips: str) -> None:
    """Check packaged bundles without running anything of them, and list the Python in their configs.

    Args:
        zips: what `package` wrote, here or elsewhere.

    Raises:
        ValueError: naming the zips that are refused; their faults are printed.
        FileNotFoundError: naming the zips that are not there.
    """
    if missing := [path for path in map(str, zips) if not Path(path).is_file()]:
        raise FileNotFoundError("Expected zips that are not there: " + ", ".join(missing))
    if not zips:
        raise ValueError("Expected zips to verify: python -m crosswarp verify dist/*.zip")
    inspections = [inspect(Path(path).read_bytes(), str(path)) for path in zips]
    print(*(inspection.report() for inspection in inspections), sep="\n")
    if refused := [inspection.path for inspection in inspections if inspection.faults]:
        raise BundleError(f"{len(refused)} of {len(zips)} refused: {', '.join(refused)}")


def unpack(path: str | Path, folder: str | Path) -> Path:
    """Verify a packaged bundle and unpack it.

    Args:
        path: the zip.
        folder: where to unpack it to.

    Returns:
        the bundle's folder, ``folder/<name>``.

    Raises:
        BundleError: (a ``ValueError``) naming every fault; nothing is unpacked.
        FileExistsError: where the bundle's folder exists already.
    """
    content = Path(path).read_bytes()  # once, so that what is unpacked is what was verified
    inspection = inspect(content, str(path))
    if inspection.faults:
        raise BundleError(inspection.report())
    bundle = Path(folder) / inspection.name
    if bundle.exists():
        raise FileExistsError(f"{bundle} exists already: unpack {path} elsewhere, or remove it.")
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        archive.extractall(folder)
    return bundle


def inspect(content: bytes, path: str) -> Inspection:
    """Check a packaged bundle without running anything of it.

    Args:
        content: the zip.
        path: what to call it.

    Returns:
        all that was found. What is not safe to read is not read further.
    """
    inspection = Inspection(path, digest=sha256(content).hexdigest())
    try:
        with zipfile.ZipFile(io.BytesIO(content)) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            inspection.num_files = len(members)
            inspection.num_bytes = sum(member.file_size for member in members)
            inspection.faults += member_faults(archive.infolist(), len(content))
            if inspection.faults:
                return inspection
            inspection.name = PurePosixPath(members[0].filename).parts[0]
            files = {member.filename.partition("/")[2]: archive.read(member) for member in members}
    except Exception as error:  # whatever zipfile and zlib raise for what is broken
        inspection.faults.append(f"cannot be read, it is corrupt, truncated or no zip: {_reason(error)}")
        return inspection
    inspection.faults += file_faults(files)
    Contents(files, inspection).check()
    return inspection


def member_faults(members: list[zipfile.ZipInfo], archive_size: int) -> list[str]:
    """What makes an archive unsafe to unpack.

    Args:
        members: all entries.
        archive_size: bytes of the archive.
    """
    if not any(not member.is_dir() for member in members):
        return ["is empty"]
    faults = []
    seen: set[str] = set()
    for member in members:
        path, kind = PurePosixPath(member.filename), stat.S_IFMT(member.external_attr >> 16)
        shown = repr(member.filename)
        # the name in the archive itself: zipfile cuts it at a NUL
        if (
            "\\" in member.orig_filename
            or ":" in member.orig_filename
            or not member.orig_filename.isprintable()
        ):
            faults.append(f"{shown}: a name that some systems read as another path")
        if path.is_absolute() or ".." in path.parts:
            faults.append(f"{shown}: leads out of the folder that it is unpacked to")
        if kind not in (0, stat.S_IFREG, stat.S_IFDIR):
            faults.append(f"{shown}: a link or device instead of a file")
        if member.flag_bits & 1 or member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            faults.append(f"{shown}: encrypted, or compressed in a way that not all programs read")
        if str(path).casefold() in seen:
            faults.append(f"{shown}: stands there twice; which one is unpacked depends on the program")
        seen.add(str(path).casefold())
        if member.file_size > max(SMALL, MAX_RATIO * member.compress_size):
            faults.append(
                f"{shown}: unpacks to {member.file_size / max(member.compress_size, 1):.0f} times its size"
            )
        if path.suffix in TEXT and member.file_size > LARGEST_TEXT:
            faults.append(f"{shown}: a text of more than {LARGEST_TEXT // 2**20} MiB")
    if len(members) > MAX_MEMBERS or sum(member.file_size for member in members) > MAX_BYTES:
        faults.append(f"unpacks to more than {MAX_MEMBERS} files or {MAX_BYTES // 2**30} GiB")
    if sum(member.compress_size for member in members) > archive_size:
        faults.append("its entries overlap, so it unpacks to more than it holds")
    tops = sorted({PurePosixPath(member.filename).parts[:1] for member in members})
    if len(tops) != 1 or any("/" not in member.filename for member in members):
        names = ", ".join(part for top in tops for part in top)
        faults.append(f"expected one folder named as the bundle, got {names}")
    return faults


def file_faults(files: Mapping[str, bytes]) -> list[str]:
    """Files that do not belong in a bundle, or are not what their name says."""
    faults = []
    for path, content in files.items():
        suffix = PurePosixPath(path).suffix
        if path == WEIGHTS_FILE:
            continue
        if suffix == ".png" and content.startswith(b"\x89PNG\r\n\x1a\n"):
            continue
        if suffix not in TEXT:
            faults.append(
                f"{path}: unexpected; besides text and PNG pictures a bundle holds {WEIGHTS_FILE}, "
                "and nothing else that might be unpickled"
            )
        elif not _is_text(content):
            faults.append(f"{path}: not a text in UTF-8")
    return faults


class Contents:
    """The files of a bundle, read but not trusted.

    Args:
        files: content by path within the bundle's folder.
        inspection: where to note what is found.
    """

    def __init__(self, files: Mapping[str, bytes], inspection: Inspection) -> None:
        self.files, self.found = files, inspection

    @contextmanager
    def fault(self, what: str) -> Iterator[None]:
        """Note whatever error the checks within raise: there is no telling what broken content leads to."""
        try:
            yield
        except Exception as error:
            self.found.faults.append(f"{what}: {_reason(error)}")

    def check(self) -> None:
        """Check everything."""
        name = self.found.name
        roots = [""] + ([f"bundles/{stage}/" for stage in STAGES] if name == META else [])
        if name not in (META, *STAGES):
            self.found.faults.append(f"expected a bundle {META}, {' or '.join(STAGES)}, got {name!r}")
        for root in roots:
            required = REQUIRED if root == "" and name == META else (*REQUIRED, *REQUIRED_OF_STAGE)
            required = (*required, *REQUIRED_OF_ZIP) if root == "" else required
            missing = [root + path for path in required if root + path not in self.files]
            self.found.faults += [f"{path}: missing" for path in missing]
        # wherever it lies: a macro takes Python from any file whose name ends like that of a config
        for path in sorted(self.files):
            if path.lower().endswith(("json", "yaml", "yml")):
                with self.fault(path):
                    self.list_python(path, self.json(path))
        with self.fault(MODEL_INFO):
            self.check_sums()
        for root in roots:
            with self.fault(f"{root}configs"):
                self.check_bundle(root)

    def json(self, path: str) -> dict[str, Any]:
        """A JSON object of the bundle.

        Raises:
            ValueError: when it is none.
        """
        content = json.loads(self.files[path])
        if not isinstance(content, dict):
            raise ValueError(f"expected a JSON object, got {type(content).__name__}")
        return content

    def list_python(self, path: str, config: Mapping[str, Any]) -> None:
        """Note the expressions of a config and what it calls by a dotted name.

        Raises:
            ValueError: for what it calls that is not of a known library, or named by a reference.
        """
        values = [(re.split("#|::", key)[-1], value) for key, value in _walk(config)]
        expressions = [value for _, value in values if isinstance(value, str) and value.startswith("$")]
        targets = sorted({str(value) for key, value in values if key == "_target_" and _is_path(value)})
        if expressions or targets:
            called = [f"_target_ {target}" for target in targets]
            self.found.expressions[path] = [*dict.fromkeys(expressions), *called]
        strange = [target for target in targets if target.partition(".")[0] not in TARGET_ROOTS]
        if strange:
            raise ValueError(f"calls {', '.join(strange)}; expected what is of {', '.join(TARGET_ROOTS)}")

    def check_sums(self) -> None:
        """Compare every file with its checksum."""
        if MODEL_INFO not in self.files:
            return
        stated = self.json(MODEL_INFO)["checksums"]
        actual = {p: sha256(content).hexdigest() for p, content in self.files.items() if p != MODEL_INFO}
        wrong = sorted(path for path in actual.keys() & stated.keys() if actual[path] != stated[path])
        for title, paths in (
            ("other content than packaged", wrong),
            ("not there any more", sorted(stated.keys() - actual.keys())),
            ("added since it was packaged", sorted(actual.keys() - stated.keys())),
        ):
            if paths:
                self.found.faults.append(f"{MODEL_INFO}, {title}: {', '.join(paths)}")

    def check_bundle(self, root: str) -> None:
        """Check metadata, network and weights of a bundle against each other."""
        paths = {name: f"{root}configs/{name}" for name in CONFIGS}
        if any(path not in self.files for path in paths.values()):
            return
        metadata, config = self.json(paths["metadata.json"]), self.json(paths["inference.json"])
        schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
        validator = jsonschema.validators.validator_for(schema)(schema)
        for error in validator.iter_errors(metadata):
            self.found.faults.append(f"{paths['metadata.json']}: {error.json_path}: {error.message}")
        with self.fault(paths["metadata.json"]):
            self.check_release(root, metadata)
        with self.fault(paths["inference.json"]):
            # MONAI lays these over other entries: what runs would not be what is checked here
            laid_over = [key for key, _ in _walk(config) if re.search("#|::|^[+~]", key)]
            if laid_over:
                raise ValueError(f"expected plain keys, got {', '.join(laid_over)}")
            # shapes without values: nothing is computed, no memory is needed
            with torch.device("meta"), limited_tensors():
                network = build(config, config["network_def"], iter(range(MAX_ENTRIES)))
            if f"{root}{WEIGHTS_FILE}" in self.files:
                with self.fault(f"{root}{WEIGHTS_FILE}"):
                    check_weights(self.files[f"{root}{WEIGHTS_FILE}"], network)
            with self.fault(f"{paths['metadata.json']} contradicts {paths['inference.json']}"):
                check_tensors(metadata["network_data_format"], config, network)

    def check_release(self, root: str, metadata: Mapping[str, Any]) -> None:
        """Check schema, version and changelog."""
        if PurePosixPath(metadata["schema"]).name != SCHEMA.name:
            raise ValueError(f"expected the schema {SCHEMA.name}, got {metadata['schema']}")
        version = metadata["version"]
        if version not in metadata.get("changelog", {}):
            raise ValueError(f"version {version} is not in the changelog")
        if root == "":
            self.found.version = version
        if MODEL_INFO in self.files:
            info = self.json(MODEL_INFO)
            stated = (info["name"], info["version"])
            if stated != (self.found.name, version):
                raise ValueError(
                    f"expected {' '.join(stated)} as in {MODEL_INFO}, got {self.found.name} {version}"
                )


@contextmanager
def limited_tensors() -> Iterator[None]:
    """Stop the making of a network that would have more than ``MAX_TENSORS`` parameters.

    Raises:
        ValueError: when there are too many.
    """
    left = iter(range(MAX_TENSORS))

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if next(left, None) is None:
            raise ValueError(f"its network has more than {MAX_TENSORS} tensors")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def build(config: Mapping[str, Any], definition: Any, entries: Iterator[int]) -> Any:
    """Build a network from its definition in a config as MONAI would, but from known classes only.

    References, sums and products of numbers are resolved; other Python is refused.

    Args:
        config: the whole config.
        definition: what to build.
        entries: as many items as the definition may have, with what it refers to.

    Raises:
        ValueError: for a class that is not known, an expression, or what is too large.
    """
    if next(entries, None) is None:
        raise ValueError(f"its network's definition has more than {MAX_ENTRIES} entries")
    if isinstance(definition, Mapping):
        arguments = {key: value for key, value in definition.items() if key != "_target_"}
        target = definition.get("_target_")
        if target is not None and (target not in NETWORKS or any(key.startswith("_") for key in arguments)):
            raise ValueError(
                f"its network cannot be checked without running code of the bundle: {target!r}; "
                f"expected, without keys that start with _, one of {', '.join(NETWORKS)}"
            )
        built = {key: build(config, value, entries) for key, value in arguments.items()}
        return built if target is None else NETWORKS[target](**built)
    if isinstance(definition, list):
        return [build(config, value, entries) for value in definition]
    if isinstance(definition, str) and definition.startswith(("@", "%")):
        value: Any = config
        for key in definition[1:].replace("::", "#").split("#"):
            value = value[int(key)] if isinstance(value, list) else value[key]
        return build(config, value, entries)
    if isinstance(definition, str) and definition.startswith("$"):
        return calculate(config, definition, entries)
    if isinstance(definition, (int, float)) and abs(definition) > LARGEST_NUMBER:
        raise ValueError(f"its network's definition has a number above {LARGEST_NUMBER}")
    return definition


def calculate(config: Mapping[str, Any], expression: str, entries: Iterator[int]) -> float:
    """The value of an expression that only adds, subtracts, multiplies and divides numbers and references.

    Raises:
        ValueError: for any other expression, and for numbers above ``LARGEST_NUMBER``.
    """

    def value(node: ast.AST) -> float:
        found = None
        if isinstance(node, ast.Constant):
            found = node.value
        elif isinstance(node, ast.Name):
            found = build(config, f"@{node.id}", entries)
        elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            found = ARITHMETIC[type(node.op)](value(node.left), value(node.right))
        if isinstance(found, (int, float)) and abs(found) <= LARGEST_NUMBER:
            return found
        raise ValueError(f"its network cannot be checked without running Python: {expression}")

    return value(ast.parse(expression[1:].replace("@", "").strip(), mode="eval").body)


def check_weights(content: bytes, network: nn.Module) -> None:
    """Check that a checkpoint holds weights and nothing else, and those of the network.

    Args:
        content: the file.
        network: on the device "meta".

    Raises:
        ValueError: naming all in which they differ.
    """
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        members = archive.infolist()
        size = sum(member.file_size for member in members)
        if any(member.compress_type != zipfile.ZIP_STORED for member in members) or size > len(content):
            raise ValueError("expected a file of torch.save, which compresses nothing")
        pickles = [archive.read(member) for member in members if member.filename.lower().endswith(".pkl")]
    if strange := sorted({name for pickled in pickles for name in _globals(pickled)} - set(PICKLED)):
        raise ValueError(f"expected a state dictionary of tensors, it also names {', '.join(strange)}")
    weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    if not isinstance(weights, Mapping) or not all(isinstance(value, Tensor) for value in weights.values()):
        raise ValueError("expected a state dictionary of tensors")
    if huge := [key for key, value in weights.items() if value.nbytes > len(content)]:
        raise ValueError(f"holds tensors larger than itself: {', '.join(huge)}")
    own = network.state_dict()
    wrong = [f"without {key}" for key in sorted(own.keys() - weights.keys())]
    wrong += [f"with {key}" for key in sorted(weights.keys() - own.keys())]
    wrong += [
        f"{key} {list(weights[key].shape)} instead of {list(own[key].shape)}"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"of another architecture than in inference.json: {'; '.join(wrong[:5])}{more}")
    if broken := [key for key, value in weights.items() if not torch.isfinite(value).all()]:
        raise ValueError(f"not finite: {', '.join(broken)}")


def check_tensors(formats: Mapping[str, Any], config: Mapping[str, Any], network: nn.Module) -> None:
    """Check what the metadata say of input and output against the network.

    Args:
        formats: the metadata's ``network_data_format``.
        config: ``inference.json``.
        network: on the device "meta".

    Raises:
        ValueError: naming all in which they differ.
    """
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    size = config["spatial_size"]
    wrong = []
    for name, tensor in (("image", image), ("pred", pred)):
        if tensor["spatial_shape"] != size:
            wrong.append(f"{name}: spatial_shape {tensor['spatial_shape']}, but spatial_size {size}")
        if sorted(tensor["channel_def"]) != sorted(map(str, range(tensor["num_channels"]))):
            wrong.append(
                f"{name}: {len(tensor['channel_def'])} channel_def for {tensor['num_channels']} channels"
            )
    with torch.no_grad():
        try:
            output = network.eval()(torch.empty(1, image["num_channels"], *size, device="meta"))
            if output.shape[1] != pred["num_channels"]:
                wrong.append(
                    f"pred: {pred['num_channels']} channels, but the network gives {output.shape[1]}"
                )
        except (RuntimeError, ValueError) as error:
            wrong.append(f"image: {image['num_channels']} channels, but the network: {_reason(error)}")
    if wrong:
        raise ValueError("; ".join(wrong))


def _walk(value: Any, key: str = "") -> Iterator[tuple[str, Any]]:
    """Every value in a JSON content, with the key that it stands under."""
    yield key, value
    if isinstance(value, Mapping):
        for name, item in value.items():
            yield from _walk(item, name)
    elif isinstance(value, list):
        for item in value:
            yield from _walk(item, key)


def _is_path(target: Any) -> bool:
    """Whether a target is more than the name of a component of MONAI."""
    return not (isinstance(target, str) and target.isidentifier())


def _globals(pickled: bytes) -> Iterator[str]:
    """What a pickle names, without the storages of tensors."""
    for operation, argument, _ in pickletools.genops(pickled):
        if operation.name in ("GLOBAL", "INST", "STACK_GLOBAL") and not re.fullmatch(
            r"torch \w+Storage", str(argument)
        ):
            yield str(argument or operation.name)


def _is_text(content: bytes) -> bool:
    try:
        return "\0" not in content.decode()
    except UnicodeDecodeError:
        return False


def _reason(error: BaseException) -> str:
    """The first line of an error's message; its kind where there is none."""
    return next(iter(str(error).splitlines()), "") or type(error).__name__
