"""Images of a datalist as the preprocessing of a trained stage gives them to its network."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..spatial.grid import Grid
from ..training.worsened_pairs import Images
from .config import read_config

KEYS = ("image", "label", "side")  # of records, for preprocessing


def without(record: Mapping[str, str], key: str) -> dict[str, str]:
    """A record without a key."""
    return {name: value for name, value in record.items() if name != key}


def spread(records: Sequence[Mapping[str, str]], most: int) -> list[Mapping[str, str]]:
    """At most so many records, of as many people as can be, evenly spread over people and over each one's."""
    own: dict[str, list[Mapping[str, str]]] = {}
    for record in records:
        own.setdefault(record["subject"], []).append(record)
    own = {subject: own[subject] for subject in evenly(list(own), most)}
    turns = sorted((turn, place) for place, each in enumerate(own.values()) for turn in range(len(each)))
    shares = Counter(place for _, place in turns[:most])
    return [record for place, each in enumerate(own.values()) for record in evenly(each, shares[place])]


def evenly(items: Sequence[Any], most: int) -> list[Any]:
    """At most so many items, evenly spread among them."""
    count = min(most, len(items))
    return [items[number * len(items) // count] for number in range(count)]


def read_images(config: Path, records: Sequence[Mapping[str, str]], most: int) -> Images:
    """Read images, with labels where they have any, as the preprocessing of a trained stage does it.

    Args:
        config: of the stage.
        records: of the datalist.
        most: images to read; see :func:`spread`.
    """
    preprocessing = read_config(config).get_parsed_content("preprocessing")
    chosen = spread(records, most)
    samples = [preprocessing({key: each[key] for key in KEYS if key in each}) for each in chosen]
    names, labelled = sorted({each["subject"] for each in chosen}), "label" in chosen[0]
    return Images(
        torch.stack([each["image"].as_tensor() for each in samples]).float(),
        [Grid.of(each["image"]) for each in samples],
        all(each["image"].meta.get("spacing_known", True) for each in samples),
        torch.stack([each["label"].as_tensor() for each in samples]).long() if labelled else None,
        [names.index(each["subject"]) for each in chosen],
    )
