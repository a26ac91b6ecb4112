"""Hostile zips: each is refused, and nothing of it is run; what users exchange themselves passes."""

from __future__ import annotations

import io
import json
import pickle
import struct
import time
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from monai.networks.nets import SegResNet, UNet

from crosswarp.release import archive
from crosswarp.release.verify import BundleError, inspect, unpack
from tests.release.zips import (
    Files,
    changed,
    faults,
    nothing_runs,
    read_files,
    saved,
    stored,
    summed,
    write_dist,
)

INFERENCE, TRAIN, METADATA = "configs/inference.json", "configs/train.json", "configs/metadata.json"
EVIL = "__import__('os').system('touch /tmp/evil')"


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Files:
    """A stage's bundle with as few files as a bundle may have."""
    dist = write_dist(tmp_path_factory.mktemp("hostile"))
    whole = read_files(dist / "source_segmentation_v0.1.0.zip")
    kept = ("scripts/__init__.py", "docs/README.md")
    few = {
        path: content
        for path, content in whole.items()
        if path in kept or not path.startswith(("scripts/", "docs/", "configs/presets/"))
    }
    few = summed(few)
    assert inspect(stored(few), "a.zip").faults == []  # also imports whatever is imported late
    return few


def assert_refused(found: list[str], reason: str) -> None:
    assert any(reason in fault for fault in found), found


TARGETS = [
    {"_target_": "run_cmd", "cmd_list": ["touch", "/tmp/evil"]},
    {"_target_": "monai.utils.misc.run_cmd", "cmd_list": ["true"]},
    {"_target_": "torch.os.system", "command": "true"},
    {"_target_": "monai.transforms.os.system", "command": "true"},
    {"_target_": "monai.networks.utils.os.system", "command": "true"},
    {"_target_": "torch.nn.modules.module.warnings.sys.modules"},
    {"_target_": "scripts.files.os.remove", "path": "x"},
    {"_target_": "scripts.release.package.package", "run": "x"},
    {"_target_": "scripts.release.verify.unpack", "path": "x", "folder": "y"},
    {"_target_": "scripts.inference.registrar.load", "models": "x"},
    {"_target_": "scripts.commands.cohort.cohort", "folder": "x"},
    {"_target_": "scripts.runs.config.ConfigParser"},
    {"_target_": "scripts.runs.config.locate", "path": "os.system"},
    {"_target_": "os.system", "command": "true"},
    {"_target_": ".os.system", "command": "true"},
    {"_target_": "monai..utils.misc.run_cmd", "cmd_list": ["true"]},
    {"_target_": " os.system", "command": "true"},
    {"_target_": "subprocess.run", "args": ["true"]},
    {"_target_": "builtins.eval", "source": EVIL},
    {"_target_": "antigravity.fly"},
    {"_target_": "pdb.set_trace"},
    {"_target_": "functools.partial", "func": "x"},
    {"_target_": "numpy.load", "file": "x", "allow_pickle": True},
    {"_target_": "pickle.load"},
    {"_target_": "torch.load", "f": "docs/README.md", "weights_only": False},
    {"_target_": "torch.hub.load", "repo_or_dir": "evil/evil", "model": "evil"},
    {"_target_": "torch.utils.cpp_extension.load", "name": "x", "sources": ["x"]},
    {"_target_": "torch.jit.load", "f": "x"},
    {"_target_": "torch.package.PackageImporter", "file_or_buffer": "x"},
    {"_target_": "torch.multiprocessing.spawn", "fn": "x"},
    {"_target_": "torch.nn.Module.load_state_dict"},
    {"_target_": "torch.nn.modules.module.Module.__init__"},
    {"_target_": "torch.utils.data.DataLoader", "dataset": []},
    {"_target_": "ConfigParser", "config": {"a": 1}},
    {"_target_": "ConfigWorkflow", "config_file": "x"},
    {"_target_": "monai.bundle.run", "config_file": "x"},
    {"_target_": "monai.bundle.scripts.download", "name": "x"},
    {"_target_": "ComponentLocator"},
    {"_target_": "instantiate"},
    {"_target_": "download_url", "url": "http://evil"},
    {
        "_target_": "monai.apps.DecathlonDataset",
        "root_dir": "x",
        "task": "x",
        "section": "x",
        "download": True,
    },
    {"_target_": "DecathlonDataset", "root_dir": "x", "task": "x", "section": "x", "download": True},
    {"_target_": "PersistentDataset", "data": [], "transform": None, "cache_dir": "x"},
    {"_target_": "LMDBDataset", "data": [], "transform": None},
    {"_target_": "NPZDictItemDataset", "npzfile": "x", "keys": {}},
    {"_target_": "CSVDataset", "src": "http://evil"},
    {"_target_": "DatasetFunc", "data": "x", "func": "@network"},
    {"_target_": "VideoFileDataset", "video_source": "x"},
    {"_target_": "TorchVisiond", "keys": "image", "name": "Lambda"},
    {"_target_": "monai.transforms.utility.array.TorchVision", "name": "Lambda"},
    {"_target_": "CuCIM", "name": "x"},
    {"_target_": "SimulateDelayd", "keys": "image", "delay_time": 1e9},
    {"_target_": "WriteFileMapping", "mapping_file_path": "x.json"},
    {"_target_": "MLFlowHandler", "tracking_uri": "http://evil"},
    {"_target_": "ClearMLStatsHandler", "task_name": "x"},
    {"_target_": "ignite.handlers.VisdomLogger", "server": "evil"},
    {"_target_": "ignite.handlers.WandBLogger"},
    {"_target_": "ignite.metrics.FID"},
    {"_target_": "PerceptualLoss", "spatial_dims": 2},
    {"_target_": "EfficientNetBN", "model_name": "efficientnet-b0"},
    {"_target_": "TorchVisionFCModel", "model_name": "resnet18"},
    {"_target_": "Transchex"},
    {"_target_": "MILModel", "num_classes": 2},
    {"_target_": "TrtCompiler", "model": "@network", "plan_path": "x"},
    {"_target_": "HoVerNet", "pretrained_url": "http://evil"},
    {"_target_": "monai.handlers.utils.write_metrics_reports", "save_dir": "x"},
    {"_target_": "monai.data.utils.pickle.loads"},
    {"_target_": "@network"},
    {"_target_": "$@network.forward"},
    {"_target_": "$print"},
    {"_target_": "%bundle_root"},
    {"_target_": ["os", "system"]},
    {"_target_": None},
    {"_target_": "nothing.like.this"},
    {"_target_": "scripts.evil.Evil"},
    {"_target_": "crosswarp.networks.DisplacementUNet"},
]


