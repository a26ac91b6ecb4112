"""The files of a packaged bundle: which there may be, what they hold, and whose code they are."""

from __future__ import annotations

import ast
import configparser
import json
import re
import struct
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from hashlib import sha256
from importlib.metadata import packages_distributions
from pathlib import Path, PurePosixPath
from typing import Any

import jsonschema
import torch

from ..errors import reason
from ..places import CODE, INSTALLED, META, STAGES
from ..runs.origin import explanation, missing_names, version
from ..wording import printable
from .archive import Archive
from .configs import Configs, check_plain, entries, read_object
from .networks import MAX_ENTRIES, build, check_tensors, check_weights, limited_tensors

MODEL_INFO = "model_info.json"
WEIGHTS_FILE = "models/model.pt"
LOGGING = "configs/logging.conf"
SCHEMA = Path(__file__).with_name("meta_schema_20240725.json")

CONFIGS = ("metadata.json", "inference.json", "train.json")
REQUIRED = ("LICENSE", "docs/README.md", LOGGING, *(f"configs/{name}" for name in CONFIGS))
REQUIRED_OF_STAGE = ("configs/evaluate.json",)
REQUIRED_OF_ZIP = (WEIGHTS_FILE, "scripts/__init__.py", MODEL_INFO)

# the files that a bundle may have
LAYOUT = re.compile(
    r"LICENSE|configs/logging\.conf|configs/([a-z0-9_]+/)*\w+\.json|docs/([^/]+/)*[^/]+\.(md|png|svg)"
)
LAYOUT_OF_ZIP = re.compile(r"model_info\.json|models/model\.pt|scripts/([^/]+/)*[^/]+\.(py|json|html|css|js)")
# modules that Python and its tools run by their name alone
RUN_BY_NAME = {"conftest", "sitecustomize", "usercustomize", "setup", "noxfile", "tasks"}

MAX_PIXELS = 2**26
# what a drawing may consist of, and what runs or fetches something in it
DRAWN = {
    *("svg", "g", "defs", "use", "path", "rect", "circle", "ellipse", "line", "polyline", "polygon", "text"),
    *("tspan", "clipPath", "style", "title", "desc", "metadata"),
}
ACTIVE = re.compile(r"<!\s*(ENTITY|\[)|\son\w+\s*=|href\s*=\s*[\"'](?!#)|@import|url\((?!#)|&#", re.I)
# what logging.conf may say: MONAI gives it to Python's logging, which makes objects of what it names
HANDLERS = {"StreamHandler", "logging.StreamHandler"}
STREAMS = {"(sys.stdout,)", "(sys.stderr,)"}
LOGGING_KEYS = {
    "loggers": {"keys"},
    "handlers": {"keys"},
    "formatters": {"keys"},
    "logger": {"level", "handlers", "propagate", "qualname"},
    "handler": {"class", "level", "formatter", "args"},
    "formatter": {"format", "datefmt"},
}


@dataclass
class Inspection:
    """What was found in a zip.

    Attributes:
        path: the zip.
        faults: why to refuse it; empty where there is no reason.
        expressions: by config, the Python that it evaluates and the components that it makes.
        code: in what the code in ``scripts/`` differs from this library; empty where it is the same.
        name: the bundle.
        version: its version.
        digest: SHA-256 of the zip.
        num_files: files in it.
        num_bytes: their size.
    """

    path: str
    faults: list[str] = field(default_factory=list)
    expressions: dict[str, list[str]] = field(default_factory=dict)
    code: list[str] = field(default_factory=list)
    name: str = ""
    version: str = ""
    digest: str = ""
    num_files: int = 0
    num_bytes: int = 0

    def report(self) -> str:
        """The findings as text, without anything that a terminal would obey."""
        path = printable(self.path, 500)
        if self.faults:
            more = [f"- and {len(self.faults) - 100} more"] if len(self.faults) > 100 else []
            shown = [f"- {printable(fault, 1000)}" for fault in self.faults[:100]]
            return "\n".join([f"{path}: refused", *shown, *more])
        size = f"{self.num_files} files, {self.num_bytes / 2**20:.1f} MiB"
        lines = [f"{path}: {self.name} {printable(self.version)}, {size}, sha256 {self.digest}"]
        lines += [f"  {line}" for line in self.code] or ["  scripts/ is this library, byte for byte"]
        unique = dict.fromkeys(each for expressions in self.expressions.values() for each in expressions)
        lines += [f"  its configs evaluate and call, {len(unique)} entries:"]
        return "\n".join([*lines, *(f"    {printable(expression, 1000)}" for expression in unique)])


def library_files() -> dict[str, bytes]:
    """This library's code, as a bundle has it in ``scripts/``."""
    parts = {path: path.relative_to(CODE) for path in CODE.rglob("*")}
    return {
        f"scripts/{part.as_posix()}": path.read_bytes()
        for path, part in parts.items()
        if LAYOUT_OF_ZIP.fullmatch(f"scripts/{part.as_posix()}")
        and part.parts[0] != INSTALLED
        and not any(name.startswith(".") for name in part.parts)
    }


