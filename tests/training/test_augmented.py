"""Augmented samples made by networks whose maps are known."""

from __future__ import annotations

import json
import tracemalloc

import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from torch import nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from crosswarp.data import RandomBatches
from crosswarp.spatial import identity_map
from crosswarp.training import AugmentedSamples

SHAPE = (12, 9)


@pytest.fixture(autouse=True)
def seed():
    torch.manual_seed(0)


class Known(nn.Module):
    """The identity, ``shift`` voxels along the first axis, or mirrored where the moving image is marked."""

    def __init__(self, shift=0):
        super().__init__()
        self.shift = nn.Parameter(torch.tensor(float(shift)))
        self.calls = 0

    def forward(self, images):
        self.calls += 1
        assert images.dtype == torch.float32 and not torch.is_grad_enabled()
        shape = images.shape[2:]
        phi = identity_map(shape).repeat(len(images), *[1] * (len(shape) + 1))
        phi[:, 0] += self.shift / (shape[0] - 1)
        marked = images[:, 0].flatten(1)[:, 0] == 1
        phi[marked] = 1 - phi[marked]
        phi[marked, 1] = 1 - phi[marked, 1]
        return phi


class Unused(nn.Linear):
    def forward(self, images):
        raise AssertionError("the network was called")


def make_samples(count, shape=SHAPE, channels=1, labelled=True):
    samples = [{"image": torch.rand(channels, *shape) * 0.9} for _ in range(count)]
    for sample in samples if labelled else []:
        sample["label"] = torch.randint(0, 3, (1, *shape), dtype=torch.uint8)
    return samples


def weights_by_kind(samples, originals):
    return samples.weights[:originals], samples.weights[originals:]


@pytest.mark.parametrize(("shape", "channels"), [(SHAPE, 2), ((6, 5, 7), 1)])
def test_identity_copies_every_labelled_image_for_every_other(tmp_path, shape, channels):
    labelled, others = make_samples(2, shape, channels), make_samples(3, shape, channels, labelled=False)
    samples = AugmentedSamples(tmp_path / "new", Known(), labelled, others, 3, keep=1.0, batch_size=4)
    image, label = samples["image"], samples["label"]
    assert image.shape == (8, channels, *shape) and image.dtype == torch.float16
    assert label.shape == (8, 1, *shape) and label.dtype == torch.uint8
    assert sorted((p["moving"], p["fixed"]) for p in samples.index) == [
        (m, f) for m in range(2) for f in range(3)
    ]
    for number, moving in enumerate([0, 1, *(pair["moving"] for pair in samples.index)]):
        torch.testing.assert_close(
            image[number].float(), labelled[moving]["image"], atol=1e-3, rtol=0
        )  # float16
        assert torch.equal(label[number], labelled[moving]["label"])
    originals, pairs = weights_by_kind(samples, 2)
    torch.testing.assert_close(originals, torch.full((2,), 0.1))
    torch.testing.assert_close(pairs, torch.full((6,), 0.8 / 6))


def test_image_and_label_follow_the_map(tmp_path):
    labelled = make_samples(1)
    samples = AugmentedSamples(tmp_path, Known(shift=1), labelled, make_samples(1, labelled=False), 3)
    moved = torch.cat([torch.arange(1, SHAPE[0]), torch.tensor([SHAPE[0] - 1])])  # the border repeats
    torch.testing.assert_close(samples["image"][1].float(), labelled[0]["image"][:, moved], atol=1e-3, rtol=0)
    assert torch.equal(samples["label"][1], labelled[0]["label"][:, moved])


def test_pairs_that_look_least_alike_are_not_drawn(tmp_path):
    labelled = make_samples(3)
    others = [{"image": sample["image"] + 0.05 * torch.rand(1, *SHAPE)} for sample in labelled]
    samples = AugmentedSamples(tmp_path, Known(), labelled, others, 3, keep=1 / 3, original_share=0.4)
    for pair, weight in zip(samples.index, samples.weights[3:], strict=True):
        same = pair["moving"] == pair["fixed"]
        assert pair["kept"] is same
        assert weight == pytest.approx(0.6 / 3 if same else 0)
        assert (pair["similarity"] > 0.9) is same
    assert samples.weights.sum() == pytest.approx(1)


