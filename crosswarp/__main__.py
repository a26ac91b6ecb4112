"""Command line: `python -m crosswarp COMMAND --help`. Thin: Python and MONAI bundles can do all of it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import fire
from monai.bundle import run as run_bundle

from .commands.arguments import Arguments
from .commands.prepare import prepare
from .commands.warp import warp
from .data.knee import write_knee_cohort
from .errors import input_error, message, plain_input_errors
from .release.package import package
from .release.verify import verify
from .runs.bundle import INFERENCE, WEIGHTS
from .runs.config import check_ids, read_config, verbatim

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
    overlays = {path.stem: path for path in (CHECKOUT / "configs" / "presets").glob("*.json")}
    if preset in overlays:
        files.append(overlays[preset])
    values = {"datalist": datalist, "run_dir": run, "preset": preset}
    run_config(files, CHECKOUT, values, overrides)


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
    files = [checkout_config("evaluate"), *baseline_configs(baselines)]
    check_ids(overrides, read_config(*files), str(files[0]))
    values = {"run_dir": run, "datalist": datalist, "target_labels": target_labels}
    run_config(files, CHECKOUT, values, overrides)


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


@plain_input_errors()
def run_config(
    files: list[Path], bundle: Path, values: Mapping[str, Any], overrides: Mapping[str, Any]
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
    # configs name our code `scripts`, which a packaged bundle brings along and a checkout has at its root
    code = next((folder for folder in (bundle, CHECKOUT) if (folder / "scripts").is_dir()), CHECKOUT)
    sys.path.insert(0, str(code.resolve()))
    # MONAI passes over what is None, as if it had not been given
    chosen = {key: "$None" if value is None else value for key, value in overrides.items()}
    run_bundle(config_file=[str(file) for file in files], **verbatim(given), **chosen)


COMMANDS: dict[str, Callable[..., Any]] = {
    "cohort": write_knee_cohort,
    "prepare": prepare,
    "train": train,
    "evaluate": evaluate,
    "register": register,
    "warp": warp,
    "package": package,
    "verify": verify,
}


def command_line(words: list[str]) -> list[str]:
    """What is typed, checked; fire says what there is where nothing or `--help` is.

    Raises:
        ValueError: for an unknown command, or naming all that is wrong with its arguments.
    """
    if not words or {"-h", "--help"} & set(words):
        return words
    name, *arguments = words
    if name not in COMMANDS:
        near = get_close_matches(name, COMMANDS, n=1)
        raise ValueError(
            f"Expected one of {', '.join(COMMANDS)}, got {name!r}"
            + (f" (did you mean {near[0]}?)." if near else ".")
        )
    return [name, *Arguments(name, COMMANDS[name]).checked(arguments)]


def main() -> None:
    """Run a command; what is wrong with its input is said without a traceback."""
    try:
        fire.Fire(COMMANDS, command=command_line(sys.argv[1:]), name="python -m crosswarp")
    except Exception as error:
        if (cause := input_error(error)) is None:
            raise
        sys.exit(f"\nerror: {message(cause)}")


if __name__ == "__main__":
    main()
