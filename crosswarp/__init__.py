"""crosswarp: registration of images of two modalities, guided by few segmentations of one of them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Any

from .errors import end_with_message, is_monais_command_line

if TYPE_CHECKING:
    from .inference.registrar import load

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

if is_monais_command_line():
    sys.excepthook = end_with_message


def __getattr__(name: str) -> Any:
    """Import `load` when it is asked for: it needs torch, MONAI and ITK, and the version does not."""
    if name != "load":
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from .inference.registrar import load

    return load
