"""The label maps that multimodal registration trains on: manual and predicted ones of both modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from .. import processes
from ..data.batches import Samples, Stack, collect_samples
from ..data.room import roomy
from ..metrics import likeliest


def label_pool(
    manual: Sequence[Mapping[str, Any]],
    predicted: Sequence[Mapping[str, Any]] = (),
    batch_size: int = 16,
) -> Samples:
    """Pool manual labels with the labels that networks predict; several processes predict some each.

    Args:
        manual: samples with integer ``label`` ``[1, *spatial]``.
        predicted: for each modality ``{"network": ..., "images": ...}``: a segmentation network from images
            to logits, and samples with ``image`` ``[C, *spatial]``. An empty set of images adds nothing.
        batch_size: images that a network sees at a time.

    Returns:
        ``{"label": [N, 1, *spatial]}``, uint8, for ``RandomPairBatches``.
    """
    labels: list[Tensor] = []
    files: list[str] = []
    if len(manual):
        drawn = collect_samples(manual, ("label",))
        labels += [label.to(torch.uint8) for label in drawn["label"].tensors]
        files += drawn.files
    for entry in predicted:
        if not len(entry["images"]):
            continue
        network = entry["network"].eval()
        device = next(network.parameters()).device
        images = collect_samples(entry["images"], ("image",))
        files += images.files
        count, _, *size = images["image"].shape
        found = roomy((count, 1, *size), torch.uint8)
        parts = torch.arange(count).split(batch_size)
        with torch.inference_mode():
            for number, part in enumerate(parts):
                if processes.is_own(number):
                    batch = images["image"][part].to(device)
                    found[part] = likeliest(network(batch)).to("cpu", torch.uint8)
        processes.exchange(found, parts, device)
        labels += found
    return Samples({"label": Stack(labels)}, files if len(files) == len(labels) else [])
