"""An inference config at work: the one way from images to a prediction.

The command line, Python, the evaluation and the label server all prepare images, run the network through its
inferer and go on with the result by what is here. ``python -m monai.bundle run`` does the same with the same
components in MONAI's evaluator.
"""

from __future__ import annotations

import os
import re
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from copy import deepcopy
from hashlib import sha256
from itertools import product
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from monai.data import MetaTensor
from monai.engines import default_prepare_batch
from monai.transforms import Compose, LoadImaged, allow_missing_keys_mode
from torch import Tensor, nn

from ..data.frames import FRAMES
from ..data.readers import UnfitFileError
from ..errors import plain_input_errors
from ..networks import Prediction, SegmentAndRegister
from ..runs.bundle import load_weights
from ..runs.config import verbatim
from ..spatial import as_float32
from .memory import InMemoryReader
from .results import only

MODALITIES = ("source", "target")
NEEDED = (
    *(f"{modality}_channels" for modality in MODALITIES),
    *("preprocessing", "network", "inferer", "postprocessing", "checkpoint"),
)
PLACES = ("bundle_root", "dataset_dir", "output_dir")  # ids that are paths, in which `scripts.` names no code

# configs call the library by the name that it has in a bundle; a word of its own, not the end of a path
_LIBRARY = re.compile(r"(?<![\w./\\-])scripts\.(?=[a-z_])")
_WRITES = re.compile(r"[@%]output_dir\b")

Image = Any  # a path, a numpy array, a tensor, a MetaTensor or an itk.Image
Item = dict[Any, Any]


def predict(
    parser: ConfigParser, network: nn.Module, items: Sequence[Item], device: torch.device | str
) -> Tensor:
    """Run a network on prepared pairs, through the ``inferer`` and ``prepare_batch`` of its config.

    Args:
        parser: the inference config.
        network: in evaluation mode, on the device.
        items: what the config's preprocessing makes of each pair.
        device: where to compute.

    Returns:
        the packed :class:`~..networks.Prediction`, ``[B, 2 * D + 2 * K, *spatial]``.
    """
    batch = {
        # of a single pair, views: its images on their own grids are large
        key: torch.stack([item[key].as_subclass(Tensor) for item in items])
        if len(items) > 1
        else value.as_subclass(Tensor)[None]
        for key, value in items[0].items()
        if isinstance(value, Tensor) and len({item[key].shape for item in items}) == 1
    }
    prepare = default_prepare_batch
    if "prepare_batch" in parser:
        prepare = parser.get_parsed_content("prepare_batch")
    image, _, *more = prepare(batch, device, False)
    args, kwargs = more if more else ((), {})
    with torch.no_grad():
        return parser.get_parsed_content("inferer")(image, network, *args, **kwargs)


class SegmentedOnce(nn.Module):
    """A network for pairs in which images come again, as an atlas does: none is segmented twice.

    Args:
        network: segments and registers.
        calls: so many of which are kept. Two at least, since moving and fixed images of one batch may be of
            one modality.

    Attributes:
        kept: by modality, class probabilities ``[K, *spatial]`` by an image's digest, of the last calls.
    """

    def __init__(self, network: SegmentAndRegister, calls: int = 2) -> None:
        super().__init__()
        self.network = network
        self.kept: dict[str, deque[dict[bytes, Tensor]]] = {name: deque(maxlen=calls) for name in MODALITIES}

    def keep(self, images: Sequence[Tensor], modality: str, probabilities: Sequence[Tensor]) -> None:
        """Keep what is known of images ``[C, *spatial]``: class probabilities ``[K, *spatial]``."""
        self.kept[modality].append(dict(zip(map(_digest, images), probabilities, strict=True)))

    def segment(self, image: Tensor, modality: str) -> Tensor:
        """Return the class probabilities ``[B, K, *spatial]`` of images ``[B, C, *spatial]``."""
        keys = [_digest(each) for each in image]
        known = {key: found for call in self.kept[modality] for key, found in call.items()}
        fresh = {key: each for key, each in zip(keys, image, strict=True) if key not in known}
        if fresh:
            known |= zip(
                fresh, self.network.segment(torch.stack(list(fresh.values())), modality), strict=True
            )
        self.kept[modality].append({key: known[key] for key in keys})
        return torch.stack([known[key].to(image.device) for key in keys])

    def forward(
        self,
        image: Tensor,
        moving_extent: Tensor | None = None,
        fixed_extent: Tensor | None = None,
    ) -> Tensor:
        """Do what the network does; see :meth:`~..networks.SegmentAndRegister.forward`."""
        moving, fixed = self.network.images(image)
        segmented = self.segment(moving, self.network.moving), self.segment(fixed, self.network.fixed)
        return self.network.predict(*segmented, moving_extent, fixed_extent)


