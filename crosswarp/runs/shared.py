"""What several configs say: written once, in the library's ``shared/``, and put in where it is named.

A config names such a piece by MONAI's own macro, ``"%scripts/shared/images.json::read"``, which MONAI finds
wherever it finds the library's modules: at the root and in a bundle's folder, where ``scripts`` leads to the
library. The library's own readers find it from any folder, and before ids are overridden, so that an id
within a piece can be overridden, too. What is published or packaged holds the pieces themselves.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from monai.bundle import ConfigParser

from ..places import CODE

MONAI_LABEL = CODE / "shared" / "monai_label.json"  # trains a packaged segmentation in MONAI Label
PIECE = re.compile(r"%scripts/(shared/\w+\.json)(?:::|#)([\w:#]+)")


def with_shared(config: Any) -> Any:
    """A config in which each piece stands where it was named; the rest is as it was.

    Args:
        config: a config, or part of one.

    Raises:
        FileNotFoundError: for a file that the library does not have.
        KeyError: for a piece that the file does not have.
    """
    if isinstance(config, Mapping):
        return {key: with_shared(value) for key, value in config.items()}
    if isinstance(config, list):
        return [with_shared(value) for value in config]
    named = PIECE.fullmatch(config) if isinstance(config, str) else None
    if named is None:
        return config
    return ConfigParser(ConfigParser.load_config_file(CODE / named[1]))[named[2]]
