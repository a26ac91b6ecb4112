"""Overlap of label maps, quality of deformations, and the tables made of them."""

from __future__ import annotations

from .overlap import dice_per_class, warp_labels
from .rows import Row, registration_rows, representative_images, representative_pairs, segmentation_rows
from .summary import format_table, summarise, summary_tables
from .validation import FoldPercent, RegistrationDice

__all__ = [
    "FoldPercent",
    "RegistrationDice",
    "Row",
    "dice_per_class",
    "format_table",
    "registration_rows",
    "representative_images",
    "representative_pairs",
    "segmentation_rows",
    "summarise",
    "summary_tables",
    "warp_labels",
]
