"""Registration with greedy, of the Penn Image Computing and Science Laboratory."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import SimpleITK as sitk
from monai.utils import optional_import

from .pairwise import Array, PairwiseMethod, first_axis_first, sitk_image

picsl_greedy, has_greedy = optional_import("picsl_greedy")


class Greedy(PairwiseMethod):
    """An affine registration, then a deformable one.

    Args:
        affine: options of the affine registration (``-a``) on the command line; None for none before the
            other.
        deformable: options of the deformable one. In both, ``{radius}`` is ``radius`` along each axis.
        radius: of the patches of ``NCC`` and ``WNCC``, voxels.
        threads: how many.

    References:
        Yushkevich et al., "Fast automatic segmentation of hippocampal subfields and medial temporal lobe
        subregions in 3 Tesla and 7 Tesla T2-weighted MRI", Alzheimer's & Dementia 12, 2016;
        https://greedy.readthedocs.io.
    """

    def __init__(self, affine: str | None, deformable: str, radius: int = 2, threads: int = 1) -> None:
        self.affine, self.deformable, self.radius, self.threads = affine, deformable, radius, threads

    def unavailable(self) -> str | None:
        """Names the package that is missing."""
        return None if has_greedy else "picsl_greedy is not installed (pip install picsl_greedy)"

    def displacements(self, moving: Array, fixed: Array, spacing: Sequence[float]) -> Array:
        """Those of both transforms together."""
        dims = fixed.ndim
        greedy = (picsl_greedy.Greedy2D if dims == 2 else picsl_greedy.Greedy3D)()
        images: dict[str, Any] = {"fixed": sitk_image(fixed, spacing), "moving": sitk_image(moving, spacing)}
        radius = "x".join([str(self.radius)] * dims)
        always = f"-i fixed moving -V 0 -threads {self.threads}"
        found, start = "warp", ""
        if self.affine is not None:
            options = self.affine.format(radius=radius)
            greedy.execute(f"{always} -a {options} -o affine", **images, affine=None)
            found, start = "warp affine", "-it affine"
        options = self.deformable.format(radius=radius)
        greedy.execute(f"{always} {start} {options} -wp 0 -o warp", **images, warp=None)
        greedy.execute(f"-rf fixed -rc composed -r {found} -V 0", composed=None)
        return first_axis_first(sitk.GetArrayFromImage(greedy["composed"])).astype(np.float64)
