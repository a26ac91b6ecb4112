"""Configs of the bundles: one order, one definition of each network, and names that resolve."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from pydoc import locate
from typing import Any

import pytest
import torch
from icon_registration.networks import tallUNet2
from monai.bundle import ComponentLocator, ConfigParser
from monai.bundle.properties import InferProperties, TrainProperties
from monai.bundle.utils import MERGE_KEY
from monai.bundle.workflows import _reject_executable_logging_config
from torch import nn

from crosswarp.data import load_datalist
from crosswarp.places import STAGES
from crosswarp.runs.chain import PARTS
from crosswarp.runs.config import REFERENCE, _arguments, check_ids, read_config
from crosswarp.runs.shared import MONAI_LABEL, with_shared
from tests.cohorts import write_blob_cohort

ROOT = Path(__file__).parents[2]
BUNDLES = sorted(path.parent for path in (ROOT / "bundles").glob("*/configs"))
CONFIGS = [path for bundle in (ROOT, *BUNDLES) for path in sorted((bundle / "configs").glob("*.json"))]
WORKFLOWS = [path for path in CONFIGS if path.name in ("train.json", "inference.json")]
OVERLAYS = sorted((ROOT / "bundles").glob("*/configs/presets/*.json"))
# what every config that has these ids has in this order
ORDER = {
    "train.json": """imports bundle_root run_dir datalist data stage stage_dir device seed spatial_dims
        spatial_size num_classes source_channels target_channels max_epochs steps_per_epoch val_interval
        batch_size learning_rate displacement_network network_def preprocessing train validate checkpoints
        initialize run finalize""",
    "inference.json": """imports bundle_root moving fixed dataset_dir images output_dir device spatial_dims
        spatial_size num_classes source_channels target_channels displacement_network network_def network
        pairs preprocessing dataset dataloader inferer postprocessing checkpoint handlers evaluator run""",
}


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def walk(config: Any) -> Iterator[Any]:
    """All mappings and values of a config."""
    yield config
    if isinstance(config, dict | list):
        for value in config.values() if isinstance(config, dict) else config:
            yield from walk(value)


@cache
def monai_components() -> ComponentLocator:
    return ComponentLocator()


def resolve(target: str) -> Any:
    return locate(
        target if "." in target else f"{monai_components().get_component_module_name(target)}.{target}"
    )


def test_there_is_a_bundle_for_each_stage():
    assert [bundle.name for bundle in BUNDLES] == [
        "domain_adaptation",
        "multimodal_registration",
        "registration_augmentation",
        "source_segmentation",
    ]
    assert len(WORKFLOWS) == 10 and OVERLAYS


@pytest.mark.parametrize("path", WORKFLOWS, ids=name)
def test_ids_stand_in_the_agreed_order(path):
    config = read_config(path).get()
    agreed = ORDER[path.name].split()
    assert [key for key in config if key in agreed] == [key for key in agreed if key in config]


@pytest.mark.parametrize("path", [*CONFIGS, *OVERLAYS], ids=name)
def test_every_target_and_import_resolves(path):
    config = with_shared(ConfigParser.load_config_file(path))
    targets = {part["_target_"] for part in walk(config) if isinstance(part, dict) and "_target_" in part}
    assert [target for target in targets if not callable(resolve(target))] == []
    for statement in config.get("imports", []):
        exec(statement.removeprefix("$"))


@pytest.mark.parametrize("path", WORKFLOWS, ids=name)
def test_every_reference_is_defined(path):
    parser = read_config(path)
    texts = [value for value in walk(parser.get()) if isinstance(value, str)]
    used = set(itertools.chain.from_iterable(map(REFERENCE.findall, texts)))
    assert sorted(used - set(parser.get())) == []


def test_what_has_to_stand_twice_is_the_same():
    """A trained `inference.json` stands alone, and presets change a network by its id in `train.json`."""
    whole = read_config(ROOT / "configs" / "inference.json")
    for bundle in BUNDLES:
        train, inference = (
            read_config(bundle / "configs" / f"{kind}.json") for kind in ("train", "inference")
        )
        for identifier in ("network_def", "displacement_network"):
            assert train.get(identifier) == inference.get(identifier)
        for part, stage in PARTS.items():
            if stage == bundle.name:
                assert whole[f"{part}_def"] == train["network_def"]
    registration = read_config(ROOT / "bundles" / PARTS["registration"] / "configs" / "train.json")
    assert whole["displacement_network"] == registration["displacement_network"]


@pytest.mark.parametrize("path", WORKFLOWS, ids=name)
def test_required_ids_of_monai_are_there(path):
    if path.parents[1] == ROOT and path.name == "train.json":
        assert {"bundle_root", "run_dir", "datalist", "initialize", "run"} <= set(read_config(path).get())
        return
    parser = read_config(path)
    properties = TrainProperties if path.name == "train.json" else InferProperties
    required = [value["id"].replace("::", "#") for value in properties.values() if value["required"]]
    assert [identifier for identifier in required if identifier not in parser] == []
    for part in walk(parser.get()):  # otherwise `check_properties` of MONAI complains
        if isinstance(part, dict) and part.get("_target_") == "ValidationHandler":
            assert part["interval"] == "@val_interval" and part["validator"] == "@validate#evaluator"


@pytest.mark.parametrize("path", OVERLAYS, ids=name)
def test_presets_change_what_is_there(path):
    train = path.parents[1] / "train.json"
    ids = [key.removeprefix(MERGE_KEY) for key in ConfigParser.load_config_file(path)]
    check_ids(ids, read_config(train), name(path))
    # and MONAI itself lays them over it, although it puts in later what configs share
    plain = with_shared(ConfigParser.load_config_files([str(train), str(path)]))
    assert plain == {key: value for key, value in read_config(train, path).get().items() if key != "_meta_"}


def test_every_stage_has_every_preset():
    presets = [{path.name for path in OVERLAYS if path.parents[2] == bundle} for bundle in BUNDLES]
    whole = {path.name for path in (ROOT / "configs" / "presets").glob("*.json")}
    assert presets == [presets[0]] * 4 and whole <= presets[0]


def paper(stage: str, **values: Any) -> ConfigParser:
    """The training config of a stage with the paper's settings, for three channels and four classes."""
    configs = ROOT / "bundles" / stage / "configs"
    parser = read_config(configs / "train.json", configs / "presets" / "paper.json")
    parser.update({"spatial_dims": 2, "num_classes": 4, "source_channels": 3, "target_channels": 3} | values)
    return parser


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


