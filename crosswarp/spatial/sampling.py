"""Reading an image at the points that a map names."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from monai.data import MetaTensor

from ..finite import NonFiniteError, is_finite
from .deterministic import is_needed, sample_linearly

_MODES = ("linear", "nearest")
_PADDINGS = ("border", "zeros")


def as_float32(tensor: torch.Tensor) -> torch.Tensor:
    """Return ``tensor`` as a plain float32 ``torch.Tensor``, still attached to the autograd graph.

    Field arithmetic starts with this: half precision would cost voxels, and ``MetaTensor`` time.
    """
    if torch.jit.is_scripting():
        return tensor.float()
    return (tensor.as_tensor() if isinstance(tensor, MetaTensor) else tensor).float()


def sample(
    image: torch.Tensor, phi: torch.Tensor, mode: str = "linear", padding: str = "border"
) -> torch.Tensor:
    """Warp ``image`` by ``phi``: the result at a point is the image at the point that ``phi`` names there.

    On an axis of length 1 every coordinate addresses the only sample.

    Args:
        image: ``[B, C, *image_spatial]``.
        phi: ``[B, D, *spatial]``, normalised coordinates of the points to read; either batch may be 1.
        mode: ``"linear"`` or ``"nearest"``.
        padding: beyond the outermost sample centres, ``"border"`` repeats the border and ``"zeros"`` fades
            linearly to 0 over one voxel (``"nearest"``: is 0 from half a voxel on).

    Returns:
        ``[B, C, *spatial]``, float32; an integer or boolean image read with ``"nearest"`` keeps its dtype
        (values up to 2²⁴ are exact).

    Raises:
        ValueError: for an unknown mode or padding, or where the shapes do not fit.
        NonFiniteError: on the CPU, for a map with NaN or infinity; elsewhere it would be waited for.
    """
    if not torch.jit.is_scripting():
        _check(image, phi, mode, padding)
    batch = [max(image.shape[0], phi.shape[0])] + [-1] * (phi.ndim - 1)
    if not torch.jit.is_scripting():
        if mode == "linear" and is_needed(image, phi):
            return sample_linearly(as_float32(image).expand(batch), as_float32(phi).expand(batch), padding)
    grid = (2 * as_float32(phi) - 1).flip(1).movedim(1, -1)  # grid_sample wants [-1, 1], last axis first
    warped = F.grid_sample(
        as_float32(image).expand(batch),
        grid.expand(batch),
        mode="bilinear" if mode == "linear" else mode,  # torch says bilinear in 3D too
        padding_mode=padding,
        align_corners=True,
    )
    return warped if mode == "linear" or image.is_floating_point() else warped.to(image.dtype)


def _check(image: torch.Tensor, phi: torch.Tensor, mode: str, padding: str) -> None:
    """Refuse what :func:`sample` cannot read."""
    if mode not in _MODES or padding not in _PADDINGS:
        raise ValueError(
            f"Expected mode in {_MODES} and padding in {_PADDINGS}, "
            f"got mode={mode!r} and padding={padding!r}."
        )
    if image.ndim != phi.ndim or phi.ndim not in (4, 5) or phi.shape[1] != phi.ndim - 2:
        raise ValueError(
            "Expected an image [B, C, *spatial] and a map [B, D, *spatial] with D = 2 or 3 spatial axes, "
            f"got shapes {tuple(image.shape)} and {tuple(phi.shape)}; add the missing batch or channel axis."
        )
    if image.shape[0] != phi.shape[0] and 1 not in (image.shape[0], phi.shape[0]):
        raise ValueError(
            "Expected as many images as maps, or one of either, "
            f"got {image.shape[0]} images and {phi.shape[0]} maps."
        )
    _check_coordinates(phi)


def _check_coordinates(phi: torch.Tensor) -> None:
    """Refuse what names no place: torch would read the border there, and its gradient, on a CPU, anywhere."""
    traced = torch.jit.is_tracing() or torch.compiler.is_compiling()  # as for ONNX: there are no values
    if phi.device.type == "cpu" and not traced and not is_finite(as_float32(phi)):
        wrong = int((~phi.isfinite().all(1)).sum())
        raise NonFiniteError(
            f"Expected a map of finite coordinates, got NaN or infinity at {wrong} of {phi[:, 0].numel()} "
            "points: what computed it has diverged, or was given NaN itself."
        )
