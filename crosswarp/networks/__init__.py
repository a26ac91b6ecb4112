"""Networks of the four stages that MONAI does not have."""

from __future__ import annotations

from .cross_modal import SegmentAndRegister
from .displacement_unet import DisplacementUNet
from .multi_step import MultiStepRegistration
from .pose_network import PoseNetwork
from .prediction import Prediction
from .translation import TranslationGenerator

__all__ = [
    "DisplacementUNet",
    "MultiStepRegistration",
    "PoseNetwork",
    "Prediction",
    "SegmentAndRegister",
    "TranslationGenerator",
]
