"""The report in a browser: its slider, narrow screens and paper."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")


def chromium(*arguments: str) -> subprocess.CompletedProcess[str]:
    # without a sandbox, so that it runs as root in a container; the page is our own
    flags = [
        "--headless",
        "--no-sandbox",
        "--disable-gpu",
        "--enable-logging=stderr",
        "--window-size=1280,900",
    ]
    return subprocess.run(
        [str(CHROMIUM), *flags, *arguments], capture_output=True, text=True, check=True, timeout=120
    )


def measure(page: str, script: str, folder: Path, width: int | None = None) -> dict[str, Any]:
    """What a script returns that runs at the end of the page; nothing may be wrong on the way.

    Args:
        page: HTML.
        script: the body of a function.
        folder: for a file.
        width: of the screen, in pixels; windows themselves cannot be narrower than 500.
    """
    call = f"<script>top.document.title = JSON.stringify((() => {{ {script} }})())</script></body>"
    page = page.replace("</body>", call)
    if width is not None:
        page = f'<title></title><iframe srcdoc="{escape(page)}" width={width} height=900 style="border: 0">'
    (folder / "page.html").write_text(page, encoding="utf-8")
    ended = chromium("--virtual-time-budget=5000", "--dump-dom", (folder / "page.html").as_uri())
    assert ":CONSOLE" not in ended.stderr, ended.stderr
    title = re.search("<title>(.*?)</title>", ended.stdout, re.S)
    assert title
    return json.loads(unescape(title[1]))


@pytest.fixture
def page(report: Path) -> str:
    return report.read_text(encoding="utf-8")


BOXES = """
    const comparison = document.querySelector(".comparison"), slider = comparison.querySelector("input");
    const pictures = [...comparison.querySelectorAll(".layers")];
    const [fixed, warped] = pictures.map((each) => each.getBoundingClientRect());
    const shown = getComputedStyle(slider).display != "none";
"""


def test_slider_moves_the_border_between_fixed_and_warped(page: str, tmp_path: Path) -> None:
    measured = measure(
        page,
        BOXES
        + """
        const before = getComputedStyle(pictures[1]).clipPath;
        slider.value = 20;
        slider.dispatchEvent(new Event("input"));
        slider.focus();
        return {
            shown, before,
            onEachOther: fixed.x == warped.x && fixed.y == warped.y && fixed.width == warped.width,
            after: getComputedStyle(pictures[1]).clipPath,
            says: slider.getAttribute("aria-valuetext"),
            focused: document.activeElement == slider,
        };""",
        tmp_path,
    )
    assert measured["shown"] and measured["onEachOther"] and measured["focused"]
    assert measured["before"] == "inset(0px 0px 0px 50%)" and measured["after"] == "inset(0px 0px 0px 20%)"
    assert measured["says"] == "fixed 20 %, warped 80 %"


def test_the_slider_covers_the_picture(page: str, tmp_path: Path) -> None:
    measured = measure(
        page,
        """
        const slider = document.querySelector(".comparison input");
        slider.scrollIntoView({block: "center"});
        const area = slider.getBoundingClientRect(), half = 20;  // of the thumb, whose centre is the border
        const picture = document.querySelector(".comparison .layers").getBoundingClientRect();
        return {
            top: area.top - picture.top,
            bottom: area.bottom - picture.bottom,
            left: area.left + half - picture.left,
            right: area.right - half - picture.right,
            hit: document.elementFromPoint(picture.left + 1, picture.bottom - 1) == slider,
        };""",
        tmp_path,
    )
    assert measured == {"top": 0, "bottom": 0, "left": 0, "right": 0, "hit": True}


def test_without_javascript_both_pictures_stand_side_by_side(page: str, tmp_path: Path) -> None:
    scriptless = re.sub("<script>.*?</script>", "", page, flags=re.S)
    measured = measure(
        scriptless,
        BOXES + "return {shown, apart: warped.left - fixed.right, level: fixed.top - warped.top}",
        tmp_path,
    )
    assert not measured["shown"] and measured["apart"] > 0 and measured["level"] == 0


def test_outlines_can_be_hidden(page: str, tmp_path: Path) -> None:
    measured = measure(
        page,
        """
        const visible = () => [...document.querySelectorAll(".layers img")]
            .filter((each) => getComputedStyle(each).visibility == "visible").length;
        const before = visible();
        document.getElementById("outlines").click();
        return {hidden: before - visible(), left: visible()};""",
        tmp_path,
    )
    assert measured["hidden"] == 5, "of moving, fixed and warped, and both on the fixed image"
    assert measured["left"] == 8, "a picture in each panel"


def test_narrow_screens_scroll_only_downwards(page: str, tmp_path: Path) -> None:
    script = """
        const {scrollWidth, clientWidth} = document.documentElement;
        return {width: innerWidth, tooWide: scrollWidth - clientWidth};"""
    assert measure(page, script, tmp_path, width=320) == {"width": 320, "tooWide": 0}


def test_folded_tables_are_open_on_paper(page: str, tmp_path: Path) -> None:
    line = "<tr><th scope='row'>subject</th><td>0.9</td></tr>"

    def pages(lines: int) -> int:
        file, pdf = tmp_path / "long.html", tmp_path / "long.pdf"
        table = f"<details><summary>long</summary><table>{lines * line}</table></details></main>"
        file.write_text(page.replace("</main>", table), encoding="utf-8")
        chromium("--no-pdf-header-footer", f"--print-to-pdf={pdf}", file.as_uri())
        return len(re.findall(rb"/Type /Page\b", pdf.read_bytes()))

    assert pages(1) < pages(300) - 3, "at most 75 lines on a page"
