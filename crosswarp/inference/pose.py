"""How an image lies against those of the training: turned, mirrored, shifted, with inverted grey values.

Nothing in a picture says how it was laid down. What the networks find in it does: a network that has learnt
to tell images of the training from turned, mirrored and inverted ones looks at each pose, segmented.
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
from ..metrics.components import LARGE_PIECE, count_components
from ..metrics.evidence import confidence
from ..metrics.typicality import Statistics, shape_features
from ..spatial.frame import rearranged, see
from ..spatial.grid import Grid, Matrix
from ..spatial.pose import Pose, all_turns, mirroring, named_pose, turn_by

LARGEST_SEARCH = 3  # times the frame along each axis, in which the anatomy is looked for
LARGER = 1.25  # an image that reaches so far beyond its frame is located first


class Judged(NamedTuple):
    """A pose that was tried.

    Attributes:
        pose: of the image.
        frame: in which it is seen.
        probabilities: of the classes there, ``[K, *spatial]``.
        confidence: of the segmentation.
        odds: logarithm of those that the image lies as the training's; NaN where they were not asked for.
        score: of two poses, by how much their scores differ is the logarithm of how much likelier one is.
    """

    pose: Pose
    frame: Grid
    probabilities: Tensor
    confidence: float
    odds: float = math.nan
    score: float = math.nan


class PoseSearch:
    """Finds the pose in which an image is most like those of the training.

    Args:
        network: segments images ``[B, C, *spatial]`` of a modality, by its ``segment``, and tells by its
            ``pose`` whether they lie as those of the training.
        inferer: runs it.
        normalise: the transform of the preprocessing that brings grey values to those of the training.
        statistics: of the training images by modality, see
            :func:`~crosswarp.metrics.typicality.learn_statistics`: where in its frame the anatomy lies.
        turns: ``"right_angles"`` for all turns by those, mirrored and not; ``"none"`` for none; None for the
            first in 2D and the second in 3D, where headers tell.
        tilts: degrees of turns in the plane of the first two axes, to be tried on what is found.
        scales: sizes to be tried where lengths are not known.
        inverted: whether inverted grey values are tried, where no other pose is likely.
        confidence_weight: of the segmentation's confidence, as the logarithm of its odds, beside what the
            network tells of the pose.
        kept: so many of the likeliest are looked at more closely, in images that are larger than the frame.
        certain: probability of the likeliest pose from which on the others are not worth naming.
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
        confidence_weight: float = 4.0,
        kept: int = 3,
        certain: float = 0.8,
        gain: float = 0.05,
        batch_size: int = 16,
    ) -> None:
        if turns not in (None, "none", "right_angles"):
            raise ValueError(f"Expected turns 'right_angles' or 'none', or null, got {turns!r}.")
        self.network, self.inferer, self.normalise = network, inferer, normalise
        self.statistics, self.turns, self.tilts, self.scales = statistics or {}, turns, tilts, scales
        self.inverted, self.kept, self.certain, self.gain = inverted, kept, certain, gain
        self.confidence_weight = confidence_weight
        self.batch_size = batch_size

    def poses(self, dims: int) -> list[Pose]:
        """What is tried first."""
        several = self.turns == "right_angles" or (self.turns is None and dims == 2)
        turns = all_turns(dims) if several else [np.eye(dims)]
        return [Pose(turn) for turn in turns]

    def find(self, view: View, modality: str, mirrored: bool | None = None) -> tuple[Pose, list[Pose]]:
        """Return the likeliest pose of an image, and others that may be right as well.

        Args:
            view: the image and the size of its frame.
            modality: ``"source"`` or ``"target"``.
            mirrored: whether it shows the other side, where that is known.

        Raises:
            ValueError: where the networks have not learnt to tell poses.
        """
        if self.network.pose is None:
            raise ValueError(
                "Expected networks that have learnt how images lie, for the pose auto, got those of a run "
                "that has not (pose_recognition null, or an earlier version): name the pose, such as "
                "mirrored, or run the chain's training again, which trains no stage that is done."
            )
        poses = [each for each in self.poses(view.dims) if mirrored in (None, each.mirrored)]
        if not poses:  # turns are not tried
            poses = [replace(each, turn=mirroring(view.dims)) for each in self.poses(view.dims)]
        found = self.judged(view, poses, modality, view.search_size(poses))
        if self.inverted and max(each.odds for each in found) < 0:
            poses = [replace(pose, inverted=True) for pose in poses]
            found += self.judged(view, poses, modality, view.search_size(poses))
        found = sorted(found, key=lambda each: -each.score)
        if view.is_large():
            closer = [self.about_anatomy(each, view, modality) for each in found[: self.kept]]
            found = sorted(self.judged(view, closer, modality), key=lambda each: -each.score)
        winner = found[0]
        likely = torch.tensor([each.score for each in found]).softmax(0)
        near = [
            each.pose for each, share in zip(found[1:3], likely[1:3], strict=True) if share > 1 - self.certain
        ]
        closer = [
            replace(winner.pose, turn=winner.pose.turn @ turn_by(tilt, view.dims)) for tilt in self.tilts
        ]
        if not view.in_mm:
            closer += [replace(winner.pose, scale=scale) for scale in self.scales]
        if winner.confidence > 1 - self.gain or not closer:
            return winner.pose, near
        better = max(self.judged(view, closer, modality), key=lambda each: each.confidence)
        return (better if better.confidence > winner.confidence + self.gain else winner).pose, near

    def looked_over(self, view: View, pose: Pose, modality: str) -> Judged:
        """Segment all of a large image in a pose."""
        whole = [replace(pose, centre=None)]
        (found,) = self.judged(view, whole, modality, view.search_size(whole))
        return found

    def shows_several(self, found: Judged, modality: str) -> bool:
        """Whether more large pieces of a class are found than any image of the training has."""
        labels = found.probabilities.argmax(0)[None, None]
        most: Any = self.statistics.get(modality, {}).get("pieces")
        pieces = count_components(labels, len(found.probabilities), LARGE_PIECE)
        return any(own > usual > 0 for own, usual in zip(pieces, most or [], strict=False))

    def judged(
        self, view: View, poses: Sequence[Pose], modality: str, size: Sequence[int] | None = None
    ) -> list[Judged]:
        """Segment an image in several poses, and say how each lies.

        Args:
            view: the image.
            poses: of it.
            modality: of it.
            size: of the frame, where that is larger than usual.
        """
        frames = [view.frame(pose, size) for pose in poses]
        images = self.prepared(view, poses, frames)
        device = next(self.network.parameters()).device
        found = []
        with torch.no_grad():
            for batch in images.split(self.batch_size):
                found.append(self.inferer(batch.to(device), self.network.segment, modality).cpu())
        probabilities = torch.cat(found)
        sure = confidence(probabilities).tolist()
        every = zip(poses, frames, probabilities, sure, strict=True)
        judged = [Judged(*each) for each in every]
        if self.network.pose is None:
            return judged
        if size is not None and list(size) != list(view.spatial_size):  # seen as usual, about what was found
            usual = [view.frame(self.about_anatomy(each, view, modality)) for each in judged]
            images, probabilities = (
                torch.stack([see(one, own, to) for one, own, to in zip(several, frames, usual, strict=True)])
                for several in (images, probabilities)
            )
        with torch.no_grad():
            odds = self.network.get_submodule("pose")(images.to(device), probabilities.to(device)).cpu()
        scores = odds + self.confidence_weight * torch.logit(torch.tensor(sure), 1e-3)
        told = zip(judged, odds.tolist(), scores.tolist(), strict=True)
        return [each._replace(odds=value, score=score) for each, value, score in told]

    def prepared(self, view: View, poses: Sequence[Pose], frames: Sequence[Grid]) -> Tensor:
        """An image in several poses, ``[N, C, *spatial]``, as the network gets it.

        Where a frame is that of an earlier pose, its axes exchanged or turned round, so is what is seen.
        """
        seen: dict[bool, list[tuple[Grid, Tensor]]] = {False: [], True: []}
        result = []
        for pose, frame in zip(poses, frames, strict=True):
            known = (rearranged(image, grid, frame) for grid, image in seen[pose.inverted])
            image = next((each for each in known if each is not None), None)
            if image is None:
                key = self.normalise.keys[0]
                with allow_missing_keys_mode(self.normalise):
                    image = self.normalise({key: view.seen(pose, frame)})[key].as_subclass(Tensor).float()
                seen[pose.inverted].append((frame, image))
            result.append(image)
        return torch.stack(result)

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

    def search_size(self, poses: Sequence[Pose]) -> list[int]:
        """Points of a frame that holds the whole image in each of some poses, if not too large."""
        if not self.is_large():
            return list(self.spatial_size)
        reach, frame = np.ptp(Grid.of(self.image).corners, axis=0), np.asarray(self.spacing)
        lengths = np.max([reach @ np.abs(pose.turn) for pose in poses], axis=0)
        factors = np.clip(lengths / (frame * self.spatial_size), 1, LARGEST_SEARCH)
        return [
            16 * math.ceil(size * each / 16) for size, each in zip(self.spatial_size, factors, strict=True)
        ]


