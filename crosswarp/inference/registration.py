"""What a registrar gives back: images on the grids that came in, of the kinds that came in."""

from __future__ import annotations

import os
from functools import cached_property
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
from monai.data import MetaTensor
from monai.transforms import SaveImage, SpatialResample
from torch import Tensor

from ..data.frames import FRAMES
from ..networks import Prediction
from ..spatial.frame import see
from ..spatial.grid import Grid
from ..spatial.physical import itk_transforms
from .memory import alike
from .results import claim, file_stem, pair_results, segmentation_results
from .runner import Image, Item, Runner
from .save_quality import SaveQualityd
from .transforms import in_file_axes, on_grid_of


class Segmentation:
    """A segmented image; what lies on its grid is of its kind.

    Attributes:
        label: the likeliest class of every point, uint8, 0 for the background.
        probabilities: of each class, ``[K, *spatial]``, float32; of an ``itk.Image`` a vector image.
    """

    def __init__(self, runner: Runner, item: Item, probabilities: Tensor, image: Image) -> None:
        self._item, self._image, self._classes = item, image, probabilities
        found = runner.segmented(item, item["moving"], probabilities)
        self._label = own_grid(found["moving_label"], "nearest")

    @cached_property
    def label(self) -> Image:  # noqa: D102
        return alike(self._label, self._image)

    @cached_property
    def probabilities(self) -> Image:  # noqa: D102
        return _probabilities(self._classes, self._item, "moving", self._image)

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
        moving_to_fixed: the map ``[1, D, *spatial]`` between the frames in which the networks see the two
            images: normalised coordinates, pull-back (see :mod:`crosswarp.spatial`), axes as the config's
            preprocessing orders them.
        fixed_to_moving: the map of the other direction, which is nearly its inverse.
        transform: ``itk.CompositeTransform`` from points of the fixed image to points of the moving one, mm
            in LPS: it resamples the moving image onto the fixed, and its ``TransformPoint`` carries points
            and contours of the fixed image to the moving.
        inverse: its inverse.
        quality: verdict, reasons and measurements, by the config's ``quality_limits``: what
            :class:`~crosswarp.inference.save_quality.SaveQualityd` writes.
        verdict: ``"ok"``, ``"check"`` or ``"failed"``.
    """

    def __init__(self, runner: Runner, item: Item, moving: Image, fixed: Image) -> None:
        self._runner, self._item, self._images = runner, item, {"moving": moving, "fixed": fixed}
        self._prediction = Prediction.of_item(item["pred"].cpu())
        self._results = runner.postprocess(item)
        self.moving_to_fixed: Tensor = self._prediction.moving_to_fixed
        self.fixed_to_moving: Tensor = self._prediction.fixed_to_moving

    def _result(self, key: str, grid: str, mode: str = "nearest") -> Image:
        return alike(own_grid(self._results[key], mode), self._images[grid])

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
        found = self._prediction.moving_probabilities
        return _probabilities(found, self._item, "moving", self._images["moving"])

    @cached_property
    def fixed_probabilities(self) -> Image:  # noqa: D102
        found = self._prediction.fixed_probabilities
        return _probabilities(found, self._item, "fixed", self._images["fixed"])

    @cached_property
    def _transforms(self) -> tuple[Any, Any]:
        moving_frame, fixed_frame = (Grid.of(self._item[key]) for key in FRAMES)
        moving, fixed = (Grid.of(self._item[key]) for key in ("moving", "fixed"))
        return itk_transforms(self.moving_to_fixed, fixed_frame, moving_frame, fixed, moving)

    @property
    def transform(self) -> Any:  # noqa: D102
        return self._transforms[0]

    @property
    def inverse(self) -> Any:  # noqa: D102
        return self._transforms[1]

    @cached_property
    def quality(self) -> dict[str, Any]:  # noqa: D102
        return self._runner.component(SaveQualityd).measure(self._item)

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
        self._runner.postprocessing(Path(folder).absolute())(self._item)


def own_grid(image: MetaTensor, mode: str = "bilinear") -> MetaTensor:
    """Bring an image from the axes that the networks see to those it came with, as ``SaveImaged`` does."""
    grid = {"dst_affine": image.meta["original_affine"], "spatial_size": image.meta["spatial_shape"]}
    back = SpatialResample(mode=mode, padding_mode="border", align_corners=False, dtype=np.float64)
    return back(in_file_axes(image), **grid).to(image.dtype)  # type: ignore[return-value] # a MetaTensor stays one


def _probabilities(classes: Tensor, item: Item, key: str, image: Image) -> Image:
    """Class probabilities ``[1, K, *spatial]`` of a frame on the image's own grid, and of its kind."""
    own = item[key]
    seen = see(classes[0].cpu(), Grid.of(item[f"{key}_input"]), Grid.of(own))
    return alike(own_grid(on_grid_of(seen, own)), image)


def _source(item: Item, key: str, image: Image) -> str:
    """What an image is: its path, or its role and a digest in a folder that there is not."""
    if isinstance(image, (str, os.PathLike)):
        return os.path.abspath(image)
    loaded = item[key]
    content = [each.as_subclass(Tensor).contiguous().numpy().tobytes() for each in (loaded, loaded.affine)]
    return f"sha256:{sha256(b''.join(content)).hexdigest()}/{file_stem(loaded.meta['filename_or_obj'])}"