@pytest.mark.parametrize(
    ("stage", "downsampling", "channels"),
    [("registration_augmentation", (4, 2, 1, 1), 3), ("multimodal_registration", (4, 2, 1), 4)],
)
def test_the_papers_registration_is_made_of_icons_networks(stage, downsampling, channels):
    network = paper(stage).get_parsed_content("network_def")
    assert network.downsampling == downsampling
    step = count_parameters(tallUNet2(2, channels))
    assert [count_parameters(each) for each in network.networks] == [step] * len(downsampling)


def test_the_papers_adaptation_has_cyclegans_networks_and_keeps_the_resolution():
    parser = paper("domain_adaptation")
    published = {"source_to_target": 11_378_179, "target_to_source": 11_378_179}  # 3 channels: "11.378 M"
    published |= {"source_discriminator": 2_763_841, "target_discriminator": 2_763_841}  # without idle biases
    assert {key: count_parameters(parser.get_parsed_content(key)) for key in published} == published
    for stage in ("source_segmentation", "domain_adaptation"):
        network = paper(stage).get_parsed_content("network_def")
        strides = {module.stride for module in network.modules() if isinstance(module, nn.Conv2d)}
        assert strides == {(1, 1)} and network.num_res_units == 8
        assert list(network.channels) == [4, 8, 16, 32, 64, 128]


@pytest.mark.parametrize("which", ["", "discriminator_"])
def test_the_papers_rates_fall_to_zero_over_the_second_half_also_when_resumed(which):
    def start():
        optimizer = torch.optim.SGD([nn.Parameter(torch.zeros(1))], lr=2.0)
        parser = paper("domain_adaptation", max_epochs=2, steps_per_epoch=4)
        parser[f"train#{which}optimizer"] = optimizer
        return optimizer, parser.get_parsed_content(f"train#{which}scheduler")

    rates, objects = [], start()
    for _ in range(8):
        rates.append(objects[0].param_groups[0]["lr"])
        for item in objects:
            item.step()
        states, objects = [item.state_dict() for item in objects], start()
        for item, state in zip(objects, states, strict=True):
            item.load_state_dict(state)
    assert rates == pytest.approx([2, 2, 2, 2, 2, 1.5, 1, 0.5])
    assert objects[0].param_groups[0]["lr"] == pytest.approx(0)


