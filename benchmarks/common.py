"""What the benchmarks share: their tables, what they say of the machine, and short runs of the stages."""

from __future__ import annotations

import json
import multiprocessing
import os
import platform
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from datetime import UTC, datetime
from pathlib import Path
from statistics import mean, stdev
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `crosswarp` and its other name, `scripts`

import torch  # noqa: E402
from monai.bundle import ConfigWorkflow  # noqa: E402

from crosswarp.places import STAGES  # noqa: E402, F401  as the other benchmarks know it
from crosswarp.runs.chain import git_commit  # noqa: E402
from crosswarp.runs.config import open_workflow, verbatim  # noqa: E402
from crosswarp.runs.stage import package_versions  # noqa: E402

Row = dict[str, Any]
_TRANSLATION = json.loads((ROOT / "bundles/domain_adaptation/configs/translation.json").read_text())
TRANSLATION = {f"weights#{term}": weight for term, weight in _TRANSLATION["weights"].items()}
TRANSLATION_ALONE = TRANSLATION | {"weights#mixed_segmentation": 0.0, "weights#self_training": 0.0}


def default_device() -> str:
    """A GPU if there is one."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def synchronize(device: str) -> None:
    """Wait for a GPU."""
    if device.startswith("cuda"):
        torch.cuda.synchronize()


def describe_device(device: str | None = None) -> str:
    """The GPU's name, or the CPU's with the number of threads."""
    device = device or default_device()
    if device.startswith("cuda"):
        return torch.cuda.get_device_name(device)
    info = Path("/proc/cpuinfo")
    lines = info.read_text().splitlines() if info.is_file() else []
    model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), None)
    return f"{model or platform.processor()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def in_new_process(function: Callable[..., Row], *arguments: Any) -> Row:
    """What a function of a module returns in a process of its own: nothing is warm, memory is its own."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def in_turns(
    rounds: int, presets: Sequence[str], measure: Callable[[str], Row], speed: Callable[[Row], float]
) -> list[Row]:
    """The fastest row of each preset, and its speed as a multiple of that of `plain`.

    The speed of a machine drifts, above all where others use it too: presets are measured in turns.
    """
    best: dict[str, Row] = {}
    for _ in range(rounds):
        for preset in presets:
            row = measure(preset)
            print({k: round(v, 3) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
            if preset not in best or speed(row) > speed(best[preset]):
                best[preset] = row
    for row in best.values():
        row["× plain"] = speed(row) / speed(best["plain"]) if "plain" in best else None
    return list(best.values())


def names(value: str | Sequence[str]) -> list[str]:
    """Names on a command line, separated by commas."""
    return [name.strip() for name in (value.split(",") if isinstance(value, str) else value)]


def print_table(rows: Sequence[Row]) -> None:
    """Print rows under the keys of the first one."""
    columns = list(rows[0])
    lines = [columns] + [[format_value(row.get(column)) for column in columns] for row in rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    for line in lines:
        print("  ".join(text.ljust(width) for text, width in zip(line, widths, strict=True)).rstrip())


def format_value(value: Any) -> str:
    """Numbers with three or four digits, nothing for None."""
    if isinstance(value, float):
        return f"{value:.3f}" if abs(value) < 10 else f"{value:.1f}"
    return "" if value is None else str(value)


def spread(values: Sequence[float]) -> str:
    """Mean ± standard deviation over seeds."""
    deviation = f" ± {stdev(values):.3f}" if len(values) > 1 else ""
    return f"{mean(values):.3f}{deviation}"


def report(
    name: str, arguments: Mapping[str, Any], rows: Sequence[Row], out: str | None, **more: Any
) -> dict[str, Any]:
    """Print the table; return, and write to ``out``, all with device, versions, commit, date, arguments."""
    device = describe_device(arguments.get("device"))
    print(f"\n{name}: {device}")
    print_table(rows)
    content = {
        "benchmark": name,
        "arguments": dict(arguments),
        "device": device,
        "threads": torch.get_num_threads(),
        "versions": package_versions(),
        "git_commit": git_commit(ROOT),
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": list(rows),
    } | more
    if out:
        Path(out).write_text(json.dumps(content, indent=1) + "\n")
    return content


def stage_workflow(
    stage: str,
    run_dir: Path,
    datalist: str | Path,
    preset: str | None = None,
    initialise: bool = True,
    **overrides: Any,
) -> ConfigWorkflow:
    """The training workflow of a stage as its bundle declares it, parsed and, if asked for, initialised."""
    root = ROOT / "bundles" / stage
    files = [root / "configs" / "train.json"]
    if preset not in (None, "default"):
        files.append(root / "configs" / "presets" / f"{preset}.json")
    workflow = open_workflow(
        files,
        meta_file=str(root / "configs" / "metadata.json"),
        logging_file=False,
        workflow_type="train",
        **verbatim({"bundle_root": root, "run_dir": run_dir, "datalist": Path(datalist).resolve()}),
        **overrides,
    )
    workflow.parser.parse()
    if initialise:
        workflow.initialize()
    return workflow
