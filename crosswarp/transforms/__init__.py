"""Transforms that MONAI does not have: batch augmentation on the device, and what follows a registration."""

from .augmentation import RandomCurve, RandomField, RandomNoise, RandomOverlay, RandomSpatial, RandomSpectrum
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
]
