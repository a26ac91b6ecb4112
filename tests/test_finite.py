"""What holds NaN or infinity is found and named."""

from __future__ import annotations

import math

import pytest
import torch

from crosswarp.finite import is_finite, non_finite


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_one_value_among_many_is_found(bad):
    values = torch.zeros(3, 1000)
    assert is_finite(values)
    values[1, 500] = bad
    assert not is_finite(values)


def test_infinities_of_both_signs_do_not_cancel():
    assert not is_finite(torch.tensor([math.inf, -math.inf]))


@pytest.mark.parametrize(("dtype", "large"), [(torch.float32, 3e38), (torch.float16, 6e4)])
def test_numbers_whose_sum_overflows_are_finite(dtype, large):
    values = torch.full((4,), large, dtype=dtype)
    assert is_finite(values) and non_finite({"weight": values}) == []


def test_tensors_are_named_through_all_levels_and_what_has_no_nan_is_passed_over():
    state = {
        "network": {"weight": torch.ones(2), "bias": torch.tensor([1.0, math.nan]), "count": torch.tensor(3)},
        "optimizer": {"state": {0: {"exp_avg_sq": torch.tensor([math.inf])}}, "lr": [1e-3, math.inf]},
        "pool": torch.empty(0),
    }
    assert non_finite(state) == ["network.bias", "optimizer.state.0.exp_avg_sq"]
    assert non_finite({}) == []
