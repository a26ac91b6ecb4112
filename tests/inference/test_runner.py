"""The inference config at work, in its parts."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from crosswarp.inference.runner import SegmentedOnce, renamed
from crosswarp.networks import Prediction, SegmentAndRegister
from crosswarp.spatial import identity_map


class Still(nn.Module):
    """Registers by the identity."""

    def forward(self, pair: torch.Tensor) -> torch.Tensor:
        return identity_map(pair.shape[2:]).expand(len(pair), *[-1] * (pair.ndim - 1))


def network() -> SegmentAndRegister:
    return SegmentAndRegister(nn.Conv2d(1, 3, 1), nn.Conv2d(1, 3, 1), Still(), 1).requires_grad_(False)


def test_what_is_segmented_once_is_what_the_network_segments() -> None:
    plain, images = network(), torch.rand(3, 2, 5, 4)
    once = SegmentedOnce(plain)
    for some in (images[:2], images[1:]):
        torch.testing.assert_close(once(some), plain(some))
    kept = {modality: [len(call) for call in calls] for modality, calls in once.kept.items()}
    assert kept == {"source": [2, 2], "target": [2, 2]}
    once(images[:1])
    assert [len(call) for call in once.kept["source"]] == [2, 1], "of the last two calls"


def test_what_is_known_of_an_image_is_not_computed() -> None:
    once, images = SegmentedOnce(network()), torch.rand(2, 2, 5, 4)
    known = torch.rand(2, 3, 5, 4)
    once.keep(images[:, :1], "source", known)
    found = Prediction.split(once(images))
    assert torch.equal(found.moving_probabilities, known)
    assert torch.equal(found.fixed_probabilities, once.network.segment(images[:, 1:], "target"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("scripts.networks.UNet", "crosswarp.networks.UNet"),
        ("$from scripts.data import load_datalist", "$from crosswarp.data import load_datalist"),
        ("$scripts.spatial.sample(@a)", "$crosswarp.spatial.sample(@a)"),
        *(
            (text, text)
            for text in ("/home/scripts.d/a", "my_scripts.x", "a.scripts.x", "scripts", "scripts.2")
        ),
    ],
)
def test_configs_mean_this_library(text: str, expected: str) -> None:
    assert renamed({"a": [text, 1]}, "crosswarp.") == {"a": [expected, 1]}
