"""Registration with FireANTs."""

from __future__ import annotations

import io
import logging
from collections.abc import Mapping, Sequence
from contextlib import redirect_stdout
from importlib.util import find_spec
from typing import Any

import numpy as np
import torch

from .pairwise import Array, PairwiseMethod, first_axis_first, sitk_image

SMALLEST = 32  # voxels along an axis: its warps have as many at least
quiet = logging.getLogger("fireants")  # several lines a pair
quiet.addHandler(logging.NullHandler())
quiet.propagate = False


class FireANTs(PairwiseMethod):
    """An affine registration with Adam, then a greedy diffeomorphic one.

    Args:
        affine: arguments of ``fireants.registration.affine.AffineRegistration``; None for none before the
            other.
        deformable: arguments of ``fireants.registration.greedy.GreedyRegistration``.
        device: where to compute.

    References:
        Jena et al., "FireANTs: adaptive Riemannian optimization for multi-scale diffeomorphic matching",
        2024, https://arxiv.org/abs/2404.01249.
    """

    def __init__(
        self,
        affine: Mapping[str, Any] | None,
        deformable: Mapping[str, Any],
        device: torch.device | str = "cpu",
    ) -> None:
        self.affine, self.deformable, self.device = affine, dict(deformable), torch.device(device)

    def unavailable(self) -> str | None:
        """Names the packages that are missing."""
        missing = [name for name in ("fireants", "tqdm") if find_spec(name) is None]
        return f"{missing[0]} is not installed (pip install --no-deps fireants tqdm)" if missing else None

    def displacements(self, moving: Array, fixed: Array, spacing: Sequence[float]) -> Array:
        """Those of both transforms together."""
        if min(fixed.shape) < SMALLEST:
            raise RuntimeError(f"expected at least {SMALLEST} voxels along each axis, got {fixed.shape}")
        with redirect_stdout(io.StringIO()):  # it prints as it is imported
            from fireants.io.image import BatchedImages, Image
            from fireants.registration.affine import AffineRegistration
            from fireants.registration.greedy import GreedyRegistration
        with torch.inference_mode(False), torch.enable_grad():
            images = [
                BatchedImages([Image(sitk_image(values, spacing), device=self.device)])
                for values in (fixed, moving)
            ]
            start = None
            if self.affine is not None:
                first = AffineRegistration(
                    fixed_images=images[0], moving_images=images[1], progress_bar=False, **self.affine
                )
                first.optimize()
                start = first.get_affine_matrix().detach()
            second = GreedyRegistration(
                fixed_images=images[0],
                moving_images=images[1],
                init_affine=start,
                progress_bar=False,
                **self.deformable,
            )
            second.optimize()
            with torch.no_grad():
                places = second.get_warped_coordinates(*images)[0]
        # in [-1, 1], last axis of the tensor first, which is the first axis of the array
        sizes = np.array(fixed.shape)
        fractions = (first_axis_first(places.cpu().double().numpy()) + 1) / 2
        still = np.stack(np.meshgrid(*(np.linspace(0, 1, size) for size in sizes), indexing="ij"), -1)
        return (fractions - still) * (sizes - 1) * np.array(spacing)
