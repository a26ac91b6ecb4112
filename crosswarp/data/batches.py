"""Random batches of a data set that fits in memory or a memory map, drawn and augmented as whole tensors.

A batch is a dictionary of plain tensors ``[B, C, *spatial]``. Samples are looked up once; after that a batch
costs one stacking and one copy to the device, so that small networks are not kept waiting by per-sample
Python.
Random numbers come from torch's global generator and are first drawn when iteration starts: seeding at the
start of an epoch (``training.SeedEpochs``) therefore fixes all that the epoch sees. Where several processes
train together, each takes its share of every batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from monai.data import MetaTensor
from torch import Tensor

from .. import processes

Batch = dict[str, Tensor]


class Stack:
    """Tensors of one shape ``[C, *spatial]`` that act as ``[N, C, *spatial]`` without being copied.

    Indexing by a slice or by numbers ``[B]`` stacks what is asked for.

    Args:
        tensors: of one shape; exchanging one in this list exchanges it here.
    """

    def __init__(self, tensors: list[Tensor]) -> None:
        self.tensors = tensors

    @property
    def shape(self) -> torch.Size:
        """As of the stacked tensor."""
        return torch.Size([len(self.tensors), *self.tensors[0].shape])

    def __len__(self) -> int:
        return len(self.tensors)

    def __getitem__(self, index: int | slice | Tensor) -> Tensor:
        if isinstance(index, int):
            return self.tensors[index]
        numbers = range(len(self))[index] if isinstance(index, slice) else index.tolist()
        return torch.stack([self.tensors[number] for number in numbers])


class Samples(dict[str, Any]):
    """Tensors of samples by key, each a :class:`Stack` or stacked; ``files`` names theirs, or is empty."""

    def __init__(self, tensors: Mapping[str, Tensor | Stack], files: Sequence[str] = ()) -> None:
        super().__init__(tensors)
        self.files = list(files)


def file_of(value: Any) -> str | None:
    """The file that a sample's tensor was read from, where it says so."""
    return value.meta.get("filename_or_obj") if isinstance(value, MetaTensor) else None


