"""Statistics of training images: where they are computed."""

from __future__ import annotations

import pytest
import torch

from crosswarp.data import load_datalist
from crosswarp.runs import Chain, training_statistics
from tests.cohorts import write_blob_cohort
from tests.trained_run import ROOT, STAGES, write_trained_run


@pytest.mark.parametrize("dims", [2, 3])
def test_statistics_are_computed_on_the_device_of_the_run(tmp_path, monkeypatch, dims):
    """A GPU that is there, but was not asked for, is left alone; one that was asked for is used."""
    data = write_blob_cohort(tmp_path / "data", dims)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    run = write_trained_run(tmp_path / "run", data)
    asked = []

    def statistics(bundle, records, device):
        asked.append((bundle.name, device))
        return {}

    monkeypatch.setattr(training_statistics, "training_statistics", statistics)
    for path in (run / "provenance.json", *run.glob("*/statistics.json")):  # as if it had not been published
        path.unlink()
    folders = (str(ROOT / "bundles"), str(ROOT), str(run))
    chain = Chain(dict.fromkeys(STAGES, {}), {"device": "cuda:1"}, *folders, load_datalist(data), None, 0)
    chain.publish()
    assert asked == [("source_segmentation", "cuda:1"), ("domain_adaptation", "cuda:1")]
