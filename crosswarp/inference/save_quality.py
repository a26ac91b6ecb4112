"""The quality of a registered pair, as a file and as a picture."""

from __future__ import annotations

import json
import logging
import textwrap
from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from matplotlib import rc_context
from monai.config import KeysCollection
from monai.transforms import MapTransform
from torch import Tensor, nn

from ..data.frames import FRAMES
from ..files import replacing
from ..metrics import likeliest, warp_labels
from ..metrics.components import LARGE_PIECE, count_components
from ..metrics.expectation import Expectation
from ..metrics.typicality import Statistics
from ..networks import Prediction
from ..report.figures import pair_figure
from ..spatial import as_float32, sample
from ..spatial.grid import Grid
from .expectation import expected_pair, in_words
from .quality import LIMITS, image_atypicality, judge, pair_quality
from .results import file_stem
from .transforms import frames_of, pair_name

logger = logging.getLogger(__name__)

VERDICT_COLOURS = {"ok": "#1b7837", "check": "#b35806", "failed": "#b2182b"}


class SaveQualityd(MapTransform):
    """Judge a registered pair without manual labels, and write why, with a picture.

    ``<moving>_to_<fixed>_quality.json`` holds the verdict (``ok``, ``check``, ``failed``), the reasons, notes
    and what :func:`~crosswarp.inference.quality.pair_quality` measured; ``..._quality.png`` shows images,
    labels, maps and volume change on the network's grid. The verdict is logged, too.

    Args:
        keys: the moving and the fixed image, in this order.
        output_dir: folder for the files.
        image_key: the network's input, moving and fixed on channels.
        pred_key: the packed :class:`~..networks.Prediction`.
        limits: quantity -> value beyond which to check, value beyond which it failed.
        statistics: of the training images of the modality of either key, see
            :func:`~crosswarp.inference.quality.image_atypicality`.
        training_warnings: what the training of the networks warned of; a pair is then not ``ok``, since it
            was judged by these very networks.
        expectation: what the run learnt of the overlap to expect, see
            :func:`~crosswarp.inference.expectation.expected_pair`; None where it learnt nothing, and single
            quantities decide.
        modalities: of the two images, ``"source"`` or ``"target"``.
        pose_network: tells whether segmented images lie as those of the training; None where that was not
            learnt.
        names: which of ``"quality"``, the file, and ``"picture"`` to write.
    """

    def __init__(
        self,
        keys: KeysCollection,
        output_dir: str | Path,
        image_key: str = "image",
        pred_key: str = "pred",
        limits: Mapping[str, Sequence[float]] = LIMITS,
        statistics: Mapping[str, Mapping[str, Statistics] | None] | None = None,
        training_warnings: Sequence[str] = (),
        expectation: Expectation | None = None,
        modalities: Sequence[str] = ("source", "target"),
        pose_network: nn.Module | None = None,
        names: Sequence[str] = ("quality", "picture"),
    ) -> None:
        super().__init__(keys)
        self.output_dir = Path(output_dir)
        self.image_key, self.pred_key = image_key, pred_key
        self.limits = {name: (float(soft), float(hard)) for name, (soft, hard) in limits.items()}
        self.statistics = statistics or {}
        self.training_warnings = list(training_warnings)
        self.expectation, self.modalities, self.pose_network = expectation, tuple(modalities), pose_network
        self.names = tuple(names)

    def parts(self, data: Mapping[Hashable, Any]) -> tuple[list[Tensor], Prediction]:
        """What the network was given of the moving and the fixed image, and what it predicts, on the CPU."""
        image = as_float32(data[self.image_key][None]).cpu()
        channels = [len(data[key]) for key in self.keys]
        return list(image.split(channels, dim=1)), Prediction.of_item(data[self.pred_key].cpu())

    def measure(self, data: Mapping[Hashable, Any]) -> dict[str, Any]:
        """The quality of a pair and the verdict, without writing anything."""
        moving, fixed = (data[key] for key in self.keys)
        images, found = self.parts(data)
        seen = [data.get(frame, image) for frame, image in zip(FRAMES, (moving, fixed), strict=True)]
        quality = pair_quality(found, *seen)
        for key, image, probabilities in zip(("moving", "fixed"), images, found[2:], strict=True):
            labels, classes = likeliest(probabilities), probabilities.shape[1]
            own = {
                "atypicality": image_atypicality(image, probabilities, self.statistics.get(key)),
                "pose_odds": self.odds(image, probabilities),
                "pieces": count_components(labels, classes, LARGE_PIECE),
            }
            for name, value in own.items():
                quality.setdefault(name, {})[key] = value
        if self.expectation is not None:
            quality["expected_overlap"] = expected_pair(
                found,
                images,
                [Grid.of(each).resized(found.moving_to_fixed.shape[2:]) for each in seen],
                self.expectation,
                [each.meta.get("spacing_known", True) for each in (moving, fixed)],
                [each["appearance"] for each in quality["atypicality"].values()],
                self.modalities,
            )
        verdict, reasons = judge(quality, self.limits, self.statistics)
        if self.training_warnings and verdict == "ok":
            verdict = "check"
        reasons += [f"training of {warning}" for warning in self.training_warnings]
        if doubts := self._said(data, "doubt"):
            verdict, reasons = "check" if verdict == "ok" else verdict, reasons + doubts
        notes = [
            f"the {key} image does not state its spacing: 1 mm stands in (give {key}_spacing)"
            for key, each in (("moving", moving), ("fixed", fixed))
            if not each.meta.get("spacing_known", True)
        ]
        notes += self._said(data, "pose")
        return {
            "verdict": verdict,
            "reasons": reasons,
            "notes": notes,
            **quality,
            "moving": file_stem(moving.meta["filename_or_obj"]),
            "fixed": file_stem(fixed.meta["filename_or_obj"]),
        }

    @torch.no_grad()
    def odds(self, image: Tensor, probabilities: Tensor) -> float | None:
        """The logarithm of the odds that a segmented image lies as those of the training."""
        if self.pose_network is None:
            return None
        device = next(self.pose_network.parameters()).device
        return float(self.pose_network(image.to(device), probabilities.to(device)))

    @staticmethod
    def _said(data: Mapping[Hashable, Any], what: str) -> list[str]:
        """What was found of the poses of the two images."""
        said = ((key.removesuffix("_input"), data.get(f"{key}_{what}")) for key in FRAMES)
        return [f"the {key} image {words}" for key, words in said if words]

    @rc_context({"text.parse_math": False})  # names of files are no formulas
    def __call__(self, data: Mapping[Hashable, Any]) -> dict[Hashable, Any]:
        """Write the files; the verdict is added as ``quality``."""
        result = dict(data)
        moving, fixed = (result[key] for key in self.keys)
        quality = result["quality"] = self.measure(data)
        stem, verdict, said = (
            pair_name(moving, fixed),
            quality["verdict"],
            quality["reasons"] + quality["notes"],
        )
        if expected := in_words(quality.get("expected_overlap")):
            said = [expected, *said]
        level = logging.INFO if verdict == "ok" else logging.WARNING
        logger.log(level, ": ".join([stem, verdict, *(["; ".join(said)] if said else [])]))
        if "quality" in self.names:
            with replacing(self.output_dir / f"{stem}_quality.json") as path:
                path.write_text(json.dumps(quality, indent=2) + "\n", encoding="utf-8")
        if "picture" not in self.names:
            return result
        _, frame = frames_of(data, FRAMES, self.keys)
        images, found = self.parts(data)
        spacing = frame.resized(images[1].shape[2:]).spacing
        figure = pair_figure(self.pictured(images, found) | {"spacing": spacing})
        lines = [stem, f"{verdict}: {'; '.join(said)}" if said else verdict]
        title = "\n".join(textwrap.fill(line, 130) for line in lines)
        width, height = figure.get_size_inches()
        figure.set_size_inches(width, height + 0.2 * len(title.splitlines()))
        figure.suptitle(title, fontsize=10, color=VERDICT_COLOURS[verdict])
        with replacing(self.output_dir / f"{stem}_quality.png", ".png") as path:
            figure.savefig(path, dpi=110)
        return result

    def pictured(self, images: Sequence[Tensor], found: Prediction) -> dict[str, Any]:
        """What :func:`~.figures.pair_figure` shows: first channels, predicted labels, both maps."""
        moving, fixed = (image[:, :1] for image in images)
        labels = [likeliest(each).to(torch.uint8) for each in found[2:]]
        classes = found.moving_probabilities.shape[1]
        shown = {
            "moving": moving,
            "fixed": fixed,
            "warped": sample(moving, found.moving_to_fixed),
            "moving_label": labels[0],
            "fixed_label": labels[1],
            "warped_label": warp_labels(labels[0], found.moving_to_fixed, classes),
        }
        maps = {"phi": found.moving_to_fixed[0].numpy(), "phi_inverse": found.fixed_to_moving[0].numpy()}
        return {key: value[0, 0].numpy() for key, value in shown.items()} | maps
