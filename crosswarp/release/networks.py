"""The network of a packaged bundle and its weights, compared with what the configs and metadata say."""

from __future__ import annotations

import ast
import operator
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
from monai.networks import nets
from torch import nn
from torch.nn.modules.module import register_module_parameter_registration_hook

from .. import networks
from ..errors import reason
from ..runs.weights import MAX_TENSORS, read_weights
from .allowed import resolve
from .expressions import LONGEST

# what a network's definition may ask for, so that no file of a few bytes keeps the computer busy for hours
LARGEST_NUMBER = 2**16
MAX_ENTRIES = 10_000

# the classes that may stand in a network's definition to be built and compared with the weights: those that
# neither fetch weights nor call what their arguments name
MONAI_NETWORKS = (
    *("AttentionUnet", "BasicUNet", "BasicUNetPlusPlus", "DynUNet", "HighResNet", "RegUNet", "SegResNet"),
    *("SwinUNETR", "UNETR", "UNet", "VNet"),
)
NETWORKS: tuple[type[nn.Module], ...] = (
    *(getattr(nets, name) for name in MONAI_NETWORKS),
    *(getattr(networks, name) for name in networks.__all__),
)
ARITHMETIC = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.FloorDiv: operator.floordiv,
}


@contextmanager
def limited_tensors() -> Iterator[None]:
    """Stop the making of a network that would have more than ``MAX_TENSORS`` parameters.

    Raises:
        ValueError: when there are too many.
    """
    left = iter(range(MAX_TENSORS))

    def count(module: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        if next(left, None) is None:
            raise ValueError(f"its network has more than {MAX_TENSORS} tensors")

    hook = register_module_parameter_registration_hook(count)
    try:
        yield
    finally:
        hook.remove()


def network_class(target: Any, arguments: Mapping[str, Any]) -> type[nn.Module]:
    """The class of a network, one of those that can be built without running what others wrote.

    Raises:
        ValueError: for another class, or keys that MONAI takes as more than arguments.
    """
    try:
        found = resolve(target) if isinstance(target, str) else []
    except ValueError:
        found = []
    known = [each for each in NETWORKS if found == [each]]
    if not known or any(key.startswith("_") for key in arguments):
        raise ValueError(
            f"its network cannot be checked without running code of the bundle: {target!r}; expected, "
            f"without keys that start with _, one of {', '.join(each.__name__ for each in NETWORKS)}"
        )
    return known[0]


def build(config: Mapping[str, Any], definition: Any, entries: Iterator[int]) -> Any:
    """Build a network from its definition in a config as MONAI would, but from known classes only.

    References, sums and products of numbers are resolved; other Python is refused.

    Args:
        config: the whole config.
        definition: what to build.
        entries: as many items as the definition may have, with what it refers to.

    Raises:
        ValueError: for a class that is not known, an expression, or what is too large.
    """
    if next(entries, None) is None:
        raise ValueError(f"its network's definition has more than {MAX_ENTRIES} entries")
    if isinstance(definition, Mapping):
        arguments = {key: value for key, value in definition.items() if key != "_target_"}
        make = network_class(definition["_target_"], arguments) if "_target_" in definition else dict
        return make(**{key: build(config, value, entries) for key, value in arguments.items()})
    if isinstance(definition, list):
        return [build(config, value, entries) for value in definition]
    if isinstance(definition, str) and definition.startswith(("@", "%")):
        value: Any = config
        for key in definition[1:].replace("::", "#").split("#"):
            value = value[int(key)] if isinstance(value, list) else value[key]
        return build(config, value, entries)
    if isinstance(definition, str) and definition.startswith("$"):
        return calculate(config, definition, entries)
    if isinstance(definition, (int, float)) and abs(definition) > LARGEST_NUMBER:
        raise ValueError(f"its network's definition has a number above {LARGEST_NUMBER}")
    return definition


def calculate(config: Mapping[str, Any], expression: str, entries: Iterator[int]) -> float | None:
    """The value of an expression of numbers, None and references, with arithmetic and ``x if a == b else y``.

    Raises:
        ValueError: for any other expression, and for numbers above ``LARGEST_NUMBER``.
    """
    if len(expression) > LONGEST:
        raise ValueError(f"its network's definition has an expression of more than {LONGEST} characters")

    def value(node: ast.AST) -> Any:
        if isinstance(node, ast.IfExp):
            return value(node.body if value(node.test) else node.orelse)
        if isinstance(node, ast.Compare) and [type(each) for each in node.ops] == [ast.Eq]:
            return value(node.left) == value(node.comparators[0])
        if isinstance(node, ast.Constant) and node.value is None:
            return None
        found = None
        if isinstance(node, ast.Constant):
            found = node.value
        elif isinstance(node, ast.Name):
            found = build(config, f"@{node.id}", entries)
        elif isinstance(node, ast.BinOp) and type(node.op) in ARITHMETIC:
            found = ARITHMETIC[type(node.op)](value(node.left), value(node.right))
        if isinstance(found, (int, float)) and abs(found) <= LARGEST_NUMBER:
            return found
        raise ValueError(f"its network cannot be checked without running Python: {expression}")

    return value(ast.parse(expression[1:].replace("@", "").strip(), mode="eval").body)


def check_weights(content: bytes, network: nn.Module) -> None:
    """Check that a checkpoint holds weights and nothing else, and those of the network.

    Args:
        content: the file.
        network: on the device "meta".

    Raises:
        ValueError: naming all in which they differ.
    """
    weights = read_weights(content)
    own = network.state_dict()
    wrong = [f"without {key}" for key in sorted(own.keys() - weights.keys())]
    wrong += [f"with {key}" for key in sorted(weights.keys() - own.keys())]
    wrong += [
        f"{key} {list(weights[key].shape)} instead of {list(own[key].shape)}"
        for key in own
        if key in weights and weights[key].shape != own[key].shape
    ]
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise ValueError(f"of another architecture than in inference.json: {'; '.join(wrong[:5])}{more}")


def check_tensors(formats: Mapping[str, Any], config: Mapping[str, Any], network: nn.Module) -> None:
    """Check what the metadata say of input and output against the network.

    Args:
        formats: the metadata's ``network_data_format``.
        config: ``inference.json``.
        network: on the device "meta".

    Raises:
        ValueError: naming all in which they differ.
    """
    image, pred = formats["inputs"]["image"], formats["outputs"]["pred"]
    size = config["spatial_size"]
    wrong = []
    for name, tensor in (("image", image), ("pred", pred)):
        if tensor["spatial_shape"] != size:
            wrong.append(f"{name}: spatial_shape {tensor['spatial_shape']}, but spatial_size {size}")
        if not 0 < tensor["num_channels"] <= LARGEST_NUMBER:
            raise ValueError(f"{name}: {tensor['num_channels']} channels")
        if sorted(tensor["channel_def"]) != sorted(map(str, range(tensor["num_channels"]))):
            wrong.append(
                f"{name}: {len(tensor['channel_def'])} channel_def for {tensor['num_channels']} channels"
            )
    with torch.no_grad():
        try:
            output = network.eval()(torch.empty(1, image["num_channels"], *size, device="meta"))
            if output.shape[1] != pred["num_channels"]:
                wrong.append(
                    f"pred: {pred['num_channels']} channels, but the network gives {output.shape[1]}"
                )
        except (RuntimeError, ValueError) as error:
            wrong.append(f"image: {image['num_channels']} channels, but the network: {reason(error)}")
    if wrong:
        raise ValueError("; ".join(wrong))