class PosedFramesd(MapTransform):
    """Show the images of a pair on the frames in which they lie as the training's did.

    Args:
        keys: the moving and the fixed image on their own grids; each is replaced by what is seen on its
            frame. ``<key>_pose`` says in words how it lies, ``<key>_doubt`` how it may lie as well; both are
            empty where there is nothing to say.
        modalities: of either, ``"source"`` or ``"target"``.
        poses: of either: ``"as_is"``, ``"auto"`` to search, or a name of
            :func:`~crosswarp.spatial.pose.named_pose`. What an item says, ``moving_pose``, comes first.
        search: searches, and finds the anatomy in images that are much larger than the frame.
        spatial_size: points of the frame along each axis.
        spacing: mm along each axis; None for the whole extent of the image.
        mirrored_side: ``"left"`` or ``"right"``, whose images are seen mirrored, as in training. Of which
            side an image is, ``<key>_side`` of an item says, or the metadata of a DICOM image. None for
            networks without sides: what an item says of one is then a doubt.
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
            wanted = result.get(f"{key.removesuffix('_input')}_pose") or wanted
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
            several = False
            if view.is_large():
                over = self.search.looked_over(view, pose, modality)
                several = self.search.shows_several(over, modality)
                pose = pose if wanted == "auto" else self.search.about_anatomy(over, view, modality)
            result[key] = view.seen(pose, view.frame(pose))
            result[key].meta["shown"] = torch.tensor([[each.start, each.stop] for each in box])
            words = replace(pose, turn=usual.T @ pose.turn).words()
            other = " (the other side?)" if words.startswith("mirrored") else ""
            result[f"{key}_pose"] = f"is seen {words}{other}" if words else ""
            rivals = [replace(each, turn=usual.T @ each.turn) for each in rivals]
            doubts = [each.words() or "as those of the training" for each in rivals]
            if wanted == "auto" and mirrored is None and pose.mirrored and not doubts:
                doubts = ["as one that is not mirrored: which side it is, nothing says"]
            said = [f"may as well lie {' or '.join(doubts)}"] if doubts else []
            if result.get(f"{key}_side") and not self.mirrored_side:
                said.append(
                    f"is of the {side} side, which these networks do not heed, as they were trained without "
                    "sides: give its pose where it is of the other side than their images"
                )
            said += (
                ["seems to show the anatomy more than once: cut it so that it does once"] if several else []
            )
            result[f"{key}_doubt"] = "; ".join(said)
        return result
