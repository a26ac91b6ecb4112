"""The training steps of the four stages as they are written without thought for speed.

Both directions one after the other, maps as functions that are evaluated anew wherever they are needed, each
term of stage 3 with its own passes, float32 throughout, 2D: the measure for what the library's steps save.
Terms, networks and batches are the same; tests/benchmarks/test_plain.py compares the values.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial

import torch
import torch.nn.functional as F
from monai.losses import DiceLoss
from monai.networks.utils import one_hot
from torch import Tensor, nn

from crosswarp.networks import MultiStepRegistration
from crosswarp.spatial import identity_map, sample

Map = Callable[[Tensor], Tensor]
Similarity = Callable[[Tensor, Tensor], Tensor]


def move(shift: Tensor, points: Tensor) -> Tensor:
    """Points moved by a displacement that is interpolated at them."""
    return points + sample(shift, points)


def register(network: MultiStepRegistration, moving: Tensor, fixed: Tensor) -> Map:
    """The map moving_to_fixed as a function of points ``[B, 2, H, W]``."""
    steps: list[Map] = []

    def phi(points: Tensor) -> Tensor:
        for step in reversed(steps):
            points = step(points)
        return points

    active = list(zip(network.networks, network.downsampling, strict=True))[: network.active]
    for displacement, factor in active:
        small_moving = F.avg_pool2d(moving, factor, ceil_mode=True)
        small_fixed = F.avg_pool2d(fixed, factor, ceil_mode=True)
        if steps:
            grid = identity_map(small_moving.shape[2:], moving.device).expand(len(moving), -1, -1, -1)
            small_moving = sample(small_moving, phi(grid))
        shift = displacement(torch.cat([small_moving, small_fixed], dim=1))
        steps.append(partial(move, shift))
    return phi


def lncc(first: Tensor, second: Tensor, sigma: float = 3.0) -> Tensor:
    """1 − local normalised cross-correlation in a Gaussian window, blurred by two convolutions each (2D)."""
    radius = round(2 * sigma)
    window = torch.exp(-0.5 * (torch.arange(-radius, radius + 1, device=first.device) / sigma) ** 2)
    window = (window / window.sum()).expand(first.shape[1], 1, 1, -1)

    def blur(image: Tensor) -> Tensor:
        image = F.conv2d(image, window, padding=(0, radius), groups=image.shape[1])
        return F.conv2d(image, window.transpose(2, 3), padding=(radius, 0), groups=image.shape[1])

    a, b = blur(first), blur(second)
    a_variance = (blur(first * first) - a**2).relu() + 1e-5
    b_variance = (blur(second * second) - b**2).relu() + 1e-5
    return 1 - ((blur(first * second) - a * b) / (a_variance * b_variance).sqrt()).mean()


def gradicon(phi: Map, psi: Map, points: Tensor, delta: float = 0.001) -> Tensor:
    """Mean squared Frobenius norm of the Jacobian of ``id − φ∘ψ`` at points ``[B, 2, H, W]``."""
    error = points - phi(psi(points))
    total = torch.zeros((), device=points.device)
    for step in delta * torch.eye(2, device=points.device).view(2, 2, 1, 1):
        moved = points + step
        total = total + (((error - (moved - phi(psi(moved)))) / delta) ** 2).mean()
    return total


def registration_loss(
    network: MultiStepRegistration,
    moving: Tensor,
    fixed: Tensor,
    similarity: Similarity,
    regularity_weight: float = 1.5,
    points: Tensor | None = None,
) -> tuple[Tensor, Map]:
    """The loss of both directions, and the map moving_to_fixed."""
    phi, psi = register(network, moving, fixed), register(network, fixed, moving)
    grid = identity_map(moving.shape[2:], moving.device).expand(len(moving), -1, -1, -1)
    loss = similarity(sample(moving, phi(grid)), fixed) + similarity(sample(fixed, psi(grid)), moving)
    if points is None:
        two_pixels = 2 * (grid[:, :, 1, 1] - grid[:, :, 0, 0])[..., None, None]
        points = grid[:, :, ::2, ::2]
        points = points + two_pixels * torch.randn_like(points)
    return loss + regularity_weight * gradicon(phi, psi, points), phi


class RegistrationStep:
    """A step of stage 1 (``num_classes`` None) or 4."""

    def __init__(self, network: MultiStepRegistration, learning_rate: float, num_classes: int | None) -> None:
        self.network, self.num_classes = network.train(), num_classes
        self.optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
        self.similarity: Similarity = lncc if num_classes is None else DiceLoss()

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Train on ``moving_<key>`` and ``fixed_<key>``; return the loss."""
        key = "image" if self.num_classes is None else "label"
        moving, fixed = batch[f"moving_{key}"], batch[f"fixed_{key}"]
        if self.num_classes is not None:
            moving, fixed = one_hot(moving, self.num_classes), one_hot(fixed, self.num_classes)
        loss, _ = registration_loss(self.network, moving, fixed, self.similarity)
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss


