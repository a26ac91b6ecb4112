"""Connected components against a flood fill written down directly."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
import torch

from crosswarp.metrics.components import count_components, keep_components


def pieces(mask):
    """The pieces of a mask as sets of points, largest first, by flood fill over all neighbours."""
    left, found = set(zip(*np.nonzero(mask), strict=True)), []
    while left:
        piece, border = set(), [min(left)]
        while border:
            point = border.pop()
            if point in left:
                left.remove(point)
                piece.add(point)
                border += [
                    tuple(np.add(point, step)) for step in product((-1, 0, 1), repeat=len(point)) if any(step)
                ]
        found.append(piece)
    return sorted(found, key=lambda piece: -len(piece))


@pytest.mark.parametrize("shape", [(14, 19), (7, 9, 8)])
def test_only_the_largest_pieces_are_kept(shape):
    labels = torch.from_numpy(np.random.default_rng(3).choice([0, 0, 0, 0, 1, 2], (4, 1, *shape))).byte()
    kept = keep_components(labels, [1, 2])
    for before, after in zip(labels[:, 0].numpy(), kept[:, 0].numpy(), strict=True):
        for value, count in ((1, 1), (2, 2)):
            sizes = [len(piece) for piece in pieces(before == value)]
            remaining = pieces(after == value)
            assert [len(piece) for piece in remaining] == sizes[:count]
            assert all(piece in pieces(before == value) for piece in remaining)
    assert kept.dtype == labels.dtype and kept.shape == labels.shape


def test_pieces_are_counted_as_the_largest_number_in_an_image():
    labels = torch.zeros(3, 1, 20, 20, dtype=torch.uint8)
    labels[0, 0, 2:8, 2:8] = 1
    labels[1, 0, 2:8, 2:8] = labels[1, 0, 12:18, 2:8] = 1  # two of a size
    labels[1, 0, 19, 19] = 1  # a speck does not count
    labels[2, 0, 2:5, 2:5] = labels[2, 0, 5:8, 5:8] = 2  # touch at a corner: one
    assert count_components(labels, 4) == [2, 1, 0]
    assert count_components(labels, 4, min_share=0.0) == [3, 1, 0]
    assert keep_components(labels, [2, 1, 0])[1, 0, 19, 19] == 0
    assert torch.equal(keep_components(labels, [3, 1, 0]), labels)
