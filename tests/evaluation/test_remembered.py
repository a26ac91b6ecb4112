"""What makes measurements others, and what does not."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from monai.bundle import ConfigParser

from crosswarp.evaluation import remembered
from crosswarp.evaluation.remembered import Origin


@pytest.fixture
def of(tmp_path: Path) -> Any:
    """Fingerprints, of all and of a baseline, with some ids of the config."""
    for name in ("models/model.pt", "configs/inference.json"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("{}")
    (tmp_path / "run.json").write_text('{"datalist_digest": "d"}')
    own = tmp_path / "evaluate.json"
    own.write_text(json.dumps({"max_pairs": 4, "device": "cpu"}))

    def fingerprints(**ids: Any) -> list[str]:
        config = {"max_pairs": 4, "device": "cpu", "baselines": {"ants_syn": {"iterations": 3}}, **ids}
        origin = Origin(tmp_path, ConfigParser(config), own)
        return [origin.of_all(), origin.of_baseline("ants_syn", None)]

    return fingerprints


def test_another_device_package_or_parameter_makes_others(of: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    first = of()
    assert of() == first == of(bundle_root="elsewhere")
    for other in (of(device="cuda"), of(max_pairs=5), of(baselines={"ants_syn": {"iterations": 4}})):
        assert not set(first) & set(other)
    monkeypatch.setattr(remembered, "version", lambda name: f"{name} 99")
    assert not set(first) & set(of())


def test_files_that_are_given_count_by_what_is_in_them(of: Any, tmp_path: Path) -> None:
    given = tmp_path / "labels.json"
    given.write_text("one")
    first = of(target_labels=str(given))
    assert of(target_labels=str(given)) == first
    given.write_text("two")
    assert of(target_labels=str(given))[0] != first[0]
