"""A whole run whose folders, files, subjects, modalities and labels are named as no program likes it."""

from __future__ import annotations

import csv
import json
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch

import crosswarp
from crosswarp.__main__ import main
from crosswarp.runs.config import read_config
from tests.cohorts import write_blob_cohort
from tests.runs.test_chain import COHORTS, TINY

EVIL = "$__import__('os').system('touch executed') #1 @run_dir %x '\" ü"
LABELS = ["$import this", "%data#x", r"@run_dir $\frac{$"]  # the last is no formula, either
RUN, DATA, OUT = "$run #1e3", f"{EVIL} data", "2024_01_15"
MOVING = r"~a,[b] #1 $\frac{"


def write_odd_cohort(folder: Path) -> Path:
    """A cohort of blobs with other names."""
    path = write_blob_cohort(folder, **COHORTS["2d"] | {"num_classes": 4})
    content = json.loads(path.read_text())
    content["labels"] |= {str(value): name for value, name in enumerate(LABELS, 1)}
    content["name"] = "$open('executed', 'w')"
    for key, name in (("source", "%warm $1$ #2"), ("target", "$cold")):
        content[key]["name"] = name
        for record in (record for each in content[key].values() if isinstance(each, list) for record in each):
            for part in record.keys() - {"subject"}:
                old = folder / record[part]
                record[part] = f"{old.parent.name}/{EVIL},{old.name}"
                old.rename(folder / record[part])
            record["subject"] = f"{EVIL} {record['subject']}"
    path.write_text(json.dumps(content))
    return path


def test_names_are_names_from_the_first_command_to_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def command(*words: str) -> str:
        monkeypatch.setattr(sys, "argv", ["crosswarp", *words])
        main()
        return capsys.readouterr().out

    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    folder = tmp_path / f"-{EVIL}"
    folder.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setattr(sys, "path", sys.path[:])
    datalist = write_odd_cohort(folder / DATA)
    tiny = [f"--{stage}#{key}={value}" for stage, each in TINY.items() for key, value in each.items()]
    tiny += ["--worsened_pairs=48", "--pose_recognition#examples=8", "--pose_recognition#steps=2"]
    command("train", f"--datalist={DATA}/datalist.json", "--run", RUN, "--device", "cpu", *tiny)
    assert json.loads((folder / RUN / "run.json").read_text())["datalist"] == str(datalist)

    printed = command("evaluate", "--run", RUN, "--max_pairs", "1", "--baselines", "identity,manual_labels")
    with (folder / RUN / "evaluation" / "metrics.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["class"] for row in rows} == {*LABELS}
    assert {row["modality"] for row in rows} - {""} == {"%warm $1$ #2", "$cold"}
    assert "%warm $1$ #2 to $cold" in printed

    content = json.loads(datalist.read_text())
    images = [f"{DATA}/{content[key]['test'][0]['image']}" for key in ("source", "target")]
    pair = {"moving": f"{MOVING}.nii.gz", "fixed": images[1]}
    Path(pair["moving"]).write_bytes(Path(images[0]).read_bytes())
    command("register", "--moving", pair["moving"], "--fixed", pair["fixed"], "--models", RUN, "--out", OUT)
    stem = f"{MOVING}_to_{Path(pair['fixed']).name.removesuffix('.nii.gz')}"
    assert (folder / OUT / f"{stem}_warped.nii.gz").is_file()
    assert json.loads((folder / OUT / f"{stem}_quality.json").read_text())["moving"] == MOVING

    registration = crosswarp.load(RUN, device="cpu").register(**pair)
    registration.save("~saved #1")
    assert {path.name for path in Path("~saved #1").iterdir()} == {path.name for path in Path(OUT).iterdir()}

    changes = "%fixes/it.json#all"
    printed = command("package", "--run", RUN, "--out", "$dist", "--changes", changes, "--version", "1e3")
    zips = printed.splitlines()[-5:]  # before them the log
    assert all(path.startswith("$dist/") and path.endswith("_v1e3.zip") for path in zips)
    command("verify", *zips)
    unpacked = crosswarp.load(zips[-1], device="cpu").register(**pair)
    np.testing.assert_array_equal(unpacked.warped.numpy(), registration.warped.numpy())
    # what MONAI makes of the metadata, all of which it evaluates where somebody asks for it
    zipfile.ZipFile(zips[-1]).extractall("unpacked")
    meta = read_config(*Path("unpacked").glob("*/configs/metadata.json"))
    channels = meta.get_parsed_content("network_data_format#outputs#label#channel_def")
    assert list(channels.values())[1:] == LABELS
    assert meta.get_parsed_content("changelog")["1e3"] == changes
    torch.set_num_threads(threads)
    assert not list(tmp_path.rglob("executed"))
