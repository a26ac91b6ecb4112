"""Coarse alignment of blobs that lie in space: known shifts, scales and fields of view, in mm."""

from __future__ import annotations

import pytest
import torch
from scipy.ndimage import center_of_mass

from crosswarp.spatial import identity_map
from crosswarp.spatial.alignment import align, apply_affine

# of the fixed and the moving image: size in voxels, spacing in mm, origin in mm
GRIDS = {
    2: (((40, 30), (1.0, 2.0), (0.0, 0.0)), ((50, 44), (1.5, 1.0), (300.0, -100.0))),
    3: (((40, 40, 24), (1.2, 1.2, 2.0), (0.0, 0, 0)), ((36, 48, 24), (2.0, 1.2, 2.5), (300.0, -100.0, 50.0))),
}


def extent(size, spacing, origin):
    """Fractions to mm, ``[1, D + 1, D + 1]``."""
    matrix = torch.eye(len(size) + 1)
    matrix[:-1, :-1] = torch.diag(torch.tensor(spacing) * (torch.tensor(size) - 1))
    matrix[:-1, -1] = torch.tensor(origin)
    return matrix[None]


def blobs(size, to_mm, linear, offset):
    """Sure probabilities of background and two ellipsoids, whose place ``linear @ p + offset`` is in mm.

    Class 1 is about (20, 22[, 20]) with a radius of 7 mm, class 2 about (26, 36[, 26]) with one of 5 mm.
    """
    dims = len(size)
    places = apply_affine(to_mm, identity_map(size)).flatten(2)[0]
    own = torch.linalg.inv(linear) @ (places - offset[:, None])
    centres = torch.tensor([[20.0, 22, 20], [26.0, 36, 26]])[:, :dims]
    inside = torch.stack(
        [((own - c[:, None]).norm(dim=0) < r) for c, r in zip(centres, (7, 5), strict=True)]
    ).float()
    inside[1] *= 1 - inside[0]
    inside = inside.reshape(1, 2, *size)
    return torch.cat([1 - inside.sum(1, keepdim=True), inside], 1) * 0.94 + 0.02


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("method", ["moments", "affine"])
def test_a_shift_is_found_in_mm_whatever_the_grids(dims, method):
    fixed_grid, moving_grid = GRIDS[dims]
    extents = extent(*moving_grid), extent(*fixed_grid)
    offset = torch.tensor([310.0, -95, 55])[:dims]
    moving = blobs(moving_grid[0], extents[0], torch.eye(dims), offset)
    fixed = blobs(fixed_grid[0], extents[1], torch.eye(dims), torch.zeros(dims))
    in_mm = extents[0] @ align(moving, fixed, *extents, method) @ torch.linalg.inv(extents[1])
    place = apply_affine(in_mm, torch.tensor([22.0, 28, 22])[:dims].reshape(1, dims, 1)).flatten()
    half_a_voxel = max(moving_grid[1]) / 2
    torch.testing.assert_close(place, torch.tensor([332.0, -67, 77])[:dims], atol=half_a_voxel, rtol=0)
    if method == "moments":
        torch.testing.assert_close(in_mm[0, :-1, :-1], torch.eye(dims), atol=1e-4, rtol=0)


@pytest.mark.parametrize("dims", [2, 3])
def test_an_affine_is_found_in_mm_from_labels_alone(dims):
    fixed_grid, moving_grid = GRIDS[dims]
    extents = extent(*moving_grid), extent(*fixed_grid)
    linear = torch.eye(dims)
    linear[:2, :2] = torch.tensor([[1.2, -0.15], [0.15, 0.9]])
    offset = torch.tensor([305.0, -97, 55])[:dims]
    moving = blobs(moving_grid[0], extents[0], linear, offset)
    fixed = blobs(fixed_grid[0], extents[1], torch.eye(dims), torch.zeros(dims))
    errors = {}
    ends = torch.tensor([[14.0, 26, 29, 22], [18, 18, 38, 41], [20, 20, 26, 26]])[:dims][None]  # of both
    for method in ("moments", "affine"):
        in_mm = extents[0] @ align(moving, fixed, *extents, method) @ torch.linalg.inv(extents[1])
        wanted = linear @ ends[0] + offset[:, None]
        errors[method] = (apply_affine(in_mm, ends)[0] - wanted).norm(dim=0).mean().item()
    half_a_voxel = max(moving_grid[1]) / 2
    assert errors["affine"] < half_a_voxel and errors["affine"] < 0.8 * errors["moments"], errors


def test_moments_of_all_shared_classes_agree_with_scipy():
    fixed, moving = torch.rand(2, 1, 4, 20, 31, generator=torch.Generator().manual_seed(0)).unbind(0)
    fixed[:, 3] = 0  # a class that only one image has counts in neither
    matrix = align(moving, fixed)
    centres = []
    for each in (fixed, moving):
        label = each.argmax(1)[0]
        centres.append(center_of_mass(((label > 0) & (label < 3)).double().numpy()))
    expected = (torch.tensor(centres[1]) - torch.tensor(centres[0])) / torch.tensor([19, 30])
    torch.testing.assert_close(matrix[0, :2, 2], expected.float(), atol=1e-5, rtol=0)


@pytest.mark.parametrize("method", ["moments", "affine"])
def test_pairs_of_a_batch_are_aligned_each_by_itself(method):
    grids = GRIDS[2]
    extents = extent(*grids[1]), extent(*grids[0])
    fixed = blobs(grids[0][0], extents[1], torch.eye(2), torch.zeros(2))
    moving = [
        blobs(grids[1][0], extents[0], torch.eye(2), torch.tensor(by)) for by in ((310.0, -95), (305.0, -90))
    ]
    alone = torch.cat([align(each, fixed, *extents, method) for each in moving])
    with torch.inference_mode():
        both = align(
            torch.cat(moving), fixed.expand(2, -1, -1, -1), *(e.expand(2, -1, -1) for e in extents), method
        )
    torch.testing.assert_close(both, alone, atol=1e-3, rtol=0)  # far below a voxel, 0.02


def test_without_labels_in_common_middles_are_laid_onto_each_other():
    nothing = torch.tensor([1.0, 0, 0]).reshape(1, 3, 1, 1).expand(1, 3, 8, 9)
    extents = extent((8, 9), (1.0, 1), (5.0, 7)), extent((8, 9), (2.0, 2), (0.0, 0))
    matrix = align(nothing, nothing, *extents)
    torch.testing.assert_close(
        apply_affine(matrix, torch.full((1, 2, 1), 0.5)), torch.full((1, 2, 1), 0.5), atol=1e-6, rtol=0
    )
    torch.testing.assert_close(matrix[0, :2, :2], 2 * torch.eye(2), atol=1e-6, rtol=0)  # mm stay mm


def test_faults():
    image = torch.rand(1, 3, 8, 9)
    with pytest.raises(ValueError, match=r"Expected an initialisation of .*'moments', 'affine'.*got 'rigid'"):
        align(image, image, method="rigid")
    with pytest.raises(ValueError, match="extents of both images, or of neither"):
        align(image, image, torch.eye(3)[None])
