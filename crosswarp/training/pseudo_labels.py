"""Labels of images that have none, from the average of the network that learns from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from ignite.engine import Engine, Events
from monai.inferers import SimpleInferer
from torch import Tensor, nn

from .. import processes
from ..data.batches import Stack, collect_samples
from ..data.room import roomy
from ..metrics import likeliest
from ..metrics.components import count_components, keep_components
from ..spatial import invert, sample
from .augmentation import RandomSpatial


class PseudoLabels(Mapping[str, Any]):
    """Images with the labels that a teacher gives them, anew before each epoch.

    A mapping, as ``data.RandomBatches`` takes it: ``image`` ``[N, C, *spatial]``,
    ``label`` ``[N, 1, *spatial]`` (integers) and ``disagreement`` ``[N]``. As a handler of the trainer it
    fills them anew. The teacher sees each image as it is and after random geometric
    transforms; its answers are brought back to the image's grid and averaged. Of each class the largest
    pieces are kept, as many as it has in the reference labels: what lies apart is a mistake that further
    training would confirm.

    ``disagreement`` is the share of the class that differs most between the average and the answer to the
    image with other intensities, 0 to 1. Where the network fails it fails differently each time, so that it
    tells which labels are worth learning from.

    Args:
        dataset: samples with ``image``.
        teacher: returns logits ``[B, K, *spatial]``.
        reference_labels: integers ``[M, 1, *spatial]``, drawn by hand, that tell of how many pieces a class
            consists; None to keep all pieces.
        num_classes: K.
        spatial: draws the geometric transforms.
        intensity: called with ``{"image": ...}``, changes intensities.
        num_views: geometric transforms of each image.
        prior: takes probabilities ``[B, K, *spatial]`` from where a class cannot be, such as
            :class:`LabelPrior`; None to let them be.
        refinement: takes probabilities and images ``[B, C, *spatial]`` and moves outlines to where images
            have edges, such as :class:`GuidedFilter`; None to let them be.
        max_images: most images; of more, each epoch takes a new random choice, so that no more are labelled
            than are trained on. None for no limit.
        start: epochs before the first labels.
        batch_size: images in a pass.
        inferer: runs the teacher.
    """

    def __init__(
        self,
        dataset: Sequence[Mapping[str, Any]],
        teacher: nn.Module,
        reference_labels: Tensor | None,
        num_classes: int,
        spatial: RandomSpatial,
        intensity: Callable[[dict[str, Tensor]], dict[str, Tensor]],
        num_views: int = 4,
        prior: Callable[[Tensor], Tensor] | None = None,
        refinement: Callable[[Tensor, Tensor], Tensor] | None = None,
        max_images: int | None = None,
        start: int = 0,
        batch_size: int = 32,
        inferer: Callable[..., Tensor] | None = None,
    ) -> None:
        samples = collect_samples(dataset, ["image"])
        self.images, self.image_files = samples["image"].tensors, samples.files
        self.chosen = torch.arange(len(self.images))[:max_images]
        images = Stack(self.images[:max_images])
        self.tensors: dict[str, Any] = {
            "image": images,
            "label": roomy((len(images), 1, *images.shape[2:]), torch.uint8),
            "disagreement": torch.zeros(len(images)),
        }
        self.teacher, self.spatial, self.intensity = teacher, spatial, intensity
        self.num_views, self.start, self.batch_size = num_views, start, batch_size
        self.prior, self.refinement = prior, refinement
        self.inferer = inferer or SimpleInferer()
        self.components: list[int] | None = None
        if reference_labels is not None:
            self.components = count_components(reference_labels, num_classes)

    def __getitem__(self, key: str) -> Any:
        return self.tensors[key]

    def __iter__(self) -> Iterator[str]:
        return iter(self.tensors)

    def __len__(self) -> int:
        return len(self.tensors)

    @property
    def files(self) -> list[str]:
        """The file of each image, where the data set says so."""
        return [self.image_files[number] for number in self.chosen.tolist()] if self.image_files else []

    def attach(self, engine: Engine) -> None:
        """Register with a trainer; after what seeds the epoch."""
        engine.add_event_handler(Events.EPOCH_STARTED, self._start_epoch)

    def _start_epoch(self, engine: Engine) -> None:
        if len(self["image"]) < len(self.images):
            self.chosen = torch.randperm(len(self.images))[: len(self["image"])]
            self["image"].tensors[:] = [self.images[number] for number in self.chosen.tolist()]
        if engine.state.epoch > self.start:
            self.update()

    @torch.no_grad()
    def update(self) -> None:
        """Label the images; several processes label some each, and draw alike for all."""
        device = next(self.teacher.parameters()).device
        self.teacher.eval()
        parts = torch.arange(len(self["image"])).split(self.batch_size)
        for number, part in enumerate(parts):
            own = processes.is_own(number)
            with processes.alone():
                self._label(part, self["image"][part].to(device).float(), own)
        for key in ("label", "disagreement"):
            processes.exchange(self[key], parts, device)

    def _label(self, part: Tensor, images: Tensor, own: bool) -> None:
        """Label some images, or only draw what would be drawn for that."""
        average = self._predict(images) if own else images
        for _ in range(self.num_views):
            phi = self.spatial.draw_map(images)
            if own:
                average += sample(self._predict(sample(images, phi)), invert(phi))
        changed = self.intensity({"image": images})["image"]
        if not own:
            return
        average /= 1 + self.num_views
        first, second = average[:, 1:].flatten(2), self._predict(changed)[:, 1:].flatten(2)
        mass = (first.sum(2) + second.sum(2)).clamp(min=1e-5)
        if self.prior is not None:
            average = self.prior(average)
        if self.refinement is not None:
            average = self.refinement(average, images)
        labels = likeliest(average).to(torch.uint8)
        self["label"][part] = keep_components(labels, self.components) if self.components else labels.cpu()
        self["disagreement"][part] = ((first - second).abs().sum(2) / mass).amax(1).cpu()

    def _predict(self, images: Tensor) -> Tensor:
        return self.inferer(images, self.teacher).softmax(1)
