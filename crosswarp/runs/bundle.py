"""A trained stage as a bundle on disk: its inference config and weights, written and loaded."""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Mapping
from copy import deepcopy
from pathlib import Path
from typing import Any

import torch
from monai.bundle import ConfigParser
from torch import nn

from ..data import Datalist
from ..kept import copy_to_twin, keeping
from .config import check_overrides, read_config, running_parser, verbatim
from .weights import read_weights

logger = logging.getLogger(__name__)

WEIGHTS = Path("models") / "model.pt"
INFERENCE = Path("configs") / "inference.json"

# ids that come from the datalist in training and are plain values in a trained bundle
DATA_IDS = (
    "spatial_dims",
    "spatial_size",
    "spacing",
    "mirrored_side",
    "num_classes",
    "source_channels",
    "target_channels",
)

# ids of the network; the registration networks are made of several that are alike
NETWORK_IDS = ("network_def", "displacement_network")


def json_text(content: Any) -> str:
    """JSON as it is written to files, lists of numbers on one line."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    text = re.sub(r"\[\n[-+\d.,e\s]+\]", lambda numbers: f"[{' '.join(numbers[0][1:-1].split())}]", text)
    return text + "\n"


def write_json(path: Path, content: Any, twin: bool = False) -> None:
    """Write JSON that is read again, so that a reader never sees half a file, and knows a damaged one.

    Args:
        path: the file.
        content: of it.
        twin: write a copy, too: it cannot be made again.
    """
    with keeping(path) as partial:
        # a name that is no text, as file systems may have, is kept as JSON spells it
        partial.write_text(json_text(content), encoding="utf-8", errors="backslashreplace")
    if twin:
        copy_to_twin(path)


def inference_config(template: Path, values: Mapping[str, Any]) -> dict[str, Any]:
    """A bundle's ``inference.json`` with the values of a run, so that it stands alone.

    Args:
        template: the ``inference.json`` of the bundle in the library.
        values: ids to replace; those that the template lacks are ignored.
    """
    config = {key: value for key, value in read_config(template).get().items() if key != "_meta_"}
    return config | {key: deepcopy(value) for key, value in values.items() if key in config}


def run_values(parser: ConfigParser) -> dict[str, Any]:
    """What a trained bundle's ``inference.json`` takes from the training config.

    Numbers and lists that the network's definition refers to are put in: the ids need not exist there.
    """
    values = {key: parser.get_parsed_content(key) for key in DATA_IDS if key in parser}
    return values | {key: _with_values(parser, key) for key in NETWORK_IDS if key in parser}


def _with_values(parser: ConfigParser, identifier: str) -> Any:
    content = parser[identifier]
    if isinstance(content, Mapping):
        return {key: _with_values(parser, f"{identifier}#{key}") for key in content}
    if isinstance(content, list):
        return [_with_values(parser, f"{identifier}#{index}") for index in range(len(content))]
    if isinstance(content, str) and content.startswith(("@", "$")):
        value = parser.get_parsed_content(identifier)
        return verbatim(value) if isinstance(value, (bool, int, float, str, list, tuple)) else content
    return content


def load_weights(network: nn.Module, path: str | Path, config: str | Path = INFERENCE) -> None:
    """Put the weights of a file into a network, in place.

    Args:
        network: takes the weights.
        path: of the weights.
        config: where the network is defined, for the message.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: when the weights belong to another architecture, or the file holds other things, such as
            NaN.
    """
    if not Path(path).is_file():
        raise FileNotFoundError(f"Expected trained weights in {path}, but there is no such file.")
    weights = read_weights(path)
    try:
        network.load_state_dict(weights)
    except RuntimeError as error:
        raise ValueError(f"The weights {path} do not fit the network of {config}: {error}") from error


def load_network(bundle: str | Path, device: torch.device | str = "cpu", frozen: bool = True) -> nn.Module:
    """The network of a trained bundle, as its inference config defines it, with its weights.

    Args:
        bundle: the bundle's folder.
        device: where to put the network.
        frozen: evaluation mode, no gradients for its parameters.

    Raises:
        FileNotFoundError: when config or weights are missing.
        ValueError: when the weights belong to another architecture, or hold NaN or infinity.
    """
    bundle = Path(bundle)
    for path in (bundle / INFERENCE, bundle / WEIGHTS):
        if not path.is_file():
            raise FileNotFoundError(
                f"Expected a trained bundle in {bundle}, but {path} is missing: train that stage first."
            )
    network = read_config(bundle / INFERENCE).get_parsed_content("network_def")
    load_weights(network, bundle / WEIGHTS, bundle / INFERENCE)
    network = network.to(device)
    return network.eval().requires_grad_(False) if frozen else network


def check_data_fit(bundle: str | Path, data: Datalist) -> None:
    """Check, from a config that evaluates a trained bundle, its parameters and that data are of its kind.

    Args:
        bundle: the bundle's folder.
        data: the data to evaluate it on.

    Raises:
        ValueError: for a misspelt parameter, or naming all in which the data differ from those it was
            trained on.
    """
    check_overrides(running_parser(), Path(bundle) / "configs" / "train.json")
    trained = read_config(Path(bundle) / INFERENCE)
    own = {
        "spatial_dims": data.spatial_dims,
        "num_classes": data.num_classes,
        "source_channels": data.source.channels,
        "target_channels": data.target.channels,
    }
    wrong = [
        f"{key} {trained[key]}, got {value}"
        for key, value in own.items()
        if key in trained and trained[key] != value
    ]
    if wrong:
        raise ValueError(
            f"Expected data for the network of {bundle}, but of {data.path}: {'; '.join(wrong)}."
        )


def start_from(network: nn.Module, trained: nn.Module) -> nn.Module:
    """Give a network the weights of a trained one of the same architecture; returns the network.

    Tensors of another shape keep their own start: the first layer, where the modalities have different
    channels. Where that is most of the network, a warning says so.
    """
    own = network.state_dict()
    weights = {
        key: value
        for key, value in trained.state_dict().items()
        if key in own and own[key].shape == value.shape
    }
    network.load_state_dict(weights, strict=False)
    count, taken = (sum(value.numel() for value in each.values()) for each in (own, weights))
    if taken < count / 2:
        logger.warning(
            f"Only {taken:,} of {count:,} weights start from those of the trained network, which is of "
            "another architecture: nearly all training is to be done again. Give both the same network_def."
        )
    return network


def is_like(network: nn.Module, other: nn.Module) -> bool:
    """Whether the weights of one network are of the same names and shapes as those of another."""
    shapes, others = ({k: v.shape for k, v in each.state_dict().items()} for each in (network, other))
    return shapes == others
