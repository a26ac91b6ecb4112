"""What a run learns of its own mistakes: from pairs that it worsens on purpose, what overlap to expect."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..data import Datalist
from ..files import file_digest
from ..kept import known_json
from ..metrics.typicality import Statistics
from ..training.worsened_pairs import Networks, learn_expectation
from .bundle import INFERENCE, WEIGHTS, load_network, write_json
from .training_images import read_images, without

logger = logging.getLogger(__name__)

EXPECTED = Path("expected_overlap.json")  # in a run's folder: the fitted model, and what it was fitted to
LEAST_PEOPLE = 4  # with manual labels: two groups of two
MOST_LABELLED = 24  # images that are worsened
MOST_IMAGES = 64  # of either modality, of which is learnt what is usual


def run_expectation(
    run_dir: Path,
    bundles: Mapping[str, Path],
    statistics: Mapping[str, Mapping[str, Statistics]],
    data: Datalist,
    data_digest: str,
    device: torch.device | str = "cpu",
    pairs: int | None = None,
) -> dict[str, Any] | None:
    """The expectation of a run, fitted anew where its networks, configs or data are others.

    Args:
        run_dir: the run's folder.
        bundles: the trained stages ``source_segmentation``, ``target_segmentation`` and ``registration``.
        statistics: of the training images, see :mod:`~.training_statistics`.
        data: the datalist.
        data_digest: of the datalist.
        device: where the networks compute.
        pairs: how many to worsen; None for as many as the size of the grid allows, 0 for no expectation.

    Returns:
        what :func:`fit_run` returns.
    """
    files = [folder / file for folder in bundles.values() for file in (WEIGHTS, INFERENCE)]
    of = [data_digest, __version__, pairs, *map(file_digest, files)]
    known = known_json(run_dir / EXPECTED)
    if known.get("of") != of:
        known = {"of": of, "expected_overlap": fit_run(bundles, data, statistics, device, pairs)}
        write_json(run_dir / EXPECTED, known)
    return known["expected_overlap"]


def fit_run(
    bundles: Mapping[str, Path],
    data: Datalist,
    statistics: Mapping[str, Mapping[str, Statistics]],
    device: torch.device | str = "cpu",
    pairs: int | None = None,
) -> dict[str, Any] | None:
    """Worsen pairs of the labelled source images, and learn what overlap to expect of a pair.

    Args:
        bundles: the trained stages ``source_segmentation``, ``target_segmentation`` and ``registration``.
        data: the datalist; its test images are left alone.
        statistics: of the training images of both modalities.
        device: where the networks compute.
        pairs: how many to worsen.

    Returns:
        what :func:`~..training.worsened_pairs.learn_expectation` returns; None where too few people have
        labels, or there are to be no pairs.
    """
    if pairs == 0:
        return None
    records = data.source.records("val", "train_labelled")
    people = {record["subject"] for record in records}
    if len(people) < LEAST_PEOPLE:
        logger.info(
            f"  What overlap to expect of a pair is not learnt: expected manual labels of at least "
            f"{LEAST_PEOPLE} people, got {len(people)}. Verdicts go by the limits of single quantities."
        )
        return None
    training = bundles["source_segmentation"] / "configs" / "train.json"
    manual = read_images(training, records, MOST_LABELLED)
    sections = ("train_labelled", "train_unlabelled", "val")
    source, target = (
        read_images(
            bundles[f"{key}_segmentation"] / INFERENCE,
            [without(record, "label") for record in modality.records(*sections)],
            MOST_IMAGES,
        )
        for key, modality in (("source", data.source), ("target", data.target))
    )
    manual.appearance, target.appearance = (statistics[key]["appearance"] for key in ("source", "target"))
    source.appearance = manual.appearance
    networks = Networks(
        load_network(bundles["source_segmentation"], device),
        load_network(bundles["target_segmentation"], device),
        load_network(bundles["registration"], device),
        data.source.channels == data.target.channels,
        device,
    )
    expectation = learn_expectation(networks, manual, source, target, data.num_classes, pairs)
    if "target" not in expectation["usual"]:
        logger.warning(
            "  Most segmented target images have sizes or places that the labelled people have not: what is "
            "usual for the target is not trusted, and verdicts on it will be bad."
        )
    return expectation
