"""How an image lies against those of the training: turned, mirrored, shifted, with inverted grey values.

Nothing in a picture says how it was laid down. The networks do: where an image lies as the training's did,
they are confident, and what they find has the place and shape of what they found there.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.data import MetaTensor
from monai.transforms import MapTransform, allow_missing_keys_mode
from torch import Tensor, nn

from ..data.frames import cut, frame_of_image, in_mm, on_frame, shown
from ..metrics.evidence import confidence
from ..metrics.typicality import Statistics, atypicality, shape_features
from ..spatial.grid import Grid, Matrix
from ..spatial.pose import Pose, all_turns, mirroring, named_pose, turn_by

UNUSUAL = 0.03  # of confidence, that being once more as unusual as the most unusual training image weighs
LARGEST_SEARCH = 3  # times the frame along each axis, in which the anatomy is looked for
LARGER = 1.25  # an image that reaches so far beyond its frame is located first


class Judged(NamedTuple):
    """A pose that was tried, and how sure the network is of what it finds there."""

    pose: Pose
    frame: Grid
    probabilities: Tensor
    confidence: float
    score: float


class PoseSearch:
    """Finds the pose in which an image is most like those of the training.

    Args:
        network: segments images ``[B, C, *spatial]`` of a modality, by its ``segment``.
        inferer: runs it.
        normalise: the transform of the preprocessing that brings grey values to those of the training.
        statistics: of the training images by modality, see
            :func:`~crosswarp.metrics.typicality.learn_statistics`; of one that has none, confidence decides.
        turns: ``"right_angles"`` for all turns by those, mirrored and not; ``"none"`` for none; None for the
            first in 2D and the second in 3D, where headers tell.
        tilts: degrees of turns in the plane of the first two axes, to be tried on what is found.
        scales: sizes to be tried where lengths are not known.
        inverted: whether inverted grey values are tried.
        kept: so many of the likeliest are looked at more closely.
        margin: plausibility by which a pose has to be ahead of all others to be certain.
        turn_margin: plausibility by which a pose has to be ahead of that of the training, to be taken.
        mirror_margin: that by which a mirrored one has to be ahead of one that is not, where no one says
            which side an image shows. What is ahead by less makes the pair one to be checked.
        gain: confidence by which a tilt or size has to be ahead. Where an image is seen less tilted by some
            degrees, the network is hardly more right for being a little more confident.
        batch_size: images in a pass.
    """

    def __init__(
        self,
        network: nn.Module,
        inferer: Callable[..., Tensor],
        normalise: MapTransform,
        statistics: Mapping[str, Mapping[str, Statistics]] | None = None,
        turns: str | None = None,
        tilts: Sequence[float] = (-30.0, -15.0, 15.0, 30.0),
        scales: Sequence[float] = (0.7, 1.4),
        inverted: bool = True,
        kept: int = 3,
        margin: float = 0.002,
        turn_margin: float = 0.005,
        mirror_margin: float = 0.01,
        gain: float = 0.05,
        batch_size: int = 16,
    ) -> None:
        if turns not in (None, "none", "right_angles"):
            raise ValueError(f"Expected turns 'right_angles' or 'none', or null, got {turns!r}.")
        self.network, self.inferer, self.normalise = network, inferer, normalise
        self.statistics, self.turns, self.tilts, self.scales = statistics or {}, turns, tilts, scales
        self.inverted, self.kept, self.batch_size = inverted, kept, batch_size
        self.margin, self.turn_margin, self.mirror_margin = margin, turn_margin, mirror_margin
        self.gain = gain

    def poses(self, dims: int) -> list[Pose]:
        """What is tried first."""
        several = self.turns == "right_angles" or (self.turns is None and dims == 2)
        turns = all_turns(dims) if several else [np.eye(dims)]
        return [Pose(turn, each) for each in ([False, True] if self.inverted else [False]) for turn in turns]

    def find(self, view: View, modality: str, mirrored: bool | None = None) -> tuple[Pose, list[Pose]]:
        """Return the likeliest pose of an image, and others that are about as likely.

        Args:
            view: the image and the size of its frame.
            modality: ``"source"`` or ``"target"``.
            mirrored: whether it shows the other side, where that is known.
        """
        poses = [each for each in self.poses(view.dims) if mirrored in (None, each.mirrored)]
        if not poses:  # turns are not tried
            poses = [replace(each, turn=mirroring(view.dims)) for each in self.poses(view.dims)]
        first = self.judged(view, poses, modality, view.search_size())
        found = sorted(first, key=lambda each: -each.score)
        if view.is_large():
            closer = [self.about_anatomy(each, view, modality) for each in found[: self.kept]]
            found = sorted(self.judged(view, closer, modality), key=lambda each: -each.score)
        winner = found[0]
        if mirrored is None and winner.pose.mirrored:
            plain = [each for each in found if not each.pose.mirrored]
            winner = self.unless_ahead(winner, plain, self.mirror_margin)
        as_it_is = Pose(mirroring(view.dims) if mirrored else np.eye(view.dims))
        usual = [each for each in found if each.pose.alike(as_it_is)]
        winner = self.unless_ahead(winner, usual, self.turn_margin)
        near = [
            each.pose
            for each in found[:2]
            if each.score > winner.score - self.margin and not each.pose.alike(winner.pose)
        ]
        if winner.confidence > 1 - self.gain:
            return winner.pose, near
        closer = [
            replace(winner.pose, turn=winner.pose.turn @ turn_by(tilt, view.dims)) for tilt in self.tilts
        ]
        if not view.in_mm:
            closer += [replace(winner.pose, scale=scale) for scale in self.scales]
        better = max(self.judged(view, closer, modality), key=lambda each: each.confidence, default=winner)
        if better.confidence > winner.confidence + self.gain:
            winner = better
        return winner.pose, near

    @staticmethod
    def unless_ahead(winner: Judged, likelier: Sequence[Judged], margin: float) -> Judged:
        """Return the best of what is likelier before one has looked, unless another is ahead by a margin."""
        best = max(likelier, key=lambda each: each.score, default=winner)
        return winner if winner.score > best.score + margin else best

    def located(self, view: View, pose: Pose, modality: str) -> Pose:
        """Return a pose with its frame laid about the anatomy."""
        (found,) = self.judged(view, [pose], modality, view.search_size())
        return self.about_anatomy(found, view, modality)

    def judged(
        self, view: View, poses: Sequence[Pose], modality: str, size: Sequence[int] | None = None
    ) -> list[Judged]:
        """Segment an image in several poses, and say how plausible each is.

        Args:
            view: the image.
            poses: of it.
            modality: of it.
            size: of the frame, where that is larger than usual.
        """
        frames = [view.frame(pose, size) for pose in poses]
        images = [self.prepared(view, *each) for each in zip(poses, frames, strict=True)]
        device = next(self.network.parameters()).device
        found = []
        with torch.no_grad():
            for start in range(0, len(images), self.batch_size):
                batch = torch.stack(images[start : start + self.batch_size]).to(device)
                found.append(self.inferer(batch, self.network.segment, modality).cpu())
        probabilities = torch.cat(found)
        usual = size is None or list(size) == list(view.spatial_size)
        sure = confidence(probabilities)
        statistics = self.statistics.get(modality) if usual else None
        scores = sure if statistics is None else sure - implausibility(probabilities, statistics["shape"])
        every = zip(poses, frames, probabilities, sure.tolist(), scores.tolist(), strict=True)
        return [Judged(*each) for each in every]

    def prepared(self, view: View, pose: Pose, frame: Grid) -> Tensor:
        """An image in a pose, ``[C, *spatial]``, as the network gets it."""
        seen = view.seen(pose, frame)
        key = self.normalise.keys[0]
        with allow_missing_keys_mode(self.normalise):
            return self.normalise({key: seen})[key].as_subclass(Tensor).float()

    def about_anatomy(self, found: Judged, view: View, modality: str) -> Pose:
        """Return a pose whose frame has what was found where the training had it, or in its middle."""
        features, dims = shape_features(found.probabilities[None])[0].double().numpy(), view.dims
        seen = np.exp(features[:, 0]) > 2e-4  # the share of the frame that a class has
        if not seen.any():
            return found.pose
        mean = self.statistics.get(modality, {"shape": {"mean": None}})["shape"]["mean"]
        expected = features * 0 + 0.5 if mean is None else np.array(mean)
        weights = np.exp((features if mean is None else expected)[seen, 0])
        weights = weights / weights.sum()
        usual = view.frame(found.pose)
        there = weights @ found.frame.fractions_to_mm(features[seen, 1 : 1 + dims])
        wanted = weights @ usual.fractions_to_mm(expected[seen, 1 : 1 + dims])
        return replace(found.pose, centre=usual.fractions_to_mm(np.full(dims, 0.5)) + there - wanted)


def implausibility(probabilities: Tensor, shape: Statistics) -> Tensor | float:
    """Return what unusual shapes take from the confidence of segmentations, ``[B]``; 0 if not known.

    Args:
        probabilities: ``[B, K, *spatial]``.
        shape: statistics of those of the training.
    """
    unusual = atypicality(shape_features(probabilities), shape)
    return 0.0 if unusual is None else UNUSUAL * (unusual - 1).clamp(min=0, max=9)


@dataclass(frozen=True)
class View:
    """An image, and what its frame is like.

    Attributes:
        image: ``[C, *spatial]``, what is shown of it, see :func:`~crosswarp.data.frames.shown`.
        spatial_size: points of the frame.
        spacing: of the frame, mm; None for the image's whole extent.
    """

    image: MetaTensor
    spatial_size: Sequence[int]
    spacing: Sequence[float] | None

    @property
    def dims(self) -> int:
        """Number of axes."""
        return self.image.ndim - 1

    @property
    def in_mm(self) -> bool:
        """Whether the frame has its size in mm."""
        return in_mm(self.image, self.spacing)

    def frame(self, pose: Pose, size: Sequence[int] | None = None) -> Grid:
        """The frame in a pose.

        Args:
            pose: of the image.
            size: points along each axis; None for the usual ones.
        """
        size = self.spatial_size if size is None else size
        return frame_of_image(self.image, size, self.spacing, pose.turn, pose.scale, pose.centre)

    def seen(self, pose: Pose, frame: Grid) -> MetaTensor:
        """The image on a frame, bright and dark exchanged where the pose is inverted."""
        seen = on_frame(self.image, frame)
        return -seen if pose.inverted else seen  # type: ignore[return-value] # a MetaTensor stays one

    def extent_in_frames(self) -> Matrix:
        """The image's extent along each axis, in those of the frame, ``[D]``."""
        if not self.in_mm:
            return np.ones(self.dims)
        reach = np.ptp(Grid.of(self.image).corners, axis=0)
        return reach / (np.asarray(self.spacing) * np.asarray(self.spatial_size))

    def is_large(self) -> bool:
        """Whether much of the image lies beyond its frame."""
        return bool(self.extent_in_frames().max() > LARGER)

    def search_size(self) -> list[int]:
        """Points of a frame that holds the whole image, whichever way it is turned, if not too large."""
        factor = min(float(self.extent_in_frames().max()), LARGEST_SEARCH)
        if factor <= LARGER:
            return list(self.spatial_size)
        return [16 * math.ceil(size * factor / 16) for size in self.spatial_size]


