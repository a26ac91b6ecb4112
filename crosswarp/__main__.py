"""Command line: `python -m crosswarp COMMAND --help`. Thin: Python and MONAI bundles can do all of it."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import fire
from monai.bundle import run as run_bundle

from .data.knee import write_knee_cohort
from .data.prepare import prepare
from .data.warping import warp
from .pipeline.bundle import INFERENCE, WEIGHTS
from .pipeline.config import check_ids, read_config
from .pipeline.package import package
from .pipeline.verify import verify

CHECKOUT = Path(__file__).resolve().parents[1]


def train(datalist: str, run: str, preset: str | None = None, **overrides: Any) -> None:
    """Train the whole chain, or what of it is not done: configs/train.json.

    Args:
        datalist: the data, as `prepare` writes them.
        run: the run's folder, a new one or one to go on with.
        preset: an overlay of the configs, such as `demo`.
        overrides: ids of the config, those of a stage as `--<stage>#<id> value`.
    """
    files = [checkout_config("train")]
    overlay = CHECKOUT / "configs" / "presets" / f"{preset}.json"
    if overlay.is_file():
        files.append(overlay)
    chosen = {} if preset is None else {"preset": preset}
    run_config(files, CHECKOUT, datalist=str(datalist), run_dir=str(run), **chosen, **overrides)


def evaluate(
    run: str,
    datalist: str | None = None,
    baselines: str | Sequence[str] | None = None,
    target_labels: str | None = None,
    **overrides: Any,
) -> None:
    """Evaluate a trained run on the test records, and write its report.html: configs/evaluate.json.

    Args:
        run: the run's folder.
        datalist: the data, where they are not where they were in training.
        baselines: other methods to compare with on the same pairs, `all` or names of configs/baselines,
            separated by commas.
        target_labels: for the baseline of this name, a datalist with labels of the target modality.
        overrides: ids of the config.

    Raises:
        ValueError: for a baseline that there is not.
    """
    places = {"datalist": datalist, "target_labels": target_labels}
    given = {key: str(value) for key, value in places.items() if value is not None}
    files = [checkout_config("evaluate"), *baseline_configs(baselines)]
    run_config(files, CHECKOUT, run_dir=str(run), **given, **overrides)


def register(
    moving: str,
    fixed: str,
    models: str,
    out: str,
    moving_modality: str = "source",
    fixed_modality: str = "target",
    **overrides: Any,
) -> None:
    """Segment and register two images; write labels and the warped moving image: configs/inference.json.

    Args:
        moving: the image to warp; several as a list.
        fixed: the image to warp it to; several as a list.
        models: a trained run, or another trained bundle of the chain.
        out: folder for the results.
        moving_modality: `source` or `target`.
        fixed_modality: `source` or `target`.
        overrides: ids of the config.

    Raises:
        FileNotFoundError: where there are no trained networks.
        ValueError: for an id that the config does not have.
    """
    bundle = Path(models)
    missing = [str(bundle / file) for file in (INFERENCE, WEIGHTS) if not (bundle / file).is_file()]
    if missing:
        raise FileNotFoundError(
            f"Expected trained networks in {bundle}, but {' and '.join(missing)} is missing."
        )
    check_ids(overrides, read_config(bundle / INFERENCE), str(bundle / INFERENCE))
    images = {
        key: value if isinstance(value, (list, tuple)) else str(value)
        for key, value in {"moving": moving, "fixed": fixed}.items()
    }
    run_config(
        [bundle / INFERENCE],
        bundle,
        **images,
        output_dir=str(out),
        moving_modality=moving_modality,
        fixed_modality=fixed_modality,
        **overrides,
    )


def baseline_configs(names: str | Sequence[str] | None) -> list[Path]:
    """The configs of baselines, by name or `all`.

    Raises:
        ValueError: for a name that there is not.
    """
    known = {path.stem: path for path in sorted((CHECKOUT / "configs" / "baselines").glob("*.json"))}
    if names == "all":
        return list(known.values())
    chosen = names.split(",") if isinstance(names, str) else list(names or ())
    if unknown := [name for name in chosen if name not in known]:
        raise ValueError(f"Expected baselines of {', '.join(known)} or all, got {', '.join(unknown)}.")
    return [known[name] for name in chosen]


def checkout_config(name: str) -> Path:
    """A config of the chain.

    Raises:
        FileNotFoundError: where only the package is installed, without the bundles.
    """
    path = CHECKOUT / "configs" / f"{name}.json"
    if not path.is_file():
        raise FileNotFoundError(
            f"Expected {path}: this command needs the bundles of a checkout, not the package alone."
        )
    return path


def run_config(files: list[Path], bundle: Path, **overrides: Any) -> None:
    """Run configs of a bundle as `python -m monai.bundle run` does, from any folder.

    Args:
        files: the config and its overlays.
        bundle: the bundle that they belong to.
        overrides: ids of the config.
    """
    # configs name our code `scripts`, which a packaged bundle brings along and a checkout has at its root
    code = next((folder for folder in (bundle, CHECKOUT) if (folder / "scripts").is_dir()), CHECKOUT)
    sys.path.insert(0, str(code.resolve()))
    run_bundle(config_file=[str(file) for file in files], bundle_root=str(bundle), **overrides)


COMMANDS = {
    "cohort": write_knee_cohort,
    "prepare": prepare,
    "train": train,
    "evaluate": evaluate,
    "register": register,
    "warp": warp,
    "package": package,
    "verify": verify,
}


def main() -> None:
    """Run a command; what is wrong with its input is said without a traceback."""
    try:
        fire.Fire(COMMANDS, name="python -m crosswarp")
    except Exception as error:
        # MONAI wraps what is raised within a config once for every level of it
        cause: BaseException = error
        while cause.__cause__ is not None:
            cause = cause.__cause__
        if not isinstance(cause, (ValueError, OSError)):
            raise
        sys.exit(f"\nerror: {cause}")


if __name__ == "__main__":
    main()
