"""A trained run in Python: segments and registers images in memory, as the run's config says.

What is computed, and how, stands in the ``configs/inference.json`` of the run. Its preprocessing, networks,
inferer and postprocessing are used as they are parsed, so a transform that is changed there is changed here;
``python -m crosswarp register`` runs the same file.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from monai.bundle import ConfigParser

from ..errors import plain_input_errors
from ..lock import one_writer
from ..release.verify import unpack
from ..runs.bundle import INFERENCE
from ..runs.config import check_ids, read_config, verbatim
from ..runs.published import warn_of_edits
from .registration import Registration, Segmentation
from .runner import MODALITIES, Image, Runner, SegmentedOnce


@plain_input_errors()
def load(
    models: str | os.PathLike[str],
    device: str | torch.device | None = None,
    trust: bool = False,
    **overrides: Any,
) -> Registrar:
    """Load a trained chain for use in Python.

    A zip is verified as ``python -m crosswarp verify`` does it, and unpacked to a temporary folder; what is
    refused there is refused here. Code inside a bundle is not run: the config's ``scripts`` are this library.
    A folder is taken to be your own: its config is evaluated as it is.

    Args:
        models: a run's folder, another trained bundle of the whole chain, or its zip.
        device: such as ``"cuda:1"``; as the config says if None, which is a GPU where there is one.
        trust: take a zip whatever it holds, and evaluate its config as it is: for what you made yourself,
            with components that verification does not know.
        overrides: ids of the bundle's ``configs/inference.json``, such as ``quality_limits``.

    Raises:
        FileNotFoundError: where there are no trained networks.
        ValueError: for a zip with faults (all of them), an id that the config does not have, a bundle of a
            single stage, and weights that do not fit the networks.

    Example:
        ``run`` is the folder of a trained run.

        >>> import crosswarp
        >>> registrar = crosswarp.load(run, device="cpu")
        >>> registrar
        Registrar(2D, 4 classes, source with 1 channel, target with 1 channel, cpu)
    """
    path, parser, unpacked = config_for(models, overrides, trust)
    warn_of_edits(path, INFERENCE)
    for identifier, value in overrides.items():
        parser[identifier] = value
    parser["bundle_root"] = verbatim(path)
    if device is not None:
        parser["device"] = str(device)
    registrar = Registrar(parser.get())
    registrar.unpacked = unpacked  # lives as long as the registrar
    return registrar


def config_for(
    models: str | os.PathLike[str], overrides: Iterable[str], trust: bool = False
) -> tuple[Path, ConfigParser, TemporaryDirectory[str] | None]:
    """The inference config of a trained chain, which has all ids that are to be overridden.

    Args:
        models: as for :func:`load`.
        overrides: ids.
        trust: take a zip whatever it holds.

    Returns:
        the chain's folder, its config, and what a zip was unpacked to.

    Raises:
        FileNotFoundError: where there are no trained networks.
        ValueError: for a zip with faults, and ids that the config does not have.
    """
    path = Path(models)
    unpacked = None
    if path.is_file():
        unpacked = TemporaryDirectory(prefix="crosswarp_")
        path = unpack(path, unpacked.name, trust)
    if not (path / INFERENCE).is_file():
        raise FileNotFoundError(
            f"Expected a trained run, bundle or zip in {models}, but there is no {INFERENCE}: correct the "
            "path, or train the chain with `python -m crosswarp train`."
        )
    parser = read_config(path / INFERENCE)
    check_ids(overrides, parser, str(path / INFERENCE))
    return path, parser, unpacked


class Registrar:
    """Segments images of two modalities and registers them; made by :func:`load`.

    An image may be a path, a numpy array, a tensor, a ``MetaTensor`` or an ``itk.Image``. What comes back on
    its grid comes as the same kind (for a path: a ``MetaTensor``), with the same place in space:

    - arrays and tensors are ``[*spatial]`` or ``[C, *spatial]``. The first spatial axis is x, left to right
      in a picture, the second y, downwards: what PIL and matplotlib show as ``[row, column]`` has to be
      transposed. Without an affine they are taken to lie as the networks see images, with the spacing of
      the config's ``moving_spacing`` and ``fixed_spacing`` (x first), or 1 mm;
    - a ``MetaTensor`` has an affine to mm in RAS, as MONAI and nibabel give it;
    - an ``itk.Image`` has its own geometry, which the results share.

    Args:
        config: an inference config of the chain.

    Raises:
        ValueError: for a config of another bundle, or weights that do not fit its networks.
    """

    unpacked: TemporaryDirectory[str] | None = None

    def __init__(self, config: Mapping[str, Any]) -> None:
        self.config = dict(config)
        self.modalities = (
            config.get("moving_modality", MODALITIES[0]),
            config.get("fixed_modality", MODALITIES[1]),
        )
        self._runners: dict[tuple[str, str], Runner] = {}
        first = self.runner(*self.modalities)
        self.device, self.spatial_dims = first.device, first.spatial_dims

    def __repr__(self) -> str:
        first = self.runner(*self.modalities)
        sizes = [first.parsed("num_classes"), *(first.channels[m] for m in MODALITIES)]
        channels = ", ".join(
            f"{modality} with {count} channel{'s' if count > 1 else ''}"
            for modality, count in zip(MODALITIES, sizes[1:], strict=True)
        )
        return f"Registrar({self.spatial_dims}D, {sizes[0]} classes, {channels}, {self.device})"

    def segment(self, image: Image, modality: str) -> Segmentation:
        """Segment an image with the network of its modality.

        Args:
            image: see :class:`Registrar`.
            modality: ``"source"`` or ``"target"``.

        Raises:
            ValueError: for an image that the network cannot take.
            FileNotFoundError: for a path without a file.

        Example:
            >>> import numpy as np
            >>> segmentation = registrar.segment(np.random.rand(40, 32), "source")
            >>> segmentation.label.shape, segmentation.label.dtype
            ((40, 32), dtype('uint8'))
            >>> segmentation.probabilities.shape
            (4, 40, 32)
        """
        runner = self.runner(modality, modality)
        item = runner.preprocess({"moving": image})
        probabilities = runner.segment(runner.network_input(item)[None], modality)
        return Segmentation(runner, item, probabilities, image)

    def register(
        self,
        moving: Image,
        fixed: Image,
        moving_modality: str = "source",
        fixed_modality: str = "target",
    ) -> Registration:
        """Segment two images and register the moving one to the fixed one.

        Args:
            moving: the image to warp; see :class:`Registrar`.
            fixed: the image to warp it to, of the same or another kind.
            moving_modality: ``"source"`` or ``"target"``.
            fixed_modality: ``"source"`` or ``"target"``, in any combination.

        Raises:
            ValueError: for images that the networks cannot take, with all faults of both.
            FileNotFoundError: for paths without a file.

        Example:
            >>> import torch
            >>> pair = registrar.register(torch.rand(24, 20), np.random.rand(40, 32))
            >>> pair.moving_label.shape  # on the moving image's grid, a tensor as that was
            torch.Size([24, 20])
            >>> pair.warped.shape, type(pair.warped).__name__  # on the fixed image's grid
            ((40, 32), 'ndarray')
            >>> pair.verdict in ("ok", "check", "failed")
            True
        """
        (result,) = self.register_pairs([(moving, fixed)], moving_modality, fixed_modality)
        return result

    def register_pairs(
        self,
        pairs: Iterable[tuple[Image, Image]],
        moving_modality: str = "source",
        fixed_modality: str = "target",
        batch_size: int = 1,
    ) -> Iterator[Registration]:
        """Register many pairs, one batch at a time, in their order.

        Pairs are taken from the iterable as they are needed, and nothing is kept of those that are done: any
        number fits into memory. An image that comes again in the same or the next batch, as the fixed one of
        an atlas does, is segmented once.

        Args:
            pairs: moving and fixed images; see :meth:`register`.
            moving_modality: of all moving images.
            fixed_modality: of all fixed images.
            batch_size: pairs that go through the networks at once.

        Yields:
            the result of each pair.

        Raises:
            ValueError: as :meth:`register` does, for a pair when it is reached.

        Example:
            >>> images = (np.random.rand(24, 20) for _ in range(5))
            >>> atlas = np.random.rand(40, 32)
            >>> results = registrar.register_pairs(((image, atlas) for image in images), batch_size=2)
            >>> len([result.warped_label for result in results])
            5
        """
        runner = self.runner(moving_modality, fixed_modality)
        network, remaining = SegmentedOnce(runner.network), iter(pairs)
        while batch := list(islice(remaining, batch_size)):
            items = [runner.preprocess({"moving": moving, "fixed": fixed}) for moving, fixed in batch]
            preds = runner.predict(items, network)
            for (moving, fixed), item, pred in zip(batch, items, preds, strict=True):
                yield Registration(runner, item | {"pred": pred}, moving, fixed)

    @plain_input_errors()
    def register_files(self) -> None:
        """Register the pairs of files that the config names, and write what its postprocessing writes.

        ``moving``, ``fixed``, ``output_dir`` and so on are ids of the config, to be given to :func:`load`.
        Its ``dataset`` and the batch size of its ``dataloader`` are used; ``evaluator``, ``handlers`` and
        ``run`` are for MONAI's own command line.

        Raises:
            FileNotFoundError: naming every missing file.
            BusyError: where another process registers a list of pairs into the same folder.
            ValueError: for files that cannot be registered: all faults at once, before anything is computed.
        """
        runner = self.runner(*self.modalities)
        dataset = runner.parsed("dataset")  # which claims its results
        with one_writer(runner.parsed("output_dir")):
            self._register_files(runner, dataset)

    def _register_files(self, runner: Runner, dataset: Any) -> None:
        network = SegmentedOnce(runner.network)
        size = runner.parser.get_parsed_content("dataloader#batch_size", default=1)
        postprocess = runner.parsed("postprocessing")
        for start in range(0, len(dataset), size):
            items = [dataset[number] for number in range(start, min(start + size, len(dataset)))]
            for item, pred in zip(items, runner.predict(items, network), strict=True):
                postprocess({**item, "pred": pred})

    def runner(self, moving: str, fixed: str) -> Runner:
        """The config at work on images of two modalities; all runners have the weights of the first.

        Args:
            moving: modality of the moving images.
            fixed: modality of the fixed images.

        Raises:
            ValueError: for another modality than ``"source"`` and ``"target"``.
        """
        if not {moving, fixed} <= set(MODALITIES):
            raise ValueError(f"Expected modalities 'source' or 'target', got {moving!r} and {fixed!r}.")
        if (moving, fixed) not in self._runners:
            ids = {"moving_modality": moving, "fixed_modality": fixed}
            shared = next(iter(self._runners.values()), None)
            self._runners[moving, fixed] = Runner(self.config | ids, shared)
        return self._runners[moving, fixed]
