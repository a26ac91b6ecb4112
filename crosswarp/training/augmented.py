"""The augmentation cache: labelled images registered onto others, computed once and kept on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.networks.utils import one_hot
from numpy.lib.format import open_memmap
from torch import Tensor, nn

from .. import processes
from ..data.batches import Samples, collect_samples, pair_numbers
from ..disk import allocate
from ..kept import GoneError, check, keeping, whole
from ..losses import LNCCLoss
from ..metrics import likeliest
from ..spatial import fold_fraction, sample
from ..terminal import track

FILES = ("image.npy", "label.npy", "index.json")
AGAIN = "run the stage source_segmentation, or the whole chain, which makes it anew"


class AugmentedSamples(Mapping[str, Tensor]):
    """Every labelled image, and its label, warped onto other images of its modality by a network.

    A mapping of memory-mapped tensors, ready for ``RandomBatches``: ``image`` ``[N, C, *spatial]`` float16
    and ``label`` ``[N, 1, *spatial]`` uint8. The labelled originals come first. Memory does not grow with the
    number of pairs. The samples are written when the folder does not hold them yet, in one direction and
    without any loss but the score; several processes register some of the pairs each, into the same files.

    A pair that registered badly deforms anatomy implausibly and is given weight 0: the share ``1 - keep``
    with the worst local cross-correlation between warped and fixed image, and those with more than 1 % of
    folds.

    Args:
        folder: where ``image.npy``, ``label.npy`` and ``index.json`` are or will be written.
        network: maps moving and fixed images on channels ``[B, 2C, *spatial]`` to the map ``[B, D,
            *spatial]``.
        labelled: samples with ``image`` in [0, 1] and integer ``label``, moving.
        others: samples with ``image``, fixed; when empty, the labelled images are registered onto each other.
        num_classes: classes of the labels, background included.
        keep: share of the pairs to keep.
        max_pairs: most pairs to compute, a random choice of all; None for all of them.
        original_share: share of the draws that are labelled originals.
        batch_size: pairs in a batch.
        seed: of the choice of pairs.

    Attributes:
        weights: ``[N]`` sampling weights.
        files: of each sample; of a warped one both, the labelled one first.
        index: per pair the numbers of moving and fixed image, similarity, folds and whether it was kept.
    """

    def __init__(
        self,
        folder: str,
        network: nn.Module,
        labelled: Sequence[Mapping[str, Any]],
        others: Sequence[Mapping[str, Any]],
        num_classes: int,
        keep: float = 0.8,
        max_pairs: int | None = 2000,
        original_share: float = 0.2,
        batch_size: int = 16,
        seed: int = 0,
    ) -> None:
        if not 0 < keep <= 1:
            raise ValueError(f"Expected `keep` in (0, 1], got {keep}.")
        self.folder = Path(folder)
        if not processes.agreed(lambda: all([whole(self.folder / name) for name in FILES])):
            self._write(network, labelled, others, num_classes, keep, max_pairs, batch_size, seed)
        self._open(original_share)

    @classmethod
    def load(cls, folder: str, original_share: float = 0.2) -> AugmentedSamples:
        """Open samples that an earlier stage wrote.

        Raises:
            GoneError: when the folder holds no finished cache.
            DamagedError: for one that is not what was written there.
        """
        self = cls.__new__(cls)
        self.folder = Path(folder)
        for path in (self.folder / name for name in FILES):
            if not check(path, AGAIN).is_file():
                raise GoneError(path, "of the augmented samples is missing", AGAIN)
        self._open(original_share)
        return self

    def _open(self, original_share: float) -> None:
        content = json.loads((self.folder / "index.json").read_text())
        self.index: list[dict[str, float]] = content["pairs"]
        self.files: list[str] = content.get("files", [])
        # copy-on-write: torch wants memory that it may write to, the files stay as they are
        self._tensors = {
            k: torch.from_numpy(np.load(self.folder / f"{k}.npy", mmap_mode="c")) for k in ("image", "label")
        }
        kept = torch.tensor([float(pair["kept"]) for pair in self.index])
        share = original_share if kept.sum() > 0 else 1.0
        self._num_originals = content["originals"]
        originals = torch.full((self._num_originals,), share / self._num_originals)
        self.weights = torch.cat([originals, kept * (1 - share) / kept.sum().clamp(min=1)])

    def __getitem__(self, key: str) -> Tensor:
        return self._tensors[key]

    def originals(self, key: str) -> Tensor:
        """The labelled originals among the samples: ``[M, C, *spatial]``."""
        return self._tensors[key][: self._num_originals]

    def __iter__(self) -> Iterator[str]:
        return iter(self._tensors)

    def __len__(self) -> int:
        return len(self._tensors)

    def _write(
        self,
        network: nn.Module,
        labelled: Sequence[Mapping[str, Any]],
        others: Sequence[Mapping[str, Any]],
        num_classes: int,
        keep: float,
        max_pairs: int | None,
        batch_size: int,
        seed: int,
    ) -> None:
        moving = collect_samples(labelled, ("image", "label"))
        count = len(moving["image"])
        samples = collect_samples(others, ("image",)) if len(others) else moving
        fixed, fixed_files = samples["image"], samples.files
        total = count * (len(fixed) if len(others) else count - 1)
        chosen = torch.randperm(total, generator=torch.Generator().manual_seed(seed))[:max_pairs]
        pairs = (
            torch.stack([chosen // len(fixed), chosen % len(fixed)], 1)
            if len(others)
            else pair_numbers(chosen, count)
        )

        shapes = [(count + len(pairs), *fixed.shape[1:]), (count + len(pairs), 1, *fixed.shape[2:])]
        with ExitStack() as files:
            images, labels = (
                np.load(place, mmap_mode="r+")
                for place in processes.agreed(lambda: _create(files, self.folder, shapes, moving))
            )
            warped = images[count:], labels[count:]
            similarity, folds = _warp(
                network, moving, fixed, pairs.split(batch_size) if len(pairs) else (), num_classes, warped
            )
        threshold = np.quantile(similarity, 1 - keep) if similarity else 0.0
        index = [
            {"moving": m, "fixed": f, "similarity": s, "folds": d, "kept": bool(s >= threshold and d <= 0.01)}
            for (m, f), s, d in zip(pairs.tolist(), similarity, folds, strict=True)
        ]
        names = []
        if moving.files and fixed_files:
            names = moving.files + [
                f"{moving.files[m]} warped onto {fixed_files[f]}" for m, f in pairs.tolist()
            ]
        content = json.dumps({"originals": count, "pairs": index, "files": names})
        processes.agreed(lambda: _finish(self.folder / "index.json", content))


def _warp(
    network: nn.Module,
    moving: Mapping[str, Any],
    fixed: Any,
    batches: Sequence[Tensor],
    num_classes: int,
    warped: tuple[np.ndarray, np.ndarray],
) -> tuple[list[float], list[float]]:
    """Register pairs and write the warped images and labels; similarity and share of folds of each pair."""
    device = next(network.parameters()).device
    score = LNCCLoss(reduction="none")
    parts = torch.arange(sum(map(len, batches))).split(len(batches[0])) if batches else ()
    scores = torch.zeros(sum(map(len, batches)), 2)
    network.eval()
    with torch.inference_mode():
        for number, (part, batch) in enumerate(zip(parts, track(batches, "registering pairs"), strict=True)):
            if not processes.is_own(number):
                continue
            source = moving["image"][batch[:, 0]].to(device).float()
            target = fixed[batch[:, 1]].to(device).float()
            phi = network(torch.cat([source, target], dim=1))
            image = sample(source, phi)
            onehot = one_hot(moving["label"][batch[:, 0]].to(device), num_classes)
            places = slice(int(part[0]), int(part[-1]) + 1)
            warped[0][places] = image.cpu().numpy()
            warped[1][places] = likeliest(sample(onehot, phi)).cpu().numpy()
            scores[part] = torch.stack([1 - score(image, target), fold_fraction(phi)], 1).float().cpu()
    processes.exchange(scores, parts, device)  # all have written then, into pages that they share
    similarity, folds = scores.T.tolist()
    return similarity, folds


def _create(files: ExitStack, folder: Path, shapes: Sequence[Sequence[int]], originals: Samples) -> list[str]:
    """Make the files, with the labelled originals; returns where they are until they are done."""
    images = files.enter_context(mapped(folder / "image.npy", np.float16, shapes[0]))
    labels = files.enter_context(mapped(folder / "label.npy", np.uint8, shapes[1]))
    pairs = zip(originals["image"].tensors, originals["label"].tensors, strict=True)
    for number, (image, label) in enumerate(pairs):
        images[number], labels[number] = image.numpy(), label.numpy()
    return [str(array.filename) for array in (images, labels)]  # type: ignore[attr-defined] # mapped


def _finish(path: Path, content: str) -> None:
    with keeping(path) as partial:  # an index means that all is written
        partial.write_text(content)


@contextmanager
def mapped(path: Path, dtype: type, shape: Sequence[int]) -> Iterator[np.ndarray]:
    """An array in a file, which takes its place once it is filled; the disk has room for all of it.

    Raises:
        DiskError: where it has not, before anything is written.
    """
    with keeping(path, size=int(np.prod(shape)) * np.dtype(dtype).itemsize) as partial:
        array = open_memmap(partial, "w+", dtype, tuple(shape))
        allocate(partial)
        yield array
        array.flush()
