"""The one reader of trained weights: whoever verifies them and whoever loads them reads the same."""

from __future__ import annotations

import io
import pickletools
import re
from pathlib import Path

import torch
from torch import Tensor

from ..finite import non_finite
from ..kept import check

MAX_TENSORS = 10_000
REPLACED = (
    "restore it, or give the training's command again, which makes it anew; weights of your own count once "
    "their line is taken out of SHA256SUMS beside them, the first line of it too"
)
LARGEST_PICKLE = 16 * 2**20  # bytes that describe the tensors

# what the description may name; torch would also make, say, a huge bytearray
NAMED = {
    "collections OrderedDict",
    "torch._utils _rebuild_tensor_v2",
    "torch._utils _rebuild_parameter",
    *(f"torch {kind}Storage" for kind in ("BFloat16", "Bool", "Byte", "Char", "Double", "Float", "Half")),
    *(f"torch {kind}Storage" for kind in ("Int", "Long", "Short")),
}


def read_weights(source: str | Path | bytes) -> dict[str, Tensor]:
    """Read a state dictionary of tensors, and nothing else, from a file of ``torch.save``.

    What the file says is checked before torch makes anything of it: it may take no more memory than it has
    bytes, and hold no other things than tensors.

    Args:
        source: the file, or its content.

    Raises:
        ValueError: for a file of another kind, or one that is not what was written there.
        FileNotFoundError: where there is none.
    """
    if not isinstance(source, bytes):
        check(source, REPLACED)
    content = source if isinstance(source, bytes) else Path(source).read_bytes()
    name = "" if isinstance(source, bytes) else f"{source}: "
    try:
        check_records(content)
        weights = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        check_tensors(weights, len(content))
    except ValueError as error:
        raise ValueError(f"{name}{error}") from error
    except Exception as error:  # torch raises of many kinds for what is broken
        message = next(iter(str(error).splitlines()), type(error).__name__)
        raise ValueError(
            f"{name}expected a file of torch.save with tensors, which cannot be read: {message}"
        ) from error
    return dict(weights)


def check_records(content: bytes) -> None:
    """Check, with torch's own reader, the parts of a file and what its description names.

    Raises:
        ValueError: for what a state dictionary does not have.
    """
    try:
        reader = torch._C.PyTorchFileReader(io.BytesIO(content))
        records = reader.get_all_records()
    except (RuntimeError, ValueError) as error:
        raise ValueError("expected a file of torch.save, whose parts cannot be read") from error
    if len(records) > MAX_TENSORS or sum(map(reader.get_record_size, records)) > len(content):
        raise ValueError(f"expected a file of torch.save, uncompressed, with at most {MAX_TENSORS} tensors")
    strange = [
        name
        for name in records
        if not re.fullmatch(
            r"data\.pkl|data/\d+|version|byteorder|\.format_version|\.storage_alignment|\.data/serialization_id",
            name,
        )
    ]
    if strange or "data.pkl" not in records or len(set(records)) < len(records):
        raise ValueError(
            f"expected a file of torch.save, each part once, without {', '.join(strange) or 'others'}"
        )
    if reader.get_record_size("data.pkl") > LARGEST_PICKLE:
        raise ValueError(f"its description is larger than {LARGEST_PICKLE // 2**20} MiB")
    named = {
        str(argument or operation.name)
        for operation, argument, _ in pickletools.genops(reader.get_record("data.pkl"))
        if operation.name in ("GLOBAL", "INST", "STACK_GLOBAL", "EXT1", "EXT2", "EXT4")
    }
    if strange := sorted(named - NAMED):
        raise ValueError(f"expected a state dictionary of tensors, it also names {', '.join(strange)}")


def check_tensors(weights: object, num_bytes: int) -> None:
    """Check that weights are named tensors of numbers, which together take no more than a file's bytes.

    Raises:
        ValueError: for anything else.
    """
    if not isinstance(weights, dict) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in weights.items()
    ):
        raise ValueError("expected a state dictionary of tensors")
    odd = [key for key, value in weights.items() if value.layout != torch.strided or value.is_quantized]
    if odd or len(weights) > MAX_TENSORS:
        raise ValueError(f"expected at most {MAX_TENSORS} dense tensors: {', '.join(odd)}")
    if huge := [key for key, value in weights.items() if value.nbytes > num_bytes]:
        raise ValueError(f"holds tensors larger than itself: {', '.join(huge)}")
    # a network that knows a layer by several names has its tensors several times
    different = {(v.data_ptr(), v.dtype, v.shape, v.stride()): (key, v) for key, v in weights.items()}
    if sum(value.nbytes for _, value in different.values()) > num_bytes:
        raise ValueError("holds tensors that share their values, and together are larger than itself")
    if wrong := non_finite(dict(different.values())):
        raise ValueError(
            f"holds NaN or infinity in {len(wrong)} tensors, such as {wrong[0]}: the training that wrote it "
            "diverged; remove its folder and train it again, with a lower learning rate"
        )
