"""The two-direction loss against its parts, computed one direction after the other."""

from __future__ import annotations

import pytest
import torch
from monai.losses import DiceLoss

from crosswarp.losses import GradICONLoss, LNCCLoss, RegistrationLoss
from crosswarp.spatial import identity_map, sample

SIMILARITIES = {
    "lncc": LNCCLoss(),
    "dice": DiceLoss(include_background=False),
    "batch dice": DiceLoss(
        include_background=False, batch=True
    ),  # no mean over the batch: the halves must not mix
}


def magnitude(forth, back):
    """A regularity that tells the two maps apart."""
    return forth.square().mean() + 3 * back.square().mean()


@pytest.mark.parametrize("spatial_shape", [(16, 21), (8, 9, 11)])
@pytest.mark.parametrize("name", SIMILARITIES)
def test_equals_the_directions_one_after_the_other(spatial_shape, name):
    similarity = SIMILARITIES[name]
    first, second = torch.randn(2, 3, 4, *spatial_shape).softmax(2)
    noise = 0.05 * torch.randn(2, 3, len(spatial_shape), *spatial_shape)
    first_to_second, second_to_first = identity_map(spatial_shape) + noise
    by_hand = similarity(sample(first, first_to_second), second)
    by_hand = by_hand + similarity(sample(second, second_to_first), first)
    by_hand = by_hand + 0.7 * magnitude(first_to_second, second_to_first)
    loss = RegistrationLoss(similarity, magnitude, regularity_weight=0.7)
    phi, images = torch.cat([first_to_second, second_to_first]), torch.cat([first, second])
    torch.testing.assert_close(loss(phi, images), by_hand)


def test_perfect_registration_costs_nothing():
    image = torch.randn(2, 1, 20, 20)
    phi = identity_map((20, 20)).expand(4, -1, -1, -1)
    loss = RegistrationLoss(LNCCLoss(), GradICONLoss())
    assert loss.regularity_weight == 1.5
    assert loss(phi, torch.cat([image, image])).abs() < 1e-4


@pytest.mark.parametrize(("maps", "images"), [(4, 2), (3, 3)])
def test_half_a_pair_is_named(maps, images):
    with pytest.raises(ValueError, match=f"got {maps} maps and {images} images"):
        RegistrationLoss(LNCCLoss(), GradICONLoss())(torch.rand(maps, 2, 8, 8), torch.rand(images, 1, 8, 8))
