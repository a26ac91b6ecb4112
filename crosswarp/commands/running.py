"""What the commands share that run a config: MONAI's way of running it, in any folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import plain_input_errors
from ..runs.config import library_as_scripts, open_workflow, verbatim
from ..terminal import show_messages


@plain_input_errors()
def run_config(
    files: Sequence[Path], bundle: Path, values: Mapping[str, Any], overrides: Mapping[str, Any]
) -> None:
    """Run configs of a bundle as `python -m monai.bundle run` does, from any folder.

    Args:
        files: the config and its overlays.
        bundle: the bundle that they belong to.
        values: ids of the config and paths or names, taken letter by letter; None leaves the config's own.
        overrides: ids of the config and what MONAI takes for them, expressions too.

    Raises:
        ValueError: for an id in both.
    """
    given = {key: value for key, value in values.items() if value is not None} | {"bundle_root": bundle}
    if twice := sorted({"config_file", *given} & overrides.keys()):
        raise ValueError(f"Expected no {', '.join(twice)}: the command's own arguments say that.")
    # MONAI passes over what is None, as if it had not been given
    chosen: dict[str, Any] = {"logging_file": False}
    chosen |= {key: "$None" if value is None else value for key, value in overrides.items()}
    show_messages(verbose=overrides.get("verbose") is True)
    with library_as_scripts():
        workflow = open_workflow(files, **verbatim(given), **chosen)
        workflow.initialize()
        workflow.run()
        workflow.finalize()
