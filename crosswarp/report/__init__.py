"""Figures, and the report of a run as one HTML file."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazily

if TYPE_CHECKING:
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
        reliability_figure,
        segmentation_figure,
    )
    from .writing import Curves, write_csv, write_report
else:
    __getattr__, __dir__ = lazily(__name__, __file__)

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
    "reliability_figure",
    "segmentation_figure",
    "write_csv",
    "write_report",
]
