"""Datalists, readers and checks of what they name, batches in memory, and the synthetic knee cohort."""

from .augmented import AugmentedSamples
from .batches import FixedPairBatches, RandomBatches, RandomPairBatches, stack_samples
from .checks import check_datalist
from .datalist import Datalist, DatalistError, Modality, datalist_digest, load_datalist
from .knee import write_knee_cohort
from .label_pool import label_pool
from .pairs import image_records, pair_records
from .people import check_people
from .pseudo_labels import PseudoLabels
from .readers import AnyFormatReader

__all__ = [
    "AnyFormatReader",
    "AugmentedSamples",
    "Datalist",
    "DatalistError",
    "FixedPairBatches",
    "Modality",
    "PseudoLabels",
    "RandomBatches",
    "RandomPairBatches",
    "check_datalist",
    "check_people",
    "datalist_digest",
    "image_records",
    "label_pool",
    "load_datalist",
    "pair_records",
    "stack_samples",
    "write_knee_cohort",
]
