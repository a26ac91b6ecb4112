"""What a run learns of its own mistakes: from pairs that it worsens on purpose, what overlap to expect."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from .. import __version__
from ..data import Datalist
from ..files import file_digest
from ..kept import known_json
from ..metrics.typicality import Statistics
from ..spatial.grid import Grid
from ..training.worsened_pairs import Images, Networks, learn_expectation
from .bundle import INFERENCE, WEIGHTS, load_network, write_json
from .config import read_config

logger = logging.getLogger(__name__)

EXPECTED = Path("expected_overlap.json")  # in a run's folder: the fitted model, and what it was fitted to
LEAST_PEOPLE = 4  # with manual labels: two groups of two
MOST_LABELLED = 24  # images that are worsened
MOST_IMAGES = 64  # of either modality, of which is learnt what is usual
KEYS = ("image", "label", "side")  # of records, for preprocessing


def run_expectation(
    run_dir: Path,
    bundles: Mapping[str, Path],
    data: Datalist,
    statistics: Mapping[str, Mapping[str, Statistics]],
    data_digest: str,
    device: torch.device | str = "cpu",
    pairs: int | None = None,
) -> dict[str, Any] | None:
    """The expectation of a run, fitted anew where its networks, configs or data are others.

    Args:
        run_dir: the run's folder.
        bundles: the trained stages ``source_segmentation``, ``target_segmentation`` and ``registration``.
        data: the datalist.
        statistics: of the training images, see :mod:`~.training_statistics`.
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


def without(record: Mapping[str, str], key: str) -> dict[str, str]:
    """A record without a key."""
    return {name: value for name, value in record.items() if name != key}


def read_images(config: Path, records: Sequence[Mapping[str, str]], most: int) -> Images:
    """Read images, with labels where they have any, as the preprocessing of a trained stage does it.

    Args:
        config: of the stage.
        records: of the datalist.
        most: images to read, spread evenly over the records.
    """
    preprocessing = read_config(config).get_parsed_content("preprocessing")
    chosen = records[:: -(-len(records) // most) or 1]
    samples = [preprocessing({key: each[key] for key in KEYS if key in each}) for each in chosen]
    names, labelled = sorted({each["subject"] for each in chosen}), "label" in chosen[0]
    return Images(
        torch.stack([each["image"].as_tensor() for each in samples]).float(),
        [Grid.of(each["image"]) for each in samples],
        all(each["image"].meta.get("spacing_known", True) for each in samples),
        torch.stack([each["label"].as_tensor() for each in samples]).long() if labelled else None,
        [names.index(each["subject"]) for each in chosen],
    )
