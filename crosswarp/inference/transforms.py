"""What follows a registration: warped images and labels on the grids of the images themselves."""

from __future__ import annotations

import gzip
import shutil
from collections import defaultdict
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import monai.transforms
import SimpleITK as sitk
import torch
from monai.config import KeysCollection
from monai.data import MetaTensor
from monai.transforms import MapTransform
from monai.utils import MetaKeys, ensure_tuple_rep
from torch import Tensor

from ..data.frames import FRAMES, only_in
from ..files import replacing
from ..networks.prediction import Prediction, moving_to_fixed
from ..spatial import sample
from ..spatial.frame import Box, on_images, rearranged, see, slabs
from ..spatial.grid import Grid
from ..spatial.hdf5 import remove_times
from ..spatial.physical import PhysicalMap
from ..spatial.simpleitk import displacement_image, simpleitk_transforms
from .results import file_stem

TRANSFORM_SUFFIXES = (".h5", ".tfm")
DISPLACEMENT_SUFFIXES = (".nii.gz", ".mha", ".nrrd", None)


def on_grid_of(image: Tensor, reference: MetaTensor, name: str | None = None) -> MetaTensor:
    """Give an image ``[C, *spatial]`` the affine of a reference with the same grid.

    Args:
        image: ``[C, *spatial]``.
        reference: ``[C, *spatial]``.
        name: what results are named after; None for the reference's file. It gets a suffix for MONAI's
            ``SaveImage`` to cut off, which would otherwise take what follows a dot for one.
    """
    meta = dict(reference.meta)
    if (name := name or meta.get("filename_or_obj")) is not None:
        meta["filename_or_obj"] = f"{file_stem(name)}.nii.gz"
    return MetaTensor(image, meta=meta)


def frames_of(data: Mapping[Hashable, Any], frames: Sequence[str], images: Sequence[Hashable]) -> list[Grid]:
    """Return the frames in which the network sees images; an image that has none is its own.

    Args:
        data: the item.
        frames: the images as the network sees them.
        images: the images.
    """
    return [Grid.of(data[f if f in data else i]) for f, i in zip(frames, images, strict=True)]


def shown_box(data: Mapping[Hashable, Any], frame: str) -> Box:
    """Return the part of an image that shows something, as its frame has kept it; else the whole image."""
    ends = getattr(data.get(frame), "meta", {}).get("shown", [])
    return tuple(slice(int(start), int(stop)) for start, stop in ends)


def pair_name(moving: MetaTensor, fixed: MetaTensor) -> str:
    """What the results of a pair are named after: one image may be warped onto many."""
    return "_to_".join(file_stem(image.meta["filename_or_obj"]) for image in (moving, fixed))


class ExtentOfd(MapTransform):
    """Add the affine from fractions of an image to mm in LPS, float32 ``[D + 1, D + 1]``.

    Args:
        keys: images ``[C, *spatial]``.
        names: where the affines are put, one for each key.
    """

    def __init__(self, keys: KeysCollection, names: KeysCollection) -> None:
        super().__init__(keys)
        self.names = ensure_tuple_rep(names, len(self.keys))

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the affines to an item."""
        result = dict(data)
        for key, name in self.key_iterator(result, self.names):
            result[name] = torch.as_tensor(Grid.of(result[key]).extent, dtype=torch.float32)
        return result


class WarpMovingd(MapTransform):
    """Warp moving images onto the fixed image's own grid, as ``warped_<key>``.

    The map comes between the frames in which the network sees the two images. Beyond the fixed image's frame
    it goes on as the transforms do, see :func:`~crosswarp.spatial.frame.on_images`. The result is named after
    both files, ``<moving>_to_<fixed>``.

    Args:
        keys: what to warp, each ``[C, *spatial]`` of any size; a key that an item lacks is left out.
        modes: ``"linear"`` or ``"nearest"``, for each key.
        map_key: the prediction ``[D + ..., *spatial]``; see :func:`~..networks.prediction.moving_to_fixed`.
        reference: the fixed image, whose grid and affine the result takes.
        frames: the moving and the fixed image as the network sees them.
    """

    def __init__(
        self,
        keys: KeysCollection,
        modes: Sequence[str] | str = "linear",
        map_key: str = "pred",
        reference: str = "fixed",
        frames: tuple[str, str] = FRAMES,
    ) -> None:
        super().__init__(keys, allow_missing_keys=True)
        self.modes = ensure_tuple_rep(modes, len(self.keys))
        self.map_key, self.reference, self.frames = map_key, reference, tuple(frames)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the warped images to an item."""
        result = dict(data)
        reference = result[self.reference]
        moving_frame, fixed_frame = frames_of(result, self.frames, (self.keys[0], self.reference))
        between_frames = moving_to_fixed(result[self.map_key])
        pieces: dict[Hashable, list[Tensor]] = defaultdict(list)
        for fixed in slabs(Grid.of(reference)):
            maps: dict[bytes, Tensor] = {}  # images on one grid, as an image and its label: read by one map
            for key, mode in self.key_iterator(result, self.modes):
                grid = Grid.of(result[key])
                place = grid.affine.tobytes() + bytes(str(grid.shape), "ascii")
                if place not in maps:
                    maps[place] = on_images(between_frames, fixed_frame, fixed, moving_frame, grid)
                phi = maps[place]
                moving = result[key].as_subclass(Tensor).to(phi.device)
                pieces[key].append(sample(moving[None], phi, mode)[0])
        for key, warped in pieces.items():
            name = f"{pair_name(result[key], reference)}.nii.gz"
            result[f"warped_{key}"] = on_grid_of(torch.cat(warped, 1), reference, name)
        return result


