"""Random augmentation of whole batches on their device.

Each transform is called with a batch (a dictionary of tensors ``[B, C, *spatial]``) and returns a new one;
every sample gets its own random parameters from torch's global generator, also where several processes share
a batch (``processes.drawn``); what a batch shares comes from Python's. MONAI's random
transforms work sample by sample; with the small images and networks of this project their Python would cost
more than the training step. Compose them with ``monai.transforms.Compose``.

Intensities are expected, and kept, in [0, 1].
"""

from __future__ import annotations

import itertools
import math
import random
from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..processes import drawn
from ..spatial import identity_map, sample

Batch = dict[str, Tensor]


def _uniform(batch_size: int, low: float, high: float, like: Tensor, *shape: int) -> Tensor:
    def draw(size: int) -> Tensor:
        return torch.empty(size, *shape, device=like.device, dtype=torch.float32).uniform_(low, high)

    return drawn(draw, batch_size)


def _normal(batch_size: int, like: Tensor, *shape: int) -> Tensor:
    return drawn(lambda size: torch.randn(size, *shape, device=like.device), batch_size)


def _per_sample(values: Tensor, like: Tensor) -> Tensor:
    """Reshape ``[B]`` or ``[B, C]`` to broadcast over ``like`` ``[B, C, *spatial]``."""
    return values.reshape(*values.shape, *[1] * (like.dim() - values.dim()))


def _smooth(values: Tensor, shape: Sequence[int]) -> Tensor:
    """Values ``[B, C, *nodes]`` at control points, spread over the image and linear between them."""
    mode = "bilinear" if len(shape) == 2 else "trilinear"
    return functional.interpolate(values, size=tuple(shape), mode=mode, align_corners=True)


class RandomSpatial:
    """Random rotation, scaling, shift and smooth deformation, the same for all keys of a sample.

    Args:
        keys: what to transform.
        modes: ``"linear"`` or ``"nearest"`` for each key.
        rotation: largest angle in degrees (in every coordinate plane).
        scaling: largest relative change of size.
        shift: largest shift as a fraction of the extent.
        deformation: standard deviation of the displacement of a control point, as a fraction of the extent.
        control_points: control points of the deformation along each axis.
        probability: share of samples that are transformed.

    Points outside the image take the value of the border.
    """

    def __init__(
        self,
        keys: Sequence[str] = ("image", "label"),
        modes: Sequence[str] = ("linear", "nearest"),
        rotation: float = 10.0,
        scaling: float = 0.1,
        shift: float = 0.05,
        deformation: float = 0.0,
        control_points: int = 5,
        probability: float = 1.0,
    ) -> None:
        if len(keys) != len(modes):
            raise ValueError(
                f"Expected one mode for each key, got keys {tuple(keys)} and modes {tuple(modes)}."
            )
        self.keys, self.modes = tuple(keys), tuple(modes)
        self.rotation, self.scaling, self.shift = math.radians(rotation), scaling, shift
        self.deformation, self.control_points = deformation, control_points
        self.probability = probability

    def draw_map(self, like: Tensor) -> Tensor:
        """A random map φ ``[B, D, *spatial]`` for samples shaped as ``like``."""
        batch_size, spatial_shape = like.shape[0], like.shape[2:]
        dims = len(spatial_shape)
        identity = identity_map(spatial_shape, like.device)
        # filled, not copied from a list: a copy would make the host wait for the device
        extent = torch.stack([torch.full((), max(n - 1.0, 1.0), device=like.device) for n in spatial_shape])
        applied = (_uniform(batch_size, 0, 1, like) < self.probability).float()
        matrix = torch.eye(dims, device=like.device).repeat(batch_size, 1, 1)
        for a in range(dims):
            for b in range(a + 1, dims):
                angle = _uniform(batch_size, -self.rotation, self.rotation, like) * applied
                plane = torch.eye(dims, device=like.device).repeat(batch_size, 1, 1)
                plane[:, a, a] = plane[:, b, b] = angle.cos()
                plane[:, a, b], plane[:, b, a] = -angle.sin(), angle.sin()
                matrix = matrix @ plane
        matrix = matrix * (
            1 + _uniform(batch_size, -self.scaling, self.scaling, like, 1, 1) * applied[:, None, None]
        )
        matrix = matrix * extent / extent[:, None]  # rotate in voxels, not in the unit square
        centred = (identity - 0.5).flatten(2)
        shift = _uniform(batch_size, -self.shift, self.shift, like, dims, 1) * applied[:, None, None]
        phi = (matrix @ centred + 0.5 + shift).reshape(batch_size, dims, *spatial_shape)
        if self.deformation > 0:
            control = _normal(batch_size, like, dims, *[self.control_points] * dims)
            control = control * self.deformation * _per_sample(applied, control)
            mode = "bicubic" if dims == 2 else "trilinear"
            phi = phi + functional.interpolate(control, size=spatial_shape, mode=mode, align_corners=True)
        return phi

    def __call__(self, batch: Batch) -> Batch:
        """Transform a batch."""
        phi = self.draw_map(batch[self.keys[0]])
        return batch | {
            key: sample(batch[key], phi, mode) for key, mode in zip(self.keys, self.modes, strict=True)
        }


