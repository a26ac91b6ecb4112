"""Whether the adapted network's labels of target images are plausible, without any label of the target."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from ..data.batches import stack_samples
from ..metrics import dice_per_class, likeliest
from ..metrics.components import count_components, keep_components
from ..metrics.evidence import edge_rank, shape_fit, sizes, unit_lengths
from ..spatial import invert, sample
from ..spatial.grid import Grid
from .augmentation import RandomSpatial
from .result_checks import Findings, by_class, listed

LOOK = "Look at the segmented target images"

# quantity -> limit of the adapted network's labels; see `AdaptationCheck`
ADAPTATION_LIMITS: Mapping[str, float] = {
    "present": 0.7,
    "size_mm": 1.4,
    "size_fraction": 1.6,
    "edges": 0.33,
    "shape_fit": 0.82,
    "stray": 0.1,
    "self_agreement": 0.7,
    "lost_shape_fit": 0.05,
}


class AdaptationCheck:
    """Compares the labels of unlabelled target images with manual labels of the source, and with the images.

    Each quantity is measured on target images with the adapted network and with the one that it started
    from, and, but for agreement, on the manual labels of the source:

    - ``present``: share of the images that have the class;
    - ``volume`` and ``thickness``: median; in mm, or in fractions of the image where spacing is not stated;
    - ``edge_rank``: do outlines lie on edges (:func:`~crosswarp.metrics.evidence.edge_rank`)?
    - ``shape_fit``: how well do labels fit manual ones of *other* people
      (:func:`~crosswarp.metrics.evidence.shape_fit`)?
    - ``stray``: share of the class that lies apart, in more pieces than any manual label has;
    - ``self_agreement``: Dice with the labels of the image turned, scaled and shifted; little of it shows
      that the network is unsure, much of it shows nothing;
    - ``start_agreement``: Dice with the labels of the network that it started from; recorded, not judged.

    Args:
        start: the network that the adapted one started from; None where it cannot take target images.
        target: samples ``image``, unlabelled.
        manual: samples ``image``, ``label`` and ``subject`` of the source.
        inferer: runs the networks.
        class_names: of all classes, background first.
        batch_size: images in a pass.
        max_images: most target images to look at, spread evenly.
        limits: of ``present``, a share of the manual labels' share; of ``size_mm`` and ``size_fraction``, the
            factor by which thickness, or the root of the volume, may differ from theirs; of ``edges``, a
            share of how far their mean edge rank is above chance; of ``shape_fit``, a share of what they
            reach among each other; of ``stray`` and ``self_agreement``, the value itself; of
            ``lost_shape_fit``, what a class may lose against the start; those that lose more are listed in
            the findings as ``worse_than_start``.
        falls_back: whether the start is published then (``fallback``), or the adapted network all the same.
    """

    def __init__(
        self,
        start: nn.Module | None,
        target: Sequence[Mapping[str, Any]],
        manual: Sequence[Mapping[str, Any]],
        inferer: Callable[..., Tensor],
        class_names: Sequence[str],
        batch_size: int = 8,
        max_images: int = 40,
        limits: Mapping[str, float] = ADAPTATION_LIMITS,
        falls_back: bool = True,
    ) -> None:
        self.fallback = start if falls_back else None
        self.start, self.target, self.manual, self.inferer = start, target, manual, inferer
        self.class_names, self.batch_size, self.max_images = list(class_names), batch_size, max_images
        self.limits = {**ADAPTATION_LIMITS, **limits}

    @torch.no_grad()
    def __call__(self, network: nn.Module) -> Findings:
        """Measure, and say what is implausible."""
        step = -(-len(self.target) // self.max_images)
        chosen = [self.target[number] for number in range(0, len(self.target), step)]
        manual = [self.manual[number] for number in range(len(self.manual))]
        in_mm = all(each["image"].meta.get("spacing_known", True) for each in chosen + manual)
        images, spacing = stack_samples(chosen, ["image"])["image"], spacings(chosen, in_mm)
        references = stack_samples(manual, ["image", "label"])
        reference_spacing = spacings(manual, in_mm)
        pieces = count_components(references["label"], len(self.class_names))

        def measure(
            image: Tensor, label: Tensor, lengths: Tensor, samples: Sequence[Mapping[str, Any]]
        ) -> dict[str, Tensor]:
            others = torch.tensor([[a.get("subject") != b["subject"] for b in manual] for a in samples])
            return self.measure(
                image, label, lengths, references["label"], reference_spacing, pieces, in_mm, others
            )

        by_hand = measure(references["image"], references["label"], reference_spacing, manual)
        labels, start_labels = self.segment(network, images), None
        found = measure(images, labels, spacing, chosen)
        found["self_agreement"] = self.self_agreement(network, images, labels)
        measured = {"by_hand": by_hand, "target": found}
        if self.start is not None:
            start_labels = self.segment(self.start, images)
            measured["start"] = measure(images, start_labels, spacing, chosen)
            measured["start"]["self_agreement"] = self.self_agreement(self.start, images, start_labels)
            found["start_agreement"] = dice_per_class(labels, start_labels, len(self.class_names)).nanmean(0)
        record: dict[str, Any] = {
            group: {key: by_class(values, self.class_names) for key, values in quantities.items()}
            for group, quantities in measured.items()
        }
        record |= {"images": len(chosen), "in_mm": in_mm, "worse_than_start": self.lost(measured)}
        return record, self.warnings(measured, in_mm)

    def segment(self, network: nn.Module, images: Tensor) -> Tensor:
        """The labels that a network gives to images, ``[N, 1, *spatial]``, on the CPU."""
        device = next(network.parameters()).device
        return torch.cat(
            [
                likeliest(self.inferer(part.to(device).float(), network)).cpu()
                for part in images.split(self.batch_size)
            ]
        )

    def self_agreement(self, network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        """Dice of labels with those of the same images in another pose, by class."""
        with torch.random.fork_rng():
            torch.manual_seed(0)
            phi = RandomSpatial(rotation=10.0, scaling=0.1, shift=0.05).draw_map(images)
        posed = self.segment(network, sample(images, phi))
        back = sample(posed.float(), invert(phi), "nearest").to(labels.dtype)
        return dice_per_class(back, labels, len(self.class_names)).nanmean(0)

    def measure(
        self,
        images: Tensor,
        labels: Tensor,
        spacing: Tensor,
        references: Tensor,
        reference_spacing: Tensor,
        pieces: Sequence[int],
        in_mm: bool,
        compared: Tensor,
    ) -> dict[str, Tensor]:
        """What labels are like, each ``[K - 1]``."""
        classes = len(self.class_names)
        volume, thickness = sizes(labels, spacing, classes).values()
        kept = keep_components(labels, pieces)
        counts = [
            torch.stack([(each == k).flatten(1).sum(1) for k in range(1, classes)], 1)
            for each in (kept, labels)
        ]
        fit = shape_fit(labels, spacing, references, reference_spacing, classes, compared, same_scale=in_mm)
        return {
            "present": (counts[1] > 0).float().mean(0),
            "volume": volume.nanmedian(0).values,
            "thickness": thickness.nanmedian(0).values,
            "edge_rank": edge_rank(images, labels, classes).nanmedian(0).values,
            "shape_fit": fit.nanmean(0),
            "stray": (1 - counts[0] / counts[1]).nanmean(0),
        }

    def warnings(self, measured: Mapping[str, Mapping[str, Tensor]], in_mm: bool) -> list[str]:
        """A sentence for each limit that is passed.

        Args:
            measured: what was ``by_hand`` and by the network on the ``target``, and perhaps by the ``start``.
            in_mm: whether lengths are in mm.
        """
        found, by_hand = measured["target"], measured["by_hand"]
        sentences = [
            self._missing(found, by_hand),
            *(self._other_size(key, found, by_hand, in_mm) for key in ("volume", "thickness")),
            self._other_shape(found, by_hand),
            self._off_edges(found, by_hand),
            self._in_pieces(found, by_hand),
            self._in_doubt(found, by_hand),
            self._worse(measured),
        ]
        return [each for each in sentences if each]

    def _classes(self, wrong: Tensor, by_hand: Mapping[str, Tensor], text: Callable[[int], str]) -> str:
        """Classes in which something is wrong, of those that manual labels show."""
        numbers = (wrong & (by_hand["present"] > 0)).nonzero()[:, 0].tolist()
        return listed({self.class_names[1 + number]: text(number) for number in numbers})

    def _missing(self, found: Mapping[str, Tensor], by_hand: Mapping[str, Tensor]) -> str | None:
        share = self.limits["present"]
        classes = self._classes(
            ~(found["present"] >= share * by_hand["present"]), by_hand, _against("present", found, by_hand)
        )
        return classes and (
            f"classes are missing in target images, which show them in this share: {classes}; expected at "
            f"least {share:g} of the share by hand. {LOOK}"
        )

    def _other_size(
        self, key: str, found: Mapping[str, Tensor], by_hand: Mapping[str, Tensor], in_mm: bool
    ) -> str | None:
        most = self.limits["size_mm" if in_mm else "size_fraction"]
        dims = self.target[0]["image"].ndim - 1
        ratio = (found[key] / by_hand[key]) ** (1 / dims if key == "volume" else 1)
        classes = self._classes(
            (ratio > most) | (ratio < 1 / most), by_hand, lambda number: f"{ratio[number]:.2f}"
        )
        return classes and (
            f"{key} in {'mm' if in_mm else 'fractions of the image'} is not that of the manual labels; "
            f"factor in length: {classes}; expected {1 / most:.2f} to {most:g}. {LOOK}, whether another "
            "structure was taken for the class: source_augmentation and target_augmentation that scale by "
            "more than people differ invite that"
        )

    def _other_shape(self, found: Mapping[str, Tensor], by_hand: Mapping[str, Tensor]) -> str | None:
        share = self.limits["shape_fit"]
        wrong = ~(found["shape_fit"].nan_to_num() >= share * by_hand["shape_fit"])
        classes = self._classes(wrong, by_hand, _against("shape_fit", found, by_hand))
        return classes and (
            "target labels are not shaped as manual labels of the source; Dice with the one that fits best: "
            f"{classes}; expected at least {share:g} of what manual labels reach among each other. {LOOK}, "
            "and whether both modalities show the same anatomy the same way up"
        )

    def _off_edges(self, found: Mapping[str, Tensor], by_hand: Mapping[str, Tensor]) -> str | None:
        shown = by_hand["present"] > 0
        edges, expected = ((each["edge_rank"] - 0.5)[shown].nanmean() for each in (found, by_hand))
        least = self.limits["edges"] * expected
        return (
            None
            if edges >= least
            else f"outlines on target images do not lie on edges: edge rank {0.5 + edges:.2f} (chance 0.5, "
            f"manual outlines on the source {0.5 + expected:.2f}); expected at least {0.5 + least:.2f}. "
            f"{LOOK}"
        )

    def _in_pieces(self, found: Mapping[str, Tensor], by_hand: Mapping[str, Tensor]) -> str | None:
        most = self.limits["stray"]
        classes = self._classes(
            found["stray"] > most, by_hand, lambda number: f"{found['stray'][number]:.2f}"
        )
        return classes and (
            f"target labels are in pieces; share outside the main ones: {classes}; expected at most "
            f"{most:g}. {LOOK}"
        )

    def _in_doubt(self, found: Mapping[str, Tensor], by_hand: Mapping[str, Tensor]) -> str | None:
        least, agreement = self.limits["self_agreement"], found["self_agreement"]
        wrong = ~(agreement >= least) & (found["present"] > 0)
        classes = self._classes(wrong, by_hand, lambda number: f"{agreement[number]:.2f}")
        return classes and (
            f"target labels change when the image is turned a little; Dice with themselves: {classes}; "
            f"expected at least {least:g}. Train longer, or with a lower segmentation_learning_rate"
        )

    def lost(self, measured: Mapping[str, Mapping[str, Tensor]]) -> str:
        """Classes whose labels are less plausible than the start's, with the fit of their shapes."""
        if "start" not in measured:
            return ""
        after, before = (measured[group]["shape_fit"].nan_to_num() for group in ("target", "start"))
        return self._classes(
            after < before - self.limits["lost_shape_fit"],
            measured["by_hand"],
            lambda number: f"{after[number]:.2f} (before {before[number]:.2f})",
        )

    def _worse(self, measured: Mapping[str, Mapping[str, Tensor]]) -> str | None:
        classes = self.lost(measured)
        return classes and (
            "the adapted network labels target images less plausibly than the network that it started from; "
            f"fit of shapes: {classes}. Look at the training curves, and at the weights of "
            "the losses"
        )


def _against(key: str, found: Mapping[str, Tensor], by_hand: Mapping[str, Tensor]) -> Callable[[int], str]:
    return lambda number: f"{found[key][number]:.2f} (by hand {by_hand[key][number]:.2f})"


def spacings(samples: Sequence[Mapping[str, Any]], in_mm: bool) -> Tensor:
    """Spacing of the networks' grid in each sample ``[N, D]``: mm, or parts of the image's mean extent."""
    return torch.stack([unit_lengths(Grid.of(each["image"]), in_mm) for each in samples])
