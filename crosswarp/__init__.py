"""crosswarp: registration of images of two modalities, guided by few segmentations of one of them."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from .errors import end_with_message, is_monais_command_line
from .lazy import lazily

if TYPE_CHECKING:
    from .inference.registrar import load
else:
    __getattr__, __dir__ = lazily(__name__, __file__)

__version__ = "0.1.0"
__all__ = ["__version__", "load"]

if is_monais_command_line():
    sys.excepthook = end_with_message
