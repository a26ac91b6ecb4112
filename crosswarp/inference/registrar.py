"""A trained run in Python: segments and registers images in memory, as the run's config says.

What is computed, and how, stands in the ``configs/inference.json`` of the run. Its preprocessing, networks,
inferer and postprocessing are used as they are parsed, so a transform that is changed there is changed here;
``python -m crosswarp register`` runs the same file.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping
from copy import deepcopy
from functools import cached_property
from hashlib import sha256
from itertools import islice, product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.engines import default_prepare_batch
from monai.transforms import Compose, LoadImaged, SaveImage, SpatialResample, allow_missing_keys_mode
from torch import Tensor

from ..data.readers import UnfitFileError
from ..errors import plain_input_errors
from ..networks import SegmentAndRegister
from ..release.verify import unpack
from ..runs.bundle import INFERENCE, load_weights
from ..runs.config import check_ids, read_config, verbatim
from ..spatial import identity_map, sample
from ..spatial.physical import itk_transforms
from .memory import InMemoryReader, alike
from .results import claim, file_stem, pair_results, segmentation_results
from .save_quality import SaveQualityd
from .transforms import on_grid_of

MODALITIES = ("source", "target")
PLACES = ("bundle_root", "dataset_dir", "output_dir")  # ids that are paths, in which `scripts.` names no code

# configs call the library by the name that it has in a bundle; a word of its own, not the end of a path
_LIBRARY = re.compile(r"(?<![\w./\\-])scripts\.(?=[a-z_])")
_WRITES = re.compile(r"[@%]output_dir\b")

# A path, a numpy array, a tensor, a MetaTensor or an itk.Image; what comes back is of the same kind.
Image = Any
Item = dict[Any, Any]


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
    for identifier, value in overrides.items():
        parser[identifier] = value
    parser["bundle_root"] = verbatim(path)
    if device is not None:
        parser["device"] = torch.device(device)
    registrar = Registrar(parser.get())
    registrar.unpacked = unpacked  # lives as long as the registrar
    return registrar


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
        root = __name__.partition(".")[0]
        self.config = _renamed(config, f"{root}.") | {key: config[key] for key in PLACES if key in config}
        needed = ("moving_modality", "preprocessing", "network", "inferer", "postprocessing", "checkpoint")
        missing = [key for key in needed if key not in self.config]
        if missing:
            raise ValueError(
                f"Expected the inference config of a whole chain, with {', '.join(missing)}: give the run's "
                "own folder or the zip of the meta bundle, not those of a single stage."
            )
        self._pipelines: dict[tuple[str, str], _Pipeline] = {}
        first = self._pipeline("source", "target")
        self.device, self.spatial_dims = first.device, first.spatial_dims

    def __repr__(self) -> str:
        first = self._pipeline("source", "target")
        sizes = [first.parser.get_parsed_content("num_classes"), *(first.channels[m] for m in MODALITIES)]
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
        pipeline = self._pipeline(modality, modality)
        item = pipeline.preprocess({"moving": image})
        network_input = item["image"][None, : pipeline.channels[modality]].as_subclass(Tensor)
        inferer = pipeline.parser.get_parsed_content("inferer")
        probabilities = inferer(network_input.to(self.device), pipeline.network.segment, modality)
        # as an image that is registered to itself by the identity: the config's transforms do the rest
        identity = identity_map(probabilities.shape[2:], probabilities.device)
        item["pred"] = torch.cat([identity, identity, probabilities, probabilities], 1)[0]
        return Segmentation(pipeline, item, image)

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
        pipeline = self._pipeline(moving_modality, fixed_modality)
        remaining = iter(pairs)
        while batch := list(islice(remaining, batch_size)):
            items = [pipeline.preprocess({"moving": moving, "fixed": fixed}) for moving, fixed in batch]
            preds = pipeline.predict(items)
            for (moving, fixed), item, pred in zip(batch, items, preds, strict=True):
                yield Registration(pipeline, item | {"pred": pred}, moving, fixed)

    def _pipeline(self, moving: str, fixed: str) -> _Pipeline:
        """The config for a pair of modalities; its networks share the weights of the first."""
        if not {moving, fixed} <= set(MODALITIES):
            raise ValueError(f"Expected modalities in {MODALITIES}, got {moving!r} and {fixed!r}.")
        if (moving, fixed) not in self._pipelines:
            ids = {"moving_modality": moving, "fixed_modality": fixed}
            shared = next(iter(self._pipelines.values()), None)
            self._pipelines[moving, fixed] = _Pipeline(self.config | ids, shared)
        return self._pipelines[moving, fixed]


class Segmentation:
    """A segmented image; what lies on its grid is of its kind.

    Attributes:
        label: the likeliest class of every point, uint8, 0 for the background.
        probabilities: of each class, ``[K, *spatial]``, float32; of an ``itk.Image`` a vector image.
    """

    def __init__(self, pipeline: _Pipeline, item: Item, image: Image) -> None:
        self._item, self._image, self._classes = item, image, pipeline.split(item)["moving_probabilities"]
        self._label = own_grid(pipeline.postprocess(item)["moving_label"], "nearest")

    @cached_property
    def label(self) -> Image:  # noqa: D102
        return alike(self._label, self._image)

    @cached_property
    def probabilities(self) -> Image:  # noqa: D102
        return alike(own_grid(_on_grid_of(self._classes, self._item["moving"])), self._image)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the label as ``<image>_seg.nii.gz``; an image that came without a file is ``image``.

        Raises:
            ValueError: where a file of this name is in the folder that is not of this image.
        """
        folder = Path(folder).absolute()
        claim(folder, [segmentation_results(_source(self._item, "moving", self._image))])
        SaveImage(folder, output_postfix="seg", separate_folder=False, print_log=False, output_dtype="uint8")(
            self._label
        )


