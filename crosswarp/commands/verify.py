"""The command `verify`."""

from __future__ import annotations

from pathlib import Path

from ..wording import printable


def verify(*zips: str) -> None:
    """Check packaged bundles without running anything of them, and list the Python in their configs.

    Args:
        zips: what `package` wrote, here or elsewhere.

    Raises:
        ValueError: naming the zips that are refused; their faults are printed.
        FileNotFoundError: naming the zips that are not there.
    """
    from ..release.verify import BundleError, inspect

    if missing := [path for path in map(str, zips) if not Path(path).is_file()]:
        raise FileNotFoundError("Expected zips that are not there: " + ", ".join(missing))
    if not zips:
        raise ValueError("Expected zips to verify: python -m crosswarp verify dist/*.zip")
    refused = []
    for path in map(str, zips):
        with open(path, "rb") as file:
            inspection = inspect(file, path)
        print(inspection.report())
        refused += [printable(str(path), 500)] if inspection.faults else []
    if refused:
        raise BundleError(f"{len(refused)} of {len(zips)} refused: {', '.join(refused)}")
