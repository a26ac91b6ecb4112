"""Figures, and the report of a run as one HTML file."""

from __future__ import annotations

from .figures import (
    box_figure,
    checkerboard,
    curves_figure,
    grid,
    jacobian,
    most_labelled,
    outline,
    overlay,
    pair_figure,
    pair_panels,
    panel_figure,
    segmentation_figure,
)
from .writing import Curves, write_csv, write_report

__all__ = [
    "Curves",
    "box_figure",
    "checkerboard",
    "curves_figure",
    "grid",
    "jacobian",
    "most_labelled",
    "outline",
    "overlay",
    "pair_figure",
    "pair_panels",
    "panel_figure",
    "segmentation_figure",
    "write_csv",
    "write_report",
]
