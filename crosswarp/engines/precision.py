"""Half precision where it is faster."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from monai.inferers import SimpleInferer
from torch import Tensor


def fast_bfloat16(device: torch.device | str) -> bool:
    """Whether a device computes in bfloat16 itself; where it is emulated it is slower than float32."""
    if torch.device(device).type == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    capabilities = torch.cpu.get_capabilities()
    return bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))


class AutocastInferer(SimpleInferer):
    """Runs a network under autocast to bfloat16 and returns float32.

    Convolutions compute in bfloat16, weights and results stay float32, and no gradient scaler is needed.
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
        with torch.autocast(device, dtype=torch.bfloat16, enabled=enabled):
            result = network(inputs, *args, **kwargs)
        return [each.float() for each in result] if isinstance(result, list) else result.float()
