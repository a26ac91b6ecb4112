"""The augmentation cache: labelled images registered onto others, computed once and kept on disk."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
from monai.networks.utils import one_hot
from numpy.lib.format import open_memmap
from torch import Tensor, nn

from ..data.batches import collect_samples, pair_numbers
from ..disk import allocate
from ..kept import GoneError, check, keeping, whole
from ..losses import LNCCLoss
from ..spatial import fold_fraction, sample
from ..terminal import track

FILES = ("image.npy", "label.npy", "index.json")
AGAIN = "run the stage source_segmentation, or the whole chain, which makes it anew"


class AugmentedSamples(Mapping[str, Tensor]):
    """Every labelled image, and its label, warped onto other images of its modality by a network.

    A mapping of memory-mapped tensors, ready for ``RandomBatches``: ``image`` ``[N, C, *spatial]`` float16
    and ``label`` ``[N, 1, *spatial]`` uint8. The labelled originals come first. Memory does not grow with the
    number of pairs. The samples are written when the folder does not hold them yet, in one direction and
    without any loss but the score.

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
        if not all([whole(self.folder / name) for name in FILES]):
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
        with (
            mapped(self.folder / "image.npy", np.float16, shapes[0]) as images,
            mapped(self.folder / "label.npy", np.uint8, shapes[1]) as labels,
        ):
            for number, (image, label) in enumerate(
                zip(moving["image"].tensors, moving["label"].tensors, strict=True)
            ):
                images[number], labels[number] = image.numpy(), label.numpy()
            batches = pairs.split(batch_size) if len(pairs) else ()
            warped = images[count:], labels[count:]
            similarity, folds = _warp(network, moving, fixed, batches, num_classes, warped)
        threshold = np.quantile(similarity, 1 - keep) if similarity else 0.0
        index = [
            {"moving": m, "fixed": f, "similarity": s, "folds": d, "kept": bool(s >= threshold and d <= 0.01)}
            for (m, f), s, d in zip(pairs.tolist(), similarity, folds, strict=True)
        ]
        files = []
        if moving.files and fixed_files:
            files = moving.files + [
                f"{moving.files[m]} warped onto {fixed_files[f]}" for m, f in pairs.tolist()
            ]
        with keeping(self.folder / "index.json") as partial:  # an index means that all is written
            partial.write_text(json.dumps({"originals": count, "pairs": index, "files": files}))


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
    similarity: list[float] = []
    folds: list[float] = []
    network.eval()
    done = 0
    with torch.inference_mode():
        for batch in track(batches, "registering pairs"):
            source = moving["image"][batch[:, 0]].to(device).float()
            target = fixed[batch[:, 1]].to(device).float()
            phi = network(torch.cat([source, target], dim=1))
            image = sample(source, phi)
            onehot = one_hot(moving["label"][batch[:, 0]].to(device), num_classes)
            end = done + len(batch)
            warped[0][done:end] = image.cpu().numpy()
            warped[1][done:end] = sample(onehot, phi).argmax(1, keepdim=True).cpu().numpy()
            similarity += (1 - score(image, target)).tolist()
            folds += fold_fraction(phi).tolist()
            done = end
    return similarity, folds


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
