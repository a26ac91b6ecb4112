"""Batches whose samples carry their own number, so that what was drawn can be counted."""

from __future__ import annotations

import tracemalloc

import pytest
import torch
from monai.data import MetaTensor

from crosswarp.data import FixedPairBatches, RandomBatches, RandomPairBatches, stack_samples
from crosswarp.data.batches import Stack, collect_samples, pair_numbers


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


def numbered(count, spatial=(2, 3)):
    numbers = torch.arange(count).reshape(-1, 1, *[1] * len(spatial)).expand(-1, 1, *spatial)
    return {"image": numbers.half(), "label": numbers.to(torch.uint8)}


def numbers_of(batch, key):
    return batch[key].flatten(1)[:, 0].long().tolist()


def pairs_of(batches):
    return [
        p
        for batch in batches
        for p in zip(*(numbers_of(batch, f"{k}_image") for k in ("moving", "fixed")), strict=True)
    ]


def test_samples_are_stacked_without_metadata():
    samples = [{"image": MetaTensor(torch.full((1, 2, 2), float(i))), "other": 0} for i in range(3)]
    stacked = stack_samples(samples, ("image",))
    assert set(stacked) == {"image"} and type(stacked["image"]) is torch.Tensor
    assert numbers_of(stacked, "image") == [0, 1, 2]


def test_samples_are_collected_where_they_are():
    samples = [{"image": MetaTensor(torch.full((1, 2, 2), float(i)))} for i in range(3)]
    batches = RandomPairBatches(samples, ["image"], batch_size=2, num_batches=1)
    stack = batches.tensors["image"]
    assert [one.data_ptr() for one in stack.tensors] == [each["image"].data_ptr() for each in samples]
    assert stack.shape == (3, 1, 2, 2) and len(stack) == 3
    assert type(stack[torch.tensor([2, 0])]) is torch.Tensor
    assert numbers_of({"image": stack[torch.tensor([2, 0])]}, "image") == [2, 0]
    assert torch.equal(stack[1:], stack_samples(samples, ["image"])["image"][1:])
    assert torch.equal(collect_samples(samples, ["image"])["image"][:], stack[:])


def test_a_stack_is_drawn_like_the_tensor(monkeypatch):
    tensors = numbered(5)
    drawn = []
    for dataset in (tensors, {key: Stack(list(value)) for key, value in tensors.items()}):
        torch.manual_seed(1)
        drawn.append(list(RandomPairBatches(dataset, ("image", "label"), 2, 4)))
    assert all(torch.equal(a[key], b[key]) for a, b in zip(*drawn, strict=True) for key in a)


@pytest.mark.parametrize(
    ("samples", "message"),
    [
        ([], "at least one sample.*datalist"),
        ([{"image": torch.zeros(1)}, {"label": torch.zeros(1)}], r"'image' in every sample.*\[1\]"),
        (
            [{"image": torch.zeros(1, 2)}, {"image": torch.zeros(1, 3)}],
            r"one shape for 'image'.*\(1, 2\).*\(1, 3\)",
        ),
    ],
)
def test_samples_that_cannot_be_stacked_are_named(samples, message):
    with pytest.raises(ValueError, match=message):
        stack_samples(samples, ("image",))


def test_every_sample_is_seen_once_before_any_comes_again():
    batches = RandomBatches(numbered(5), ("image", "label"), batch_size=2, num_batches=6)
    epoch = list(batches)
    assert len(batches) == len(epoch) == 6 and all(len(batch["image"]) == 2 for batch in epoch)
    drawn = [number for batch in epoch for number in numbers_of(batch, "image")]
    assert drawn == [number for batch in epoch for number in numbers_of(batch, "label")]
    assert sorted(drawn[:5]) == sorted(drawn[5:10]) == [0, 1, 2, 3, 4]
    assert drawn[:5] != drawn[5:10]


def test_weights_are_relative_probabilities_and_zero_is_never():
    weights = torch.tensor([0.0, 1.0, 3.0])
    batches = RandomBatches(numbered(3), ("label",), batch_size=50, num_batches=80, weights=weights)
    counts = torch.bincount(torch.tensor([n for batch in batches for n in numbers_of(batch, "label")]))
    assert counts[0] == 0
    assert counts[2] / 4000 == pytest.approx(0.75, abs=0.028)  # 4 standard errors


def test_images_become_float32_and_only_the_keys_are_drawn():
    samples = [{key: value[i] for key, value in numbered(3).items()} | {"name": "x"} for i in range(3)]
    batch = next(iter(RandomBatches(samples, ("image", "label"), 4, 1, device="cpu")))
    assert set(batch) == {"image", "label"} and batch["image"].shape == (4, 1, 2, 3)
    assert batch["image"].dtype == torch.float32 and batch["label"].dtype == torch.uint8