@pytest.mark.parametrize("component", TARGETS, ids=lambda component: str(component["_target_"]))
def test_components_that_are_not_on_the_list(files: Files, component: dict):
    found = faults(changed(files, INFERENCE, lambda config: config.update(evil=[{"deep": component}])))
    assert_refused(found, f"{INFERENCE}: _target_")


ARGUMENTS = [
    {"_target_": "LoadImaged", "keys": "image", "reader": "os.system"},
    {"_target_": "LoadImaged", "keys": "image", "reader": ["ITKReader", "evil.Reader"]},
    {"_target_": "LoadImaged", "keys": "image", "reader": "@where"},
    {"_target_": "LoadImaged", "keys": "image", "reader": "$'os.' + 'system'"},
    {"_target_": "LoadImaged", "keys": "image", "reader": "NumpyReader", "allow_pickle": True},
    {"_target_": "SaveImaged", "keys": "image", "writer": "os.system"},
    {"_target_": "PatchInferer", "merger_cls": "os.system"},
    {"_target_": "DenseNet121", "spatial_dims": 2, "in_channels": 1, "out_channels": 1, "pretrained": True},
    {"_target_": "DenseNet121", "spatial_dims": 2, "in_channels": 1, "out_channels": 1, "pretrained": 1},
    {"_target_": "UNet", "_mode_": "debug"},
    {"_target_": "LoadImage", "_mode_": "callable"},
    {"_target_": "UNet", "_mode_": "$'debug'"},
    {"_target_": "UNet", "_debug_": True},
    {"_target_": "UNet", "_requires_": f"${EVIL}"},
    {"_target_": "UNet", "_requires_": [{"_target_": "run_cmd"}]},
    {"_target_": "UNet", "_disabled_": f"${EVIL}"},
    {"_target_": "UNet", "_desc_": f"${EVIL}"},
    {"_target_": "Lambdad", "keys": "image", "func": "$eval"},
    {"_target_": "Lambdad", "keys": "image", "func": f"$lambda image: {EVIL}"},
    {"_target_": "DataLoader", "dataset": [], "collate_fn": "$monai.utils.misc.run_cmd"},
]


