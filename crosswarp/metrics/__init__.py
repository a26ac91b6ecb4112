"""Measures of labels, images and maps, and what can be said of many of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazily

if TYPE_CHECKING:
    from .landmarks import target_registration_error
    from .overlap import dice_per_class, likeliest, warp_labels
    from .rows import (
        OURS,
        MeasuredImage,
        Row,
        registration_rows,
        representative_images,
        representative_pairs,
        segmentation_rows,
    )
    from .statistics import bootstrap_interval, compare_methods
    from .summary import grouped, means, sample_means, summarise
    from .surface import surface_distances
    from .validation import FoldPercent, MeanLoss, RegistrationDice, image_meta
else:
    __getattr__, __dir__ = lazily(__name__, __file__)

__all__ = [
    "OURS",
    "FoldPercent",
    "MeanLoss",
    "MeasuredImage",
    "RegistrationDice",
    "Row",
    "bootstrap_interval",
    "compare_methods",
    "dice_per_class",
    "grouped",
    "image_meta",
    "likeliest",
    "means",
    "registration_rows",
    "representative_images",
    "representative_pairs",
    "sample_means",
    "segmentation_rows",
    "summarise",
    "surface_distances",
    "target_registration_error",
    "warp_labels",
]
