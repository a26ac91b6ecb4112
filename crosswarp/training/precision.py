"""Half precision where it is faster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
from monai.inferers import SimpleInferer
from torch import Tensor, nn
from torch.nn.modules.conv import _ConvNd, _ConvTransposeNd


def fast_bfloat16(device: torch.device | str) -> bool:
    """Whether a device computes in bfloat16 itself; where it is emulated it is slower than float32."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


def is_narrow(convolution: _ConvNd, size: torch.Size) -> bool:
    """Whether a convolution reads or writes so short a grid that half precision is not safe.

    It is one voxel wide on some axis, or a volume so short that from each of its points along an axis the
    kernel reaches into the padding.

    Args:
        convolution: the layer.
        size: of its input, ``[*spatial]``.
    """
    kernel, stride, dilation = convolution.kernel_size, convolution.stride, convolution.dilation
    reach = [d * (k - 1) for k, d in zip(kernel, dilation, strict=True)]
    same = convolution.padding == "same"  # keeps the size
    if isinstance(convolution.padding, str):
        padding = [r // 2 if same else 0 for r in reach]
    else:
        padding = list(convolution.padding)
    axes = list(zip(size, reach, stride, padding, strict=True))
    transposed = isinstance(convolution, _ConvTransposeNd)
    if transposed:
        more = convolution.output_padding
        other = [(n - 1) * s - 2 * p + r + 1 + m for (n, r, s, p), m in zip(axes, more, strict=True)]
    else:
        other = list(size) if same else [(n + 2 * p - r - 1) // s + 1 for n, r, s, p in axes]
    read = other if transposed else size  # a transposed one is the gradient of one that reads its output
    inside = [-(-p // s) * s - p + r < n for n, (_, r, s, p) in zip(read, axes, strict=True)]
    return 1 in size or 1 in other or (len(size) == 3 and not all(inside))


@contextmanager
def narrow_in_float32(networks: list[nn.Module]) -> Iterator[None]:
    """Keep convolutions from or to a very short grid out of autocast on the CPU (:func:`is_narrow`).

    oneDNN computes gradients of weights in bfloat16 wrongly (torch 2.13): of strided convolutions, where the
    last axis of the output is one voxel wide, from memory that it has not written, so that no two trainings
    are equal; of volumes, where each slice of the first axis has padding in the kernel's sight, such as two
    slices under a kernel of three, as wrongly as if they were random, or not finite. Such layers hold so few
    voxels that half precision has nothing to gain there.

    Args:
        networks: whose convolutions are watched, as long as the context lasts.
    """
    without: dict[nn.Module, torch.autocast] = {}

    def before(module: Any, arguments: tuple[Any, ...]) -> tuple[Any, ...] | None:
        if not torch.is_autocast_enabled("cpu") or not is_narrow(module, arguments[0].shape[2:]):
            return None
        without[module] = torch.autocast("cpu", enabled=False)
        without[module].__enter__()
        return (arguments[0].float(), *arguments[1:])

    def after(module: nn.Module, *_: Any) -> None:
        if module in without:
            without.pop(module).__exit__(None, None, None)

    convolutions = [m for network in networks for m in network.modules() if isinstance(m, _ConvNd)]
    handles = [convolution.register_forward_pre_hook(before) for convolution in convolutions]
    handles += [each.register_forward_hook(after, always_call=True) for each in convolutions]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


class AutocastInferer(SimpleInferer):
    """Runs a network under autocast to bfloat16 and returns float32.

    Convolutions compute in bfloat16, weights and results stay float32, and no gradient scaler is needed.
    On a CPU those from or to a very short grid stay in float32, see :func:`narrow_in_float32`.
    MONAI's trainers have ``amp`` for CUDA alone.

    Args:
        enabled: False for float32 throughout; ``"auto"`` for bfloat16 wherever :func:`fast_bfloat16`.
    """

    def __init__(self, enabled: bool | str = "auto") -> None:
        super().__init__()
        self.enabled = enabled

    def __call__(self, inputs: Tensor, network: Callable[..., Any], *args: Any, **kwargs: Any) -> Any:
        """Run ``network`` on ``inputs``; lists of results (as of discriminators) are converted too."""
        device = inputs.device.type
        enabled = fast_bfloat16(inputs.device) if self.enabled == "auto" else bool(self.enabled)
        owner = getattr(network, "__self__", network)  # of a method
        guarded = [owner] if enabled and device == "cpu" and isinstance(owner, nn.Module) else []
        with torch.autocast(device, dtype=torch.bfloat16, enabled=enabled), narrow_in_float32(guarded):
            result = network(inputs, *args, **kwargs)
        return [each.float() for each in result] if isinstance(result, list) else result.float()