@pytest.mark.parametrize("component", ARGUMENTS, ids=str)
def test_arguments_that_run_or_fetch(files: Files, component: dict):
    assert faults(changed(files, INFERENCE, lambda config: config.update(where="x", evil=component)))


EXPRESSIONS = [
    EVIL,
    "eval('1')",
    "exec('1')",
    "open('x', 'w')",
    "print('x')",
    "getattr(@network, 'x')",
    "type(@network)",
    "globals()",
    "vars()",
    "breakpoint()",
    "input()",
    "torch.os.system('true')",
    "torch.hub.load('a', 'b')",
    "torch.load('docs/README.md')",
    "torch.save(@network, 'x')",
    "monai.utils.misc.run_cmd(['true'])",
    "monai.bundle.ConfigParser({'a': 'b'})",
    "np.load('x', allow_pickle=True)",
    "np.f2py.compile('x')",
    "numpy.ctypeslib.load_library('x', 'y')",
    "@network.__class__",
    "@network.__class__.__init__.__globals__",
    "@network._modules",
    "().__class__.__base__.__subclasses__()",
    "'{0.__class__}'.format(@network)",
    "f'{@network.__class__}'",
    "'%s' % @network",
    "(lambda: 0).__globals__",
    "(lambda run: run('true'))(@network)",
    "[run('true') for run in [torch.os.system]]",
    "[x for x.y in @network]",
    "[x for @network['a'] in [1]]",
    "[x async for x in @network]",
    "(x := torch.os)",
    "sorted([1], key=eval)",
    "sorted(@images, key=lambda x: x.__class__)",
    "@network.load_state_dict(torch.load('x'))",
    "@network.apply(print)",
    "@network.register_forward_hook(print)",
    "__local_refs",
    "__local_refs.update(network=1)",
    "__builtins__",
    "[__builtins__][0]",
    "@network.to.__self__",
    "9 ** 9 ** 9",
    "'a' * 99",
    "[0] * 99999999999",
    "1 << 9999",
    "dict(_target_='os.system', command='true')",
    "{'_target_': 'os.system', 'command': 'true'}",
    "{'_' + 'target_': 'os.system'}",
    "dict([['_target_', 'os.system']])",
    "dict(zip(@images, @images))",
    "@images[1:]",
    "@images[::-1]",
    "'$' + 'x'",
    "'@a' + 'x'",
    "*@images",
    "max(*@images)",
    "await @network",
    "lambda *a: a",
    "lambda x=print: x",
    "lambda torch: torch.os.system('true')",
    "import os",
    "import os as torch",
    "import torch, os",
    "import torch; import os",
    "import torch.os",
    "from os import system",
    "from os import system as first",
    "from monai.utils.misc import run_cmd",
    "from torch import os",
    "from torch import *",
    "from monai.bundle import ConfigParser",
    "from monai.handlers import from_engine as torch",
    "from . import x",
    "from scripts.files import os",
    "from pickle import loads",
    "import antigravity",
    "1\nimport os",
    "(",
    "@#network",
    "@##network.to(1)",
    "@images[0].__class__",
    "1 if print() else 2",
    "'a' 'b$c'",
    "b'bytes'",
    "...",
    "'x'.join(@images)",
    "min('a/') + 'etc'",
    "-" * 2000 + "1",
    "(" * 300 + "1" + ")" * 300,
]


@pytest.mark.parametrize("text", EXPRESSIONS, ids=lambda text: text[:40])
def test_expressions_that_are_not_in_the_grammar(files: Files, text: str):
    found = faults(changed(files, TRAIN, lambda config: config.update(evil=["", {"x": f"${text}"}])))
    assert_refused(found, f"{TRAIN}: ")


