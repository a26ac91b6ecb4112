"""Metadata of the bundles: MONAI's schema, the versions that are pinned, and the networks they describe."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import torch

import crosswarp
from crosswarp.release.verify import SCHEMA
from crosswarp.runs.config import read_config

ROOT = Path(__file__).parents[2]
BUNDLES = [ROOT, *sorted(path.parent for path in (ROOT / "bundles").glob("*/configs"))]


@pytest.fixture(params=BUNDLES, ids=lambda bundle: str(bundle.relative_to(ROOT)))
def bundle(request):
    return request.param


@pytest.fixture
def metadata(bundle):
    return json.loads((bundle / "configs" / "metadata.json").read_text())


def test_metadata_fit_the_schema(metadata):
    jsonschema.validate(metadata, json.loads(SCHEMA.read_text()))
    assert metadata["schema"].endswith(f"/{SCHEMA.name}")


def test_versions_are_those_of_the_library_and_of_the_requirements(metadata):
    assert metadata["version"] == crosswarp.__version__ and metadata["version"] in metadata["changelog"]
    lines = (ROOT / "requirements.txt").read_text().splitlines()
    pinned = dict(line.split("==") for line in lines if "==" in line)
    named = {
        "monai": metadata["monai_version"],
        "torch": metadata["pytorch_version"],
        "numpy": metadata["numpy_version"],
    }
    assert named | metadata["required_packages_version"] == pinned


def test_channels_are_those_of_the_network(bundle, metadata):
    """As `python -m monai.bundle verify_net_in_out` does, on a smaller grid."""
    tensors = metadata["network_data_format"]
    image, pred = tensors["inputs"]["image"], tensors["outputs"]["pred"]
    for tensor in (image, pred):
        assert list(tensor["channel_def"]) == [str(channel) for channel in range(tensor["num_channels"])]
        assert tensor["spatial_shape"] == read_config(bundle / "configs" / "inference.json")["spatial_size"]
    network = read_config(bundle / "configs" / "inference.json").get_parsed_content("network_def").eval()
    with torch.inference_mode():
        output = network(torch.rand(1, image["num_channels"], 48, 32))
    assert output.shape == (1, pred["num_channels"], 48, 32) and output.dtype == torch.float32