class RandomFieldOfView:
    """Random crops: beyond a random box an image is continued by the border of the box, or dark.

    Nothing is scaled: what is left of the anatomy has its size, as in a picture that shows less of it, laid
    into its frame. Labels are continued as the image is, or background.

    Args:
        keys: what to crop, all by the same box.
        smallest: least share of an axis that is left; drawn between this and 1 for each axis and sample.
        dark: share of the cropped samples that are dark beyond the box, as what a scanner pads.
        probability: share of samples that are cropped.
    """

    def __init__(
        self,
        keys: Sequence[str] = ("image", "label"),
        smallest: float = 0.5,
        dark: float = 0.5,
        probability: float = 0.3,
    ) -> None:
        if not 0 < smallest <= 1:
            raise ValueError(f"Expected a smallest share above 0 and up to 1, got {smallest}.")
        self.keys, self.smallest, self.dark, self.probability = tuple(keys), smallest, dark, probability

    def __call__(self, batch: Batch) -> Batch:
        """Crop a batch."""
        like = batch[self.keys[0]]
        size, shape = like.shape[0], like.shape[2:]
        applied = (_uniform(size, 0, 1, like) < self.probability).float()
        dark = (_uniform(size, 0, 1, like) < self.dark).float() * applied
        cropped = {key: batch[key] for key in self.keys}
        outside = torch.zeros(size, 1, *[1] * len(shape), dtype=torch.bool, device=like.device)
        for axis, count in enumerate(shape):
            share = 1 - _uniform(size, 0, 1 - self.smallest, like) * applied
            start = _uniform(size, 0, 1, like) * (1 - share) * (count - 1)
            ends = torch.stack([start, start + share * (count - 1)]).round().long()[:, :, None]
            here = torch.arange(count, device=like.device)
            nearest = here.clamp(*ends)  # [B, count]
            along = [size, 1, *[count if each == axis else 1 for each in range(len(shape))]]
            outside = outside | (nearest != here).view(along)
            for key, image in cropped.items():
                cropped[key] = image.gather(2 + axis, nearest.view(along).expand_as(image))
        black = outside & (_per_sample(dark, like) > 0)
        return batch | {key: image.masked_fill(black, 0) for key, image in cropped.items()}