PLACES = [
    {"output_dir": "/etc"},
    {"output_dir": "../../etc"},
    {"output_dir": "a/../../etc"},
    {"output_dir": "~/.ssh"},
    {"output_dir": "$'/etc'"},
    {"output_dir": "$HOME"},
    {"output_dir": "${HOME}/x"},
    {"output_dir": "a/$HOME"},
    {"output_dir": "C:\\Windows"},
    {"output_dir": "C:/Windows"},
    {"output_dir": "\\\\server\\share"},
    {"output_dir": "..\\x"},
    {"output_dir": "file:///etc"},
    {"output_dir": "$@bundle_root + '/../../etc'"},
    {"output_dir": "$'' + '/etc'"},
    {"bundle_root": "", "output_dir": "$@bundle_root + '/etc'"},
    {"empty": "", "output_dir": "$@empty + '/etc'"},
    {"empty": "", "other": "@empty", "output_dir": "$@other + '/etc'"},
    {"empty": "", "output_dir": "$str(@empty) + '/etc'"},
    {"empty": ["", "x"], "output_dir": "$@empty#0 + '/etc'"},
    {"empty": "", "output_dir": "$(@empty or '') + '/etc'"},
    {"word": "x/etc", "output_dir": "$@word[1]"},
    {"word": "x", "output_dir": "$min(@word) + 'etc'"},
    {"evil": {"_target_": "SaveImaged", "keys": "image", "output_dir": "/etc"}},
    {"evil": {"_target_": "SaveImaged", "keys": "image", "output_postfix": "x/../../../etc"}},
    {
        "evil": {
            "_target_": "SaveImaged",
            "keys": "image",
            "output_name_formatter": "$lambda m, s: {'subject': '/etc/x'}",
        }
    },
    {"evil": {"_target_": "CheckpointSaver", "save_dir": "/etc", "save_dict": {}}},
    {"evil": {"_target_": "TensorBoardStatsHandler", "log_dir": "/etc"}},
    {"finalize": ["$save_atomically(1, '/etc/x')", "$from scripts.training import save_atomically"]},
    {"finalize": ["$save_atomically(1, path='/etc/x')", "$from scripts.training import save_atomically"]},
    {"finalize": ["$read_config('../x.json')", "$from scripts.runs.config import read_config"]},
    {"images": "$sorted(glob('/etc/*'))"},
    {"output_dir": "$str(@stage.folder.parent.parent)"},
    {"output_dir": "$@stage.path.parent.parent"},
    {"output_dir": "$@run_dir + '/.' + './x'"},
    {"output_dir": "$'.' + './x'"},
    {"dot": ".", "output_dir": "$@dot + @dot + '/x'"},
    {"up": "$@run_dir + '/.'", "output_dir": "$@up + '.' + '/x'"},
    {"evil": {"_target_": "TensorBoardStatsHandler", "log_dir": "s3://evil/x"}},
    {"output_dir": {"_target_": "monai.utils.first", "iterable": "$sorted('x/')"}},
    {"evil": {"_target_": "SaveImaged", "keys": "image", "data_root_dir": "a/b/c/d"}},
    {"a": "x/", "b": "etc", "evil": {"_target_": "SaveImaged", "output_dir": "$min(@a) + @b"}},
    {
        "evil": {
            "_target_": "SaveImaged",
            "output_name_formatter": "$lambda meta, saver: {'subject': min('x/')}",
        }
    },
]


@pytest.mark.parametrize("entries", PLACES, ids=str)
def test_places_outside(files: Files, entries: dict):
    assert faults(changed(files, INFERENCE, lambda config: config.update(entries)))


OTHERS = [
    "@_meta_#description",
    "@_meta_",
    "$@_meta_::description",
    "%_meta_::description",
    "$[@_meta_['a']]",
]


@pytest.mark.parametrize("text", OTHERS)
def test_texts_of_the_metadata_become_no_values(files: Files, text: str):
    """MONAI puts them beside the config; they may look like expressions."""
    found = faults(changed(files, INFERENCE, lambda config: config.update(evil=[text])))
    assert_refused(found, "not the config's own")


def test_only_configs_are_read(files: Files):
    evil = {"i": "$from scripts.runs.config import read_config"}
    evil["x"] = "$read_config(@bundle_root + '/configs/metadata.json').get_parsed_content('a')"
    found = faults(changed(files, TRAIN, lambda config: config.update(evil)))
    assert_refused(found, "expected one of /configs/inference.json")


MACROS = [
    "%/etc/passwd.json::a",
    "%../other.json::a",
    "%../other.json",
    "%configs/../../other.json::a",
    "%docs/a.json::a",
    "%model_info.json::name",
    "%configs/metadata.json::version",
    "%http://evil/a.json::a",
    "%~/a.yaml::a",
    "%a.YML#a",
    "%#a",
    "%##a",
    "%",
    "%a b",
]


