from __future__ import annotations

import csv
import io
from base64 import b64decode
from math import nan
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import numpy as np
import pytest
from PIL import Image

from crosswarp.report import most_labelled, write_csv, write_report
from tests.report.page import Page

Rows = list[dict[str, Any]]


def test_csv_holds_every_row_and_is_written_whole(
    tmp_path: Path, segmentations: Rows, registrations: Rows
) -> None:
    path = tmp_path / "new" / "metrics.csv"
    for _ in range(2):  # the second time over the first
        write_csv(segmentations + registrations, path)
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 16
    assert rows[0]["class"] == "femur" and rows[0]["direction"] == ""
    assert rows[-1]["class"] == "tibia & <co>" and float(rows[-1]["folds_percent"]) == 0.0842
    assert [file.name for file in path.parent.iterdir()] == ["metrics.csv"]


def test_report_is_one_self_contained_file(report: Path) -> None:
    assert list(report.parent.iterdir()) == [report]
    html = report.read_text(encoding="utf-8")
    page = Page(html)
    assert not page.find("link", "iframe", "object")
    assert not any(each.attributes.keys() & {"srcset", "data", "action"} for each in page.root.all)
    assert all(each.get("href").startswith("#") for each in page.root.all if "href" in each.attributes)
    assert all(each.get("src").startswith("data:") for each in page.root.all if "src" in each.attributes)
    assert "url(" not in html and "@import" not in html
    policy = next(each.get("content") for each in page.find("meta") if each.get("http-equiv"))
    assert policy.startswith("default-src 'none'; img-src data:;"), (
        "a browser would not fetch anything, either"
    )


def test_pictures_are_vectors(report: Path) -> None:
    images = Page(report.read_text(encoding="utf-8")).find("img")
    # charts: Dice of segmentations, Dice and more of registrations; examples; layers of a pair; curves
    assert len(images) == 1 + 2 + 2 + 13 + 1
    for image in images:
        kind, _, data = image.get("src").partition(";base64,")
        assert kind == "data:image/svg+xml"
        assert ElementTree.fromstring(b64decode(data)).tag.endswith("svg")


def test_numbers_and_names_of_the_report(report: Path) -> None:
    page = Page(report.read_text(encoding="utf-8"))
    text = " ".join(page.lines)
    for part in ("Knees & more", "tibia & <co>", "xray, subject <7>", "On a grid of 9 < 10 points."):
        assert part in text
    assert "two cores" in page.lines and "versions / torch 2.13.0" in text
    assert "Epoch chosen one 7" in text and "stages / one / epoch 7" in text
    assert "Moving d1 , fixed x2" in text and "not run" not in text
    # what the tables must hold, worked out by hand
    assert "target 2 0.750 ± 0.354" in text, "mean and spread of 0.5 and 1"
    assert "source as is 2 0.375 ± 0.177" in text
    assert "unregistered 2 0.321 ± 0.000" in text
    assert "crosswarp 2 0.800 ± 0.071" in text, "0.75 and 0.85"
    assert "s2 1 1.000 1.000 1.000" in text, "a subject's Dice"
    assert "femur 0.321 0.900 tibia & <co> 0.321 0.800" in text, "the pair's own"
    assert "TRE (mm) 4.00" in text and "Folds (%) 0.084" in text
    # the headlines
    assert "Segmentation xray 0.750" in text and "source network as is 0.375" in text
    assert "Registration xray to dxa 0.800" in text and "unregistered 0.321" in text
    numbers = [each.text for each in page.find("b") if each.text.startswith("Table")]
    assert numbers == [f"Table {i}." for i in range(1, len(numbers) + 1)]


def test_warnings_stand_above_all_else(report: Path) -> None:
    html = report.read_text(encoding="utf-8")
    warning = html.index("<li>one: Dice 0.1 &lt; 0.5.</li>")
    assert html.index('<main id="main">') < warning < html.index("<section")


def test_several_methods_and_their_comparison(
    tmp_path: Path, registrations: Rows, pair: dict[str, Any]
) -> None:
    path = tmp_path / "report.html"
    rows = [row | {"method": "crosswarp"} for row in registrations]
    rows += [row | {"method": "SyN <MI>", "dice": 0.123} for row in registrations]
    comparison = [
        {"direction": "dxa_to_xray", "method": "SyN <MI>", "pairs": 2, "dice_mean": 0.123, "p_holm": 0.5}
    ]
    comparison[0] |= {"dice_low": 0.1, "dice_high": 0.2}
    names = {"direction": "dxa_to_xray", "moving_name": "d1", "fixed_name": "x1"}
    write_report(path, "Methods", rows, [pair | names], [], {}, {}, comparison=comparison)
    page = Page(path.read_text(encoding="utf-8"))
    text = " ".join(page.lines)
    assert "SyN <MI> 2 0.123 0.100 to 0.200 0.5" in text
    headlines = next(each for each in page.find("ul") if each.get("class") == "headlines")
    assert [each.text for each in headlines.find("strong")] == ["0.800", "0.800"], "ours, in each direction"
    assert "by percentile bootstrap" in text, "what the intervals are"
    (table,) = (each for each in page.find("table") if "This pair" in each.find("caption")[0].text)
    assert [cell.text for cell in table.find("td")] == ["0.321", "0.800", "0.321", "0.700"], "ours only"


