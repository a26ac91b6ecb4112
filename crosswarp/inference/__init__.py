"""Trained networks at work on images: loading, segmenting, registering, judging, saving."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazily

if TYPE_CHECKING:
    from .pairs import image_records, pair_records
    from .pose import PosedFramesd, PoseSearch
    from .save_quality import SaveQualityd
    from .serving import ServedLabeld
    from .transforms import ExtentOfd, PredictedLabelsd, SaveImaged, SaveTransformsd, WarpMovingd
else:
    __getattr__, __dir__ = lazily(__name__, __file__)

__all__ = [
    "ExtentOfd",
    "PoseSearch",
    "PosedFramesd",
    "PredictedLabelsd",
    "SaveImaged",
    "SaveQualityd",
    "SaveTransformsd",
    "ServedLabeld",
    "WarpMovingd",
    "image_records",
    "pair_records",
]