@pytest.mark.parametrize("macro", MACROS)
def test_macros_that_lead_out_of_the_configs(files: Files, macro: str):
    assert_refused(
        faults(changed(files, INFERENCE, lambda config: config.update(evil=[macro]))), f"{INFERENCE}: "
    )


OVERLAYS = [
    {"network_def#_target_": "run_cmd"},
    {"+evil": {"_target_": "run_cmd"}},
    {"train::loss::_target_": "os.system"},
    {"train#preprocessing#reader": "os.system"},
    {"train#network#pretrained": True},
    {"train#network#_mode_": "callable"},
    {"stage#run_dir": "/etc"},
    {"a": [[[[{"b": {"_target_": "run_cmd"}}]]]]},
    {"source_segmentation": {"train.trainer._target_": "run_cmd"}},
    {"source_segmentation": {"train.preprocessing.reader": "os.system"}},
    {"source_segmentation": {"train.+x.pretrained": True}},
    {"source_segmentation": {"formatter": {"_mode_": "callable"}}},
    {"postprocessing#formatter#_target_": "LoadImage"},
    {"+formatter": {"_target_": "LoadImage"}},
    {"$evil": 1},
    {"imports": ["$from monai.handlers import from_engine", "$import os"]},
]


@pytest.mark.parametrize("overlay", OVERLAYS, ids=str)
def test_overlays(files: Files, overlay: dict):
    evil = summed(files | {"configs/presets/evil.json": json.dumps(overlay).encode()})
    assert_refused(faults(evil), "configs/presets/evil.json: ")


NAMES = [
    *("torch.py", "fire.py", "monai/__init__.py", "conftest.py", "sitecustomize.py", "evil.pth", "setup.py"),
    *(
        "numpy.py",
        "ignite/__init__.py",
        "configs/evil.py",
        "docs/conftest.py",
        "models/evil.py",
        "models/b.pt",
    ),
    *(
        "models/model.ts",
        "docs/a.json",
        "docs/a.yaml",
        "evil.json",
        "configs/a.yaml",
        "configs/a.yml",
        "a.JSON",
    ),
    *("scripts/evil.so", "scripts/evil.pyc", "scripts/evil.pth", "scripts/evil.yaml", "scripts/conftest.py"),
    *("scripts/sitecustomize.py", "scripts/torch.py", "scripts/data/monai/__init__.py", "pyproject.toml"),
    *("setup.cfg", "pytest.ini", ".pth", "docs/a.html", "docs/a.js", "Makefile", "run.sh", "LICENSE.py"),
    *(
        "bundles/source_segmentation/configs/train.json",
        "scripts/CON.py",
        "configs/nul.json",
        "docs/a.md.",
        "a b",
    ),
]


@pytest.mark.parametrize("name", NAMES)
def test_files_that_a_bundle_does_not_have(files: Files, name: str):
    assert_refused(faults(summed(files | {name: b"{}"})), name)


def picture(width: int, height: int) -> bytes:
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I4sII", 13, b"IHDR", width, height) + bytes(20)


CONTENTS: list[tuple[str, bytes, str]] = [
    ("docs/a.png", picture(2**31, 2**31), "points"),
    ("docs/a.png", picture(0, 5), "points"),
    ("docs/a.png", b"PNG", "no PNG picture"),
    ("docs/a.svg", b"<svg onload = 'x()'/>", "runs or fetches"),
    ("docs/a.svg", b"<svg><script>x()</script></svg>", "runs or fetches"),
    ("docs/a.svg", b"<svg><use xlink:href = 'http://evil'/></svg>", "runs or fetches"),
    ("docs/a.svg", b"<svg><style>@import 'http://evil'</style></svg>", "runs or fetches"),
    ("docs/a.svg", b"<svg><animate attributeName='href'/></svg>", "runs or fetches"),
    ("docs/a.svg", b"<!DOCTYPE svg [<!ENTITY a 'b'>]><svg/>", "runs or fetches"),
    ("docs/a.md", b"a\0b", "not a text"),
    ("docs/a.md", "a".encode("utf-16"), "not a text"),
    ("configs/a.json", b'{"a": 1, "a": 2}', "a key stands twice"),
    ("configs/a.json", b"\xef\xbb\xbf{}", "BOM"),
    ("configs/a.json", b'{"a": ' + b"[" * 200 + b"]" * 200 + b"}", "levels deep"),
    ("configs/a.json", b"[" * 10**5 + b"]" * 10**5, "recursion"),
    ("configs/a.json", b'{"a": [' + b"0," * 150_000 + b"0]}", "more than 100000 values"),
    ("configs/a.json", b'{"a": ' + b"9" * 5000 + b"}", "digits"),
    (
        "configs/logging.conf",
        b"[handlers]\nkeys=a\n[handler_a]\nclass=FileHandler\nargs=('/etc/x',)\n",
        "FileHandler",
    ),
    (
        "configs/logging.conf",
        b"[handler_a]\nclass=StreamHandler\nargs=(__import__('os').system('x'),)\n",
        "StreamHandler",
    ),
    (
        "configs/logging.conf",
        b"[handler_a]\nclass=handlers.SocketHandler\nargs=('evil', 80)\n",
        "SocketHandler",
    ),
    ("configs/logging.conf", b"[formatter_a]\nclass=os.system\nformat=x\n", "has class"),
    ("configs/logging.conf", b"[DEFAULT]\nx=1\n[handler_a]\nargs=(sys.stdout,)\n", "defaults"),
    ("scripts/release/meta_schema_20240725.json", b'{"a": "$print()"}', "would evaluate"),
    ("scripts/more.json", b'{"_target_": "run_cmd"}', "_target_"),
]