def test_what_was_expected_and_found(tmp_path: Path, registrations: Rows, pair: dict[str, Any]) -> None:
    path = tmp_path / "report.html"
    rows = [row | {"method": "crosswarp"} for row in registrations]
    expected = [
        {"class": name, "dice": dice, "expected": 0.8, "expected_low": 0.7, "expected_high": 0.9}
        for name in ("mean", "femur")
        for dice in (0.75, 0.85)
    ]
    expected.append({**expected[0], "class": "tibia", "expected": nan})
    write_report(path, "Expected", rows, [], [], {}, {}, expected=expected)
    page = Page(path.read_text(encoding="utf-8"))
    assert "Expected and found overlap" in page.lines
    (image,) = (each for each in page.find("img") if each.get("alt").startswith("Expected and found"))
    assert "mean over classes, found 0.8, expected 0.8; femur" in image.get("alt")
    assert "tibia" not in image.get("alt")
    write_report(path, "None", rows, [], [], {}, {})
    assert "Expected and found overlap" not in path.read_text(encoding="utf-8")


def test_long_tables_are_folded(tmp_path: Path, segmentations: Rows) -> None:
    path = tmp_path / "report.html"
    rows = [row | {"image": f"{i}", "subject": f"p{i}"} for i in range(20) for row in segmentations[:4]]
    write_report(path, "Many", rows, [], [], {}, {})
    page = Page(path.read_text(encoding="utf-8"))
    (folded,) = page.find("details")
    assert len(folded.find("tbody")[0].find("tr")) == 1 + 20, "a line for each subject below their modality"
    assert "20 lines" in folded.find("summary")[0].text


def test_report_leaves_out_what_there_is_not(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, "Empty", [], [], [], {}, {}, ["Nothing was measured."])
    page = Page(path.read_text(encoding="utf-8"))
    assert not page.find("section", "img", "table")
    assert "Nothing was measured." in page.lines


def test_what_was_not_measured_is_left_out(tmp_path: Path, registrations: Rows) -> None:
    unmeasured = [row | {"dice": nan, "unregistered_dice": nan} for row in registrations]
    path = tmp_path / "report.html"
    write_report(path, "Unlabelled", unmeasured, [], [], {}, {}, ["On a grid of 9 < 10 points."])
    page = Page(path.read_text(encoding="utf-8"))
    assert not any(each.get("class") == "headlines" for each in page.find("ul"))
    headings = [each.text for each in page.find("th") if each.get("scope") == "col"]
    assert "Folds (%)" in headings and "Dice" not in headings, "folds need no label"
    text = " ".join(page.lines)
    assert "On a grid of 9 < 10 points." in text and "nan" not in text.split()


def test_pictures_show_the_planes_through_the_label(tmp_path: Path, pair: dict[str, Any]) -> None:
    path = tmp_path / "report.html"
    fixed, dims = np.zeros_like(pair["fixed"]), pair["fixed"].ndim
    for axis in (1, 2)[: dims - 1]:
        plane = fixed[most_labelled(pair["fixed_label"], axis)]
        plane[: len(plane) // 2] = 1  # bright along the first half of the first axis, and only there
    write_report(path, "Volume", [], [pair | {"fixed": fixed}], [], {}, {})
    page = Page(path.read_text(encoding="utf-8"))
    image = next(each for each in page.find("img") if "Fixed" in each.get("alt"))
    svg = ElementTree.fromstring(b64decode(image.get("src").partition(";base64,")[2]))
    greys = []
    for raster in svg.iter("{http://www.w3.org/2000/svg}image"):
        data = raster.get("{http://www.w3.org/1999/xlink}href", "").partition(";base64,")[2]
        greys.append(np.asarray(Image.open(io.BytesIO(b64decode(data))).convert("L"), dtype=float))
    assert len(greys) == (1 if dims == 2 else 3)
    for grey in greys[-2:]:  # of a volume the coronal and the axial plane, the right side on the left
        left, right = np.array_split(grey, 2, axis=1)
        bright, dark = (left, right) if dims == 2 else (right, left)
        assert bright.mean() > 250 and dark.mean() < 5


def test_a_report_that_fails_leaves_the_old_one(tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    write_report(path, "First", [], [], [], {}, {})
    before = path.read_text(encoding="utf-8")
    with pytest.raises(KeyError, match="fixed"):
        write_report(path, "Second", [], [{"title": "nothing in it"}], [], {}, {})
    assert path.read_text(encoding="utf-8") == before
    assert list(tmp_path.iterdir()) == [path]
