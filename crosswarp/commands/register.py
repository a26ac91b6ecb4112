"""The command `register`."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any


def register(
    moving: str | Sequence[str],
    fixed: str | Sequence[str],
    models: str,
    out: str,
    moving_modality: str = "source",
    fixed_modality: str = "target",
    **overrides: Any,
) -> None:
    """Segment and register two images; write labels and the warped moving image: configs/inference.json.

    Args:
        moving: the image to warp; several as a list, `a.nii.gz,b.nii.gz` or `["a.nii.gz","b.nii.gz"]`. What
            exists by the very name that is given is that image.
        fixed: the image to warp it to; several as a list.
        models: a trained run, or another trained bundle of the whole chain, or its zip, which is verified.
        out: folder for the results.
        moving_modality: `source` or `target`.
        fixed_modality: `source` or `target`.
        overrides: ids of the config.

    Raises:
        FileNotFoundError: where there are no trained networks.
        ValueError: for another modality, or an id that the config does not have.
    """
    from ..inference.registrar import load
    from ..runs.config import verbatim
    from ..terminal import silence_others

    values = {
        "moving": moving,
        "fixed": fixed,
        "output_dir": Path(out).absolute(),
        "moving_modality": moving_modality,
        "fixed_modality": fixed_modality,
    }
    if twice := sorted({"bundle_root", *values} & overrides.keys()):
        raise ValueError(f"Expected no {', '.join(twice)}: the command's own arguments say that.")
    silence_others()
    load(models, **verbatim(values), **overrides).register_files()
    print(f"Wrote {out}.")
