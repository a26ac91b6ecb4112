"""Learning to see how an image lies, from images that are turned, mirrored and inverted on purpose."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np
import torch
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor, nn

from ..networks.pose_network import PoseNetwork
from ..spatial import map_about_middle, sample
from ..spatial.pose import all_turns, mirroring
from ..terminal import track
from .augmentation import Batch
from .seeded import seeded

POINTS = 2**19  # of images in a batch that is segmented
EXAMPLES = {2: (512, 640), 3: (128, 960)}  # fewest and most, by dimensions
ALL_POINTS = 2**22  # of all examples, on a CPU


class Modality(NamedTuple):
    """Images of a modality, and what segments them.

    Attributes:
        image: ``[N, C, *spatial]`` in [0, 1], as the segmentation network gets them.
        segment: from such images to class probabilities.
        lengths: of the axes of their grid, ``[D]``, in any one unit.
    """

    image: Tensor
    segment: Callable[[Tensor], Tensor]
    lengths: Tensor


class PoseLearner:
    """Trains a pose network without any label: it has to tell images as they are from turned ones.

    Both are segmented by the networks that will segment what users bring, so that what these make of a
    turned image is known, too. Of each augmented image there are some wrong views, the mirrored one and an
    inverted one among them.

    Args:
        augmentation: of batches ``{"image": [B, C, *spatial]}``: what may befall images that lie as they
            should, small turns and shifts and other fields of view.
        normalise: of items ``{"image": [C, *spatial]}``, as in preprocessing: where an image shows less, its
            grey values are brought to another range.
        loss: of logits ``[B, V]`` of V views, the first of which is right.
        examples: augmented images of each modality; None for as many as the size of the grid allows, 0 to
            learn nothing.
        steps: of the optimiser.
        examples_per_step: on their coarse grid, whatever the size of the images.
        learning_rate: the largest.
        seed: of all that is random.
        inferer: runs the pose network, and what segments for it, such as in half precision.
    """

    def __init__(
        self,
        augmentation: Callable[[Batch], Batch],
        normalise: Callable[[Batch], Batch],
        loss: nn.Module,
        examples: int | None = None,
        steps: int = 500,
        examples_per_step: int = 16,
        learning_rate: float = 3e-3,
        seed: int = 0,
        inferer: Inferer | None = None,
    ) -> None:
        self.augmentation, self.normalise, self.loss = augmentation, normalise, loss
        self.examples, self.steps = examples, steps
        self.examples_per_step, self.learning_rate, self.seed = examples_per_step, learning_rate, seed
        self.inferer = inferer or SimpleInferer()

    def settings(self) -> str:
        """All that decides what is learnt, in words; the inferer, which depends on the device, does not."""
        return str(_described({key: value for key, value in vars(self).items() if key != "inferer"}))

    def learn(self, network: PoseNetwork, modalities: Mapping[str, Modality]) -> PoseNetwork:
        """Train a network, in place, and return it in evaluation mode.

        Args:
            network: on the device on which to train; its weights are drawn anew.
            modalities: by name.
        """
        device = next(network.parameters()).device
        with seeded(self.seed, device):
            for layer in network.modules():
                if isinstance(layer, (nn.modules.conv._ConvNd, nn.Linear, nn.PReLU)):
                    layer.reset_parameters()
            views = torch.cat([self.views(network, each) for each in modalities.values()])
            self._fit(network.train(), views.to(device))
        return network.eval()

    def _fit(self, network: PoseNetwork, views: Tensor) -> None:
        optimiser = torch.optim.AdamW(network.parameters(), self.learning_rate, weight_decay=1e-2)
        schedule = torch.optim.lr_scheduler.OneCycleLR(
            optimiser, self.learning_rate, total_steps=self.steps + 1
        )
        for _ in track(range(self.steps), "poses"):
            batch = views[torch.randint(len(views), (self.examples_per_step,)).to(views.device)].float()
            logits = self.inferer(batch.flatten(0, 1), network.judged)
            loss = self.loss(logits.reshape(batch.shape[:2]))
            optimiser.zero_grad()
            loss.backward()
            optimiser.step()
            schedule.step()

    @torch.no_grad()
    def views(self, network: PoseNetwork, modality: Modality) -> Tensor:
        """Return views of augmented images, ``[examples, V, 1 + K, *grid]``, half precision, the first right.

        Args:
            network: that will see them.
            modality: the images.
        """
        dims = modality.image.ndim - 2
        upright = np.eye(dims)
        points = int(np.prod(modality.image.shape[2:]))
        on_cpu = next(network.parameters()).device.type == "cpu"
        fewest, most = EXAMPLES[dims]
        examples = int(np.clip(ALL_POINTS // points if on_cpu else most, fewest, most))
        examples = examples if self.examples is None else self.examples
        turns = [turn for turn in all_turns(dims) if not np.array_equal(turn, upright)]
        size = max(1, POINTS // points // 5)
        found = []
        for start in range(0, examples, size):
            count = min(size, examples - start)
            image = modality.image[torch.randint(len(modality.image), (count,))]
            image = self.augmentation({"image": image})["image"]
            image = torch.stack([self.normalise({"image": each})["image"] for each in image])
            wrong = [(turn, False) for turn in random.sample(turns, min(2, len(turns)))]
            wrong += [(mirroring(dims), False), (random.choice([upright, *turns]), True)]
            seen = []
            for turn, inverted in [(upright, False), *wrong]:
                view = turned(image, turn, modality.lengths)
                view = 1 - view if inverted else view
                seen.append(network.seen(view, modality.segment(view).to(view)).half())
            found.append(torch.stack(seen, 1))
        return torch.cat(found)


def _described(value: Any) -> Any:
    """The type and the parameters of a component, those of its parts included."""
    if isinstance(value, (list, tuple)):
        return [_described(each) for each in value]
    if isinstance(value, Mapping):
        return {str(key): _described(each) for key, each in value.items()}
    if value is None or isinstance(value, (bool, int, float, str, type)):
        return str(value)
    return type(value).__name__, _described(getattr(value, "__dict__", None))


def turned(image: Tensor, turn: np.ndarray, lengths: Tensor) -> Tensor:
    """Return images ``[B, C, *spatial]`` as they are seen in a turned frame of the same size.

    Args:
        image: continued by its border.
        turn: directions of the frame's axes in those of the image, as columns, ``[D, D]``.
        lengths: of the axes, ``[D]``.
    """
    phi = map_about_middle(torch.as_tensor(turn), lengths, image.shape[2:], device=image.device)
    return sample(image, phi)
