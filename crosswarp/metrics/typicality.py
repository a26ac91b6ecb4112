"""How unlike an image and its segmentation are to those that a network was trained with.

A network is sure of itself also where it is wrong, so confidence alone does not find images of another
modality or without the anatomy. Here simple features of the image and of the predicted labels are compared
with those of the training images by Mahalanobis distance, as Lee et al. (NeurIPS 2018) do with a network's
own features.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from monai.transforms.utils_pytorch_numpy_unification import percentile

from ..spatial import as_float32, identity_map

Statistics = Mapping[str, Any]
PERCENTILES = (25, 50, 75, 90)
SCALES = 4
LEAST_SPREAD = 0.02  # of intensities from 0 to 1, and of logarithms: less is no difference


def appearance_features(image: torch.Tensor) -> torch.Tensor:
    """Return what an image looks like: quantiles of its values, and its roughness at several scales.

    Args:
        image: ``[B, C, *spatial]``, as the network gets it.

    Returns:
        ``[B, C, F]``.
    """
    image = as_float32(image)
    # not torch.quantile, which takes no more than 16 million values
    values = torch.as_tensor(percentile(image.flatten(2), PERCENTILES, dim=2)).movedim(0, -1)
    roughness = []
    pool = F.avg_pool2d if image.ndim == 4 else F.avg_pool3d
    for _ in range(SCALES):
        steps = [image.diff(dim=axis).square() for axis in range(2, image.ndim) if image.shape[axis] > 1]
        energy = torch.stack(
            [step.flatten(2).mean(2) for step in steps] or [torch.zeros_like(values[..., 0])]
        )
        roughness.append(torch.log(energy.mean(0) + 1e-6))
        image = pool(image, [min(2, size) for size in image.shape[2:]])
    return torch.cat([values, torch.stack(roughness, -1)], -1)


def shape_features(probabilities: torch.Tensor) -> torch.Tensor:
    """Return volume, place and width of each predicted class.

    Args:
        probabilities: ``[B, K, *spatial]``, background first.

    Returns:
        ``[B, K - 1, 1 + 2 D]``: logarithm of the volume, centre in fractions, logarithm of the variances.
    """
    classes = probabilities.shape[1]
    labels = F.one_hot(probabilities.max(1).indices, classes).movedim(-1, 1)[:, 1:].flatten(2).float()
    volume = labels.mean(2, keepdim=True)
    mass = labels / labels.sum(2, keepdim=True).clamp(min=1)
    places = identity_map(probabilities.shape[2:], probabilities.device).flatten(2)[0].T
    centre = torch.where(volume > 0, mass @ places, 0.5)
    variance = (mass @ places.square() - (mass @ places).square()).clamp(min=0)
    return torch.cat([torch.log(volume + 1e-4), centre, torch.log(variance + 1e-5)], -1)


def learn_statistics(features: torch.Tensor, shrinkage: float = 0.2) -> dict[str, Any]:
    """Return what :func:`atypicality` needs, as numbers that JSON can hold.

    Args:
        features: ``[N, G, F]`` of training images, G groups of F features.
        shrinkage: of their correlations towards none, for there may be few images.

    Returns:
        ``mean`` ``[G][F]``, ``precision`` ``[G][F][F]``, and ``largest``, the distance of the most unusual
        image, each measured with the statistics of all the others; None for less than three images.
    """
    features = features.double().cpu()
    if len(features) < 3:
        return {"mean": None, "precision": None, "largest": None}
    mean, precision = _fit(features, shrinkage)
    others = (torch.cat([features[:i], features[i + 1 :]]) for i in range(len(features)))
    distances = [
        _distance(own[None], *_fit(rest, shrinkage)) for own, rest in zip(features, others, strict=True)
    ]
    rounded = {"mean": digits(mean), "precision": digits(precision)}
    return rounded | {"largest": float(f"{max(map(float, distances)):.4g}")}


def atypicality(features: torch.Tensor, statistics: Statistics) -> torch.Tensor | None:
    """Return how unusual images are: 1 is as much as the most unusual one in training.

    Args:
        features: ``[B, G, F]``.
        statistics: what :func:`learn_statistics` returned.

    Returns:
        ``[B]``, or None where there were too few images to tell.
    """
    if statistics["largest"] is None:
        return None
    mean, precision = (torch.tensor(statistics[key], dtype=torch.float64) for key in ("mean", "precision"))
    return _distance(features.double().cpu(), mean, precision) / statistics["largest"]


def _fit(features: torch.Tensor, shrinkage: float) -> tuple[torch.Tensor, torch.Tensor]:
    mean, spread = features.mean(0), features.std(0) + LEAST_SPREAD
    standard = (features - mean) / spread
    correlation = torch.einsum("ngi,ngj->gij", standard, standard) / len(features)
    correlation = torch.lerp(correlation, torch.eye(features.shape[2], dtype=features.dtype), shrinkage)
    return mean, torch.linalg.inv(correlation) / (spread[:, :, None] * spread[:, None])


def _distance(features: torch.Tensor, mean: torch.Tensor, precision: torch.Tensor) -> torch.Tensor:
    """Root mean square of the distances of the groups, per feature."""
    apart = features - mean
    return torch.einsum("bgi,gij,bgj->bg", apart, precision, apart).div(apart.shape[2]).mean(1).sqrt()


def digits(values: torch.Tensor) -> Any:
    """Return numbers as JSON can hold them, in five digits, in lists; null for NaN."""
    if values.ndim:
        return [digits(each) for each in values]
    return None if values.isnan() else float(f"{values.item():.5g}")
