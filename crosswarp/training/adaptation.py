"""The adaptation step: from a source segmentation network to a target one, without target labels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import torch
from monai.engines import Trainer
from monai.engines.utils import IterationEvents
from monai.inferers import Inferer, SimpleInferer
from torch import Tensor, nn
from torch.optim import Optimizer

from .. import processes
from .parallel import LeastOf, drawn_for

TERMS = (
    "adversarial",
    "cycle",
    "identity",
    "translated_segmentation",
    "cycle_segmentation",
    "agreement",
    "cycle_agreement",
    "mixed_segmentation",
    "self_training",
)
CHEAP_TERMS = {"mixed_segmentation", "self_training"}  # those without generators

BatchTransform = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def _unchanged(batch: dict[str, Tensor]) -> dict[str, Tensor]:
    return batch


class ZipBatches:
    """Batches of both modalities side by side: keys are ``source_<key>`` and ``target_<key>``.

    Args:
        source: batches of the source modality.
        target: batches of the target modality; as many.
        names: what stands before the keys instead, such as ``["moving", "fixed"]`` to register them.
    """

    def __init__(self, source: Any, target: Any, names: Sequence[str] = ("source", "target")) -> None:
        if len(source) != len(target):
            raise ValueError(
                f"Expected as many source as target batches, got {len(source)} and {len(target)}."
            )
        self.source, self.target, self.names = source, target, names

    def __len__(self) -> int:
        return len(self.source)

    @property
    def drawn(self) -> tuple[Any, Any]:
        """What the latest batches of source and target consist of, see ``data.RandomBatches``."""
        return self.source.drawn, self.target.drawn

    def files(self, drawn: tuple[Any, Any]) -> list[str]:
        """The files of what was drawn."""
        return [*self.source.files(drawn[0]), *self.target.files(drawn[1])]

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        for source, target in zip(self.source, self.target, strict=True):
            batches = zip(self.names, (source, target), strict=True)
            yield {f"{name}_{key}": value for name, batch in batches for key, value in batch.items()}


class ImagePool(nn.Module):
    """A history of translated images for a discriminator (Shrivastava et al., CVPR 2017).

    Half of the images that are asked for are swapped with older ones. The pool is part of ``state_dict``.
    Several processes keep the same one, of the images of all.

    Args:
        size: images to keep; 0 returns every image as it is.
    """

    images: Tensor

    def __init__(self, size: int = 50) -> None:
        super().__init__()
        self.size = size
        self.register_buffer("images", torch.empty(0))

    def forward(self, images: Tensor) -> Tensor:
        """Return ``[B, C, *spatial]`` for the discriminator; once the pool is full, half are old ones."""
        images = images.detach()
        return images if self.size == 0 else processes.share(self._swapped(processes.gathered(images)))

    def _swapped(self, images: Tensor) -> Tensor:
        self.images = self.images.to(images.device)
        room = self.size - len(self.images)
        if room > 0:
            new = images[:room]
            self.images = torch.cat([self.images, new]) if len(self.images) else new.clone()
            return images
        new = images[: self.size]  # no more than there are slots to swap with
        slots = torch.randperm(self.size, device=images.device)[: len(new)]
        swap = torch.rand(len(new), *[1] * (images.dim() - 1), device=images.device) < 0.5
        old = self.images[slots]
        self.images[slots] = torch.where(swap, new, old)
        return torch.cat([torch.where(swap, old, new), images[self.size :]])

    def _load_from_state_dict(self, state_dict: dict, prefix: str, *args: Any) -> None:
        self.images = torch.empty_like(state_dict[f"{prefix}images"])
        super()._load_from_state_dict(state_dict, prefix, *args)


def together(
    device: torch.device | str, memory_format: torch.memory_format, **networks: nn.Module
) -> nn.ModuleDict:
    """Networks that are trained and saved as one.

    Args:
        device: where to put them, as they are.
        memory_format: of their weights.
        networks: by name.
    """
    return nn.ModuleDict(networks).to(device).to(memory_format=memory_format)  # type: ignore[call-overload]


class AdaptationTrainer(Trainer):
    """Unpaired translation and target segmentation trained together (Demir & Niethammer, MIDL 2024).

    With generators G (source to target) and F (target to source), S_s the frozen source and S_t the target
    segmentation network, ``x_s, y_s`` a source image and its label, ``x_t`` a target image, the terms are:

    - ``adversarial``: least squares, G(x_s) against the target and F(x_t) against the source discriminator;
    - ``cycle``: L1 of F(G(x_s)) to x_s and of G(F(x_t)) to x_t; ``identity``: L1 of G(x_t) to x_t and of
      F(x_s) to x_s;
    - ``translated_segmentation``: S_t(G(x_s)) against y_s; ``cycle_segmentation``: S_s(F(G(x_s))) against
      y_s;
    - ``agreement``: S_t(x_t) with S_s(F(x_t)); ``cycle_agreement``: S_t(G(F(x_t))) with S_s(F(x_t));
    - ``mixed_segmentation``, which the paper does not have: S_t(x_s in the style of x_t) against y_s, where
      the style is not learned (``training.RandomSpectrum``) and so works from the first step;
    - ``self_training``, likewise: S_t(x_t) against labels of x_t that come with the batch
      (``data.PseudoLabels``), on those images whose labels are the least in doubt.

    What S_s says of F(x_t) is a teacher in both agreements and receives no gradient: otherwise F learns to
    draw what S_t believes. S_s has no gradients of its own and always evaluates; gradients pass *through* it
    to the generators in ``cycle_segmentation`` alone.

    Args:
        device: where to train.
        max_epochs: epochs to train.
        train_data_loader: yields ``source_image``, ``source_label`` (integers) and ``target_image``; for
            ``self_training`` also ``target_label`` and ``target_disagreement`` ``[B]``.
        networks: by name: ``source_to_target``, ``target_to_source``, ``source_discriminator``,
            ``target_discriminator``, ``source_segmentation``, ``target_segmentation``; some may stand in a
            ``ModuleDict``, see :func:`together`. Segmentation networks return logits.
        optimizer: of both generators and the target segmentation network.
        discriminator_optimizer: of both discriminators.
        adversarial_loss: called as ``losses.PatchAdversarialLoss``.
        segmentation_loss: of logits ``[B, K, *spatial]`` and integer labels ``[B, 1, *spatial]``.
        self_training_loss: likewise, for ``self_training``. Dice gains by making unsure structures larger,
            and with the network's own labels that adds up; cross entropy does not.
        agreement_loss: of two probability maps ``[B, K, *spatial]``.
        weights: weight of each term (``TERMS``); a term left out is not computed.
        pools: image pools ``source`` and ``target`` for the discriminators.
        reliable_share: share of each batch of target images that ``self_training`` uses.
        self_training_start: epochs before ``self_training`` begins.
        translation_interval: steps from one training of generators and discriminators to the next; between
            them only the terms without generators are computed, at a small part of the cost.
        style_mixing: called with ``{"image": x_s, "label": y_s, "style": x_t}``, returns x_s in the style of
            x_t under ``image``.
        self_training_augmentation: called with ``{"image": x_t}`` on the images of ``self_training`` alone.
        segmentation_augmentation: called with ``{"image": ...}`` on what S_t is trained on, fresh each time.
        inferer: runs the networks, e.g. in half precision.
        kwargs: of ``monai.engines.Trainer``.

    Raises:
        ValueError: on an unknown term or a missing network.
    """

    def __init__(
        self,
        device: torch.device | str,
        max_epochs: int,
        train_data_loader: Any,
        networks: Mapping[str, nn.Module],
        optimizer: Optimizer,
        discriminator_optimizer: Optimizer,
        adversarial_loss: nn.Module,
        segmentation_loss: nn.Module,
        self_training_loss: nn.Module,
        agreement_loss: nn.Module,
        weights: Mapping[str, float],
        pools: Mapping[str, ImagePool],
        reliable_share: float = 0.5,
        self_training_start: int = 0,
        translation_interval: int = 1,
        style_mixing: BatchTransform = _unchanged,
        self_training_augmentation: BatchTransform = _unchanged,
        segmentation_augmentation: BatchTransform = _unchanged,
        inferer: Inferer | None = None,
        train_handlers: Any = None,
        **kwargs: Any,
    ) -> None:
        unknown = sorted(set(weights) - set(TERMS))
        if unknown:
            raise ValueError(f"Expected weights of the terms {TERMS}, got also {unknown}.")
        if not any(weights.values()) or translation_interval < 1:
            raise ValueError(
                "Expected a term with a weight above 0 and a translation_interval of at least 1, "
                f"got {dict(weights)} and {translation_interval}."
            )
        groups = [
            each if isinstance(each, nn.ModuleDict) else {name: each} for name, each in networks.items()
        ]
        networks = {name: network for group in groups for name, network in group.items()}
        wanted = {f"{a}_{b}" for a in ("source", "target") for b in ("discriminator", "segmentation")}
        missing = sorted((wanted | {"source_to_target", "target_to_source"}) - set(networks))
        if missing:
            raise ValueError(f"Expected six networks, but {missing} are missing.")
        super().__init__(
            device, max_epochs, train_data_loader, handlers=train_handlers, decollate=False, **kwargs
        )
        self._counts: Counter[str] = Counter()
        self.networks = networks
        self.networks["source_segmentation"].requires_grad_(False)
        self.optimizer, self.discriminator_optimizer = optimizer, discriminator_optimizer
        self.adversarial_loss = adversarial_loss
        self.segmentation_loss, self.self_training_loss = segmentation_loss, self_training_loss
        self.agreement_loss = agreement_loss
        self.weights = {term: float(weight) for term, weight in weights.items() if weight}
        self.pools = dict(pools)
        self.reliable_share = reliable_share
        self.self_training_start = self_training_start
        self.translation_interval = translation_interval
        self.style_mixing, self.segmentation_augmentation = style_mixing, segmentation_augmentation
        self.self_training_augmentation = self_training_augmentation
        self.inferer = inferer or SimpleInferer()

    def _iteration(self, engine: Any, batchdata: Mapping[str, Tensor]) -> dict[str, Tensor]:
        for name, network in self.networks.items():
            network.train(name != "source_segmentation")
        batch = {k: v.to(self.state.device, non_blocking=self.non_blocking) for k, v in batchdata.items()}
        source, target = batch["source_image"].float(), batch["target_image"].float()
        translates = (self.state.iteration - 1) % self.translation_interval == 0
        self._require_discriminator_gradients(False)
        terms, translated = self._terms(batch, source, target, translates)
        if not terms:  # before self-training starts, between two translations
            self._record({})
            return {"loss": torch.zeros(())}
        total = torch.stack([self.weights[term] * value for term, value in terms.items()]).sum()
        output = {"loss": total.detach()} | {term: value.detach() for term, value in terms.items()}
        self._losses_completed(output)
        self.optimizer.zero_grad()
        total.backward()
        self.optimizer.step()

        if "adversarial" in terms:
            self._require_discriminator_gradients(True)
            real = {"source": source, "target": target}
            critic = torch.stack(
                [self._discriminator_loss(name, real[name], translated[name]) for name in real]
            ).sum()
            output["discriminator"] = critic.detach()
            self._losses_completed(output)
            self.discriminator_optimizer.zero_grad()
            critic.backward()
            self.discriminator_optimizer.step()
        self._record(output)
        engine.fire_event(IterationEvents.MODEL_COMPLETED)
        return output

    def _losses_completed(self, output: dict[str, Tensor]) -> None:
        """Before each backward pass, let handlers see the losses so far, as MONAI's trainers do."""
        self.state.output = output
        self.fire_event(IterationEvents.LOSS_COMPLETED)

    def _record(self, output: dict[str, Tensor]) -> None:
        """Keep the mean of each term over the epoch in the engine's metrics, on the device."""
        if (self.state.iteration - 1) % self.state.epoch_length == 0:
            self._counts.clear()
            self.state.metrics.clear()
        for name, value in output.items():
            self._counts[name] += 1
            mean = self.state.metrics.get(name, 0.0)
            self.state.metrics[name] = mean + (value - mean) / self._counts[name]
        if self.state.iteration % self.state.epoch_length == 0:
            self.state.metrics.update(processes.averaged(self.state.metrics))

    def _require_discriminator_gradients(self, required: bool) -> None:
        for modality in ("source", "target"):
            self.networks[f"{modality}_discriminator"].requires_grad_(required)

    def _terms(
        self, batch: Mapping[str, Tensor], source: Tensor, target: Tensor, translates: bool
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The terms of the generators and of S_t, and the translated images."""
        label = batch["source_label"]
        wanted = self.weights.keys() if translates else self.weights.keys() & CHEAP_TERMS
        labels = dict.fromkeys(TERMS, label)
        terms: dict[str, Tensor] = {}
        translated: dict[str, Tensor] = {}
        seen: dict[str, Tensor] = {}  # what the target segmentation network sees, in one pass
        if "mixed_segmentation" in wanted:
            image = source
            if source.shape[1] != target.shape[1]:
                image = source.mean(1, keepdim=True).expand(-1, target.shape[1], *target.shape[2:])
            mixed = self.style_mixing({"image": image, "label": label, "style": target})
            seen["mixed_segmentation"] = mixed["image"]
        if "self_training" in wanted and self.state.epoch > self.self_training_start:
            reliable = LeastOf(batch["target_disagreement"], self.reliable_share)
            shown = target[reliable.numbers]
            with drawn_for({"self_training": target}, {"self_training": reliable}):
                shown = self.self_training_augmentation({"image": shown})["image"]
            seen["self_training"] = shown
            labels["self_training"] = batch["target_label"][reliable.numbers]
        if wanted - CHEAP_TERMS:
            translation_terms, translated = self._translation_terms(source, label, target)
            terms |= translation_terms
            inputs = {
                "translated_segmentation": translated["target"],
                "agreement": target,
                "cycle_agreement": translated.get("cycled_target"),
            }
            seen |= {term: image for term, image in inputs.items() if term in wanted and image is not None}
        if not seen:
            return terms, translated
        with drawn_for(seen, {"self_training": reliable} if "self_training" in seen else {}):
            augmented = self.segmentation_augmentation({"image": torch.cat(list(seen.values()))})["image"]
        logits = self._run("target_segmentation", augmented).split([len(images) for images in seen.values()])
        if seen.keys() & {"agreement", "cycle_agreement"}:
            with torch.no_grad():
                teacher = self._run("source_segmentation", translated["source"]).softmax(1)
        for term, prediction in zip(seen, logits, strict=True):
            if term.endswith("agreement"):
                terms[term] = self.agreement_loss(prediction.softmax(1), teacher)
            elif term == "self_training":
                terms[term] = reliable.weight * self.self_training_loss(prediction, labels[term])
            else:
                terms[term] = self.segmentation_loss(prediction, labels[term])
        return terms, translated

    def _run(self, network: str, images: Tensor) -> Any:
        return self.inferer(images, self.networks[network])

    def _translation_terms(
        self, source: Tensor, label: Tensor, target: Tensor
    ) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """The terms that need only the generators; G(x_s) as ``target``, F(x_t) as ``source``, G(F(x_t))."""
        weights = self.weights
        terms: dict[str, Tensor] = {}
        to_target, to_source = partial(self._run, "source_to_target"), partial(self._run, "target_to_source")
        if "identity" in weights:  # one pass of each generator translates one modality and keeps the other
            fake_target, same_target = to_target(torch.cat([source, target])).split(
                [len(source), len(target)]
            )
            fake_source, same_source = to_source(torch.cat([target, source])).split(
                [len(target), len(source)]
            )
            terms["identity"] = (same_target - target).abs().mean() + (same_source - source).abs().mean()
        else:
            fake_target, fake_source = to_target(source), to_source(target)
        translated = {"source": fake_source, "target": fake_target}
        if weights.keys() & {"cycle", "cycle_segmentation"}:
            cycled_source = to_source(fake_target)
        if weights.keys() & {"cycle", "cycle_agreement"}:
            translated["cycled_target"] = to_target(fake_source)
        if "adversarial" in weights:
            terms["adversarial"] = sum(
                self.adversarial_loss(
                    self._run(f"{modality}_discriminator", image)[-1],
                    target_is_real=True,
                    for_discriminator=False,
                )
                for modality, image in (("target", fake_target), ("source", fake_source))
            )
        if "cycle" in weights:
            terms["cycle"] = (cycled_source - source).abs().mean() + (
                translated["cycled_target"] - target
            ).abs().mean()
        if "cycle_segmentation" in weights:
            terms["cycle_segmentation"] = self.segmentation_loss(
                self._run("source_segmentation", cycled_source), label
            )
        return terms, translated

    def _discriminator_loss(self, modality: str, real: Tensor, fake: Tensor) -> Tensor:
        images = torch.cat([real, self.pools[modality](fake)])
        real_score, fake_score = self._run(f"{modality}_discriminator", images)[-1].split(
            [len(real), len(fake)]
        )
        return 0.5 * (
            self.adversarial_loss(real_score, target_is_real=True, for_discriminator=True)
            + self.adversarial_loss(fake_score, target_is_real=False, for_discriminator=True)
        )