@pytest.mark.parametrize(("path", "content", "reason"), CONTENTS, ids=lambda value: str(value)[:30])
def test_contents(files: Files, path: str, content: bytes, reason: str):
    assert_refused(faults(summed(files | {path: content})), reason)


@pytest.mark.parametrize(
    "change",
    [
        lambda metadata: metadata.update(description="$print()"),
        lambda metadata: metadata.update(evil={"_target_": "run_cmd"}),
        lambda metadata: metadata.update(evil="%configs/train.json"),
        lambda metadata: metadata.update(description=f"x${EVIL}"),
    ],
)
def test_metadata_that_would_be_evaluated(files: Files, change: Callable):
    """`python -m monai.bundle run --meta_file configs/metadata.json` parses them with the config."""
    assert_refused(faults(changed(files, METADATA, change)), METADATA)


class Reduced:
    """Pickles to a call."""

    def __init__(self, call, *arguments):
        self.reduced = call, arguments

    def __reduce__(self):
        return self.reduced


def rewritten(
    content: bytes, change: Callable[[str, bytes], tuple[str, bytes]], *more: tuple[str, bytes]
) -> bytes:
    """What `torch.save` wrote, its parts changed."""
    buffer, source = io.BytesIO(), zipfile.ZipFile(io.BytesIO(content))
    with zipfile.ZipFile(buffer, "w") as target:
        for member in source.namelist():
            target.writestr(*change(member, source.read(member)))
        for part in more:
            target.writestr(*part)
    return buffer.getvalue()


def exchanged(own: dict, old: bytes, new: bytes) -> bytes:
    """A checkpoint whose description has other bytes."""
    content = saved(own)
    assert any(
        old in zipfile.ZipFile(io.BytesIO(content)).read(n)
        for n in zipfile.ZipFile(io.BytesIO(content)).namelist()
    )
    return rewritten(content, lambda n, c: (n, c.replace(old, new) if n.endswith(".pkl") else c))


WEIGHTS: list[Callable[[dict], bytes]] = [
    lambda own: saved(own | {"x": Reduced(bytearray, 2**40)}),
    lambda own: saved(own | {"x": Reduced(torch.Size, [2**40])}),
    lambda own: saved(own | {"x": torch.zeros(2).to_sparse()}),
    lambda own: saved(own | {"x": torch.quantize_per_tensor(torch.zeros(2), 1.0, 0, torch.qint8)}),
    lambda own: saved(own | {"x": torch.zeros(1).expand(2**20, 2**20)}),
    lambda own: saved({f"x{n}": next(iter(own.values())) for n in range(2000)}),
    lambda own: saved(own | {"x": torch.empty(3, device="meta")}),
    lambda own: saved(own | {1: torch.zeros(1)}),
    lambda own: saved(own | {"x": 3}),
    lambda own: saved([own]),
    lambda own: pickle.dumps(own),
    lambda own: saved(own)[:-50],
    lambda own: b"PK\x05\x06" + bytes(18),
    lambda own: exchanged(own, b"FloatStorage", b"ByteStorage\n"),
    lambda own: exchanged(own, b"collections\nOrderedDict", b"os\nsystem"),
    lambda own: rewritten(saved(own), lambda n, c: (n.replace("data.pkl", "DATA.PKL"), c)),
    lambda own: rewritten(saved(own), lambda n, c: (n, c), ("archive/code/evil.py", b"print()")),
    lambda own: rewritten(
        saved(own), lambda n, c: (n, c), ("archive/constants.pkl", pickle.dumps(Reduced(print)))
    ),
    lambda own: rewritten(saved(own), lambda n, c: (n, b"" if "/data/" in n else c)),
    lambda own: torch.jit.script(torch.nn.ReLU()).save_to_buffer(),
]