def test_it_counts_how_alike_images_are_once_they_are_warped(tmp_path):
    labelled = make_samples(2)
    moved = [{"image": torch.cat([each["image"][:, 1:], each["image"][:, -1:]], 1)} for each in labelled]
    others = moved + [{"image": each["image"].clone()} for each in labelled]
    samples = AugmentedSamples(tmp_path, Known(shift=1), labelled, others, 3, keep=0.25)
    for pair in samples.index:
        assert pair["kept"] is (pair["moving"] == pair["fixed"]), "of those moved alike"
        assert (pair["similarity"] > 0.9) is pair["kept"]


def test_folded_pairs_are_not_drawn(tmp_path):
    labelled = make_samples(2)
    labelled[1]["image"][0, 0, 0] = 1
    samples = AugmentedSamples(
        tmp_path / "one", Known(), labelled, make_samples(2, labelled=False), 3, keep=1.0
    )
    assert {(pair["moving"], pair["folds"], pair["kept"]) for pair in samples.index} == {
        (0, 0, True),
        (1, 1, False),
    }
    only_bad = AugmentedSamples(tmp_path / "all", Known(), labelled[1:], make_samples(2, labelled=False), 3)
    assert only_bad.weights.tolist() == [1, 0, 0]


def test_samples_are_computed_once(tmp_path):
    network = Known()
    first = AugmentedSamples(
        tmp_path, network, make_samples(2), make_samples(5, labelled=False), 3, batch_size=4
    )
    assert network.calls == 3
    content = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    assert set(content) == {"image.npy", "label.npy", "index.json", "SHA256SUMS"}
    again = AugmentedSamples(tmp_path, Unused(1, 1), [], [], 3)
    loaded = AugmentedSamples.load(tmp_path, original_share=0.5)
    for other in (again, loaded):
        assert torch.equal(other["image"], first["image"]) and other.index == first.index
    assert loaded.weights[:2].sum() == pytest.approx(0.5)
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == content


def test_an_unfinished_write_is_done_again(tmp_path):
    arguments = (make_samples(1), make_samples(2, labelled=False), 3)
    whole = AugmentedSamples(tmp_path, Known(), *arguments)["image"].clone()
    (tmp_path / "index.json").unlink()
    np.lib.format.open_memmap(tmp_path / "image.npy", "r+")[:] = 0
    assert torch.equal(AugmentedSamples(tmp_path, Known(), *arguments)["image"], whole)


def test_tensors_are_views_of_the_files(tmp_path):
    samples = AugmentedSamples(tmp_path, Known(), make_samples(2), make_samples(3, labelled=False), 3)
    batches = RandomBatches(samples, ("image", "label"), 4, 1, weights=samples.weights)
    assert set(samples) == {"image", "label"}
    for key, change in (("image", 0.5), ("label", 7)):
        assert batches.tensors[key].data_ptr() == samples[key].data_ptr()
        file = np.lib.format.open_memmap(tmp_path / f"{key}.npy", "r+")
        file[-1] = change
        file.flush()
        assert samples[key][-1].eq(change).all()  # nothing was read into memory
        samples[key][0] = 0  # and nothing is written into the file
        assert np.load(tmp_path / f"{key}.npy")[0].any()


def test_a_limit_chooses_pairs_at_random_by_seed(tmp_path):
    labelled, others = make_samples(4), make_samples(4, labelled=False)

    def chosen(folder, seed):
        samples = AugmentedSamples(tmp_path / folder, Known(), labelled, others, 3, max_pairs=6, seed=seed)
        assert len(samples["image"]) == len(samples.weights) == 10
        return [(pair["moving"], pair["fixed"]) for pair in samples.index]

    first = chosen("a", 0)
    assert len(set(first)) == 6 and len({moving for moving, _ in first}) > 1
    assert chosen("b", 0) == first != chosen("c", 1)


def test_without_others_the_labelled_images_are_paired_with_each_other(tmp_path):
    samples = AugmentedSamples(tmp_path / "three", Known(), make_samples(3), [], 3)
    assert sorted((p["moving"], p["fixed"]) for p in samples.index) == [
        (a, b) for a in range(3) for b in range(3) if a != b
    ]
    alone = AugmentedSamples(tmp_path / "one", Unused(1, 1), make_samples(1), [], 3)
    assert len(alone["image"]) == 1 and alone.weights.tolist() == [1]


