"""Transforms that MONAI does not have: batch augmentation on the device, and what follows a registration."""

from .augmentation import RandomCurve, RandomField, RandomNoise, RandomOverlay, RandomSpatial, RandomSpectrum
from .components import count_components, keep_components
from .registration import PredictedLabelsd, WarpMovingd

__all__ = [
    "PredictedLabelsd",
    "RandomCurve",
    "RandomField",
    "RandomNoise",
    "RandomOverlay",
    "RandomSpatial",
    "RandomSpectrum",
    "WarpMovingd",
    "count_components",
    "keep_components",
]
