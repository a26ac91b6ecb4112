"""A run: its config, its stages and their chain, trained bundles on disk, resuming, provenance."""

from __future__ import annotations

from .bundle import load_network, start_from
from .chain import Chain
from .config import UnknownIdError
from .stage import Stage

__all__ = ["Chain", "Stage", "UnknownIdError", "load_network", "start_from"]
