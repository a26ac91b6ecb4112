"""Segmentation of both modalities and registration of the two label maps, as one network."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from ..spatial import as_float32, compose, identity_map, sample
from ..spatial.alignment import ALIGNMENTS, align, apply_affine
from .prediction import pack

_MODALITIES = ("source", "target")


class SegmentAndRegister(nn.Module):
    """Register two images through their predicted label maps, both ways (Demir & Niethammer, MIDL 2024).

    One tensor goes in and one comes out, as MONAI bundles want it: a packed :class:`~.prediction.Prediction`.

    Args:
        source_segmentation: from source images to logits ``[B, K, *spatial]``.
        target_segmentation: from target images to logits ``[B, K, *spatial]``.
        registration: from stacked label maps ``[B, 2K, *spatial]``, moving then fixed, to the maps
            moving_to_fixed ``[B, D, *spatial]``.
        source_channels: channels of a source image.
        moving: modality of the moving image, ``"source"`` or ``"target"``.
        fixed: modality of the fixed image, ``"source"`` or ``"target"``; the two may be the same.
        soft_labels: register the class probabilities themselves; otherwise the one-hot likeliest class.
        initialisation: how to align the two label maps before the registration network sees them, for images
            that lie far apart or show more or less of the anatomy: ``"moments"`` or ``"affine"``, see
            :func:`~..spatial.alignment.align`; None lays one image's extent onto the other's.
        pose: from images and their class probabilities to the logarithm of the odds ``[B]`` that they lie as
            those of the training, see :class:`~.pose_network.PoseNetwork`; None where that was not learnt.

    Raises:
        ValueError: for another modality or initialisation.
    """

    def __init__(
        self,
        source_segmentation: nn.Module,
        target_segmentation: nn.Module,
        registration: nn.Module,
        source_channels: int,
        moving: str = "source",
        fixed: str = "target",
        soft_labels: bool = True,
        initialisation: str | None = None,
        pose: nn.Module | None = None,
    ) -> None:
        super().__init__()
        if moving not in _MODALITIES or fixed not in _MODALITIES:
            raise ValueError(f"Expected moving and fixed in {_MODALITIES}, got {moving!r} and {fixed!r}.")
        if initialisation not in (None, *ALIGNMENTS):
            raise ValueError(f"Expected an initialisation in {(None, *ALIGNMENTS)}, got {initialisation!r}.")
        self.segmentation = nn.ModuleDict({"source": source_segmentation, "target": target_segmentation})
        self.registration = registration
        self.pose = pose
        self.source_channels = source_channels
        self.moving, self.fixed, self.soft_labels = moving, fixed, soft_labels
        self.initialisation = initialisation

    def forward(
        self,
        image: torch.Tensor,
        moving_extent: torch.Tensor | None = None,
        fixed_extent: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Segment both images and register them both ways.

        Args:
            image: ``[B, C_moving + C_fixed, *spatial]``, moving then fixed.
            moving_extent: for the initialisation, the affine from fractions of the moving image to mm,
                ``[B, D + 1, D + 1]``; None takes both images to be of one size and place.
            fixed_extent: that of the fixed image.

        Returns:
            ``[B, 2 * D + 2 * K, *spatial]``, float32, a packed :class:`~.prediction.Prediction`.

        Raises:
            ValueError: if the channels cannot be those of the two modalities.
        """
        moving, fixed = self.images(image)
        moving, fixed = self.segment(moving, self.moving), self.segment(fixed, self.fixed)
        return self.predict(moving, fixed, moving_extent, fixed_extent)

    def images(self, image: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Take the moving and the fixed image out of the network's input.

        Raises:
            ValueError: if the channels cannot be those of the two modalities.
        """
        total = image.shape[1]
        if self.moving == "source":
            moving_channels = self.source_channels
        else:
            moving_channels = total - self.source_channels if self.fixed == "source" else total // 2
        fixed_channels = total - moving_channels
        same_modality = self.moving == self.fixed
        if min(moving_channels, fixed_channels) < 1 or (same_modality and moving_channels != fixed_channels):
            raise ValueError(
                f"Expected the channels of a moving {self.moving} and a fixed {self.fixed} image stacked, "
                f"{self.source_channels} in a source image, got shape {list(image.shape)}."
            )
        return image[:, :moving_channels], image[:, moving_channels:]

    def predict(
        self,
        moving: torch.Tensor,
        fixed: torch.Tensor,
        moving_extent: torch.Tensor | None = None,
        fixed_extent: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """Register two segmented images both ways, from the alignment that is set.

        Args:
            moving: class probabilities ``[B, K, *spatial]``.
            fixed: class probabilities ``[B, K, *spatial]``.
            moving_extent: see :meth:`forward`.
            fixed_extent: see :meth:`forward`.

        Returns:
            what :meth:`forward` does.
        """
        if self.initialisation is None:
            maps = self.register(moving, fixed)
        elif torch.jit.is_scripting():  # TorchScript knows no optimisers
            raise ValueError("A scripted network aligns nothing first: export with initialisation null.")
        else:
            start = align(moving, fixed, moving_extent, fixed_extent, self.initialisation)
            maps = self.register_from(start, moving, fixed)
        return pack(maps[0], maps[1], moving, fixed)

    def segment(self, image: torch.Tensor, modality: str) -> torch.Tensor:
        """Segment images of one modality.

        Args:
            image: ``[B, C, *spatial]``.
            modality: ``"source"`` or ``"target"``.

        Returns:
            Class probabilities ``[B, K, *spatial]``, float32.

        Raises:
            ValueError: for another modality.
        """
        if modality == "source":
            logits = self.segmentation["source"](as_float32(image))
        elif modality == "target":
            logits = self.segmentation["target"](as_float32(image))
        else:
            raise ValueError(f"Expected a modality 'source' or 'target', got '{modality}'.")
        return logits.float().softmax(1)

    def register(self, moving: torch.Tensor, fixed: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Register two label maps both ways, in one batch.

        Args:
            moving: class probabilities ``[B, K, *spatial]``.
            fixed: class probabilities ``[B, K, *spatial]``.

        Returns:
            The maps moving_to_fixed and fixed_to_moving, each ``[B, D, *spatial]``.
        """
        labels = torch.cat([moving, fixed])
        if not self.soft_labels:
            labels = F.one_hot(labels.max(1).indices, labels.shape[1]).movedim(-1, 1).to(labels.dtype)
        moving, fixed = labels.chunk(2)
        swapped = torch.cat([fixed, moving])  # `roll` by the batch's size would fix that size in exports
        moving_to_fixed, fixed_to_moving = self.registration(torch.cat([labels, swapped], dim=1)).chunk(2)
        return moving_to_fixed, fixed_to_moving

    def register_from(
        self, start: torch.Tensor, moving: torch.Tensor, fixed: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Register two label maps both ways, from an affine that brings them near each other.

        Args:
            start: fractions of the fixed image to fractions of the moving image, ``[B, D + 1, D + 1]``.
            moving: class probabilities ``[B, K, *spatial]``.
            fixed: class probabilities ``[B, K, *spatial]``.

        Returns:
            The maps moving_to_fixed and fixed_to_moving, each ``[B, D, *spatial]``, the affine included.
        """
        identity = identity_map(fixed.shape[2:], fixed.device)
        to_fixed, to_moving = self.register(sample(moving, apply_affine(start, identity)), fixed)
        back = apply_affine(torch.linalg.inv(start), identity)
        return apply_affine(start, to_fixed), compose(to_moving, back)