def collect_samples(dataset: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> Samples:
    """The tensors of a data set by key, in the memory that they have there.

    Args:
        dataset: indexable; each item a dictionary with tensors ``[C, *spatial]`` of one shape under ``keys``.
        keys: what to keep.

    Returns:
        one :class:`Stack` for each key, without metadata; the files are those of the first key.

    Raises:
        ValueError: when the data set is empty, a key is missing, or shapes differ.
    """
    if len(dataset) == 0:
        raise ValueError(
            "Expected at least one sample, got an empty data set: check the datalist's sections."
        )
    samples = [dataset[i] for i in range(len(dataset))]
    stacks = {}
    for key in keys:
        missing = [i for i, sample in enumerate(samples) if key not in sample]
        if missing:
            raise ValueError(
                f"Expected '{key}' in every sample, but the samples {missing[:5]} do not have it."
            )
        values = [torch.as_tensor(sample[key]) for sample in samples]
        shapes = sorted({tuple(value.shape) for value in values})
        if len(shapes) > 1:
            raise ValueError(f"Expected one shape for '{key}', got {shapes}: resize in the preprocessing.")
        stacks[key] = Stack([value.as_subclass(Tensor) for value in values])
    files = [file_of(sample[keys[0]]) for sample in samples]
    return Samples(stacks, [str(file) for file in files] if None not in files else [])


def stack_samples(dataset: Sequence[Mapping[str, Any]], keys: Sequence[str]) -> Samples:
    """A copy of what :func:`collect_samples` returns: tensors ``[N, C, *spatial]`` by key."""
    samples = collect_samples(dataset, keys)
    return Samples({key: stack[:] for key, stack in samples.items()}, samples.files)


def pair_numbers(chosen: Tensor, count: int) -> Tensor:
    """The pairs of different samples that stand at places in the list of all, ``(0, 1), (0, 2), ...``.

    Args:
        chosen: places ``[P]``, below ``count * (count - 1)``.
        count: samples.

    Returns:
        ``[P, 2]``: numbers of the first and of the second samples.
    """
    first, second = chosen // (count - 1), chosen % (count - 1)
    return torch.stack([first, second + (second >= first).long()], 1)


class RandomBatches:
    """Endless random sampling, cut into epochs of ``num_batches`` batches.

    Samples are drawn without replacement until all were seen, then anew; with ``weights``, with replacement.

    Args:
        dataset: tensors ``[N, C, *spatial]`` by key, or a sequence of samples, which are not copied.
        keys: the keys to draw.
        batch_size: samples in a batch, that of all processes together.
        num_batches: batches in an epoch.
        device: where batches go.
        augmentation: called with each batch (a dictionary), on the device; returns a batch.
        weights: ``[N]`` relative sampling probabilities.

    Attributes:
        drawn: sample numbers of the latest batch.
    """

    drawn: Tensor
    parts = 1  # of what is gathered at once, each a share of a batch

    def __init__(
        self,
        dataset: Mapping[str, Tensor | Stack] | Sequence[Mapping[str, Any]],
        keys: Sequence[str],
        batch_size: int,
        num_batches: int,
        device: torch.device | str = "cpu",
        augmentation: Callable[[Batch], Batch] | None = None,
        weights: Tensor | None = None,
    ) -> None:
        self.dataset = dataset if isinstance(dataset, Mapping) else collect_samples(dataset, keys)
        self.tensors = dict(self.dataset)
        self.keys = tuple(keys)
        self.num_samples = len(self.tensors[self.keys[0]])
        processes.check_batch_size(batch_size)
        self.batch_size = batch_size
        self.num_batches = num_batches
        self.device = torch.device(device)
        self.augmentation = augmentation
        self.weights = weights

    def __len__(self) -> int:
        return self.num_batches

    def draw_indices(self) -> Tensor:
        """Sample numbers of one epoch, ``[num_batches * batch_size]``."""
        count = self.num_batches * self.batch_size
        if self.weights is not None:
            return torch.multinomial(self.weights.float(), count, replacement=True)
        rounds = -(-count // self.num_samples)
        return torch.cat([torch.randperm(self.num_samples) for _ in range(rounds)])[:count]

    def gather(self, indices: Tensor) -> Batch:
        """The samples of the given numbers ``[B]``, on the device, images in float32, augmented."""
        self.drawn = indices
        batch = {key: self.tensors[key][indices].to(self.device, non_blocking=True) for key in self.keys}
        batch = {key: value.float() if value.is_floating_point() else value for key, value in batch.items()}
        if self.augmentation is None:
            return batch
        with processes.in_groups(self.parts):
            return self.augmentation(batch)

    def files(self, drawn: Tensor) -> list[str]:
        """The files of samples, by their numbers ``[B]``; none where the data set does not know them."""
        names = getattr(self.dataset, "files", ())
        return [names[number] for number in drawn.tolist()] if names else []

    def __iter__(self) -> Iterator[Batch]:
        for indices in self.draw_indices().split(self.batch_size):
            yield self.gather(processes.share(indices))


class RandomPairBatches(RandomBatches):
    """Random pairs for registration: every key comes twice, as ``moving_<key>`` and ``fixed_<key>``.

    The two samples of a pair differ (unless there is only one); each is augmented by itself.
    """

    parts = 2

    def __iter__(self) -> Iterator[Batch]:
        moving = self.draw_indices()
        fixed = (moving + torch.randint(1, max(self.num_samples, 2), moving.shape)) % self.num_samples
        for pair in torch.stack([moving, fixed], 1).split(self.batch_size):
            yield self.pair_batch(processes.share(pair).T)

    def pair_batch(self, pair: Tensor) -> Batch:
        """The batch of the pairs ``[2, B]`` (numbers of the moving and of the fixed samples)."""
        batch = {}
        for key, value in self.gather(pair.flatten()).items():
            batch[f"moving_{key}"], batch[f"fixed_{key}"] = value.chunk(2)
        return batch


class FixedPairBatches(RandomPairBatches):
    """The same pairs at every pass, for validation: all, or ``max_pairs`` spread evenly over all.

    Args:
        dataset: as in ``RandomBatches``.
        keys: as in ``RandomBatches``.
        batch_size: pairs in a batch.
        max_pairs: most pairs to use.
        device: where batches go.

    Raises:
        ValueError: when there are fewer than two samples.
    """

    def __init__(
        self,
        dataset: Mapping[str, Tensor | Stack] | Sequence[Mapping[str, Any]],
        keys: Sequence[str],
        batch_size: int,
        max_pairs: int = 64,
        device: torch.device | str = "cpu",
    ) -> None:
        super().__init__(dataset, keys, batch_size, num_batches=0, device=device)
        if self.num_samples < 2:
            raise ValueError("Expected at least two labelled validation images to form pairs, got one.")
        total = self.num_samples * (self.num_samples - 1)
        exact = torch.float32 if total <= 2**24 else torch.float64
        chosen = torch.linspace(0, total - 1, min(max_pairs, total), dtype=exact).round().long()
        self.pairs = pair_numbers(chosen, self.num_samples).T
        self.num_batches = -(-self.pairs.shape[1] // batch_size)

    def __iter__(self) -> Iterator[Batch]:
        for pair in self.pairs.split(self.batch_size, dim=1):
            yield self.pair_batch(pair)
