"""Images of a datalist as the preprocessing of a trained stage gives them to its network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch

from ..spatial.grid import Grid
from ..training.worsened_pairs import Images
from .config import read_config

KEYS = ("image", "label", "side")  # of records, for preprocessing


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
