"""What a training or an inference may run on."""

from __future__ import annotations

import torch
from monailabel.utils.others.generic import device_map


def known_devices() -> set[str]:
    """What this machine has, by torch's names and MONAI Label's."""
    numbered = {f"cuda:{index}" for index in range(torch.cuda.device_count())}
    return {"cpu", "cuda", *numbered, *device_map()}
