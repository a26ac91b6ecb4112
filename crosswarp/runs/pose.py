"""What a run learns of how images lie: a network that tells those of the training from turned ones."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from .. import __version__
from ..data import Datalist
from ..files import file_digest
from ..kept import known_json, whole
from ..networks import PoseNetwork
from ..training import save_atomically
from ..training.pose import Modality, PoseLearner
from .bundle import INFERENCE, WEIGHTS, load_network, load_weights, write_json
from .config import read_config
from .training_images import read_images, without

logger = logging.getLogger(__name__)

POSE, RECORD = Path("pose.pt"), Path("pose.json")  # in a run's folder: the weights, and what they are of
ENOUGH = 2.0  # odds, their logarithm, at which an image lies right whatever those of other images
RARE = 0.05  # share of the images that lie right and yet are said not to
MOST_IMAGES = 128  # of either modality, of which is learnt
SECTIONS = ("train_labelled", "train_unlabelled")


def run_pose(
    run_dir: Path,
    bundles: Mapping[str, Path],
    data: Datalist,
    data_digest: str,
    network: PoseNetwork,
    learner: PoseLearner,
    device: torch.device | str = "cpu",
) -> tuple[PoseNetwork, dict[str, float]]:
    """The trained pose network of a run, trained anew where its networks, data or settings are others.

    Args:
        run_dir: the run's folder.
        bundles: the trained stages ``source_segmentation`` and ``target_segmentation``.
        data: the datalist; its test images are left alone.
        data_digest: of the datalist.
        network: takes the weights.
        learner: trains it.
        device: where.

    Returns:
        the network, and for each modality the odds, their logarithm, that but for ``RARE`` ones all of its
        training and validation images have as they are, ``ENOUGH`` at most.
    """
    parts = [bundles[f"{key}_segmentation"] for key in ("source", "target")]
    files = [file_digest(folder / file) for folder in parts for file in (WEIGHTS, INFERENCE)]
    of = [data_digest, __version__, str(network), learner.settings(), *files]
    known = known_json(run_dir / RECORD)
    weights = run_dir / POSE
    if known.get("of") != of or not whole(weights):
        logger.info("  How images lie is learnt from images that are turned, mirrored and inverted.")
        modalities = {
            key: _modality(folder, getattr(data, key).records(*SECTIONS), learner, device)
            for key, folder in zip(("source", "target"), parts, strict=True)
        }
        trained = learner.learn(network.to(device), modalities)
        save_atomically(trained.state_dict(), weights)
        odds = {key: _odds(trained, each) for key, each in modalities.items()}
        for key, folder in zip(modalities, parts, strict=True):
            if records := getattr(data, key).records("val"):
                odds[key] += _odds(trained, _modality(folder, records, learner, device))
        least = {key: round(min(float(np.quantile(odds[key], RARE)), ENOUGH), 3) for key in odds}
        known = {"of": of, "least_odds": least}
        write_json(run_dir / RECORD, known)
    load_weights(network, weights, run_dir / INFERENCE)
    return network.to(device).eval(), known["least_odds"]


@torch.no_grad()
def _odds(network: PoseNetwork, modality: Modality) -> list[float]:
    device = next(network.parameters()).device
    return [
        float(network(image.to(device), modality.segment(image).to(device)))
        for image in modality.image.split(1)
    ]


def _modality(
    folder: Path,
    records: list[dict[str, str]],
    learner: PoseLearner,
    device: torch.device | str,
) -> Modality:
    images = read_images(folder / INFERENCE, [without(each, "label") for each in records], MOST_IMAGES)
    segmentation: nn.Module = load_network(folder, device)

    def segment(image: Tensor) -> Tensor:
        return learner.inferer(image.to(device), segmentation).float().softmax(1)

    size, spacing = np.array(images.image.shape[2:]) - 1, read_config(folder / INFERENCE)["spacing"]
    lengths = torch.tensor(size * spacing) if spacing and images.in_mm else torch.ones(len(size))
    return Modality(images.image, segment, lengths)
