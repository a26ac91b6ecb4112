from __future__ import annotations

from math import hypot, isnan

import pytest
import torch
from monai.metrics import compute_average_surface_distance, compute_hausdorff_distance
from monai.networks.utils import one_hot

from crosswarp.metrics import surface_distances


@pytest.mark.parametrize("spatial", [(20, 14), (12, 9, 10)])
def test_equal_to_monai(spatial: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    spacing = [0.7, 1.9, 1.2][: len(spatial)]
    labels = torch.zeros(2, 1, *spatial, dtype=torch.int64)
    for label in labels:
        for value in (1, 2):
            centre = torch.rand(len(spatial), generator=generator) * 0.4 + 0.3
            axes = torch.meshgrid(*(torch.linspace(0, 1, n) for n in spatial), indexing="ij")
            label[0][sum((x - c) ** 2 for x, c in zip(axes, centre, strict=True)) < 0.06] = value
    predicted, reference = (label[None] for label in labels)
    hausdorff, average = surface_distances(predicted, reference, 3, spacing)
    onehot = [one_hot(label, 3) for label in (predicted, reference)]
    expected = compute_hausdorff_distance(*onehot, percentile=95, spacing=spacing)[0]
    assert hausdorff == pytest.approx(expected.tolist())
    expected = compute_average_surface_distance(*onehot, symmetric=True, spacing=spacing)[0]
    assert average == pytest.approx(expected.tolist())
    assert min(average) > 0


def test_two_squares_by_hand() -> None:
    predicted, reference = torch.zeros(2, 1, 1, 12, 12, dtype=torch.int64)
    predicted[..., 2:5, 2:5] = 1
    reference[..., 2:5, 6:9] = 1  # four voxels along the second axis, of 2 mm
    (hausdorff,), (average,) = surface_distances(predicted, reference, 2, (1.0, 2.0))
    assert hausdorff == pytest.approx(8)
    # of each square's eight points of the surface, three are 4 mm away, two 6 mm and three 8 mm
    assert average == pytest.approx((3 * 4 + 2 * 6 + 3 * 8) / 8)


def test_absent_classes() -> None:
    predicted, reference = torch.zeros(2, 1, 1, 5, 9, dtype=torch.int64)
    predicted[..., 1, 1], reference[..., 2, 2] = 1, 2
    hausdorff, average = surface_distances(predicted, reference, 3, (1.0, 0.5))
    assert isnan(hausdorff[0]) and isnan(average[0]), "not in the reference: as Dice"
    assert hausdorff[1] == average[1] == pytest.approx(hypot(4, 4)), "missed: the diagonal"
