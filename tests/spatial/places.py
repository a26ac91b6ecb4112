"""Places of images in space."""

from __future__ import annotations

import numpy as np


def oblique(spacing, seed):
    """Indices to mm in RAS, with axes turned at random."""
    rng = np.random.default_rng(seed)
    dims = len(spacing)
    affine = np.eye(dims + 1)
    affine[:-1, :-1] = np.linalg.qr(rng.normal(size=(dims, dims)))[0] @ np.diag(spacing)
    affine[:-1, -1] = rng.normal(size=dims) * 30
    return affine