class SaveTransformsd(MapTransform):
    """Write the map of a pair as files that ITK, SimpleITK, ANTs and 3D Slicer read, in mm and LPS.

    ``<moving>_to_<fixed>_transform.h5`` is an ITK composite transform; it takes fixed points to moving ones,
    so it resamples the moving image onto the fixed, and carries points and contours of the fixed image to the
    moving. ``<moving>_to_<fixed>_inverse.h5`` does the reverse. ``<moving>_to_<fixed>_displacement.nii.gz``
    is the first as a displacement field on the grid of the fixed image's file.

    Args:
        keys: the moving and the fixed image, in this order.
        output_dir: folder for the files.
        map_key: the prediction ``[D + ..., *spatial]``; see :func:`~..networks.prediction.moving_to_fixed`.
        transform_suffix: ``".h5"``, or ``".tfm"`` for text.
        displacement_suffix: ``".nii.gz"``, ``".mha"`` or ``".nrrd"``; None for no displacement field.
        frames: the moving and the fixed image as the network sees them.
        names: which of ``"transform"`` and ``"inverse"`` to write.

    Raises:
        ValueError: for other suffixes.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        map_key: str = "pred",
        transform_suffix: str = ".h5",
        displacement_suffix: str | None = ".nii.gz",
        frames: tuple[str, str] = FRAMES,
        names: Sequence[str] = ("transform", "inverse"),
    ) -> None:
        super().__init__(keys)
        self.frames, self.names = tuple(frames), tuple(names)
        for suffix, known in (
            (transform_suffix, TRANSFORM_SUFFIXES),
            (displacement_suffix, DISPLACEMENT_SUFFIXES),
        ):
            if suffix not in known:
                raise ValueError(f"Expected a suffix of {known}, got {suffix!r}.")
        self.output_dir, self.map_key = Path(output_dir), map_key
        self.transform_suffix, self.displacement_suffix = transform_suffix, displacement_suffix

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the files; the item stays as it is."""
        result = dict(data)
        moving, fixed = (result[key] for key in self.keys)
        phi = moving_to_fixed(result[self.map_key])
        moving_frame, fixed_frame = frames_of(result, self.frames, self.keys)
        found = PhysicalMap.of(phi, fixed_frame, moving_frame, Grid.of(fixed), Grid.of(moving))
        forward, inverse = simpleitk_transforms(found)
        stem = pair_name(moving, fixed)
        for name, transform in (("transform", forward), ("inverse", inverse)):
            if name not in self.names:
                continue
            target = self.output_dir / f"{stem}_{name}{self.transform_suffix}"
            with replacing(target, self.transform_suffix) as path:
                sitk.WriteTransform(transform, str(path))
                if self.transform_suffix == ".h5":
                    remove_times(path)
        if self.displacement_suffix is not None:
            field = displacement_image(forward, Grid.of_file(fixed))
            target = self.output_dir / f"{stem}_displacement{self.displacement_suffix}"
            with replacing(target, self.displacement_suffix) as path:
                write = _write_packed if self.displacement_suffix == ".nii.gz" else sitk.WriteImage
                write(field, str(path))
        return result


def _write_packed(image: sitk.Image, path: str) -> None:
    """Write a NIfTI file, compressed as nibabel does it; SimpleITK takes longer, and it saves nothing."""
    with TemporaryDirectory(dir=Path(path).parent) as folder, open(path, "wb") as file:
        plain = Path(folder) / "image.nii"
        sitk.WriteImage(image, str(plain))
        with plain.open("rb") as content, gzip.GzipFile("", "wb", 1, file, mtime=0) as packed:
            shutil.copyfileobj(content, packed, 2**20)


def in_file_axes(image: MetaTensor) -> MetaTensor:
    """Bring an image ``[C, *spatial]`` to the axes of its file, where these are its own in another order."""
    found = rearranged(image.as_tensor(), Grid.of(image), Grid.of_file(image))
    if found is None or "original_affine" not in image.meta:
        return image
    return MetaTensor(found, meta={**image.meta, MetaKeys.AFFINE: image.meta["original_affine"]})


class SaveImaged(monai.transforms.SaveImaged):
    """MONAI's transform of this name; what it resamples to the axes of a file is put in their order instead.

    That is the same where axes are merely exchanged or turned round. Resampling a volume of 256³ voxels takes
    five seconds, and several times its memory.
    """

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the images; the item stays as it is."""
        result = dict(data)
        if self.saver.meta_kwargs["resample"]:
            result |= {key: in_file_axes(result[key]) for key in self.key_iterator(result)}
        super().__call__(result)
        return dict(data)


class PredictedLabelsd(MapTransform):
    """Take the predicted labels of both images out of a :class:`~..networks.Prediction`.

    Args:
        keys: the moving and the fixed image, in this order; ``<key>_label`` is added for each that has none
            yet, uint8 on its own grid.
        pred_key: the prediction ``[2D + 2K, *spatial]``.
        frames: the two images as the network sees them.
    """

    def __init__(
        self, keys: KeysCollection, pred_key: str = "pred", frames: tuple[str, str] = FRAMES
    ) -> None:
        super().__init__(keys)
        self.pred_key, self.frames = pred_key, tuple(frames)

    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Add the labels to an item."""
        result = dict(data)
        found = Prediction.of_item(result[self.pred_key])
        frames = frames_of(result, self.frames, self.keys)
        for key, name, frame, classes in zip(self.keys, self.frames, frames, found[2:], strict=True):
            if f"{key}_label" not in result:
                parts = [
                    see(classes[0], frame, slab).max(0, keepdim=True).indices.to(torch.uint8)
                    for slab in slabs(Grid.of(result[key]))
                ]
                labels = only_in(torch.cat(parts, 1), shown_box(result, name))
                result[f"{key}_label"] = on_grid_of(labels, result[key])
        return result
