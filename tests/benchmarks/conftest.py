"""The benchmarks are scripts in a folder of their own."""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parents[2] / "benchmarks"))


@pytest.fixture(autouse=True)
def logging_goes_on() -> Iterator[None]:
    """Scripts may silence their process; the tests after them share it."""
    yield
    logging.disable(logging.NOTSET)
