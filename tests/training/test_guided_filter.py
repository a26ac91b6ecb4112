"""Outlines go to edges that are near, and stay where there are none."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.ndimage import generic_filter

from crosswarp.training import GuidedFilter

SHAPES = [(24, 17), (12, 9, 11)]


def half(shape, border):
    """1 beyond a place of the first axis."""
    return (
        (torch.arange(shape[0]) >= border)
        .float()
        .view(1, 1, -1, *[1] * (len(shape) - 1))
        .expand(1, 1, *shape)
    )


def two_classes(foreground):
    return torch.cat([1 - foreground, foreground], 1)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("off", [-1, 0, 1])
def test_an_outline_a_point_away_from_an_edge_goes_there(shape, off):
    edge = half(shape, shape[0] // 2)
    for image in (0.3 + 0.4 * edge, 0.7 - 0.4 * edge):
        found = GuidedFilter(2)(two_classes(half(shape, shape[0] // 2 + off)), image)
        assert torch.equal((found[:, 1:] > 0.5).float(), edge)
        torch.testing.assert_close(found.sum(1), torch.ones(1, *shape))


@pytest.mark.parametrize("shape", SHAPES)
def test_an_outline_without_an_edge_stays(shape):
    label = two_classes(half(shape, shape[0] // 2))
    for image in (torch.full((1, 3, *shape), 0.5), 0.5 + 1e-4 * torch.randn(1, 1, *shape)):
        assert torch.equal(GuidedFilter(1)(label, image).argmax(1), label.argmax(1))


@pytest.mark.parametrize(("shape", "radius"), [((13, 9), 1), ((9, 13), (2, 1)), ((7, 6, 5), (0, 1, 2))])
def test_it_is_the_linear_model_of_each_window(shape, radius):
    """Against the sums over windows of the paper, which end at the image's borders; channels are averaged."""
    image, label = torch.rand(2, 3, *shape), torch.rand(2, 4, *shape)
    found = GuidedFilter(radius, epsilon=0.01)(label, image)
    size = [2 * each + 1 for each in ([radius] * len(shape) if isinstance(radius, int) else radius)]

    def mean(values):
        return generic_filter(values, np.nanmean, size=size, mode="constant", cval=np.nan)

    for sample in range(2):
        guide = image[sample].double().mean(0).numpy()
        for number in range(4):
            values = label[sample, number].double().numpy()
            covariance = mean(guide * values) - mean(guide) * mean(values)
            slope = covariance / (mean(guide**2) - mean(guide) ** 2 + 0.01)
            expected = mean(slope) * guide + mean(mean(values) - slope * mean(guide))
            torch.testing.assert_close(
                found[sample, number].double(), torch.from_numpy(expected), atol=1e-5, rtol=1e-4
            )
