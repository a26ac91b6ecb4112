"""What configs share: found from any folder, put in before ids are overridden, and all of it in use."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from crosswarp.places import CODE as LIBRARY
from crosswarp.runs.config import open_workflow, read_config
from crosswarp.runs.shared import MONAI_LABEL, PIECE, with_shared

ROOT = LIBRARY.parent
CONFIGS = [MONAI_LABEL, *ROOT.glob("configs/**/*.json"), *ROOT.glob("bundles/*/configs/**/*.json")]
PIECES = [path for path in sorted((LIBRARY / "shared").glob("*.json")) if path != MONAI_LABEL]
NORMALISE = "%scripts/shared/images.json::normalise"


def test_a_piece_stands_where_it_is_named() -> None:
    whole = with_shared({"steps": [NORMALISE, "@a"], "also": NORMALISE.replace("::", "#"), "local": "%a"})
    piece = json.loads((LIBRARY / "shared" / "images.json").read_text())["normalise"]
    assert whole == {"steps": [piece, "@a"], "also": piece, "local": "%a"}
    with pytest.raises(KeyError, match="normalize"):
        with_shared("%scripts/shared/images.json::normalize")
    with pytest.raises(FileNotFoundError, match=r"shared/nothing\.json"):
        with_shared("%scripts/shared/nothing.json::a")


def test_ids_within_a_piece_are_overridden_from_any_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config, overlay = tmp_path / "train.json", tmp_path / "overlay.json"
    config.write_text(json.dumps({"normalise": NORMALISE}))
    overlay.write_text(json.dumps({"normalise#lower": 1.0}))
    monkeypatch.chdir(tmp_path)
    assert read_config(config, overlay)["normalise#lower"] == 1.0
    meta = ROOT / "configs" / "metadata.json"
    workflow = open_workflow(
        [config, overlay], meta_file=str(meta), logging_file=False, **{"normalise#upper": 98.0}
    )
    assert (workflow.parser["normalise#lower"], workflow.parser["normalise#upper"]) == (1.0, 98.0)
    assert workflow.parser["_meta_"]["version"] == json.loads(meta.read_text())["version"]


@pytest.mark.parametrize("folder", [ROOT, ROOT / "bundles" / "domain_adaptation"], ids=["root", "bundle"])
def test_monai_finds_the_same_pieces(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(folder)
    parser = ConfigParser()
    parser.read_config("configs/inference.json")
    parser.resolve_macro_and_relative_ids()
    expected = read_config("configs/inference.json")
    expected.resolve_macro_and_relative_ids()
    assert parser.get() == expected.get()


def test_every_piece_is_used_by_several_configs_and_names_no_other() -> None:
    used = {path: set(PIECE.findall(path.read_text())) for path in CONFIGS}
    for path in PIECES:
        assert not re.search(r'"%', path.read_text())  # MONAI puts in one level of macros
        for name in json.loads(path.read_text()):
            users = [config for config in CONFIGS if (f"shared/{path.name}", name) in used[config]]
            assert len(users) > 1, f"{path.name}::{name} is shared by nobody: {users}"