class RandomCurve:
    """Random intensity curves: intensities pass through a random piecewise linear function.

    The curve is a blend of the identity and of random control values; ``strength`` 0 leaves the image as it
    is, 1 is any function of intensity, inversions included. It teaches a network to look at shape instead of
    at absolute intensities (Zhou et al., Models Genesis, 2019; Ouyang et al., Causality-inspired
    augmentation, 2022). With ``label_key`` each class of a sample has a curve of its own, so that the order
    of the classes' intensities changes, too (Su et al., "Rethinking Data Augmentation for Single-source
    Domain Generalization in Medical Image Segmentation", AAAI 2023).

    Args:
        key: the image.
        strength: largest weight of the random curve; drawn between 0 and this value for each sample.
        control_points: control values over [0, 1].
        probability: share of samples that are transformed.
        label_key: integer labels ``[B, 1, *spatial]``; None for one curve for the whole image.
        num_classes: of the labels.
    """

    def __init__(
        self,
        key: str = "image",
        strength: float = 0.5,
        control_points: int = 6,
        probability: float = 0.8,
        label_key: str | None = None,
        num_classes: int = 1,
    ) -> None:
        self.key, self.strength = key, strength
        self.control_points, self.probability = control_points, probability
        self.label_key, self.num_classes = label_key, num_classes

    def __call__(self, batch: Batch) -> Batch:
        """Transform a batch."""
        image, nodes = batch[self.key], self.control_points
        size, channels = image.shape[:2]
        curves = self.num_classes if self.label_key else 1
        applied = (_uniform(size, 0, 1, image) < self.probability).float()
        weight = (_uniform(size, 0, self.strength, image, curves) * applied[:, None])[:, None, :, None]
        straight = torch.linspace(0, 1, nodes, device=image.device)
        values = (1 - weight) * straight + weight * _uniform(size, 0, 1, image, channels, curves, nodes)
        position = image.clamp(0, 1).flatten(2) * (nodes - 1)
        left = position.floor().clamp(max=nodes - 2)
        index = left.long().clamp_(0, nodes - 2)  # NaN is no index, and stays NaN below
        if self.label_key:
            index = index + nodes * batch[self.label_key].flatten(2).long()
        values = values.flatten(2)
        low, high = values.gather(2, index), values.gather(2, index + 1)
        return batch | {self.key: torch.lerp(low, high, position - left).reshape(image.shape)}


