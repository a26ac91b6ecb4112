"""No registration."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np

from .pairwise import Array, PairwiseMethod


class Identity(PairwiseMethod):
    """Leaves every pair as it is: what any registration has to be better than."""

    def displacements(self, moving: Array, fixed: Array, spacing: Sequence[float]) -> Any:
        """Zeros."""
        return np.zeros((*fixed.shape, fixed.ndim))