class PosedFramesd(MapTransform):
    """Show the images of a pair on the frames in which they lie as the training's did.

    Args:
        keys: the moving and the fixed image on their own grids; each is replaced by what is seen on its
            frame. ``<key>_pose`` says in words how it lies, ``<key>_doubt`` how it may lie as well; both are
            empty where there is nothing to say.
        modalities: of either, ``"source"`` or ``"target"``.
        poses: of either: ``"as_is"``, ``"auto"`` to search, or a name of
            :func:`~crosswarp.spatial.pose.named_pose`.
        search: searches, and finds the anatomy in images that are much larger than the frame.
        spatial_size: points of the frame along each axis.
        spacing: mm along each axis; None for the whole extent of the image.
        mirrored_side: ``"left"`` or ``"right"``, whose images are seen mirrored, as in training. Of which
            side an image is, ``<key>_side`` of an item says, or the metadata of a DICOM image.
    """

    def __init__(
        self,
        keys: Sequence[str],
        modalities: Sequence[str],
        poses: Sequence[str],
        search: PoseSearch,
        spatial_size: Sequence[int],
        spacing: Sequence[float] | None = None,
        mirrored_side: str | None = None,
    ) -> None:
        super().__init__(keys)
        self.mirrored_side = mirrored_side
        self.modalities, self.poses, self.search = tuple(modalities), tuple(poses), search
        self.spatial_size, self.spacing = list(spatial_size), spacing
        for pose in poses:
            if pose != "auto":
                named_pose(pose, len(self.spatial_size))

    def __call__(self, data: Mapping[Any, Any]) -> dict[Any, Any]:
        """Show the images of an item."""
        result = dict(data)
        for key, modality, wanted in self.key_iterator(result, self.modalities, self.poses):
            if f"{result.get('alone')}_input" in self.keys and not key.startswith(result["alone"]):
                wanted = "as_is"  # it stands in for an image that there is not
            box = shown(result[key], self.spacing)
            image = cut(result[key], box)
            view = View(image, self.spatial_size, self.spacing)
            side = result.get(f"{key}_side") or image.meta.get("side")
            mirrored = side == self.mirrored_side if side and self.mirrored_side else None
            usual = mirroring(view.dims) if mirrored else np.eye(view.dims)
            rivals: list[Pose] = []
            if wanted == "auto":
                pose, rivals = self.search.find(view, modality, mirrored)
            else:
                pose = named_pose(wanted, view.dims)
                pose = replace(pose, turn=usual @ pose.turn)
                if view.is_large():
                    pose = self.search.located(view, pose, modality)
            result[key] = view.seen(pose, view.frame(pose))
            result[key].meta["shown"] = torch.tensor([[each.start, each.stop] for each in box])
            words = replace(pose, turn=usual.T @ pose.turn).words()
            other = " (the other side?)" if words.startswith("mirrored") else ""
            result[f"{key}_pose"] = f"is seen {words}{other}" if words else ""
            doubts = [each.words() or "as those of the training" for each in rivals]
            if wanted == "auto" and mirrored is None and pose.mirrored and not doubts:
                doubts = ["as one that is not mirrored: which side it is, nothing says"]
            result[f"{key}_doubt"] = f"may as well lie {' or '.join(doubts)}" if doubts else ""
        return result
