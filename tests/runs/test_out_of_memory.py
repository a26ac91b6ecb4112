"""Where memory is short in a training, the ids to lower are named with their present values."""

from __future__ import annotations

import pytest
import torch

import scripts.errors
import scripts.training
from tests.cohorts import write_blob_cohort
from tests.runs.test_chain import TINY, execute, one_thread
from tests.trained_run import ROOT

__all__ = ["one_thread"]


@pytest.mark.parametrize("in_chain", [False, True])
def test_a_stage_without_memory_names_its_ids(in_chain, tmp_path, monkeypatch):
    def fail(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.\nMore of it.")

    stage, values = "registration_augmentation", TINY["registration_augmentation"]
    config = ROOT / ("" if in_chain else f"bundles/{stage}") / "configs" / "train.json"
    given = {f"{name}#{key}": value for name, values in TINY.items() for key, value in values.items()}
    if not in_chain:
        given = {key.replace(".", "#"): value for key, value in values.items()}
    data = str(write_blob_cohort(tmp_path / "data", spatial_size=(24, 20)))
    monkeypatch.setattr(scripts.training.AutocastInferer, "__call__", fail)
    with pytest.raises(RuntimeError) as caught:
        execute(config, datalist=data, run_dir=str(tmp_path / "run"), **given)
    words = scripts.errors.last_words(caught.value)
    batch_size = f"{stage}#batch_size" if in_chain else "batch_size"
    expected = f"CUDA out of memory. Tried to allocate 2.00 GiB. Lower {batch_size} (now 2) or spatial_size "
    assert expected + "(now [24, 20])" in words and words.count("\n") == 1
