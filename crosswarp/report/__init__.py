"""Figures, and the report of a run as one HTML file."""

from __future__ import annotations

from .figures import (
    checkerboard,
    curves_figure,
    dice_figure,
    grid,
    jacobian,
    most_labelled,
    overlay,
    pair_figure,
    segmentation_figure,
)
from .quality import SaveQualityd
from .writing import Curves, write_csv, write_report

__all__ = [
    "Curves",
    "SaveQualityd",
    "checkerboard",
    "curves_figure",
    "dice_figure",
    "grid",
    "jacobian",
    "most_labelled",
    "overlay",
    "pair_figure",
    "segmentation_figure",
    "write_csv",
    "write_report",
]
