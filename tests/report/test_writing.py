from __future__ import annotations

import csv
import io
from base64 import b64decode
from html.parser import HTMLParser
from math import nan
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from PIL import Image

from crosswarp.report import write_csv, write_report

VOID = {"meta", "img", "br", "hr", "link", "input"}


class Page(HTMLParser):
    """Collects the elements of a page and complains of tags that do not match."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.open: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.text += " ".join(data.split()) + "\n" * bool(data.strip())

    def images(self) -> list[dict[str, str | None]]:
        return [attributes for tag, attributes in self.elements if tag == "img"]


def measurements() -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    for image, dice in (("1", 0.5), ("2", 1.0)):
        for network, factor in (("source as is", 0.5), ("target", 1.0)):
            names = {"kind": "segmentation", "modality": "xray", "network": network, "image": image}
            names["subject"] = image
            rows += [{**names, "class": name, "dice": factor * dice} for name in ("femur", "tibia & <co>")]
    names = {"kind": "registration", "method": "crosswarp", "direction": "dxa_to_xray", "moving": "m"}
    names |= {"fixed": "f", "moving_subject": "m", "fixed_subject": "f"}
    quality = {"unregistered_dice": 0.321, "folds_percent": 0.0421, "inverse_error_mm": 0.654}
    return rows + [{**names, "class": name, "dice": 0.876, **quality} for name in ("femur", "tibia & <co>")]


def test_csv_holds_every_row_and_is_written_whole(tmp_path: Path) -> None:
    path = tmp_path / "new" / "metrics.csv"
    for _ in range(2):  # the second time over the first
        write_csv(measurements(), path)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 10
    assert rows[0]["class"] == "femur" and rows[0]["direction"] == ""
    assert rows[-1]["class"] == "tibia & <co>" and float(rows[-1]["folds_percent"]) == 0.0421
    assert [file.name for file in path.parent.iterdir()] == ["metrics.csv"]


def test_report_is_one_self_contained_file_with_the_numbers(tmp_path: Path, pair: dict[str, Any]) -> None:
    path = tmp_path / "run" / "report.html"
    example = {"image": pair["fixed"], "predicted": pair["warped_label"], "title": "xray, subject <7>"}
    write_report(
        path,
        "Knees & more",
        measurements(),
        [pair],
        [example, {**example, "label": pair["fixed_label"]}],
        {"2 source_segmentation": {"loss": [(0, 1.0), (1, 0.5)]}, "not run": {}},
        {"device": "two cores", "versions": {"torch": "2.13.0"}, "seed": 0},
    )
    assert list(path.parent.iterdir()) == [path]
    page = Page(path.read_text(encoding="utf-8"))
    tags = [tag for tag, _ in page.elements]
    assert not {"script", "link", "iframe", "object"} & set(tags)
    assert not any("href" in attributes or "srcset" in attributes for _, attributes in page.elements)
    assert "url(" not in path.read_text(encoding="utf-8") and "@import" not in path.read_text(
        encoding="utf-8"
    )
    assert [tags.count(tag) for tag in ("h1", "main", "header")] == [1, 1, 1]

    images = page.images()
    assert len(images) == 2 + 2 + 1 + 1  # charts, segmentations, pair, curves
    for image in images:
        assert image["alt"]
        kind, _, data = (image["src"] or "").partition(";base64,")
        if kind == "data:image/svg+xml":
            assert ElementTree.fromstring(b64decode(data)).tag.endswith("svg")
        else:
            assert kind == "data:image/png"
            assert Image.open(io.BytesIO(b64decode(data))).width > 500

    lines = page.text.splitlines()
    for line in (
        "Knees & more",
        "tibia & <co>",
        "xray, subject <7>",
        "two cores",
        "versions / torch",
        "2.13.0",
    ):
        assert any(line in each for each in lines), line
    assert "0.750 ± 0.354" in lines, "target: mean and spread of 0.5 and 1"
    assert "0.375 ± 0.177" in lines, "the source network as is"
    assert lines.index("0.321") < lines.index("0.876", lines.index("Registration")), (
        "unregistered comes before"
    )
    assert {"0.042", "0.654"} <= set(lines)
    assert "source network as is 0.375" in lines
    assert "unregistered 0.321, folds 0.042 %" in lines
    assert "not run" not in lines


def test_report_leaves_out_what_there_is_not(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, "Empty", [], [], [], {}, {})
    page = Page(path.read_text(encoding="utf-8"))
    assert "section" not in [tag for tag, _ in page.elements]
    assert page.images() == []


def test_what_was_not_measured_is_a_dash_and_no_headline(tmp_path: Path) -> None:
    unmeasured = [row | {"dice": nan, "unregistered_dice": nan} for row in measurements()[-2:]]
    path = tmp_path / "report.html"
    write_report(path, "Unlabelled", unmeasured, [], [], {}, {}, ["On a grid of 9 < 10 points."])
    page = Page(path.read_text(encoding="utf-8"))
    assert "ul" not in [tag for tag, _ in page.elements]
    lines = page.text.splitlines()
    assert "On a grid of 9 < 10 points." in lines and "nan" not in page.text
    # two classes and their mean, unregistered and registered; seven other columns
    assert lines.count("-") == 6 + 7
    assert "0.042" in lines, "folds need no label"


def test_a_report_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, "First", [], [], [], {}, {})
    before = path.read_text(encoding="utf-8")
    with pytest.raises(KeyError, match="fixed_label"):
        write_report(path, "Second", [], [{"title": "nothing in it"}], [], {}, {})
    assert path.read_text(encoding="utf-8") == before
    assert list(tmp_path.iterdir()) == [path]
