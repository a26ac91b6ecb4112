"""Datalists, checks of what they name, batches in memory, and the synthetic knee cohort."""

from .augmented import AugmentedSamples
from .batches import FixedPairBatches, RandomBatches, RandomPairBatches, stack_samples
from .datalist import Datalist, DatalistError, Modality, datalist_digest, load_datalist
from .knee import write_knee_cohort

try:  # TEMP until checks land
    from .checks import check_datalist
except ImportError:
    def check_datalist(d): ...
