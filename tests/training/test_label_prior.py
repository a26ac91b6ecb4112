"""What a label prior takes away, and what it leaves, on shapes whose answer is known."""

from __future__ import annotations

import pytest
import torch
from monai.networks.utils import one_hot

from crosswarp.training import LabelPrior


def column(shape, low, blocks=3, side=6, extra=0):
    """Blocks 1 to 3 in a column of the first axis; behind the last one a neighbour that is none of them."""
    label = torch.zeros(1, 1, *shape)
    for number in range(blocks + extra):
        start = low + number * (side + 2)
        label[:, :, start : start + side, 8:16] = min(number + 1, blocks)
    return label


def hidden(label):
    return one_hot(label, 4) * 0.9 + 0.025


@pytest.mark.parametrize("shape", [(48, 26), (48, 26, 7)])
def test_a_neighbour_that_no_reference_has_is_no_more_of_a_class(shape):
    prior = LabelPrior(torch.cat([column(shape, low) for low in (4, 6, 9)]), 4, margin=0.02)
    right, wrong = column(shape, 7), column(shape, 7, extra=1)
    probabilities = torch.cat([hidden(right), hidden(wrong)])
    before = probabilities.clone()
    found = prior(probabilities).argmax(1, keepdim=True)
    assert torch.equal(probabilities, before)
    assert torch.equal(found[:1], right.long())  # what fits stays, to the voxel
    kept = (found[1:] == 3) & (right == 3)
    assert kept.sum() == (right == 3).sum()
    left_over = ((found[1:] == 3) & (right != 3)).sum()
    assert left_over < 0.25 * ((wrong == 3) & (right != 3)).sum()
    assert torch.equal(found[1:] == 1, right == 1) and torch.equal(found[1:] == 2, right == 2)


@pytest.mark.parametrize("shape", [(48, 26), (48, 26, 7)])
def test_classes_and_images_of_which_nothing_is_found_are_left(shape):
    prior = LabelPrior(torch.cat([column(shape, low) for low in (4, 6)]), 4, references=5)
    nothing = torch.full((2, 4, *shape), 0.1)
    nothing[:, 0] = 0.7
    torch.testing.assert_close(prior(nothing), nothing)
    only = hidden(torch.where(column(shape, 5) == 2, 2.0, 0.0))
    assert torch.equal(prior(only).argmax(1), only.argmax(1))


@pytest.mark.parametrize("shape", [(48, 26), (48, 26, 7)])
def test_a_reference_without_a_class_says_nothing_of_it(shape):
    """A field of view that ends earlier shows fewer classes; two of three references are of such ones."""
    fewer = [torch.where(column(shape, low) == 3, 0.0, column(shape, low)) for low in (6, 9)]
    right = column(shape, 7)
    for references in ([column(shape, 4), *fewer], fewer):
        prior = LabelPrior(torch.cat(references), 4, margin=0.02)
        assert torch.equal(prior(hidden(right)).argmax(1, keepdim=True), right.long())


def test_few_references_are_all_taken_and_spread():
    labels = torch.stack([torch.full((1, 8, 8), float(number)) for number in (0, 1, 2, 3, 1)])
    assert [each.argmax(0).unique().tolist() for each in LabelPrior(labels, 4).references] == [[0], [2], [1]]
    assert len(LabelPrior(labels[:2], 4).references) == 2
