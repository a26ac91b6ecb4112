"""The chain of stages: run folder, resuming, staleness, provenance, and trained bundles on disk."""

from .adaptation_check import AdaptationCheck
from .bundle import load_network, start_from
from .chain import Chain
from .config import UnknownIdError
from .result_checks import RegistrationCheck, SegmentationCheck
from .stage import Stage

__all__ = [
    "AdaptationCheck",
    "Chain",
    "RegistrationCheck",
    "SegmentationCheck",
    "Stage",
    "UnknownIdError",
    "load_network",
    "start_from",
]
