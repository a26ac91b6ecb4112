"""Misspelt parameters, the running config, and values that are never expressions."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from monai.bundle import ConfigParser

from crosswarp.runs.config import (
    UnknownIdError,
    check_ids,
    check_overrides,
    flatten,
    read_config,
    running_parser,
    verbatim,
)

CONFIG = {
    "max_epochs": 3,
    "channels": [1, 2],
    "size": "@channels",
    "train": {
        "loader": {"_target_": "DataLoader", "batch_size": 2},
        "section": {"interval": 1},
        "loss": {"_target_": "crosswarp.losses.LNCCLoss"},
        "unknown": {"_target_": "my.own.Loss"},
    },
}


@pytest.mark.parametrize(
    "identifier",
    [
        "max_epochs",
        "train",
        "train#loader#batch_size",
        "train#section#interval",
        "channels#1",
        "train#loader#shuffle",  # taken as a keyword of any name
        "train#loss#sigma",
        "train#loss#_disabled_",
        "train#unknown#anything",
    ],
)
def test_ids_and_new_arguments_of_a_component_are_known(identifier):
    check_ids([identifier], ConfigParser(CONFIG), "config")


@pytest.mark.parametrize(
    ("identifier", "suggestion"),
    [
        ("max_epoch", "max_epochs"),
        ("train#section#intervall", "train#section#interval"),
        ("train#loder#batch_size", "train#loader#batch_size"),
        ("max_epochs#first", "max_epochs"),
        ("train#loss#sigmas", "train#loss#sigma"),
        ("nothing_alike", None),
    ],
)
def test_unknown_ids_are_refused_with_a_suggestion(identifier, suggestion):
    with pytest.raises(UnknownIdError, match=f"The stage has no parameter '{identifier}'") as error:
        check_ids([identifier], ConfigParser(CONFIG), "The stage")
    assert (f"did you mean {suggestion}" in str(error.value)) == (suggestion is not None)


def test_all_unknown_ids_are_named_at_once():
    with pytest.raises(UnknownIdError, match="'max_epoch'.*, 'chanels' "):
        check_ids(["max_epoch", "channels", "chanels"], ConfigParser(CONFIG), "config")


def test_overlays_may_bring_ids_that_they_use(tmp_path):
    path = tmp_path / "train.json"
    path.write_text(json.dumps(CONFIG))
    overlay = {
        "width": 3,
        "depth": 2,
        "max_epochs": "@width",
        "size": "$[i for i in range(@depth)]",
        "_meta_": {},
    }
    check_overrides(ConfigParser(CONFIG | overlay), path)
    with pytest.raises(
        UnknownIdError, match=r"train.json has no parameter 'max_epoch' \(did you mean max_epochs"
    ):
        check_overrides(ConfigParser(CONFIG | overlay | {"max_epoch": 5}), path)


def test_nested_overrides_become_ids_but_a_component_stays_whole():
    component = {"_target_": "UNet", "channels": [4, 8]}
    nested = {
        "max_epochs": 2,
        "train": {"loader": {"batch_size": 4}, "network": component, "none": {}},
        "network_def.norm": "BATCH",
        "train::optimizer::lr": 0.1,
    }
    assert flatten(nested) == {
        "max_epochs": 2,
        "train#loader#batch_size": 4,
        "train#network": component,
        "train#none": {},
        "network_def#norm": "BATCH",
        "train#optimizer#lr": 0.1,
    }


def test_an_expression_finds_the_config_that_it_stands_in():
    inner = ConfigParser({"found": "$running_parser()"}, globals={"running_parser": running_parser})
    assert inner.get_parsed_content("found") is inner
    names = {"running_parser": running_parser, "inner": inner}
    outer = ConfigParser(
        {"mine": "$running_parser()", "nested": "$inner.get_parsed_content('found')"}, globals=names
    )
    assert outer.get_parsed_content("mine") is outer
    assert outer.get_parsed_content("nested") is inner
    with pytest.raises(RuntimeError, match="from an expression of a MONAI config"):
        running_parser()


NAMES = [
    "knee.nii.gz",
    "knee #1.nii.gz",
    "out #1/2024_01_15",
    "$__import__('os').system('touch executed')",
    "$import this",
    "@max_epochs",
    "%max_epochs",
    "%/etc/other.json#id",
    "me@#home",
    "me@::home",
    "50%::2",
    "C:\\data\\#1 \\'\"",
    "'quoted' #\"twice\"",
    "größe #1",
    "undecodable \udcff #1",
    "line\nbreak #1",
    "",
]


@pytest.mark.parametrize("text", NAMES)
def test_text_stays_what_it_is_letter_by_letter(text, tmp_path):
    # where paths stand: an entry, an argument of a component, a part of an expression, a list
    config = {"max_epochs": 3, "path": verbatim(text), "below": "@path", "file": "$@path + '/model.pt'"}
    config["component"] = {"_target_": "builtins.dict", "path": "@path", "own": verbatim(text)}
    config["many"] = verbatim([text, {"image": text}])
    (tmp_path / "config.json").write_text(json.dumps(config))
    parser = read_config(tmp_path / "config.json")
    assert [parser.get_parsed_content(key) for key in ("path", "below")] == [text, text]
    assert parser.get_parsed_content("file") == text + "/model.pt"
    assert parser.get_parsed_content("component") == {"path": text, "own": text}
    assert parser.get_parsed_content("many#0") == text
    assert parser.get_parsed_content("many#1#image") == text


def test_what_monai_leaves_alone_is_not_changed():
    plain = ["a b.nii.gz", "100% cotton@home", "2024_01_15", "None", "[1]", "a::b", 5, None, 2.5]
    assert verbatim(plain) == plain
    assert verbatim(Path("a") / "b") == str(Path("a") / "b")
