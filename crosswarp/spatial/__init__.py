"""Maps between image grids: the conventions, sampling, composition, inversion, Jacobians and conversions.

* Tensors are ``[B, C, *spatial]``; the spatial axes stand in array order, in 2D and in 3D.
* A map φ is ``[B, D, *spatial]``, float32. Component ``d`` addresses array axis ``d`` in normalised
  coordinates: 0 is the centre of the first sample of that axis and 1 the centre of the last one
  (``align_corners=True``).
* Maps are pull-backs: ``moving_to_fixed`` lives on the fixed grid and names the moving point to read, so that
  ``sample(moving, moving_to_fixed) ≈ fixed``.
* ``compose(outer, inner)`` is ``outer ∘ inner``: ``inner`` is applied first.
* The displacement of a map is ``u = φ − id``; beyond the grid it is that of the nearest border point.

Everything is computed in float32, also under autocast, and gives plain tensors for MONAI's ``MetaTensor``.
"""

from __future__ import annotations

from .jacobian import fold_fraction, jacobian_determinant
from .maps import (
    compose,
    displacement,
    identity_like,
    identity_map,
    invert,
    map_about_middle,
    resize_image,
    resize_map,
)
from .sampling import as_float32, sample
from .voxels import from_voxel_displacement, to_voxel_displacement

__all__ = [
    "as_float32",
    "compose",
    "displacement",
    "fold_fraction",
    "from_voxel_displacement",
    "identity_like",
    "identity_map",
    "invert",
    "jacobian_determinant",
    "map_about_middle",
    "resize_image",
    "resize_map",
    "sample",
    "to_voxel_displacement",
]
