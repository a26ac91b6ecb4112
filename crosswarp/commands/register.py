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
        models: a trained run, or another trained bundle of the chain.
        out: folder for the results.
        moving_modality: `source` or `target`.
        fixed_modality: `source` or `target`.
        overrides: ids of the config.

    Raises:
        FileNotFoundError: where there are no trained networks.
        ValueError: for another modality, or an id that the config does not have.
    """
    from ..runs.bundle import INFERENCE, WEIGHTS
    from ..runs.config import check_ids, read_config
    from .running import run_config

    bundle = Path(models)
    missing = [str(bundle / file) for file in (INFERENCE, WEIGHTS) if not (bundle / file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"Expected trained networks in {bundle}, but {' and '.join(missing)} is missing."
        )
    if not {moving_modality, fixed_modality} <= {"source", "target"}:
        raise ValueError(
            f"Expected modalities 'source' or 'target', got {moving_modality!r} and {fixed_modality!r}."
        )
    check_ids(overrides, read_config(bundle / INFERENCE), str(bundle / INFERENCE))
    values = {
        "moving": moving,
        "fixed": fixed,
        "output_dir": Path(out).absolute(),
        "moving_modality": moving_modality,
        "fixed_modality": fixed_modality,
    }
    run_config([bundle / INFERENCE], bundle, values, overrides)