@lru_cache(maxsize=1)
def library_digests() -> dict[str, str]:
    """SHA-256 of this library's files, as a bundle has them."""
    return {path: sha256(content).hexdigest() for path, content in library_files().items()}


class Contents:
    """The files of a bundle, read but not trusted.

    Args:
        archive: the zip.
        inspection: where to note what is found.
    """

    def __init__(self, archive: Archive, inspection: Inspection) -> None:
        self.archive, self.found = archive, inspection
        self.paths = sorted(archive.files)
        self.json: dict[str, dict[str, Any]] = {}
        self.roots = [""] + ([f"bundles/{stage}/" for stage in STAGES] if inspection.name == META else [])

    @contextmanager
    def fault(self, what: str) -> Iterator[None]:
        """Note whatever error the checks within raise: there is no telling what broken content leads to."""
        try:
            yield
        except Exception as error:
            self.found.faults.append(f"{what}: {reason(error)}")

    def check(self) -> None:
        """Check everything; each file is read once."""
        known = self.check_layout()
        weights: bytes | None = None
        for path in self.paths:
            content = self.archive.read(path)
            if path == WEIGHTS_FILE:
                weights = content
            elif path in known:
                with self.fault(path):
                    self.check_file(path, content)
        self.check_code()
        with self.fault(MODEL_INFO):
            self.check_sums()
        configs = Configs({path: self.json[path] for path in self.json if is_config(path)})
        configs.check()
        with self.fault(MODEL_INFO):
            self.check_origin()
        self.found.faults += configs.faults
        self.found.expressions = {path: found for path, found in configs.listed.items() if found}
        for root in self.roots:
            with self.fault(f"{root}configs"):
                self.check_bundle(root, weights if root == "" else None)

    def check_layout(self) -> set[str]:
        """Note files that do not belong in a bundle, and those that are missing; returns the others."""
        name = self.found.name
        if name not in (META, *STAGES):
            self.found.faults.append(f"expected a bundle {META}, {' or '.join(STAGES)}, got {name!r}")
        inner = {
            path: [path.removeprefix(r) for r in self.roots if path.startswith(r)] for path in self.paths
        }
        known = {
            path
            for path, names in inner.items()
            if any(LAYOUT.fullmatch(name) for name in names) or LAYOUT_OF_ZIP.fullmatch(path)
        }
        self.found.faults += [
            f"{path}: unexpected; a bundle holds LICENSE, {MODEL_INFO}, {WEIGHTS_FILE}, JSON in configs/, "
            "texts and pictures in docs/, code in scripts/, and nothing else"
            for path in self.paths
            if path not in known
        ]
        for root in self.roots:
            required = REQUIRED if root == "" and name == META else (*REQUIRED, *REQUIRED_OF_STAGE)
            required = (*required, *REQUIRED_OF_ZIP) if root == "" else required
            self.found.faults += [
                f"{root}{path}: missing" for path in required if root + path not in self.paths
            ]
        return known

    def check_file(self, path: str, content: bytes) -> None:
        """Check that a file is what its name says, and keep it if it is JSON.

        Raises:
            ValueError: where it is not.
        """
        suffix = PurePosixPath(path).suffix.lower()
        if suffix == ".png":
            check_picture(content)
            return
        if not is_text(content):
            raise ValueError("not a text in UTF-8")
        if suffix == ".svg":
            check_drawing(content.decode())
        if path.endswith("logging.conf"):
            check_logging(content.decode())
        # a macro takes Python from any file whose name ends like that of a config
        if path.lower().endswith(("json", "yaml", "yml")) and not self.is_library(path):
            self.json[path] = read_object(content)
            if not is_config(path):
                check_plain(self.json[path])

    def is_library(self, path: str) -> bool:
        """Whether a file is this library's."""
        return library_digests().get(path) == self.archive.digests[path]

    def check_code(self) -> None:
        """List in what the code differs from this library; refuse files that take others' places."""
        own = library_digests()
        code = [path for path in self.paths if path.startswith("scripts/")]
        for title, paths in (
            ("changed", [path for path in code if path in own and not self.is_library(path)]),
            ("added", [path for path in code if path not in own]),
            ("not there", sorted(own.keys() - set(code))),
        ):
            if paths:
                self.found.code.append(f"scripts/ is not this library; {title}: {', '.join(paths)}")
        added = [path for path in code if path not in own]
        taken = RUN_BY_NAME | set(packages_distributions() if added else ())
        for path in added:
            parts = PurePosixPath(path).with_suffix("").parts[1:]
            if wrong := [part for part in parts if part in taken]:
                self.found.faults.append(f"{path}: would be run or imported in place of {', '.join(wrong)}")

    def check_origin(self) -> None:
        """Note of a bundle of another version, with other code, that it names what this one does not have."""
        configs = {path: content for path, content in self.json.items() if is_config(path)}
        if self.found.code and (names := missing_names(json.dumps(configs))):
            self.found.faults.append(explanation("it", names, version(self.json.get(MODEL_INFO, {}))))

    def check_sums(self) -> None:
        """Compare every file with its checksum."""
        if MODEL_INFO not in self.json:
            return
        stated = self.json[MODEL_INFO]["checksums"]
        actual = {path: digest for path, digest in self.archive.digests.items() if path != MODEL_INFO}
        wrong = sorted(path for path in actual.keys() & stated.keys() if actual[path] != stated[path])
        for title, paths in (
            ("other content than packaged", wrong),
            ("not there any more", sorted(stated.keys() - actual.keys())),
            ("added since it was packaged", sorted(actual.keys() - stated.keys())),
        ):
            if paths:
                self.found.faults.append(f"{MODEL_INFO}, {title}: {', '.join(paths)}")

    def check_bundle(self, root: str, weights: bytes | None) -> None:
        """Check metadata, network and weights of a bundle against each other."""
        paths = {name: f"{root}configs/{name}" for name in CONFIGS}
        if any(path not in self.json for path in paths.values()):
            return
        metadata, config = self.json[paths["metadata.json"]], self.json[paths["inference.json"]]
        schema = json.loads(SCHEMA.read_text(encoding="utf-8"))
        # no keyword in it is newer, and jsonschema 3.2 knows no later draft
        for error in jsonschema.Draft7Validator(schema).iter_errors(metadata):
            place = ".".join(map(str, ["$", *error.absolute_path]))
            self.found.faults.append(f"{paths['metadata.json']}: {place}: {error.message}")
        with self.fault(paths["metadata.json"]):
            self.check_release(root, metadata)
        with self.fault(paths["inference.json"]):
            # MONAI lays these over other entries: what runs would not be what is checked here
            laid_over = [key for key, _ in entries(config) if re.search("#|::|^[+~]", key)]
            if laid_over:
                raise ValueError(f"expected plain keys, got {', '.join(laid_over)}")
            # shapes without values: nothing is computed, no memory is needed
            with torch.device("meta"), limited_tensors():
                network = build(config, config["network_def"], iter(range(MAX_ENTRIES)))
            if weights is not None:
                with self.fault(f"{root}{WEIGHTS_FILE}"):
                    check_weights(weights, network)
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
        if MODEL_INFO in self.json:
            info = self.json[MODEL_INFO]
            stated = (info["name"], info["version"])
            if stated != (self.found.name, version):
                raise ValueError(
                    f"expected {' '.join(stated)} as in {MODEL_INFO}, got {self.found.name} {version}"
                )


