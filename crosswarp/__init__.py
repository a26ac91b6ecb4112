"""crosswarp: registration of images of two modalities, guided by few segmentations of one of them."""

from __future__ import annotations

__version__ = "0.1.0"
