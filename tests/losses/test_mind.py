from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from crosswarp.losses import MINDSSCLoss, mind_ssc


def by_definition(image: np.ndarray, radius: int, dilation: int) -> np.ndarray:
    """Equations of the paper, point by point; ``[pairs, *spatial]``."""
    dims, shape = image.ndim, image.shape

    def clipped(point: np.ndarray) -> tuple[int, ...]:
        return tuple(int(np.clip(p, 0, n - 1)) for p, n in zip(point, shape, strict=True))

    neighbours = [sign * dilation * axis for axis in np.eye(dims, dtype=int) for sign in (-1, 1)]
    pairs = [
        (a, b)
        for i, a in enumerate(neighbours)
        for b in neighbours[i + 1 :]
        if ((a - b) ** 2).sum() == 2 * dilation**2
    ]
    patch = [np.array(offset) for offset in product(range(-radius, radius + 1), repeat=dims)]
    ssd = np.zeros((len(pairs), *shape))
    for k, (a, b) in enumerate(pairs):
        for point in np.ndindex(shape):
            # the patch slides over differences that are repeated beyond the border
            places = [np.array(clipped(np.array(point) + offset)) for offset in patch]
            ssd[(k, *point)] = np.mean([(image[clipped(p + a)] - image[clipped(p + b)]) ** 2 for p in places])
    ssd -= ssd.min(0)
    variance = ssd.mean(0)
    variance = np.clip(variance, variance.mean() / 1000, variance.mean() * 1000)
    return np.exp(-ssd / variance)


@pytest.mark.parametrize(("shape", "pairs"), [((9, 7), 4), ((5, 4, 5), 12)])
def test_equal_to_its_definition(shape: tuple[int, ...], pairs: int) -> None:
    image = torch.rand(1, 1, *shape, generator=torch.Generator().manual_seed(0))
    descriptor = mind_ssc(image, radius=1, dilation=2)
    assert descriptor.shape == (1, pairs, *shape)
    expected = by_definition(image[0, 0].double().numpy(), radius=1, dilation=2)
    np.testing.assert_allclose(descriptor[0].numpy(), expected, atol=1e-4)  # ε is 1e-6 of about 0.1


def test_a_step_by_hand() -> None:
    """On either side of an edge, neighbours across it differ from those beside it, whatever its contrast."""
    image = torch.zeros(1, 1, 9, 9)
    image[:, :, 5:] = 1
    descriptor = mind_ssc(image, radius=0, dilation=1)[0, :, 4, 4]
    # before (0), after (1), left (0), right (0): two of the four pairs differ, by 1, and σ² is 1/2
    assert sorted(descriptor.tolist()) == pytest.approx([np.exp(-2)] * 2 + [1, 1], rel=1e-4)


@pytest.mark.parametrize("shape", [(12, 10), (8, 7, 9)])
def test_contrast_does_not_matter(shape: tuple[int, ...]) -> None:
    generator = torch.Generator().manual_seed(0)
    image, other = torch.rand(2, 3, 2, *shape, generator=generator)
    loss = MINDSSCLoss()
    assert loss(image, image) == 0
    assert loss(image, 0.3 - 2 * image).item() == pytest.approx(0, abs=1e-6)
    assert loss(image, other) > 0.02
    assert mind_ssc(image).shape == (3, 2 * (4 if len(shape) == 2 else 12), *shape)
    flat = mind_ssc(torch.ones(1, 1, *shape))
    torch.testing.assert_close(flat, torch.ones_like(flat))


def test_descends_to_the_right_shift_across_contrasts() -> None:
    generator = torch.Generator().manual_seed(0)
    image = F.avg_pool2d(torch.rand(1, 1, 44, 40, generator=generator), 5, stride=1)
    losses = [MINDSSCLoss()(image.roll(shift, 2), (1 - image) ** 2).item() for shift in range(-3, 4)]
    assert losses.index(min(losses)) == 3 and losses[2] < losses[1] < losses[0]


def test_gradients_and_shapes() -> None:
    warped = torch.rand(1, 1, 8, 8, requires_grad=True)
    MINDSSCLoss()(warped, torch.rand(1, 1, 8, 8)).backward()
    assert warped.grad is not None and warped.grad.isfinite().all() and warped.grad.any()
    with pytest.raises(ValueError, match="images of one shape"):
        MINDSSCLoss()(warped, torch.rand(1, 1, 8, 9))