@pytest.mark.parametrize("kind", [RandomBatches, RandomPairBatches])
def test_an_epoch_follows_from_the_seed_at_its_start(kind):
    def augmentation(batch):
        return batch | {"image": batch["image"] + torch.rand_like(batch["image"])}

    def epoch(batches):
        torch.manual_seed(7)
        return [next(iter(batch.values())) for batch in batches]

    batches = kind(numbered(9), ("image",), 2, 3, augmentation=augmentation)
    first = epoch(batches)
    torch.rand(3)
    again = kind(numbered(9), ("image",), 2, 3, augmentation=augmentation)
    iter(again)
    assert all(map(torch.equal, first, epoch(batches)))
    assert all(map(torch.equal, first, epoch(again)))
    assert not all(map(torch.equal, first, [next(iter(batch.values())) for batch in batches]))


def test_pairs_differ_and_every_pair_occurs():
    batches = RandomPairBatches(numbered(3), ("image", "label"), batch_size=3, num_batches=100)
    epoch = list(batches)
    assert set(epoch[0]) == {"moving_image", "fixed_image", "moving_label", "fixed_label"}
    pairs = pairs_of(epoch)
    assert len(pairs) == 300 and set(pairs) == {(a, b) for a in range(3) for b in range(3) if a != b}
    assert all(sorted(a for a, _ in pairs[i : i + 3]) == [0, 1, 2] for i in range(0, 300, 3))
    assert all(numbers_of(batch, "fixed_image") == numbers_of(batch, "fixed_label") for batch in epoch)


def test_a_single_sample_is_its_own_partner():
    assert pairs_of(RandomPairBatches(numbered(1), ("image",), 2, 1)) == [(0, 0), (0, 0)]


def test_both_of_a_pair_are_augmented_by_themselves():
    def augmentation(batch):
        return {"image": batch["image"] + torch.arange(len(batch["image"])).reshape(-1, 1, 1, 1) * 10}

    batch = next(iter(RandomPairBatches(numbered(3), ("image",), 2, 1, augmentation=augmentation)))
    assert [n // 10 for n in numbers_of(batch, "moving_image") + numbers_of(batch, "fixed_image")] == [
        0,
        1,
        2,
        3,
    ]


def test_fixed_pairs_are_all_ordered_pairs_in_the_same_order():
    batches = FixedPairBatches(numbered(3), ("image",), batch_size=4)
    first = pairs_of(batches)
    assert len(batches) == len(list(batches)) == 2
    assert sorted(first) == [(a, b) for a in range(3) for b in range(3) if a != b]
    torch.manual_seed(5)
    assert pairs_of(batches) == first


def test_a_limit_spreads_fixed_pairs_over_all_samples():
    pairs = pairs_of(FixedPairBatches(numbered(10), ("image",), batch_size=2, max_pairs=19))
    assert len(set(pairs)) == 19
    assert {a for a, _ in pairs} == set(range(10))
    assert len({b for _, b in pairs}) > 5


def test_fixed_pairs_need_two_samples():
    with pytest.raises(ValueError, match="at least two.*got one"):
        FixedPairBatches(numbered(1), ("image",), 1)


def test_the_files_of_the_latest_batch_are_known():
    samples = [
        {"image": MetaTensor(torch.full((1, 2, 2), float(i)), meta={"filename_or_obj": f"{i}.nii"})}
        for i in range(5)
    ]
    for batches in (RandomBatches(samples, ["image"], 2, 4), RandomPairBatches(samples, ["image"], 2, 4)):
        for batch in batches:
            shown = torch.cat(list(batch.values()))
            assert batches.files(batches.drawn) == [f"{i}.nii" for i in numbers_of({"image": shown}, "image")]


def test_without_file_names_there_are_none():
    batches = RandomBatches(numbered(5), ["image"], 2, 1)
    next(iter(batches))
    assert batches.files(batches.drawn) == []
    samples = [{"image": MetaTensor(torch.zeros(1, 2, 2))}, {"image": torch.zeros(1, 2, 2)}]
    assert stack_samples(samples, ["image"]).files == []


def test_fixed_pairs_are_those_of_the_whole_list():
    for count in (2, 3, 7, 40):
        numbers = torch.arange(count)
        table = torch.cartesian_prod(numbers, numbers)
        table = table[table[:, 0] != table[:, 1]]
        assert torch.equal(pair_numbers(torch.arange(len(table)), count), table)
        for most in (1, 5, 64, 10_000):
            places = torch.linspace(0, len(table) - 1, min(most, len(table))).round().long()
            assert torch.equal(FixedPairBatches(numbered(count), ["image"], 4, most).pairs.T, table[places])


def test_fixed_pairs_of_many_images_take_no_table():
    one = torch.zeros(1, 1, 1)
    tracemalloc.start()
    batches = FixedPairBatches({"image": Stack([one] * 10_000)}, ["image"], 8, max_pairs=30)
    assert tracemalloc.get_traced_memory()[1] < 2**20
    tracemalloc.stop()
    assert batches.pairs[:, 0].tolist() == [0, 1] and batches.pairs[:, -1].tolist() == [9_999, 9_998]
    assert batches.pairs.shape == (2, 30) and len({tuple(pair) for pair in batches.pairs.T.tolist()}) == 30
