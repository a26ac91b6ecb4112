"""The label maps that multimodal registration trains on: manual and predicted ones of both modalities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from ..data.batches import Samples, stack_samples


def label_pool(
    manual: Sequence[Mapping[str, Any]],
    predicted: Sequence[Mapping[str, Any]] = (),
    batch_size: int = 16,
) -> Samples:
    """Pool manual labels with the labels that networks predict.

    Args:
        manual: samples with integer ``label`` ``[1, *spatial]``.
        predicted: for each modality ``{"network": ..., "images": ...}``: a segmentation network from images
            to logits, and samples with ``image`` ``[C, *spatial]``. An empty set of images adds nothing.
        batch_size: images that a network sees at a time.

    Returns:
        ``{"label": [N, 1, *spatial]}``, uint8, for ``RandomPairBatches``.
    """
    labels, files = [], []
    if len(manual):
        drawn = stack_samples(manual, ("label",))
        labels.append(drawn["label"].to(torch.uint8))
        files += drawn.files
    for entry in predicted:
        if not len(entry["images"]):
            continue
        network = entry["network"].eval()
        device = next(network.parameters()).device
        images = stack_samples(entry["images"], ("image",))
        files += images.files
        with torch.inference_mode():
            for batch in images["image"].split(batch_size):
                labels.append(network(batch.to(device)).argmax(1, keepdim=True).to("cpu", torch.uint8))
    pool = torch.cat(labels)
    return Samples({"label": pool}, files if len(files) == len(pool) else [])
