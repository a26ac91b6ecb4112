"""Datalists, readers and checks of what they name, batches in memory: no network."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazily

if TYPE_CHECKING:
    from .batches import FixedPairBatches, RandomBatches, RandomPairBatches, stack_samples
    from .checks import check_datalist
    from .datalist import Datalist, DatalistError, Modality, datalist_digest, load_datalist
    from .frames import Framed
    from .partners import LabelOnImaged
    from .people import check_people
    from .readers import AnyFormatReader
    from .sharing import ReadOnce, SharedDataset
else:
    __getattr__, __dir__ = lazily(__name__, __file__)

__all__ = [
    "AnyFormatReader",
    "Datalist",
    "DatalistError",
    "FixedPairBatches",
    "Framed",
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
]