class SegmentationStep:
    """A step of stage 2."""

    def __init__(self, network: nn.Module, learning_rate: float) -> None:
        self.network = network.train()
        self.optimizer = torch.optim.Adam(network.parameters(), lr=learning_rate)
        self.loss = DiceLoss(to_onehot_y=True, softmax=True)

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Train on ``image`` and ``label``; return the loss."""
        loss = self.loss(self.network(batch["image"]), batch["label"])
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        return loss


class AdaptationStep:
    """A step of stage 3 with the paper's terms."""

    def __init__(
        self, networks: Mapping[str, nn.Module], weights: Mapping[str, float], learning_rate: float
    ) -> None:
        self.networks, self.weights = dict(networks), dict(weights)
        for network in self.networks.values():
            network.train().requires_grad_(True)
        self.networks["source_segmentation"].eval()
        generated = ("source_to_target", "target_to_source", "target_segmentation")
        self.optimizer = torch.optim.Adam(self.parameters(generated), lr=learning_rate, betas=(0.5, 0.999))
        critics = ("source_discriminator", "target_discriminator")
        self.critic_optimizer = torch.optim.Adam(
            self.parameters(critics), lr=learning_rate, betas=(0.5, 0.999)
        )
        self.segmentation_loss, self.agreement_loss = DiceLoss(to_onehot_y=True, softmax=True), DiceLoss()

    def parameters(self, names: Sequence[str]) -> list[nn.Parameter]:
        """All parameters of some networks."""
        return [parameter for name in names for parameter in self.networks[name].parameters()]

    def terms(
        self, source: Tensor, label: Tensor, target: Tensor
    ) -> tuple[dict[str, Tensor], Tensor, Tensor]:
        """The terms of the generators and of S_t, G(x_s) and F(x_t)."""
        networks = self.networks
        to_target, to_source = networks["source_to_target"], networks["target_to_source"]
        segment_source, segment_target = networks["source_segmentation"], networks["target_segmentation"]
        fake_target, fake_source = to_target(source), to_source(target)
        cycled_source, cycled_target = to_source(fake_target), to_target(fake_source)
        teacher = segment_source(fake_source).softmax(1)
        terms = {
            "adversarial": sum(
                ((networks[name](fake)[-1] - 1) ** 2).mean()
                for name, fake in (
                    ("target_discriminator", fake_target),
                    ("source_discriminator", fake_source),
                )
            ),
            "cycle": (cycled_source - source).abs().mean() + (cycled_target - target).abs().mean(),
            "identity": (to_target(target) - target).abs().mean() + (to_source(source) - source).abs().mean(),
            "translated_segmentation": self.segmentation_loss(segment_target(fake_target), label),
            "cycle_segmentation": self.segmentation_loss(segment_source(cycled_source), label),
            "agreement": self.agreement_loss(segment_target(target).softmax(1), teacher),
            "cycle_agreement": self.agreement_loss(segment_target(cycled_target).softmax(1), teacher),
        }
        return terms, fake_target, fake_source

    def __call__(self, batch: Mapping[str, Tensor]) -> Tensor:
        """Train on ``source_image``, ``source_label`` and ``target_image``; return the loss."""
        source, label, target = (batch[key] for key in ("source_image", "source_label", "target_image"))
        for critic in ("source_discriminator", "target_discriminator"):
            self.networks[critic].requires_grad_(False)
        terms, fake_target, fake_source = self.terms(source, label, target)
        loss = torch.stack([self.weights[name] * value for name, value in terms.items()]).sum()
        self.optimizer.zero_grad()
        loss.backward()
        self.optimizer.step()
        self.critic_optimizer.zero_grad()
        for name, real, fake in (
            ("source_discriminator", source, fake_source),
            ("target_discriminator", target, fake_target),
        ):
            network = self.networks[name].requires_grad_(True)
            criticism = ((network(real)[-1] - 1) ** 2).mean() + (network(fake.detach())[-1] ** 2).mean()
            (0.5 * criticism).backward()
        self.critic_optimizer.step()
        return loss
