"""Trained bundles on disk: what is written stands alone and loads again."""

from __future__ import annotations

import json
from types import SimpleNamespace

import pytest
import torch
from monai.bundle import ConfigParser
from monai.networks.nets import DynUNet
from torch import nn

from crosswarp.errors import plain_input_errors
from crosswarp.runs import load_network, start_from
from crosswarp.runs.bundle import (
    INFERENCE,
    WEIGHTS,
    run_values,
    write_json,
)
from crosswarp.runs.config import read_config
from crosswarp.runs.published import write_inference_config
from crosswarp.runs.weights import read_weights
from crosswarp.training import save_atomically

TEMPLATE = {
    "imports": ["$import torch"],
    "num_classes": 4,
    "source_channels": 1,
    "network_def": {
        "_target_": "torch.nn.Conv2d",
        "in_channels": "@source_channels",
        "out_channels": "@num_classes",
    },
    "output_dir": "output",
}


def test_a_network_that_knows_layers_by_two_names_has_its_weights_once(tmp_path):
    network = DynUNet(2, 1, 3, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 8, 16])
    path = tmp_path / "model.pt"
    save_atomically(network.state_dict(), path)
    found = read_weights(path)
    assert sum(each.nbytes for each in found.values()) > path.stat().st_size
    other = DynUNet(2, 1, 3, [3, 3, 3], [1, 2, 2], [2, 2], filters=[4, 8, 16])
    other.load_state_dict(found)
    for one, two in zip(network.parameters(), other.parameters(), strict=True):
        assert torch.equal(one, two)


@pytest.fixture
def template(tmp_path):
    path = tmp_path / "template.json"
    write_json(path, TEMPLATE)
    return path


def write_bundle(folder, network_def, weights):
    write_json(folder / INFERENCE, {"network_def": network_def})
    save_atomically(weights, folder / WEIGHTS)
    return folder


LINEAR = {"_target_": "torch.nn.Linear", "in_features": 3, "out_features": 2}


def test_a_written_config_stands_alone(tmp_path, template):
    training = TEMPLATE | {
        "num_classes": "$len('abcdef')",
        "source_channels": 3,
        "target_channels": 2,
        "width": 5,
        "network_def": {
            "_target_": "torch.nn.Conv2d",
            "in_channels": "@source_channels",
            "out_channels": "$2 * @num_classes",
            "kernel_size": ["@width", 3],
            "dtype": "$torch.float64",
        },
        "output_dir": "elsewhere",
    }
    write_inference_config(template, run_values(ConfigParser(training)), tmp_path / "bundle")
    written = json.loads((tmp_path / "bundle" / INFERENCE).read_text())
    assert written["num_classes"] == 6 and written["source_channels"] == 3
    assert written["output_dir"] == "output" and set(written) == set(TEMPLATE)
    network = read_config(tmp_path / "bundle" / INFERENCE).get_parsed_content("network_def")
    assert network.weight.shape == (12, 3, 5, 3) and network.weight.dtype == torch.float64


@pytest.mark.parametrize("frozen", [True, False])
def test_a_trained_network_loads_again(tmp_path, frozen):
    weights = nn.Linear(3, 2).state_dict()
    network = load_network(write_bundle(tmp_path, LINEAR, weights), frozen=frozen)
    assert all(torch.equal(value, weights[key]) for key, value in network.state_dict().items())
    assert network.training != frozen and network.weight.requires_grad != frozen


def test_what_is_missing_or_does_not_fit_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match="inference.json is missing: train that stage first"):
        load_network(tmp_path)
    write_bundle(tmp_path, LINEAR, nn.Linear(4, 2).state_dict())
    with pytest.raises(ValueError, match=r"(?s)model.pt do not fit .*inference.json.*size mismatch"):
        load_network(tmp_path)
    (tmp_path / WEIGHTS).unlink()
    with pytest.raises(FileNotFoundError, match="model.pt is missing"):
        load_network(tmp_path)


def test_data_of_another_kind_than_the_bundles_are_refused_with_all_that_differs(tmp_path):
    trained = {"spatial_dims": 2, "num_classes": 4, "source_channels": 1}
    write_json(tmp_path / INFERENCE, trained)
    write_json(tmp_path / "configs" / "train.json", trained | dict.fromkeys(["data", "imports", "check"]))

    def check(channels=1, num_classes=4, **overrides):
        source, target = SimpleNamespace(channels=channels), SimpleNamespace(channels=7)
        data = SimpleNamespace(
            path="my.json", spatial_dims=2, num_classes=num_classes, source=source, target=target
        )
        parser = ConfigParser(
            {
                "imports": ["$from crosswarp.runs.bundle import check_data_fit"],
                "data": data,
                "check": f"$check_data_fit({str(tmp_path)!r}, @data)",
                **overrides,
            }
        )
        with plain_input_errors():
            parser.get_parsed_content("check")

    check()  # the network does not see the target
    with pytest.raises(ValueError, match=r"of my.json: num_classes 4, got 3; source_channels 1, got 2\."):
        check(channels=2, num_classes=3)
    with pytest.raises(ValueError, match="no parameter 'num_class' .did you mean num_classes"):
        check(num_class=3)


def test_a_network_starts_from_all_weights_that_fit(caplog):
    trained = nn.Sequential(nn.Conv2d(1, 4, 3), nn.Conv2d(4, 8, 3))
    network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Conv2d(4, 8, 3))
    own = network[0].weight.clone()
    assert start_from(network, trained) is network
    assert torch.equal(network[0].weight, own)
    assert torch.equal(network[0].bias, trained[0].bias) and torch.equal(network[1].weight, trained[1].weight)
    with torch.no_grad():
        trained[1].weight.zero_()
    assert network[1].weight.any()  # a copy
    assert not caplog.records
    start_from(nn.Sequential(nn.Conv2d(1, 6, 3), nn.Conv2d(6, 8, 3)), trained)
    assert "Only 8 of 500 weights start from those of the trained network" in caplog.text


def test_lists_of_numbers_take_one_line(tmp_path):
    content = {
        "a": [1, -2.5, 3e-07],
        "b": [[1, 2], [3, 4]],
        "c": ["[\n1,\n2]", None],
        "d": [],
        "e": [True, 1],
    }
    write_json(tmp_path / "a.json", content)
    text = (tmp_path / "a.json").read_text()
    assert json.loads(text) == content
    assert '"a": [1, -2.5, 3e-07]' in text and "\n    [1, 2]" in text


@pytest.mark.parametrize("bad", [torch.nan, torch.inf])
def test_weights_that_are_not_finite_are_not_loaded(tmp_path, bad):
    weights = nn.Linear(3, 2).state_dict()
    weights["bias"][1] = bad
    bundle = write_bundle(tmp_path, LINEAR, weights)
    with pytest.raises(
        ValueError, match=rf"{WEIGHTS}: holds NaN or infinity in 1 tensors, such as bias.*lower"
    ):
        load_network(bundle)
