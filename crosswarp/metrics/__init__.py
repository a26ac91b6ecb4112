"""Measures of labels, images and maps, and what can be said of many of them."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazily

if TYPE_CHECKING:
    from .landmarks import target_registration_error
    from .overlap import dice_per_class, warp_labels
    from .rows import (
        MeasuredImage,
        Row,
        registration_rows,
        representative_images,
        representative_pairs,
        segmentation_rows,
    )
    from .statistics import bootstrap_interval, compare_methods, comparison_table
    from .summary import aligned, format_table, summarise, summary_tables
    from .surface import surface_distances
    from .validation import FoldPercent, MeanLoss, RegistrationDice, image_meta
else:
    __getattr__, __dir__ = lazily(__name__, __file__)

__all__ = [
    "FoldPercent",
    "MeanLoss",
    "MeasuredImage",
    "RegistrationDice",
    "Row",
    "aligned",
    "bootstrap_interval",
    "compare_methods",
    "comparison_table",
    "dice_per_class",
    "format_table",
    "image_meta",
    "registration_rows",
    "representative_images",
    "representative_pairs",
    "segmentation_rows",
    "summarise",
    "summary_tables",
    "surface_distances",
    "target_registration_error",
    "warp_labels",
]
