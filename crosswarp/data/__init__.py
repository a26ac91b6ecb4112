"""Datalists, readers and checks of what they name, batches in memory, the synthetic cohort: no network."""

from __future__ import annotations

from .batches import FixedPairBatches, RandomBatches, RandomPairBatches, stack_samples
from .checks import check_datalist
from .datalist import Datalist, DatalistError, Modality, datalist_digest, load_datalist
from .knee import write_knee_cohort
from .partners import LabelOnImaged
from .people import check_people
from .readers import AnyFormatReader
from .sharing import ReadOnce, SharedDataset

__all__ = [
    "AnyFormatReader",
    "Datalist",
    "DatalistError",
    "FixedPairBatches",
    "LabelOnImaged",
    "Modality",
    "RandomBatches",
    "RandomPairBatches",
    "ReadOnce",
    "SharedDataset",
    "check_datalist",
    "check_people",
    "datalist_digest",
    "load_datalist",
    "stack_samples",
    "write_knee_cohort",
]
