"""What the training images of a modality and their segmentations look like, for the verdict on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..metrics.typicality import appearance_features, learn_statistics, shape_features
from .bundle import INFERENCE, load_network
from .config import read_config


def training_statistics(
    bundle: Path,
    records: Sequence[Mapping[str, str]],
    max_images: int = 200,
    device: torch.device | str = "cpu",
) -> dict[str, dict[str, Any]]:
    """Measure images as the network of a trained segmentation bundle gets them, and what it predicts.

    Args:
        bundle: the bundle's folder.
        records: of the datalist, each with an ``image``.
        max_images: most of them to read, spread evenly over the records.
        device: where the network computes.

    Returns:
        statistics of ``appearance`` and ``shape``, for :func:`~.quality.image_atypicality`.
    """
    network = load_network(bundle, device)
    preprocessing = read_config(bundle / INFERENCE).get_parsed_content("preprocessing")
    chosen = records[:: -(-len(records) // max_images) or 1]
    found: dict[str, list[torch.Tensor]] = {"appearance": [], "shape": []}
    with torch.no_grad():
        for record in chosen:
            image = preprocessing({"image": record["image"]})["image"].as_tensor()[None].to(device)
            found["appearance"].append(appearance_features(image))
            found["shape"].append(shape_features(network(image).float().softmax(1)))
    return {key: learn_statistics(torch.cat(features)) for key, features in found.items()}
