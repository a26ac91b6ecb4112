"""Zips that are not what they should be: refused with the reason, and nothing of them is executed."""

from __future__ import annotations

import errno
import io
import json
import os
import pickle
import re
import stat
import zipfile
from collections.abc import Callable, Iterator
from hashlib import sha256
from pathlib import Path

import jsonschema
import pytest
import torch

from crosswarp.__main__ import main
from crosswarp.commands.package import package
from crosswarp.commands.verify import verify
from crosswarp.disk import DiskError
from crosswarp.places import META, ROOT
from crosswarp.release import archive as module
from crosswarp.release.networks import build
from crosswarp.release.package import zipped
from crosswarp.release.verify import BundleError, inspect, unpack
from crosswarp.runs.config import read_config
from tests.cohorts import write_blob_cohort
from tests.trained_run import write_trained_run

Files = dict[str, bytes]
STAGE = "source_segmentation"


@pytest.fixture(scope="module")
def dist(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("verify")
    data = write_blob_cohort(folder / "data", num_classes=3, spatial_size=(16, 12))
    package(str(write_trained_run(folder / "run", data)), str(folder / "dist"))
    return folder / "dist"


@pytest.fixture(scope="module")
def whole(dist: Path) -> bytes:
    return (dist / f"{STAGE}_v0.1.0.zip").read_bytes()


@pytest.fixture
def files(whole: bytes) -> Files:
    """The files of a stage's bundle, to be changed."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        return {member.partition("/")[2]: archive.read(member) for member in archive.namelist()}


EXECUTED: list[str] = []


@pytest.fixture(autouse=True)
def nothing_is_executed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """What the attacks below would call fails the test."""
    EXECUTED.clear()
    monkeypatch.setattr(os, "system", EXECUTED.append)
    yield
    assert EXECUTED == []


def explode() -> None:
    EXECUTED.append("by a pickle")


class Bomb:
    """Explodes where it is unpickled."""

    def __reduce__(self):
        return explode, ()


class Zeros:
    """Unpickles, by what torch allows, to as much memory as a few bytes ask for."""

    def __reduce__(self):
        return bytearray, (2**50,)


def test_the_bomb_explodes():
    pickle.loads(pickle.dumps(Bomb()))
    torch.load(io.BytesIO(saved(Bomb())), weights_only=False)
    assert EXECUTED == ["by a pickle"] * 2
    EXECUTED.clear()


def summed(files: Files) -> Files:
    """With checksums that fit, as an attacker writes them."""
    info = json.loads(files["model_info.json"])
    info["checksums"] = {
        path: sha256(content).hexdigest() for path, content in files.items() if path != "model_info.json"
    }
    return files | {"model_info.json": json.dumps(info).encode()}


def faults(files: Files, folder: str = STAGE) -> list[str]:
    return inspect(zipped(folder, files), "a.zip").faults


def changed(files: Files, path: str, change: Callable[[dict], object]) -> Files:
    """With a JSON file changed in place by a function."""
    content = json.loads(files[path])
    change(content)
    return summed(files | {path: json.dumps(content).encode()})


def saved(content: object) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


def test_what_was_packaged_passes_and_its_python_is_listed(dist: Path, capsys: pytest.CaptureFixture[str]):
    verify(*map(str, sorted(dist.iterdir())))
    printed = capsys.readouterr().out
    for path in dist.iterdir():
        assert f"{path}: " in printed and sha256(path.read_bytes()).hexdigest() in printed
    assert "$torch.device('cuda' if torch.cuda.is_available() else 'cpu')" in printed
    assert "$@stage.begin()" in printed and "_target_ torch.optim.AdamW" in printed


@pytest.mark.parametrize("kept", [0, 10, 1000, -1000, -1])
def test_truncated(whole: bytes, kept: int):
    (fault,) = inspect(whole[:kept], "a.zip").faults
    assert "corrupt, truncated or no zip" in fault


def test_corrupt(whole: bytes):
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        place = archive.getinfo(f"{STAGE}/models/model.pt").header_offset + 200
    broken = whole[:place] + bytes([whole[place] ^ 255]) + whole[place + 1 :]
    (fault,) = inspect(broken, "a.zip").faults
    assert "corrupt" in fault


@pytest.mark.parametrize(
    ("name", "reason"),
    [
        (f"{STAGE}/../../evil.py", "leads out of the folder"),
        ("/etc/evil.py", "leads out of the folder"),
        ("../evil.py", "leads out of the folder"),
        (f"{STAGE}\\..\\..\\evil.py", "some systems read as another path"),
        ("C:/evil.py", "some systems read as another path"),
        (f"{STAGE}/evil\n.py", "some systems read as another path"),
        (f"{STAGE}/license", "stands there twice"),
        (f"{STAGE}/LICENSE", "stands there twice"),
        ("other/evil.py", f"expected one folder.*other, {STAGE}"),
        ("evil.py", "expected one folder"),
    ],
)
@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_names_that_escape(whole: bytes, name: str, reason: str):
    buffer = io.BytesIO(whole)
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(name, b"evil")
    assert_fault(inspect(buffer.getvalue(), "a.zip").faults, reason)


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFCHR])
def test_links_and_devices(whole: bytes, kind: int):
    buffer, member = io.BytesIO(whole), zipfile.ZipInfo(f"{STAGE}/docs/link.md")
    member.create_system, member.external_attr = 3, (kind | 0o777) << 16
    with zipfile.ZipFile(buffer, "a") as archive:
        archive.writestr(member, "/etc/passwd")
    assert_fault(inspect(buffer.getvalue(), "a.zip").faults, "a link or device")


def test_bombs(files: Files, whole: bytes, monkeypatch: pytest.MonkeyPatch):
    assert_fault(
        faults(files | {"docs/bomb.md": b" " * 2**24}), r"docs/bomb.md': unpacks to \d+ times its size"
    )
    monkeypatch.setattr(module, "MAX_TOTAL", 1000)
    assert_fault(inspect(whole, "a.zip").faults, "unpacks to more than")


def test_overlapping_entries(whole: bytes):
    """Many entries of the directory that all name one and the same content."""
    with zipfile.ZipFile(io.BytesIO(whole)) as archive:
        first = max(archive.infolist(), key=lambda member: member.compress_size)
    buffer = io.BytesIO(whole)
    with zipfile.ZipFile(buffer, "a") as archive:
        for number in range(200):
            copy = zipfile.ZipInfo(f"{STAGE}/docs/{number}.md")
            for key in ("header_offset", "compress_size", "file_size", "CRC", "compress_type"):
                setattr(copy, key, getattr(first, key))
            archive.filelist.append(copy)
            archive.NameToInfo[copy.filename] = copy
        archive._didModify = True
    assert_fault(inspect(buffer.getvalue(), "a.zip").faults, "entries overlap")


@pytest.mark.parametrize(
    "name", ["models/model.ts", "models/best.pt", "docs/notes.pkl", "docs/a.npy", "run.sh"]
)
def test_files_that_do_not_belong_there(files: Files, name: str):
    found = faults(summed(files | {name: pickle.dumps(Bomb())}))
    assert len(found) == 1
    assert_fault(found, f"{name}: unexpected")


def test_a_pickle_under_another_name(files: Files):
    assert_fault(faults(summed(files | {"docs/notes.md": pickle.dumps(Bomb())})), "docs/notes.md: not a text")
    assert_fault(faults(summed(files | {"docs/a.png": pickle.dumps(Bomb())})), "docs/a.png: unexpected")


def bombed_archive() -> bytes:
    """What `torch.save` writes, its pickle exchanged."""
    buffer, source = io.BytesIO(), zipfile.ZipFile(io.BytesIO(saved({"a": torch.zeros(2)})))
    with zipfile.ZipFile(buffer, "w") as archive:
        for member in source.namelist():
            content = pickle.dumps(Bomb()) if member.endswith("data.pkl") else source.read(member)
            archive.writestr(member, content)
    return buffer.getvalue()


def compressed(content: bytes) -> bytes:
    buffer, source = io.BytesIO(), zipfile.ZipFile(io.BytesIO(content))
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in source.namelist():
            archive.writestr(member, source.read(member))
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("weights", "reason"),
    [
        (lambda own: saved(Bomb()), "model.pt: expected a state dictionary of tensors, it also names"),
        (
            lambda own: saved(own | {"bomb": Bomb()}),
            "model.pt: expected a state dictionary of tensors, it also names",
        ),
        (lambda own: bombed_archive(), "model.pt: expected a state dictionary of tensors, it also names"),
        (lambda own: saved(own | {"zeros": Zeros()}), "it also names __builtin__ bytearray"),
        (
            lambda own: pickle.dumps(Bomb()),
            "model.pt: expected a file of torch.save, whose parts cannot be read",
        ),
        (lambda own: b"", "model.pt: expected a file of torch.save, whose parts cannot be read"),
        (
            lambda own: compressed(saved(own | {"a": torch.zeros(10**5)})),
            "model.pt: expected a file of torch.save, uncompressed",
        ),
        (
            lambda own: saved(own)[:-200],
            "model.pt: expected a file of torch.save, whose parts cannot be read",
        ),
        (lambda own: saved(list(own.values())), "model.pt: expected a state dictionary"),
        (lambda own: saved({"network": own}), "model.pt: expected a state dictionary"),
        (
            lambda own: saved(own | {"a": torch.zeros(1).expand(10**7, 10**6)}),
            "model.pt: holds tensors larger than itself: a",
        ),
        (
            lambda own: saved(
                own | {str(i): part for i, part in enumerate(torch.rand(999).unfold(0, 900, 1))}
            ),
            "model.pt: holds tensors that share their values",
        ),
        (
            lambda own: saved({key: value for key, value in own.items() if "model.0" not in key}),
            "model.pt: of another architecture.*without model.0",
        ),
        (
            lambda own: saved(own | {"head.weight": torch.zeros(2)}),
            "model.pt: of another architecture.*with head.weight",
        ),
        (
            lambda own: saved({key: torch.cat([value, value]) for key, value in own.items() if value.ndim}),
            r"model.pt: of another architecture.*\[8, 1, 3, 3\] instead of \[4, 1, 3, 3\].* more",
        ),
        (
            lambda own: saved({key: value * float("nan") for key, value in own.items()}),
            "model.pt: holds NaN or infinity",
        ),
    ],
)
def test_weights_that_are_none_or_another_networks(files: Files, weights: Callable, reason: str):
    own = torch.load(io.BytesIO(files["models/model.pt"]), weights_only=True)
    found = faults(summed(files | {"models/model.pt": weights(own)}))
    assert len(found) == 1
    assert_fault(found, reason)


def test_a_class_more_than_the_weights_have(files: Files):
    def one_more(config: dict) -> None:
        config["num_classes"] = 4
        config["network_def"]["out_channels"] = 4

    found = faults(changed(files, "configs/inference.json", one_more))
    assert_fault(found, "model.pt: of another architecture than in inference.json")
    assert_fault(found, "metadata.json contradicts .*: pred: 3 channels, but the network gives 4")


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            lambda m: m["network_data_format"]["inputs"]["image"].update(num_channels=3),
            "image: 3 channels, but",
        ),
        (lambda m: m["network_data_format"]["outputs"]["pred"].update(num_channels=5), "network gives 3"),
        (
            lambda m: m["network_data_format"]["outputs"]["pred"].update(spatial_shape=[64, 64]),
            "spatial_size",
        ),
        (
            lambda m: m["network_data_format"]["outputs"]["pred"]["channel_def"].pop("2"),
            "2 channel_def for 3",
        ),
        (lambda m: m.update(version="9.9.9"), "9.9.9 is not in the changelog"),
        (
            lambda m: m.update(version="9.9.9", changelog={"9.9.9": ""}),
            "expected source_segmentation 0.1.0 as in",
        ),
        (
            lambda m: m.update(schema="http://elsewhere/schema.json"),
            "expected the schema meta_schema_20240725",
        ),
        (lambda m: m.pop("task"), "'task' is a required property"),
        (lambda m: m.update(authors=["a", "b"]), r"\$\.authors: \['a', 'b'\] is not of type 'string'"),
    ],
)
def test_metadata_that_contradict_the_rest(files: Files, change: Callable, reason: str):
    assert_fault(faults(changed(files, "configs/metadata.json", change)), reason)


def test_metadata_are_checked_with_the_jsonschema_of_monai_label(
    files: Files, monkeypatch: pytest.MonkeyPatch
):
    """3.2 has no `json_path`."""
    monkeypatch.delattr(jsonschema.exceptions._Error, "json_path", raising=False)
    assert faults(files) == []
    found = faults(changed(files, "configs/metadata.json", lambda m: m.update(authors=["a", "b"])))
    assert_fault(found, r"\$\.authors: \['a', 'b'\] is not of type 'string'")


@pytest.mark.parametrize(
    ("definition", "reason"),
    [
        ({"_target_": "os.system", "command": "true"}, "without running code of the bundle: 'os.system'"),
        ({"_target_": "scripts.evil.Network"}, "without running code of the bundle: 'scripts.evil.Network'"),
        ({"_target_": "UNet", "_mode_": "debug"}, "without running code of the bundle"),
        ({"_target_": "UNet", "_requires_": "$__import__('os').system('true')"}, "without running code"),
        ({"_target_": "UNet", "spatial_dims": "$__import__('os').system('true')"}, "without running Python"),
        ({"_target_": "UNet", "spatial_dims": "$9**9**9"}, "without running Python"),
        ({"_target_": "UNet", "spatial_dims": "$@spatial_size * 9999999999"}, "without running Python"),
        ("$__import__('os').system('true')", "without running Python"),
        ("@network_def", "recursion"),
        ("@nowhere", "nowhere"),
        ("%/etc/passwd", "/etc/passwd"),
        (3, "inference.json"),
        ({"_target_": "UNet", "spatial_dims": "two"}, "inference.json"),
    ],
)
def test_networks_that_would_run_something(files: Files, definition: object, reason: str):
    found = faults(changed(files, "configs/inference.json", lambda c: c.update(network_def=definition)))
    assert_fault(found, reason)


def doubled(config: dict, content: str, last: object) -> None:
    """Ids of which each refers to the next one twice."""
    config |= {f"level_{n}": json.loads(content.replace("?", f"@level_{n + 1}")) for n in range(60)}
    config["level_60"] = last


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (lambda config: config["network_def"].update(num_res_units=10**9), "a number above 65536"),
        (lambda config: doubled(config, '["?", "?"]', 1), "more than 10000 entries"),
        (lambda config: doubled(config, '"$? * ?"', 1), "more than 10000 entries"),
        (lambda config: doubled(config, '"$? * ?"', 10), "without running Python"),
        (lambda config: config["network_def"].update(num_res_units=60_000), "more than 10000 tensors"),
    ],
)
def test_networks_that_would_take_hours_to_build(files: Files, change: Callable, reason: str):
    def enlarge(config: dict) -> None:
        change(config)
        if "level_0" in config:
            config["network_def"]["channels"] = "@level_0"

    assert_fault(faults(changed(files, "configs/inference.json", enlarge)), reason)


def test_texts_too_large_to_parse(files: Files):
    found = faults(summed(files | {"configs/large.json": os.urandom(3 * 2**20).hex().encode()}))
    assert_fault(found, "large.json': a text of more than 1 MiB")


@pytest.mark.parametrize(
    "evil",
    [
        {"name": "os.system", "evil": {"_target_": "%name", "command": "true"}},
        {"name": "os.system", "evil": {"_target_": "@name", "command": "true"}},
        {"evil": {"command": "true"}, "evil#_target_": "os.system"},
        {"evil": {"command": "true"}, "evil::_target_": "os.system"},
    ],
)
def test_targets_whose_name_stands_elsewhere(files: Files, evil: dict):
    found = faults(changed(files, "configs/inference.json", lambda config: config.update(evil)))
    assert_fault(found, "configs/inference.json: .*_target_.*: calls .*")


@pytest.mark.parametrize(
    "key", ["network_def#channels", "network_def::channels", "+network_def", "~network_def"]
)
def test_keys_that_change_what_was_checked(files: Files, key: str):
    found = faults(changed(files, "configs/inference.json", lambda config: config.update({key: [4, 8]})))
    assert_fault(found, f"inference.json: expected plain keys, got {re.escape(key)}")


def test_targets_of_no_known_library(files: Files):
    evil = {"_target_": "subprocess.run", "args": ["true"]}
    found = faults(changed(files, "configs/train.json", lambda config: config.update(evil=[{"deep": evil}])))
    assert_fault(
        found, "configs/train.json: _target_: subprocess.run: calls subprocess.run; expected what is of "
    )


def test_new_python_is_listed(files: Files):
    new = changed(files, "configs/train.json", lambda config: config["imports"].append("$import numpy as np"))
    inspection = inspect(zipped(STAGE, new), "a.zip")
    assert inspection.faults == [] and "$import numpy as np" in inspection.report()


@pytest.mark.parametrize("content", [b"{", b"[1]", b"\xff", b"[" * 100_000])
def test_configs_that_are_no_json(files: Files, content: bytes):
    assert_fault(faults(summed(files | {"configs/train.json": content})), "configs/train.json: ")


@pytest.mark.parametrize(
    "name",
    ["LICENSE", "configs/metadata.json", "configs/evaluate.json", "models/model.pt", "scripts/__init__.py"],
)
def test_missing_files(files: Files, name: str):
    del files[name]
    assert f"{name}: missing" in faults(summed(files))


def test_changed_files(files: Files):
    files["scripts/files.py"] += b"\nprint('changed')\n"
    files["scripts/more.py"] = b""
    del files["docs/README.md"]
    found = faults(files)
    assert_fault(found, "other content than packaged: scripts/files.py")
    assert_fault(found, "added since it was packaged: scripts/more.py")
    assert_fault(found, "not there any more: docs/README.md")


def test_a_bundle_of_another_name(files: Files):
    assert_fault(
        faults(files, "spleen_ct_segmentation"), "expected a bundle crosswarp, .*spleen_ct_segmentation"
    )
    assert_fault(
        faults(files, "domain_adaptation"), "expected source_segmentation 0.1.0 as in model_info.json"
    )


def test_a_stage_within_the_chain_is_checked_too(dist: Path):
    with zipfile.ZipFile(dist / f"{META}_v0.1.0.zip") as archive:
        files = {member.partition("/")[2]: archive.read(member) for member in archive.namelist()}
    path = f"bundles/{STAGE}/configs/metadata.json"
    found = faults(changed(files, path, lambda m: m.pop("task")), META)
    assert found == [f"{path}: $: 'task' is a required property"]


def test_all_faults_are_named_at_once_and_nothing_is_unpacked(
    dist: Path,
    files: Files,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
):
    bad = tmp_path / "bad.zip"
    broken = files | {"models/model.pt": saved(Bomb()), "docs/a.pkl": b"", "configs/train.json": b"{"}
    bad.write_bytes(zipped(STAGE, broken))
    good = str(dist / f"{STAGE}_v0.1.0.zip")
    monkeypatch.setattr("sys.argv", ["crosswarp", "verify", str(bad), good])
    with pytest.raises(SystemExit, match=r"1 of 2 refused: .*bad.zip"):
        main()
    printed = capsys.readouterr().out
    assert printed.count("\n- ") >= 4 and f"{good}: {STAGE} 0.1.0" in printed
    with pytest.raises(BundleError, match="model.pt"):
        unpack(bad, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    unpack(good, tmp_path / "out")
    with pytest.raises(FileExistsError, match="exists already"):
        unpack(good, tmp_path / "out")
    with pytest.raises(FileNotFoundError, match="nowhere.zip"):
        verify(good, "nowhere.zip")
    with pytest.raises(ValueError, match="Expected zips"):
        verify()


@pytest.mark.parametrize("dims", [2, 3])
def test_the_network_that_runs_have_for_poses_can_be_checked(dims: int):
    config = read_config(ROOT / "configs" / "inference.json").get()
    config |= {"spatial_dims": dims, "spatial_size": [32] * dims, "num_classes": 3}
    with torch.device("meta"):
        network = build(config, config["pose_network"], iter(range(100)))
    dropped = [each for each in network.modules() if isinstance(each, torch.nn.modules.dropout._DropoutNd)]
    assert {each.p for each in dropped} == ({0.2} if dims == 3 else set())


def test_what_has_no_room_is_not_there_in_part(dist: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    write, written = Path.write_bytes, []

    def fill(path: Path, content: bytes) -> int:
        written.append(path)
        if len(written) > 20:
            raise OSError(errno.ENOSPC, "No space left on device")
        return write(path, content)

    zipped = dist / f"{STAGE}_v0.1.0.zip"
    with monkeypatch.context() as full:
        full.setattr(Path, "write_bytes", fill)
        with pytest.raises(DiskError, match=rf"{STAGE}: the disk is full \(.* free on the disk of"):
            unpack(zipped, tmp_path / "bundles")
    assert list((tmp_path / "bundles").iterdir()) == []
    bundle = unpack(zipped, tmp_path / "bundles")
    assert list((tmp_path / "bundles").iterdir()) == [bundle]
    assert (bundle / "models" / "model.pt").is_file()


def assert_fault(found: list[str], reason: str) -> None:
    assert any(re.search(reason, fault) for fault in found), found
