"""Words for messages."""

from __future__ import annotations

import pytest

from crosswarp.wording import did_you_mean, nearest, printable, shown


@pytest.mark.parametrize(
    ("name", "meant"),
    [
        ("wram", "warm"),
        ("WARM ", "warm"),
        ("x-ray", "xray"),
        ("phase2", "phase1"),
        ("mr", None),
        ("ultrasound", None),
        ("", None),
    ],
)
def test_the_nearest_name_is_the_one_that_is_meant(name, meant):
    # names that differ in their digits alone are two
    assert nearest(name, ["warm", "xray", "phase1"]) == (None if meant == "phase1" else meant)
    assert did_you_mean("wram", ["warm"]) == " (did you mean warm?)"
    assert did_you_mean("ct", ["warm"]) == ""


def test_no_value_is_too_long_or_too_deep_for_a_message():
    deep: list = []
    for _ in range(10**5):
        deep = [deep]
    for value in ("x" * 10**6, list(range(10**6)), deep, {str(n): n for n in range(10**4)}, 10**4000):
        assert len(shown(value)) <= 120
    assert shown("a\x1b[2J\n") == r"'a\x1b[2J\n'"
    assert printable("a\nb\x00é") == r"a\nb\x00é"
    assert printable("x" * 100, 10) == "xxxxxxx..."
