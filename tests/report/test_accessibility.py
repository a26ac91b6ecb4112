"""What assistive technology needs of the report; axe-core 4.14 finds no fault in it, either."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

import crosswarp.report
from tests.report.page import Page


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page(report.read_text(encoding="utf-8"))


def test_language_title_and_landmarks(page: Page) -> None:
    (html,) = page.find("html")
    (title,) = page.find("title")
    assert html.get("lang") == "en" and title.text.strip()
    for tag in ("header", "nav", "main", "footer"):
        assert len(page.find(tag)) == 1, tag
    assert page.find("nav")[0].get("aria-label")
    (viewport,) = (each for each in page.find("meta") if each.get("name") == "viewport")
    assert "maximum-scale" not in viewport.get("content"), "may be enlarged"


def test_headings_skip_no_level(page: Page) -> None:
    levels = [int(each.tag[1]) for each in page.find("h1", "h2", "h3", "h4", "h5", "h6")]
    assert levels.count(1) == 1 and levels[0] == 1
    assert all(after <= before + 1 for before, after in zip(levels, levels[1:], strict=False))


def test_links_and_references_lead_somewhere(page: Page) -> None:
    ids = Counter(each.get("id") for each in page.root.all if each.get("id"))
    assert set(ids.values()) == {1}
    links = page.find("a")
    assert links[0].get("href") == "#main", "the first stop of the keyboard skips what comes before"
    assert all(link.get("href").startswith("#") and link.get("href")[1:] in ids for link in links)
    sections = page.find("section")
    assert [link.get("href")[1:] for link in links[1:]] == [section.get("id") for section in sections]
    assert all(section.get("aria-labelledby") in ids for section in sections)


def test_pictures_have_text_and_layers_only_once(page: Page) -> None:
    for image in page.find("img"):
        assert "alt" in image.attributes
        layers = image.above
        is_outline = (
            layers is not None and layers.get("class") == "layers" and layers.children[0] is not image
        )
        assert bool(image.get("alt")) != is_outline


def test_tables_have_captions_and_scopes(page: Page) -> None:
    tables = page.find("table")
    assert len(tables) > 5
    for table in tables:
        assert table.children[0].tag == "caption" and table.children[0].all + [table.children[0].text]
        assert all(each.get("scope") in ("col", "row", "rowgroup") for each in table.find("th"))
        columns = len(table.find("thead")[0].find("th")) if table.find("thead") else 2
        for body in table.find("tbody"):
            for row in body.find("tr"):
                first, *others = row.children
                assert first.tag == "th"
                if first.get("scope") == "rowgroup":
                    assert not others and int(first.get("colspan")) == columns
                else:
                    assert [each.tag for each in others] == ["td"] * (columns - 1)


def test_what_can_be_operated_has_a_name(page: Page) -> None:
    controls = page.find("input")
    assert {each.get("type") for each in controls} == {"range", "checkbox"}
    assert all(each.get("aria-label") or each.within("label") for each in controls)
    names = Counter(each.get("aria-label") for each in page.root.all if each.get("aria-label"))
    assert set(names.values()) == {1}
    for scrollable in (each for each in page.find("div") if each.get("class") == "scroll"):
        assert scrollable.get("tabindex") == "0" and scrollable.get("role") and scrollable.get("aria-label")


def luminance(colour: str) -> float:
    """Relative luminance, https://www.w3.org/TR/WCAG22/#dfn-relative-luminance."""
    digits = colour[1:] if len(colour) == 7 else "".join(2 * digit for digit in colour[1:])
    linear = [
        c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4
        for c in (int(digits[i : i + 2], 16) / 255 for i in (0, 2, 4))
    ]
    return sum(weight * value for weight, value in zip((0.2126, 0.7152, 0.0722), linear, strict=True))


def test_contrast_of_text_in_light_and_dark() -> None:
    style = Path(crosswarp.report.__file__).with_name("report.css").read_text(encoding="utf-8")
    schemes = [
        dict(re.findall(r"--(\w+): (#\w+)", scheme)) for scheme in re.findall(r":root \{(.*?)\}", style, re.S)
    ]
    assert len(schemes) == 2
    for scheme in schemes:
        paper = luminance(scheme["paper"])
        for name in ("ink", "soft", "accent"):
            low, high = sorted((paper, luminance(scheme[name])))
            assert (high + 0.05) / (low + 0.05) >= 4.5, name
    text = re.findall(r"[{;\s]color: ([^;}]+)", style)
    assert set(text) <= {"var(--ink)", "var(--soft)", "var(--accent)"}, "no other colours of text"
