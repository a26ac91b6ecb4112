"""Transforms that MONAI does not have: batch augmentation on the device, and what follows a registration."""

from .augmentation import RandomCurve, RandomField, RandomNoise, RandomOverlay, RandomSpatial, RandomSpectrum
from .components import count_components, keep_components
from .partners import LabelOnImaged
from .registration import ExtentOfd, PredictedLabelsd, SaveTransformsd, WarpMovingd
from .serving import ServedLabeld

__all__ = [
    "ExtentOfd",
    "LabelOnImaged",
    "PredictedLabelsd",
    "RandomCurve",
    "RandomField",
    "RandomNoise",
    "RandomOverlay",
    "RandomSpatial",
    "RandomSpectrum",
    "SaveTransformsd",
    "ServedLabeld",
    "WarpMovingd",
    "count_components",
    "keep_components",
]