class Registration:
    """A registered pair. What lies on the fixed image's grid is of its kind; the same for the moving image.

    Attributes:
        warped: the moving image on the fixed image's grid.
        warped_label: the moving image's predicted label on the fixed image's grid, uint8.
        moving_label: predicted label of the moving image on its grid, uint8.
        fixed_label: predicted label of the fixed image on its grid, uint8.
        moving_probabilities: of each class on the moving image's grid, ``[K, *spatial]``, float32.
        fixed_probabilities: of each class on the fixed image's grid, ``[K, *spatial]``, float32.
        moving_to_fixed: the map ``[1, D, *spatial]`` on the networks' grid: normalised coordinates, pull-back
            (see :mod:`crosswarp.spatial`), axes as the config's preprocessing orders them.
        fixed_to_moving: the map of the other direction, which is nearly its inverse.
        transform: ``itk.CompositeTransform`` from points of the fixed image to points of the moving one, mm
            in LPS: it resamples the moving image onto the fixed, and its ``TransformPoint`` carries points
            and contours of the fixed image to the moving.
        inverse: its inverse.
        quality: verdict, reasons and measurements, by the config's ``quality_limits``: what
            :class:`~crosswarp.inference.save_quality.SaveQualityd` writes.
        verdict: ``"ok"``, ``"check"`` or ``"failed"``.
    """

    def __init__(self, pipeline: _Pipeline, item: Item, moving: Image, fixed: Image) -> None:
        self._pipeline, self._item, self._images = pipeline, item, {"moving": moving, "fixed": fixed}
        self._parts = pipeline.split(item)
        self._results = pipeline.postprocess(item)
        self.moving_to_fixed: Tensor = self._parts["moving_to_fixed"]
        self.fixed_to_moving: Tensor = self._parts["fixed_to_moving"]

    def _result(self, key: str, grid: str, mode: str = "nearest") -> Image:
        return alike(own_grid(self._results[key], mode), self._images[grid])

    def _probabilities(self, key: str) -> Image:
        classes = _on_grid_of(self._parts[f"{key}_probabilities"], self._item[key])
        return alike(own_grid(classes), self._images[key])

    @cached_property
    def warped(self) -> Image:  # noqa: D102
        return self._result("warped_moving", "fixed", "bilinear")

    @cached_property
    def warped_label(self) -> Image:  # noqa: D102
        return self._result("warped_moving_label", "fixed")

    @cached_property
    def moving_label(self) -> Image:  # noqa: D102
        return self._result("moving_label", "moving")

    @cached_property
    def fixed_label(self) -> Image:  # noqa: D102
        return self._result("fixed_label", "fixed")

    @cached_property
    def moving_probabilities(self) -> Image:  # noqa: D102
        return self._probabilities("moving")

    @cached_property
    def fixed_probabilities(self) -> Image:  # noqa: D102
        return self._probabilities("fixed")

    @cached_property
    def _transforms(self) -> tuple[Any, Any]:
        moving, fixed = self._item["moving"], self._item["fixed"]
        grids = fixed.affine, fixed.shape[1:], moving.affine, moving.shape[1:]
        return itk_transforms(self.moving_to_fixed, *grids)

    @property
    def transform(self) -> Any:  # noqa: D102
        return self._transforms[0]

    @property
    def inverse(self) -> Any:  # noqa: D102
        return self._transforms[1]

    @cached_property
    def quality(self) -> dict[str, Any]:  # noqa: D102
        return self._pipeline.component(SaveQualityd).measure(self._item)

    @property
    def verdict(self) -> str:  # noqa: D102
        return self.quality["verdict"]

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the files that ``python -m crosswarp register`` writes.

        They are named after the images' files, ``<moving>_to_<fixed>_warped.nii.gz`` and so on; images that
        came without a file are called ``moving`` and ``fixed``, so give each pair of those a folder.

        Raises:
            ValueError: where files of these names are in the folder that are not of this pair.
        """
        record = {key: _source(self._item, key, image) for key, image in self._images.items()}
        claim(Path(folder), [pair_results(record)])
        self._pipeline.postprocessing(Path(folder).absolute())(self._item)


class _Remembered:
    """The segmentation of a network, which computes nothing anew for images of the last two calls.

    Two, since moving and fixed images of one batch may be of one modality.

    Args:
        network: its ``segment`` is used.
    """

    def __init__(self, network: SegmentAndRegister) -> None:
        self.segment = network.segment
        # by modality and call: class probabilities by the image's digest
        self.calls: dict[str, deque[dict[bytes, Tensor]]] = {name: deque(maxlen=2) for name in MODALITIES}

    @torch.no_grad()
    def __call__(self, image: Tensor, modality: str) -> Tensor:
        """Class probabilities ``[B, K, *spatial]`` of images ``[B, C, *spatial]``."""
        keys = [sha256(each.cpu().contiguous().numpy().tobytes()).digest() for each in image]
        known = {key: found for call in self.calls[modality] for key, found in call.items()}
        fresh = {key: each for key, each in zip(keys, image, strict=True) if key not in known}
        if fresh:
            found = self.segment(torch.stack(list(fresh.values())), modality)
            known |= zip(fresh, found, strict=True)
        self.calls[modality].append({key: known[key] for key in keys})
        return torch.stack([known[key] for key in keys])


class _Pipeline:
    """An inference config with its modalities set, parsed.

    Args:
        config: of the whole chain.
        shared: a pipeline whose weights to take instead of reading them.
    """

    def __init__(self, config: dict[str, Any], shared: _Pipeline | None = None) -> None:
        self.config = config
        self.parser = ConfigParser(deepcopy(config))
        parsed = self.parser.get_parsed_content
        self.modalities = (config["moving_modality"], config["fixed_modality"])
        self.device = torch.device(parsed("device"))
        self.spatial_dims: int = parsed("spatial_dims")
        self.channels = {modality: parsed(f"{modality}_channels") for modality in MODALITIES}
        self.network = parsed("network")
        if not isinstance(self.network, SegmentAndRegister):
            raise ValueError(
                f"Expected a network that is a SegmentAndRegister, got {type(self.network).__name__}."
            )
        if shared is None:
            load_weights(self.network, parsed("checkpoint"))
        else:
            self.network.load_state_dict(shared.network.state_dict(), assign=True)
        self.network.eval().requires_grad_(False)
        self.network.segment = _Remembered(self.network)  # type: ignore[method-assign] # forward calls it
        self.transforms = parsed("preprocessing").transforms
        self.postprocess = self.postprocessing()

    @plain_input_errors()
    def preprocess(self, images: dict[str, Image]) -> Item:
        """Run the config's preprocessing, its loaders on files and images in memory alike.

        Args:
            images: ``moving`` and ``fixed``; without the second, the moving image stands for both.

        Raises:
            ValueError: naming all faults of the images.
            FileNotFoundError: naming all missing files.
        """
        paths = {k: str(Path(v).absolute()) for k, v in images.items() if isinstance(v, (str, os.PathLike))}
        missing = [path for path in paths.values() if not Path(path).exists()]
        if missing:
            raise FileNotFoundError("Expected files that are not there: " + ", ".join(missing))
        name = "image" if len(images) == 1 else None
        readers: dict[str, InMemoryReader | None] = dict.fromkeys(paths)
        faults = []
        for key in images.keys() - paths.keys():
            try:
                spacing = self.parser.get_parsed_content(f"{key}_spacing", default=None)
                readers[key] = InMemoryReader(images[key], self.spatial_dims, spacing)
            except ValueError as error:
                faults.append(f"{key}: {error}")
        item: Item = {}
        loaders = [transform for transform in self.transforms if isinstance(transform, LoadImaged)]
        for loader, (key, reader) in product(loaders, readers.items()):
            if key in loader.keys:
                try:
                    with allow_missing_keys_mode(loader):
                        item |= loader({key: paths.get(key, name or key)}, reader)
                except UnfitFileError as error:
                    faults.append(str(error))
        for key, modality in zip(images, self.modalities, strict=False):
            faults += self._faults(key, item.get(key), modality)
        if faults:
            raise ValueError("\n".join(sorted(faults)))
        item = {"fixed": item["moving"], **item}
        return Compose([transform for transform in self.transforms if transform not in loaders])(item)

    @torch.no_grad()
    def predict(self, items: list[Item]) -> Tensor:
        """What the config's network makes of a batch, through its inferer, as in MONAI's evaluator."""
        batch = {
            key: torch.stack([item[key].as_subclass(Tensor) for item in items])
            for key, value in items[0].items()
            if isinstance(value, Tensor) and len({item[key].shape for item in items}) == 1
        }
        prepare = default_prepare_batch
        if "prepare_batch" in self.parser:
            prepare = self.parser.get_parsed_content("prepare_batch")
        image, _, *more = prepare(batch, self.device, False)
        args, kwargs = more if more else ((), {})
        return self.parser.get_parsed_content("inferer")(image, self.network, *args, **kwargs)

    def _faults(self, key: str, image: MetaTensor | None, modality: str) -> list[str]:
        """What keeps a loaded image from going into the network of its modality."""
        if image is None:
            return []
        if image.ndim != self.spatial_dims + 1:
            return [f"{key}: Expected a {self.spatial_dims}D image, got the size {list(image.shape[1:])}."]
        faults = []
        if len(image) != self.channels[modality]:
            faults.append(
                f"{key}: Expected an image of the {modality} with {self.channels[modality]} channels, got "
                f"{len(image)}."
            )
        if not torch.isfinite(image.as_subclass(Tensor)).all():
            faults.append(f"{key}: Expected finite intensities, got NaN or infinity: replace them.")
        elif image.min() == image.max():
            faults.append(f"{key}: Expected an image, got {image.min().item():g} at every point.")
        return faults

    def component(self, kind: type) -> Any:
        """The transform of a class in the config's postprocessing, as the config makes it.

        Raises:
            ValueError: where it has none.
        """
        for number, transform in enumerate(self.config["postprocessing"]["transforms"]):
            if isinstance(transform, dict) and transform.get("_target_", "").endswith(f".{kind.__name__}"):
                return self.parser.get_parsed_content(f"postprocessing#transforms#{number}")
        raise ValueError(f"Expected a {kind.__name__} in the config's postprocessing, which it has none of.")

    def split(self, item: Item) -> dict[str, Tensor]:
        """The parts of a prediction, each ``[1, C, *spatial]``, float32, on the CPU."""
        return self.network.split(item["pred"][None].as_subclass(Tensor).float().cpu())

    def postprocessing(self, folder: Path | None = None) -> Callable[[Item], Item]:
        """The config's postprocessing.

        Args:
            folder: where its transforms write. Without one, those that refer to ``output_dir`` are left out.
        """
        config = deepcopy(self.config) | {"output_dir": verbatim(folder)}
        if folder is None:
            post = config["postprocessing"]
            post["transforms"] = [t for t in post["transforms"] if not _WRITES.search(str(t))]
        return ConfigParser(config).get_parsed_content("postprocessing")


def own_grid(image: MetaTensor, mode: str = "bilinear") -> MetaTensor:
    """Bring an image from the axes that the networks see to those it came with, as ``SaveImaged`` does."""
    grid = {"dst_affine": image.meta["original_affine"], "spatial_size": image.meta["spatial_shape"]}
    back = SpatialResample(mode=mode, padding_mode="border", align_corners=False, dtype=np.float64)
    return back(image, **grid).to(image.dtype)  # type: ignore[return-value] # a MetaTensor stays one


def _on_grid_of(probabilities: Tensor, image: MetaTensor) -> MetaTensor:
    return on_grid_of(sample(probabilities, identity_map(image.shape[1:]))[0], image)


def _source(item: Item, key: str, image: Image) -> str:
    """What an image is: its path, or its role and a digest in a folder that there is not."""
    if isinstance(image, (str, os.PathLike)):
        return os.path.abspath(image)
    loaded = item[key]
    content = [each.as_subclass(Tensor).contiguous().numpy().tobytes() for each in (loaded, loaded.affine)]
    return f"sha256:{sha256(b''.join(content)).hexdigest()}/{file_stem(loaded.meta['filename_or_obj'])}"


def _renamed(content: Any, library: str) -> Any:
    """A config whose ``scripts.`` are the library itself, by whatever name it was imported."""
    if isinstance(content, Mapping):
        return {key: _renamed(value, library) for key, value in content.items()}
    if isinstance(content, list):
        return [_renamed(value, library) for value in content]
    return _LIBRARY.sub(library, content) if isinstance(content, str) else content