class RandomConvolution:
    """Random shallow networks: textures and contrasts that no scanner has, with the edges where they are.

    "GIN" of Ouyang et al., "Causality-inspired Single-source Domain Generalization for Medical Image
    Segmentation", IEEE TMI 2022: convolutions with kernels of 1 or 3, two channels between them, weights and
    shifts of N(0, 1) for each image, leaky ReLU; the result is blended with the image by U(0, 1). With
    ``control_points`` two such results are blended by a smooth random mask ("IPA" in the paper). The image
    is standardised before, and brought back to [0, 1] by its extremes, where the paper keeps its norm.
    Borders are continued.

    Args:
        key: the image.
        layers: convolutions.
        hidden_channels: between them.
        control_points: of the mask, along each axis; 0 for a single network.
        probability: share of samples that are transformed.
        pointwise: share of convolutions with kernels of 1, which change contrasts; those of 3 change
            textures, and blur what is a few points thin.
    """

    def __init__(
        self,
        key: str = "image",
        layers: int = 4,
        hidden_channels: int = 2,
        control_points: int = 0,
        probability: float = 0.8,
        pointwise: float = 0.5,
    ) -> None:
        self.key, self.layers, self.hidden_channels = key, layers, hidden_channels
        self.control_points, self.probability, self.pointwise = control_points, probability, pointwise

    def _network(self, image: Tensor) -> Tensor:
        """Pass standardised images through a network of their own each, and blend."""
        size, channels, shape = image.shape[0], image.shape[1], image.shape[2:]
        dims = len(shape)
        convolve = functional.conv2d if dims == 2 else functional.conv3d
        counts = [channels, *[self.hidden_channels] * (self.layers - 1), channels]
        centre = torch.zeros(3**dims, device=image.device)
        centre[3**dims // 2] = 1
        result = image
        for layer, (before, after) in enumerate(itertools.pairwise(counts)):
            weight = _normal(size, image, after, before, 3**dims)
            point = (_uniform(size, 0, 1, image) < self.pointwise).float()[:, None, None, None]
            weight = weight * torch.lerp(torch.ones_like(centre), centre, point)
            wide = functional.pad(result.reshape(1, size * before, *shape), [1, 1] * dims, mode="replicate")
            kernels = weight.reshape(size * after, before, *[3] * dims)
            result = convolve(wide, kernels, _normal(size, image, after).flatten(), groups=size)
            if layer < self.layers - 1:
                result = functional.leaky_relu(result)
        result = result.reshape(image.shape)
        blended = torch.lerp(image, result, _per_sample(_uniform(size, 0, 1, image), image))
        norm = blended.flatten(1).norm(dim=1).clamp(min=1e-6)
        return blended * _per_sample(image.flatten(1).norm(dim=1) / norm, image)

    def __call__(self, batch: Batch) -> Batch:
        """Transform a batch."""
        image = batch[self.key].float()
        size, dims = image.shape[0], image.dim() - 2
        flat = image.flatten(2)
        spread = _per_sample(flat.std(2).clamp(min=1e-6), image)
        standard = (image - _per_sample(flat.mean(2), image)) / spread
        result = self._network(standard)
        if self.control_points:
            control = _uniform(size, 0, 1, image, 1, *[self.control_points] * dims)
            result = torch.lerp(result, self._network(standard), _smooth(control, image.shape[2:]))
        low, high = (_per_sample(each, image) for each in result.flatten(2).aminmax(dim=2))
        result = (result - low) / (high - low).clamp(min=1e-6)
        applied = _per_sample((_uniform(size, 0, 1, image) < self.probability).float(), image)
        return batch | {self.key: torch.where(applied > 0, result, image)}


class RandomMask:
    """Random blocks are hidden: what stands there is to be told from what is around it.

    Of Hoyer et al., "MIC: Masked Image Consistency for Context-Enhanced Domain Adaptation", CVPR 2023. Hidden
    blocks take the mean of their image.

    Args:
        key: the image.
        blocks: along the longest axis; blocks are cubes in voxels.
        share: of the blocks that are hidden, at most; drawn up to this for each sample.
        probability: share of samples that are transformed.
    """

    def __init__(
        self, key: str = "image", blocks: int = 12, share: float = 0.7, probability: float = 1.0
    ) -> None:
        self.key, self.blocks, self.share, self.probability = key, blocks, share, probability

    def __call__(self, batch: Batch) -> Batch:
        """Transform a batch."""
        image = batch[self.key]
        size, shape = image.shape[0], image.shape[2:]
        side = max(shape) / self.blocks
        coarse = [max(round(n / side), 1) for n in shape]
        applied = (_uniform(size, 0, 1, image) < self.probability).float()
        share = _per_sample(_uniform(size, 0, self.share, image) * applied, image)
        hidden = (_uniform(size, 0, 1, image, 1, *coarse) < share).float()
        hidden = functional.interpolate(hidden, size=shape, mode="nearest")
        mean = _per_sample(image.flatten(2).mean(2), image)
        return batch | {self.key: torch.where(hidden > 0, mean, image)}


class RandomField:
    """Random smooth gain and offset, as of an exposure gradient, coil sensitivity or soft tissue.

    Args:
        key: the image.
        gain: largest relative change of intensity.
        offset: largest added intensity.
        control_points: control values of the smooth fields along each axis.
        probability: share of samples that are transformed.
    """

    def __init__(
        self,
        key: str = "image",
        gain: float = 0.3,
        offset: float = 0.2,
        control_points: int = 4,
        probability: float = 0.8,
    ) -> None:
        self.key, self.gain, self.offset = key, gain, offset
        self.control_points, self.probability = control_points, probability

    def __call__(self, batch: Batch) -> Batch:
        """Transform a batch."""
        image = batch[self.key]
        size, channels = image.shape[:2]
        dims = image.dim() - 2
        applied = _per_sample((_uniform(size, 0, 1, image) < self.probability).float(), image)
        control = _uniform(size, -1, 1, image, 2 * channels, *[self.control_points] * dims)
        gain, offset = (_smooth(control, image.shape[2:]) * applied).chunk(2, dim=1)
        return batch | {self.key: (image * (1 + self.gain * gain) + self.offset * offset).clamp(0, 1)}


class RandomNoise:
    """Random blurring followed by random Gaussian noise.

    Args:
        key: the image.
        noise: largest standard deviation of the noise.
        blur: largest weight of a 3-voxel box blur (applied twice).
        probability: share of samples that are transformed.
    """

    def __init__(self, key: str = "image", noise: float = 0.1, blur: float = 1.0, probability: float = 0.8):
        self.key, self.noise, self.blur, self.probability = key, noise, blur, probability

    def __call__(self, batch: Batch) -> Batch:
        """Transform a batch."""
        image = batch[self.key]
        size = image.shape[0]
        applied = (_uniform(size, 0, 1, image) < self.probability).float()
        pool = functional.avg_pool2d if image.dim() == 4 else functional.avg_pool3d
        smooth = image
        for _ in range(2):
            smooth = pool(smooth, 3, stride=1, padding=1, count_include_pad=False)
        blurred = torch.lerp(image, smooth, _per_sample(_uniform(size, 0, self.blur, image) * applied, image))
        deviation = _per_sample(_uniform(size, 0, self.noise, image) * applied, image)
        return batch | {self.key: (blurred + deviation * _normal(size, image, *image.shape[1:])).clamp(0, 1)}


class RandomSpectrum:
    """Random exchange of low spatial frequencies: an image takes on the style of another, its edges stay.

    The amplitudes of the low frequencies are blended towards those of the other image, the phases are kept
    (Yang and Soatto, "FDA: Fourier Domain Adaptation for Semantic Segmentation", CVPR 2020). Images with a
    different number of channels take the mean amplitude over the channels of the other.

    Args:
        key: the image.
        style_key: the image whose style is taken, ``[B, C', *spatial]`` on the same grid.
        radius: largest frequency that is exchanged, in cycles per image; drawn up to this for each sample.
        strength: largest share of the other amplitude; drawn up to this for each sample.
        probability: share of samples that are transformed.
    """

    def __init__(
        self,
        key: str = "image",
        style_key: str = "style",
        radius: float = 6.0,
        strength: float = 1.0,
        probability: float = 0.9,
    ) -> None:
        self.key, self.style_key = key, style_key
        self.radius, self.strength, self.probability = radius, strength, probability

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with the key in a new style."""
        image, style = batch[self.key].float(), batch[self.style_key].float()
        size, axes, shape = image.shape[0], tuple(range(2, image.dim())), image.shape[2:]
        spectrum, other = torch.fft.rfftn(image, dim=axes), torch.fft.rfftn(style, dim=axes).abs()
        if style.shape[1] != image.shape[1]:
            other = other.mean(1, keepdim=True)
        frequencies = [torch.fft.fftfreq(n, 1 / n, device=image.device) for n in shape[:-1]]
        frequencies.append(torch.fft.rfftfreq(shape[-1], 1 / shape[-1], device=image.device))
        largest = torch.stack(torch.meshgrid(*frequencies, indexing="ij")).abs().amax(0)
        radius = _per_sample(_uniform(size, 1, self.radius, image), image)
        applied = (_uniform(size, 0, 1, image) < self.probability).float()
        share = _per_sample(self.strength * _uniform(size, 0, 1, image).sqrt() * applied, image)
        share = share * (largest <= radius)
        amplitude = spectrum.abs()
        gain = torch.lerp(amplitude, other.expand_as(amplitude), share) / amplitude.clamp(min=1e-6)
        styled = spectrum * gain
        return batch | {self.key: torch.fft.irfftn(styled, s=shape, dim=axes).clamp(0, 1)}


class RandomOverlay:
    """Random overlay of another image, blurred: what lies before and behind the anatomy in a projection.

    ``image * a + blurred style * b`` with random weights, brought back to [0, 1]. The blurred image brings in
    the other modality's soft tissue, exposure and field of view, but none of its edges.

    Args:
        key: the image.
        style_key: the image that is laid over it, ``[B, C', *spatial]`` on the same grid.
        coarseness: smallest and largest size of the grid that the other image is reduced to; drawn for each
            batch.
        strength: largest weight of the overlay; drawn up to this for each sample.
        probability: share of samples that are transformed.
    """

    def __init__(
        self,
        key: str = "image",
        style_key: str = "style",
        coarseness: tuple[int, int] = (4, 16),
        strength: float = 1.0,
        probability: float = 0.5,
    ) -> None:
        self.key, self.style_key, self.coarseness = key, style_key, coarseness
        self.strength, self.probability = strength, probability

    def __call__(self, batch: Batch) -> Batch:
        """Return the batch with the key overlaid."""
        image, style = batch[self.key], batch[self.style_key]
        size = image.shape[0]
        if style.shape[1] != image.shape[1]:
            style = style.mean(1, keepdim=True).expand_as(image)
        nodes = random.randint(*self.coarseness)
        coarse = functional.interpolate(style, [min(nodes, n) for n in image.shape[2:]], mode="area")
        blurred = _smooth(coarse, image.shape[2:])
        applied = (_uniform(size, 0, 1, image) < self.probability).float()
        weight = _per_sample(_uniform(size, 0, self.strength, image) * applied, image)
        gain = _per_sample(1 - 0.8 * _uniform(size, 0, 1, image) * applied, image)
        mixed = image * gain + blurred * weight
        largest = mixed.flatten(2).amax(2).clamp(min=0.3)
        return batch | {
            self.key: torch.where(_per_sample(applied, image) > 0, mixed / _per_sample(largest, image), image)
        }
