"""A run: its config, its stages and their chain, trained bundles on disk, resuming, provenance."""

from __future__ import annotations

from typing import TYPE_CHECKING

from ..lazy import lazily

if TYPE_CHECKING:
    from .bundle import load_network, start_from
    from .chain import Chain
    from .config import UnknownIdError
    from .stage import Stage
else:
    __getattr__, __dir__ = lazily(__name__, __file__)

__all__ = ["Chain", "Stage", "UnknownIdError", "load_network", "start_from"]