class Runner:
    """The inference config of a chain for images of two modalities.

    Args:
        config: of the whole chain, its modalities set. Its ``scripts`` are this library.
        shared: a runner whose weights to take instead of reading them.

    Raises:
        ValueError: for a config of another bundle.
    """

    def __init__(self, config: Mapping[str, Any], shared: Runner | None = None) -> None:
        library = f"{__name__.partition('.')[0]}."
        self.config = renamed(config, library) | {key: config[key] for key in PLACES if key in config}
        if missing := [key for key in NEEDED if key not in config]:
            raise ValueError(
                f"Expected the inference config of a whole chain, with {', '.join(missing)}: give the run's "
                "own folder or the zip of the meta bundle, not those of a single stage."
            )
        self.parser = ConfigParser(deepcopy(self.config))
        self.modalities = (config["moving_modality"], config["fixed_modality"])
        self.device = torch.device(self.parsed("device"))
        self.spatial_dims: int = self.parsed("spatial_dims")
        self.channels = {modality: self.parsed(f"{modality}_channels") for modality in MODALITIES}
        self.network = self._network(shared)
        self.transforms = self.parsed("preprocessing").transforms
        self.postprocess = self.postprocessing()

    def parsed(self, identifier: str) -> Any:
        """What an id of the config stands for."""
        return self.parser.get_parsed_content(identifier)

    def _network(self, shared: Runner | None) -> SegmentAndRegister:
        network = self.parsed("network")
        if not isinstance(network, SegmentAndRegister):
            raise ValueError(
                f"Expected a network that is a SegmentAndRegister, got {type(network).__name__}."
            )
        if shared is None:
            load_weights(network, self.parsed("checkpoint"))
        else:
            network.load_state_dict(shared.network.state_dict(), assign=True)
        return network.eval().requires_grad_(False)

    @plain_input_errors()
    def preprocess(self, images: Mapping[str, Image], side: str | None = None) -> Item:
        """Run the config's preprocessing, its loaders on files and images in memory alike.

        Args:
            images: ``moving`` and ``fixed``; a single one stands for both.
            side: of the person, ``"left"`` or ``"right"``, that a single one shows, where it is known.

        Raises:
            ValueError: naming all faults of the images.
            FileNotFoundError: naming all missing files.
        """
        item = self._loaded(images)
        if len(images) == 1:
            (alone,) = images
            item = dict.fromkeys(("moving", "fixed"), item[alone]) | {"alone": alone}
            item |= {f"{name}_side": side for name in FRAMES if side is not None}
        return self._after_loading()(item)

    @plain_input_errors()
    def preprocess_one(self, image: Image, key: str, **said: str) -> Item:
        """Run what :meth:`preprocess` does on one image of a pair, for any number of :meth:`pair`.

        Args:
            image: as for :meth:`preprocess`.
            key: ``"moving"`` or ``"fixed"``.
            said: of the image, such as ``moving_pose`` and ``moving_input_side``.
        """
        transforms = self._after_loading()
        with allow_missing_keys_mode(transforms):
            return transforms(self._loaded({key: image}) | said)

    def _after_loading(self) -> Compose:
        return Compose([each for each in self.transforms if not isinstance(each, LoadImaged)])

    def _loaded(self, images: Mapping[str, Image]) -> Item:
        """Load images, each under its key."""
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
        for key, modality in zip(("moving", "fixed"), self.modalities, strict=True):
            faults += self._faults(key, item.get(key), modality)
        if faults:
            raise ValueError("\n".join(sorted(faults)))
        return item

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

    def prepare(self, image: Image, key: str, side: str | None = None) -> Item:
        """Prepare a single image, for any number of pairs; see :meth:`pair`.

        Args:
            image: as for :meth:`preprocess`.
            key: what it will be in pairs, ``"moving"`` or ``"fixed"``.
            side: see :meth:`preprocess`.

        Returns:
            what :meth:`preprocess` makes of it, without the image on its own grid; ``image`` is what the
            network is given of it, ``[C, *spatial]``.
        """
        keys = ("moving", "fixed")
        item, other = self.preprocess({key: image}, side), keys[1 - keys.index(key)]
        own = {name: value for name, value in item.items() if name != key and not str(name).startswith(other)}
        return own | {"image": self.network_input(item, keys.index(key))}

    def pair(self, moving: Item, fixed: Item) -> Item:
        """Put a pair together from two images that were prepared as its moving and its fixed one.

        Args:
            moving: of :meth:`prepare` or :meth:`preprocess_one`.
            fixed: the same.
        """
        images = [item["image"].as_subclass(Tensor) for item in (moving, fixed)]
        return {**fixed, **moving, "image": torch.cat(images)}

    def network_input(self, item: Item, place: int = 0) -> MetaTensor:
        """What the network is given of the image of an item that stands for both, ``[C, *spatial]``."""
        channels = self.channels[self.modalities[place]]
        own, image = item[FRAMES[place]], item["image"].as_subclass(Tensor)
        return MetaTensor(image[:channels] if place == 0 else image[-channels:], meta=own.meta)

    def segment(self, image: Tensor, modality: str) -> Tensor:
        """Segment images as the network does it before it registers them, through the config's inferer.

        Args:
            image: what the network is given of them, ``[B, C, *spatial]``.
            modality: ``"source"`` or ``"target"``.

        Returns:
            class probabilities ``[B, K, *spatial]``.
        """
        with torch.no_grad():
            plain = image.as_subclass(Tensor).to(self.device)
            return self.parsed("inferer")(plain, self.network.segment, modality)

    def segmented(self, item: Item, image: MetaTensor, probabilities: Tensor) -> Item:
        """Run the config's postprocessing on an image alone, as if it was registered to itself.

        Args:
            item: what :meth:`preprocess` makes of it.
            image: ``[C, *spatial]``, on whose grid the results are to be.
            probabilities: of each class, ``[1, K, *spatial]``.
        """
        pred = Prediction.of_image(probabilities).packed()[0]
        seen = item["moving_input"] if "moving_input" in item else item["fixed_input"]
        both = {"moving": image, "fixed": image, "moving_input": seen, "fixed_input": seen}
        return self.postprocess({**item, **both, "pred": pred})

    def predict(self, items: Sequence[Item], network: nn.Module | None = None) -> Tensor:
        """Return what the network finds of pairs, packed; see :func:`predict`.

        Args:
            items: of :meth:`preprocess`, or :meth:`pair`.
            network: in place of the config's, such as :class:`SegmentedOnce` of it.
        """
        return predict(self.parser, self.network if network is None else network, items, self.device)

    def component(self, kind: type) -> Any:
        """Return the transform of a class in the config's postprocessing, as the config makes it.

        Raises:
            ValueError: where it has none.
        """
        for number, transform in enumerate(self.config["postprocessing"]["transforms"]):
            if isinstance(transform, dict) and transform.get("_target_", "").endswith(f".{kind.__name__}"):
                return self.parsed(f"postprocessing#transforms#{number}")
        raise ValueError(f"Expected a {kind.__name__} in the config's postprocessing, which it has none of.")

    def postprocessing(
        self, folder: Path | None = None, files: Sequence[str] | None = None
    ) -> Callable[[Item], Item]:
        """Return the config's postprocessing.

        Args:
            folder: where its transforms write. Without one, those that refer to ``output_dir`` are left out.
            files: what of :data:`~.results.FILES` they write; None for all.
        """
        config = deepcopy(self.config) | {"output_dir": verbatim(folder)}
        post = config["postprocessing"]
        if files is not None:
            post["transforms"] = only(post["transforms"], files)
        if folder is None:
            post["transforms"] = [t for t in post["transforms"] if not _WRITES.search(str(t))]
        for name in set(re.findall(r"@(\w+)", str(post["transforms"]))):
            if isinstance(config.get(name), Mapping) and "_target_" in config[name]:
                found = self.parsed(name)
                if isinstance(found, nn.Module):  # it has the weights; another of its kind would have none
                    config[name] = found
        return ConfigParser(config).get_parsed_content("postprocessing")


def turned(item: Mapping[Any, Any]) -> Item:
    """Return an image that was prepared as a pair's moving one as its fixed one, or the reverse."""
    other = {"moving": "fixed", "fixed": "moving"}
    return {re.sub("^(moving|fixed)", lambda name: other[name[0]], str(key)): item[key] for key in item}


def renamed(content: Any, library: str) -> Any:
    """Return a config whose ``scripts.`` are the library itself, by whatever name it was imported."""
    if isinstance(content, Mapping):
        return {key: renamed(value, library) for key, value in content.items()}
    if isinstance(content, list):
        return [renamed(value, library) for value in content]
    return _LIBRARY.sub(library, content) if isinstance(content, str) else content


def _digest(image: Tensor) -> bytes:
    return sha256(as_float32(image).cpu().contiguous().numpy().tobytes()).digest()