@pytest.mark.parametrize("name", ["image.npy", "label.npy", "index.json"])
def test_damaged_samples_are_seen_and_written_anew(tmp_path, name):
    labelled, others = make_samples(2), make_samples(5, labelled=False)
    AugmentedSamples(tmp_path, Known(), labelled, others, 3)
    whole = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    content = bytearray(whole[name])
    content[-1] ^= 1
    (tmp_path / name).write_bytes(content)
    with pytest.raises(
        ValueError, match=f"{name} is damaged, or was changed: run the stage source_segmentation"
    ):
        AugmentedSamples.load(tmp_path)
    network = Known()
    AugmentedSamples(tmp_path, network, labelled, others, 3)
    assert network.calls and (tmp_path / f"{name}.damaged").read_bytes() == content
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.suffix != ".damaged"} == whole


def test_what_cannot_be_is_refused(tmp_path):
    for keep in (0, 1.1):
        with pytest.raises(ValueError, match=r"`keep` in \(0, 1\]"):
            AugmentedSamples(tmp_path / "new", Unused(1, 1), [], [], 3, keep=keep)
    with pytest.raises(FileNotFoundError, match="run the stage source_segmentation"):
        AugmentedSamples.load(tmp_path / "nothing")
    assert json.dumps(sorted(path.name for path in tmp_path.iterdir())) == "[]"


class TensorMemory(TorchDispatchMode):
    """The most bytes that tensors have held at once; those that torch.from_numpy makes are in the files."""

    def __init__(self):
        super().__init__()
        self.storages = {}
        self.peak = 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        result = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(result) if function is not torch.ops.aten.lift_fresh.default else ():
            if isinstance(tensor, torch.Tensor):
                storage = tensor.untyped_storage()
                self.storages[storage.data_ptr()] = StorageWeakRef(storage), storage.nbytes()
        self.storages = {key: each for key, each in self.storages.items() if not each[0].expired()}
        self.peak = max(self.peak, sum(size for _, size in self.storages.values()))
        return result


def test_memory_does_not_grow_with_the_number_of_pairs(tmp_path):
    labelled, others = make_samples(10, (128, 96)), make_samples(20, (128, 96), labelled=False)
    peaks, sizes = [], []
    for number, count in enumerate((20, 20, 200)):  # the first imports what the others find
        folder = tmp_path / str(number)
        tracemalloc.start()  # numpy's and Python's
        with TensorMemory() as mode:
            samples = AugmentedSamples(folder, Known(), labelled, others, 3, max_pairs=count, batch_size=4)
        peaks.append(mode.peak + tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
        sizes.append(sum(file.stat().st_size for file in folder.glob("*.npy")))
        assert len(samples.index) == count
    # what grows is the index, by five values for each pair
    assert peaks[2] - peaks[1] < 0.1 * (sizes[2] - sizes[1])


def test_originals_are_the_labelled_samples_as_they_were(tmp_path):
    labelled = make_samples(3)
    AugmentedSamples(tmp_path, Known(shift=1), labelled, make_samples(4, labelled=False), 3)
    samples = AugmentedSamples.load(tmp_path)
    assert torch.equal(samples.originals("label"), torch.stack([sample["label"] for sample in labelled]))
    images = torch.stack([sample["image"] for sample in labelled])
    assert torch.equal(samples.originals("image"), images.half())


@pytest.mark.parametrize("batch_size", [1, 3])
def test_the_network_sees_no_more_than_a_batch_of_pairs_and_files_are_known(tmp_path, batch_size):
    network, seen = Known(), []
    network.register_forward_pre_hook(lambda _, arguments: seen.append(len(arguments[0])))
    labelled, others = make_samples(2), make_samples(4, labelled=False)
    for name, samples in (("manual", labelled), ("other", others)):
        for number, sample in enumerate(samples):
            sample["image"] = MetaTensor(sample["image"], meta={"filename_or_obj": f"{name}{number}.nii"})
    samples = AugmentedSamples(str(tmp_path), network, labelled, others, 3, batch_size=batch_size)
    assert max(seen) == batch_size and sum(seen) == 8
    assert AugmentedSamples.load(str(tmp_path)).files == samples.files
    assert samples.files[:2] == ["manual0.nii", "manual1.nii"]
    for file, pair in zip(samples.files[2:], samples.index, strict=True):
        assert file == f"manual{pair['moving']}.nii warped onto other{pair['fixed']}.nii"
