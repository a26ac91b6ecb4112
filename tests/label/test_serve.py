"""What is served of what lies in a folder; it needs no MONAI Label."""

from __future__ import annotations

from pathlib import Path

from apps.monailabel.serve import newest


def test_the_highest_version_is_served(tmp_path: Path) -> None:
    for version in ("0.2.0", "0.10.0", "0.9.1"):
        (tmp_path / f"crosswarp_v{version}.zip").touch()
    assert newest(tmp_path, "crosswarp") == [tmp_path / "crosswarp_v0.10.0.zip"]
    assert newest(tmp_path, "domain_adaptation") == []