def test_corrected_labels_join_those_drawn_by_hand(tmp_path):
    """And are part of the config that decides whether stage 4 is stale."""
    parser = read_config(ROOT / "bundles" / "multimodal_registration" / "configs" / "train.json")
    corrected = [{"image": "a.nii.gz", "label": "b.nii.gz", "sha256": "0"}]
    data = load_datalist(write_blob_cohort(tmp_path))
    parser.update({"data": data, "corrected": corrected})
    assert parser.get_parsed_content("manual#data") == data.source.train_labelled + corrected


@pytest.mark.parametrize("bundle", [ROOT, *BUNDLES], ids=name)
def test_a_bundle_has_all_its_files(bundle):
    for file in ("LICENSE", "configs/metadata.json", "docs/README.md"):
        assert (bundle / file).stat().st_size > 100
    assert (bundle / "scripts").resolve() == ROOT / "crosswarp"
    assert _reject_executable_logging_config(str(bundle / "configs" / "logging.conf"))


def components(config: Any, where: str = "") -> Iterator[tuple[str, dict]]:
    """Every component of a config that is parsed but not evaluated, with its id."""
    items = (
        config.items() if isinstance(config, dict) else enumerate(config) if isinstance(config, list) else ()
    )
    if isinstance(config, dict) and "_target_" in config:
        yield where, config
    for key, value in items:
        yield from components(value, f"{where}#{key}".lstrip("#"))


@pytest.mark.parametrize(
    "path", [MONAI_LABEL, *(path for path in CONFIGS if path.name == "train.json")], ids=str
)
def test_all_that_goes_through_a_network_in_training_follows_the_batch_size(path):
    """So that volumes which must be trained one by one are also labelled and validated one by one."""
    config = read_config(path)
    found = {
        where: component.get("batch_size")
        for where, component in components(config.get())
        if component["_target_"] == "DataLoader" or "batch_size" in _arguments(component)
    }
    assert set(found.values()) <= {"@batch_size", "@label_batch_size"}
    assert config.get("label_batch_size", "@batch_size") == "@batch_size"
    assert found or path.parent == ROOT / "configs"


@pytest.mark.parametrize(("batch_size", "expected"), [(1, 1), (4, 4), (8, 32), (16, 32)])
def test_the_demo_labels_many_small_images_at_a_time_unless_few_are_asked_for(batch_size, expected):
    configs = ROOT / "bundles" / "domain_adaptation" / "configs"
    parser = read_config(configs / "train.json", configs / "presets" / "demo.json")
    parser["batch_size"] = batch_size
    assert parser.get_parsed_content("label_batch_size") == expected


@pytest.mark.parametrize("overlay", ["evaluate.json", "presets/fine_tune.json"])
@pytest.mark.parametrize("stage", STAGES)
def test_a_trained_network_sees_other_data_as_it_was_trained(tmp_path, stage, overlay):
    """Its side, spacing and size of the frame are the network's, whatever the new datalist says."""
    bundle = ROOT / "bundles" / stage
    seen = {"spatial_size": [48, 32], "spacing": [1.5, 2.0], "mirrored_side": "left"}
    trained = read_config(bundle / "configs" / "inference.json").get() | seen
    for folder in (tmp_path, tmp_path / "run" / stage):
        (folder / "configs").mkdir(parents=True)
        (folder / "configs" / "inference.json").write_text(json.dumps(trained))
    write_blob_cohort(tmp_path / "data")
    files = [str(bundle / "configs" / file) for file in ("train.json", overlay)]
    parser = ConfigParser(ConfigParser.load_config_files(files))
    parser.update(
        {
            "bundle_root": str(tmp_path),
            "run_dir": str(tmp_path / "run"),
            "datalist": str(tmp_path / "data" / "datalist.json"),
        }
    )
    assert {key: parser.get_parsed_content(key) for key in seen} == seen
