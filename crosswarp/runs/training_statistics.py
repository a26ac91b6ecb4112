"""What the training images of a modality and their segmentations look like, for the verdict on others."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from ..files import file_digest
from ..kept import known_json
from ..metrics import likeliest
from ..metrics.components import LARGE_PIECE, count_components
from ..metrics.typicality import appearance_features, learn_statistics, shape_features
from .bundle import INFERENCE, WEIGHTS, load_network, write_json
from .config import read_config
from .training_images import spread

STATISTICS = Path("statistics.json")  # in a segmentation stage's folder: what was measured, and of what


def stage_statistics(
    bundle: Path, records: Sequence[Mapping[str, str]], data_digest: str, device: torch.device | str = "cpu"
) -> dict[str, Any]:
    """The :func:`training_statistics` of a stage, measured anew where its network, config or data are others.

    Args:
        bundle: the stage's folder.
        records: of the datalist.
        data_digest: of the datalist.
        device: where the network computes.
    """
    of = [data_digest, len(records), *(file_digest(bundle / file) for file in (WEIGHTS, INFERENCE))]
    known = known_json(bundle / STATISTICS)
    if known.get("of") != of:
        known = {"of": of, "statistics": training_statistics(bundle, records, device=device)}
        write_json(bundle / STATISTICS, known)
    return known["statistics"]


def training_statistics(
    bundle: Path,
    records: Sequence[Mapping[str, str]],
    max_images: int = 200,
    device: torch.device | str = "cpu",
) -> dict[str, Any]:
    """Measure images as the network of a trained segmentation bundle gets them, and what it predicts.

    Args:
        bundle: the bundle's folder.
        records: of the datalist, each with an ``image``.
        max_images: most of them to read; see :func:`~.training_images.spread`.
        device: where the network computes.

    Returns:
        statistics of ``appearance`` and ``shape``, for :func:`~.quality.image_atypicality`, and ``pieces``,
        of how many each class consists at most, for :func:`~.quality.judge`.
    """
    network = load_network(bundle, device)
    preprocessing = read_config(bundle / INFERENCE).get_parsed_content("preprocessing")
    found: dict[str, list[torch.Tensor]] = {"appearance": [], "shape": [], "labels": []}
    with torch.no_grad():
        for record in spread(records, max_images):
            seen = {key: record[key] for key in ("image", "side") if key in record}
            image = preprocessing(seen)["image"].as_tensor()[None].to(device)
            found["appearance"].append(appearance_features(image))
            probabilities = network(image).float().softmax(1)
            found["shape"].append(shape_features(probabilities))
            found["labels"].append(likeliest(probabilities).to("cpu", torch.uint8))
    labels, classes = torch.cat(found.pop("labels")), probabilities.shape[1]
    learnt: dict[str, Any] = {key: learn_statistics(torch.cat(each)) for key, each in found.items()}
    return learnt | {"pieces": count_components(labels, classes, LARGE_PIECE)}
