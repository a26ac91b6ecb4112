"""The chain of stages: run folder, resuming, staleness, provenance, and trained bundles on disk."""

from .bundle import load_network, start_from
from .chain import Chain
from .config import UnknownIdError
from .stage import Stage

__all__ = ["Chain", "Stage", "UnknownIdError", "load_network", "start_from"]
