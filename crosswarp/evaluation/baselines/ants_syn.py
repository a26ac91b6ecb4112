"""Symmetric normalisation with ANTs."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from monai.utils import optional_import

from .pairwise import Array, PairwiseMethod

ants, has_ants = optional_import("ants")


class ANTsSyN(PairwiseMethod):
    """Symmetric diffeomorphic normalisation with mutual information.

    Args:
        type_of_transform: of ``ants.registration``: ``"SyNOnly"``, or ``"SyN"`` with an affine registration
            before it.
        seed: of what it samples.
        arguments: more of them, see ``ants.registration``.

    References:
        Avants et al., "Symmetric diffeomorphic image registration with cross-correlation", Med. Image Anal.
        12, 2008.
    """

    def __init__(self, type_of_transform: str = "SyNOnly", seed: int = 1, **arguments: Any) -> None:
        self.arguments = {"type_of_transform": type_of_transform, "random_seed": seed, **arguments}

    def unavailable(self) -> str | None:
        """Names the package that is missing."""
        return None if has_ants else "antspyx is not installed (pip install antspyx)"

    def displacements(self, moving: Array, fixed: Array, spacing: Sequence[float]) -> Array:
        """Those of all transforms together."""
        images = [ants.from_numpy(values, spacing=list(spacing)) for values in (fixed, moving)]
        with TemporaryDirectory() as folder:
            found = ants.registration(*images, outprefix=f"{folder}/", **self.arguments)
            field = ants.apply_transforms(
                *images, transformlist=found["fwdtransforms"], compose=f"{folder}/composed"
            )
            vectors = ants.image_read(field).numpy() if Path(field).is_file() else None
        if vectors is None:
            raise RuntimeError("ANTs wrote no transform")
        return np.asarray(vectors, np.float64)