def is_config(path: str) -> bool:
    """Whether a JSON file is one that MONAI evaluates."""
    parts = PurePosixPath(path).parts
    return "configs" in parts[:-1] and parts[-1] != "metadata.json" and parts[0] != "scripts"


def is_text(content: bytes) -> bool:
    """Whether a content is text in UTF-8."""
    try:
        return "\0" not in content.decode()
    except UnicodeDecodeError:
        return False


def check_picture(content: bytes) -> None:
    """Check a PNG by its header, without decoding it.

    Raises:
        ValueError: where it is none, or would take much memory.
    """
    if content[:8] != b"\x89PNG\r\n\x1a\n" or content[12:16] != b"IHDR" or len(content) < 33:
        raise ValueError("unexpected content: no PNG picture")
    width, height = struct.unpack(">II", content[16:24])
    if not 0 < width * height <= MAX_PIXELS:
        raise ValueError(f"a picture of {width} x {height} points, expected at most {MAX_PIXELS}")


def check_drawing(text: str) -> None:
    """Check that an SVG draws, and neither runs nor fetches anything.

    Raises:
        ValueError: naming what it holds beside.
    """
    elements = set(re.findall(r"<\s*([A-Za-z][\w:.-]*)", text))
    strange = {name for name in elements - DRAWN if not name.startswith(("rdf:", "cc:", "dc:"))}
    if strange or ACTIVE.search(text):
        raise ValueError(
            f"a drawing that runs or fetches something: {', '.join(sorted(strange)) or 'references'}"
        )


def check_logging(text: str) -> None:
    """Check that a logging configuration writes to the terminal and makes no other objects.

    Raises:
        ValueError: naming what it says beside.
    """
    parser = configparser.ConfigParser()
    parser.read_string(text)
    if parser.defaults():
        raise ValueError("has defaults")
    for section in parser.sections():
        known = LOGGING_KEYS.get(section if section in LOGGING_KEYS else section.partition("_")[0], set())
        values = dict(parser.items(section, raw=True))
        if strange := sorted(values.keys() - known):
            raise ValueError(f"[{section}] has {', '.join(strange)}; expected {', '.join(sorted(known))}")
        args = ast.unparse(ast.parse(values.get("args", "(sys.stdout,)").strip(), mode="eval"))
        if values.get("class", "StreamHandler") not in HANDLERS or args not in STREAMS:
            raise ValueError(f"[{section}] makes a {values.get('class')}{args}; expected a StreamHandler")