@pytest.mark.parametrize("weights", WEIGHTS)
def test_weights(files: Files, weights: Callable[[dict], bytes]):
    own = torch.load(io.BytesIO(files["models/model.pt"]), weights_only=True)
    found = faults(summed(files | {"models/model.pt": weights(dict(own))}))
    assert len(found) == 1
    assert_refused(found, "models/model.pt: ")


def test_what_is_printed_cannot_steer_a_terminal(files: Files):
    evil = "\x1b[2J\r\u202egpj.exe\u200b\n- fine"

    def change(config: dict) -> None:
        config["evil"] = [{"_target_": evil}, f"$'{evil}' + x", f"%{evil}", {"reader": evil}]
        config[evil] = "/etc"

    inspection = inspect(stored(changed(files, INFERENCE, change)), evil)
    lines = inspection.report().split("\n")
    assert len(lines) == 1 + len(inspection.faults) and all(line.isprintable() for line in lines)
    assert "\\x1b[2J\\r\\u202egpj.exe\\u200b\\n- fine" in lines[0]
    good = changed(files, INFERENCE, lambda config: config.update(note=f"$'{chr(0x202E)}gpj'"))
    inspection = inspect(stored(good), "a.zip")
    assert inspection.faults == [] and "    $'\\u202egpj'" in inspection.report().split("\n")


def test_many_files_of_json_take_seconds_and_too_much_is_not_read(files: Files):
    many = {
        f"configs/presets/p{n}.json": json.dumps({f"a{n}": [{"b": "@x"}] * 200}).encode() for n in range(200)
    }
    start = time.perf_counter()
    assert faults(summed(files | many)) == []
    assert time.perf_counter() - start < 30
    named = {f"a{n}": f"$@b + {n}" for n in range(4001)}
    assert_refused(
        faults(changed(files, TRAIN, lambda config: config.update(named))), "more than 4000 components"
    )
    huge = {f"configs/presets/p{n}.json": b'{"a": "' + b"x" * 10**6 + b'"}' for n in range(5)}
    assert_refused(faults(summed(files | huge)), "more than 4 MiB of JSON")
    assert_refused(faults(files | {f"docs/{n}.md": b"x" for n in range(1001)}), "more than 1000 files")


