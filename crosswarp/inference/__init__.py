"""Trained networks at work on images: loading, segmenting, registering, judging, saving."""

from __future__ import annotations

from .pairs import image_records, pair_records
from .save_quality import SaveQualityd
from .serving import ServedLabeld
from .transforms import ExtentOfd, PredictedLabelsd, SaveTransformsd, WarpMovingd

__all__ = [
    "ExtentOfd",
    "PredictedLabelsd",
    "SaveQualityd",
    "SaveTransformsd",
    "ServedLabeld",
    "WarpMovingd",
    "image_records",
    "pair_records",
]