def test_a_zip_larger_than_any_bundle_is_not_read(files: Files, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(archive, "MAX_ARCHIVE", 10**4)
    (fault,) = faults(files)
    assert fault.startswith("is larger than")


def test_numbers_of_channels_are_bounded(files: Files):
    def change(metadata: dict) -> None:
        metadata["network_data_format"]["outputs"]["pred"]["num_channels"] = 10**12

    assert_refused(faults(changed(files, METADATA, change)), "1000000000000 channels")


@pytest.mark.parametrize("top", ["monai", "torch", "crosswarp", ".", "-x", "a b", "source_segmentation\n"])
def test_the_folder_is_the_bundles(files: Files, top: str):
    assert faults(files, top)


def with_network(network: torch.nn.Module, **definition: object) -> Callable[[Files], Files]:
    def change(files: Files) -> Files:
        files = changed(files, INFERENCE, lambda config: config.update(network_def=definition))
        return summed(files | {"models/model.pt": saved(network.state_dict())})

    return change


def with_config(path: str, **entries: object) -> Callable[[Files], Files]:
    return lambda files: changed(files, path, lambda config: config.update(entries))


UNETS = {"spatial_dims": 2, "in_channels": 1, "out_channels": 3}


@pytest.mark.parametrize(
    "change",
    [
        with_network(
            UNet(2, 1, 3, [4, 8], [2], num_res_units=0),
            _target_="monai.networks.nets.UNet",
            **UNETS,
            channels=[4, 8],
            strides=[2],
        ),
        with_network(
            SegResNet(2, 8, 1, 3, blocks_down=[1, 1], blocks_up=[1]),
            _target_="SegResNet",
            **UNETS,
            blocks_down=[1, 1],
            blocks_up=[1],
        ),
        with_config(TRAIN, **{"loss": {"_target_": "TverskyLoss", "softmax": True}}),
        with_config(TRAIN, loss={"_target_": "monai.losses.GeneralizedDiceFocalLoss", "to_onehot_y": True}),
        with_config(
            TRAIN, optimizer={"_target_": "torch.optim.SGD", "params": "$@network.parameters()", "lr": 0.1}
        ),
        with_config(TRAIN, optimizer={"_target_": "Novograd", "params": "$@network.parameters()"}),
        with_config(TRAIN, scheduler={"_target_": "torch.optim.lr_scheduler.CosineAnnealingLR", "T_max": 9}),
        with_config(TRAIN, activation={"_target_": "torch.nn.GELU"}),
        with_config(TRAIN, transform={"_target_": "RandGaussianNoised", "keys": "image", "prob": 0.5}),
        with_config(
            TRAIN, transform={"_target_": "Lambdad", "keys": "image", "func": "$lambda x: x * 2 - 1"}
        ),
        with_config(TRAIN, transform={"_target_": "LoadImaged", "keys": "image", "reader": "NibabelReader"}),
        with_config(TRAIN, transform={"_target_": "CastToTyped", "keys": "image", "dtype": "$np.float32"}),
        with_config(TRAIN, inferer={"_target_": "SlidingWindowInferer", "roi_size": [16, 12]}),
        with_config(TRAIN, dataset={"_target_": "SmartCacheDataset", "data": "$@data.source.val[:3]"}),
        with_config(
            TRAIN,
            handler={"_target_": "CheckpointSaver", "save_dir": "$@stage_dir + '/more'", "save_dict": {}},
        ),
        with_config(TRAIN, metric={"_target_": "monai.handlers.HausdorffDistance", "percentile": 95}),
        with_config(TRAIN, metric={"_target_": "ignite.metrics.RunningAverage"}),
        with_config(TRAIN, network={"_target_": "DenseNet121", **UNETS, "pretrained": False}),
        with_config(TRAIN, overlap="$0.25 if @spatial_dims == 2 else max(0.5, 1 / @spatial_dims)"),
        with_config(TRAIN, more=["$import torch", "$import numpy as np"]),
        with_config(TRAIN, numbers="$[n * 2 for n in range(@spatial_dims) if n > 0 and n != 5]"),
        with_config(INFERENCE, output_dir="results/mine"),
        with_config(METADATA, description="costs 5 $, 50 % off"),
    ],
)
def test_what_users_exchange_passes(files: Files, change: Callable[[Files], Files]):
    assert faults(change(files)) == []


def test_other_code_passes_and_is_listed(files: Files, tmp_path: Path):
    files = summed(
        files | {"scripts/__init__.py": b"print('another version')", "scripts/spatial/other.py": b""}
    )
    inspection = inspect(stored(files), "a.zip")
    assert inspection.faults == []
    printed = inspection.report()
    assert "changed: scripts/__init__.py" in printed and "added: scripts/spatial/other.py" in printed
    assert "not there: scripts/__main__.py" in printed
    (tmp_path / "a.zip").write_bytes(stored(files))
    with pytest.warns(UserWarning, match=r"not this library; changed: scripts/__init__.py"):
        unpack(tmp_path / "a.zip", tmp_path / "out")


def test_only_who_trusts_a_zip_unpacks_what_is_refused(files: Files, tmp_path: Path):
    evil = changed(files, INFERENCE, lambda config: config.update(evil={"_target_": "run_cmd"}))
    (tmp_path / "a.zip").write_bytes(stored(evil))
    with pytest.raises(BundleError, match="run_cmd"), nothing_runs():
        unpack(tmp_path / "a.zip", tmp_path / "out")
    bundle = unpack(tmp_path / "a.zip", tmp_path / "out", trust=True)
    assert (bundle / INFERENCE).read_bytes() == evil[INFERENCE]
    (tmp_path / "b.zip").write_bytes(stored({"../../evil.py": b""}))
    with pytest.raises(BundleError, match="leads out"):
        unpack(tmp_path / "b.zip", tmp_path / "other", trust=True)
