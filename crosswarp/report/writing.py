"""Writing measurements as CSV, and a run's report as one HTML file that needs nothing else."""

from __future__ import annotations

import csv
import io
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from math import isnan
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined
from matplotlib.figure import Figure

from ..files import replacing
from ..metrics import Row, summarise, summary_tables
from .figures import BASELINES, CLASS_COLOURS, curves_figure, dice_figure, pair_figure, segmentation_figure

Curves = Mapping[str, Mapping[str, Sequence[tuple[float, float]]]]


def write_csv(rows: Iterable[Row], path: str | Path) -> None:
    """Write measurements, all kinds in one table; the file appears whole or not at all.

    Args:
        rows: what the functions of ``metrics`` return; a column that a row does not have stays empty.
        path: the file to write; its folder is made where needed.
    """
    rows = list(rows)
    columns = list(dict.fromkeys(key for row in rows for key in row))
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, columns, lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    with replacing(path) as partial:
        partial.write_text(text.getvalue(), encoding="utf-8", newline="")


def write_report(
    path: str | Path,
    title: str,
    rows: Sequence[Row],
    pairs: Sequence[Mapping[str, Any]],
    segmentations: Sequence[Mapping[str, Any]],
    curves: Curves,
    provenance: Mapping[str, Any],
    notes: Sequence[str] = (),
) -> None:
    """Write a run's report: one HTML file, figures inside, readable offline and on paper.

    A section for which nothing is given is left out.

    Args:
        path: the file to write; it appears whole or not at all.
        title: heading.
        rows: measurements, as the functions of ``metrics`` return them; summary and charts are made of them.
        pairs: registered pairs to show, see :func:`~.figures.pair_figure`, each with a ``title``.
        segmentations: segmented images to show, see :func:`~.figures.segmentation_figure`, each with a
            ``title``.
        curves: stage -> name of the curve -> ``(step, value)`` pairs.
        provenance: what the run was made from, nested at will; a ``device`` also stands below the title.
        notes: sentences to read with the numbers, such as the grid that they were measured on.
    """
    template = Path(__file__).with_name("template.html").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined
    )
    summary = summarise(rows)
    tables = summary_tables(summary)
    classes = dict.fromkeys(row["class"] for row in rows)
    own = [row for row in rows if row.get("method", "crosswarp") == "crosswarp"]
    html = environment.from_string(template).render(
        title=title,
        date=f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        device=provenance.get("device"),
        notes=notes,
        headlines=_headlines(summary),
        tables=tables,
        charts={
            kind: _embed(dice_figure(own, kind.lower()), "svg")
            for kind in ("Segmentation", "Registration")
            if kind in tables
        },
        baselines=BASELINES,
        colours={name: CLASS_COLOURS[i % len(CLASS_COLOURS)] for i, name in enumerate(classes)},
        segmentations=[(each["title"], _embed(segmentation_figure(each), "png")) for each in segmentations],
        pairs=[(pair["title"], _embed(pair_figure(pair), "png")) for pair in pairs],
        curves={stage: _embed(curves_figure(series), "svg") for stage, series in curves.items() if series},
        provenance=list(_flatten(provenance)),
    )
    with replacing(path) as partial:
        partial.write_text(html, encoding="utf-8", newline="")


def _headlines(summary: Sequence[Row]) -> list[tuple[str, str, str]]:
    """The numbers to read first: what it is, the value, what to compare it with."""
    overall = [row for row in summary if row["class"] == "mean"]
    as_is = {row["modality"]: row["dice_mean"] for row in overall if row.get("network") == "source as is"}
    headlines = []
    for row in overall:
        if isnan(row["dice_mean"]):
            continue
        if row["kind"] == "registration":
            if row["method"] != "crosswarp":
                continue
            name = row["direction"].replace("_to_", " to ")
            beside = (
                f"unregistered {row['unregistered_dice_mean']:.3f}, folds {row['folds_percent_mean']:.3f} %"
            )
        elif row["network"] != "source as is":
            name = row["modality"]
            beside = f"source network as is {as_is[name]:.3f}" if name in as_is else f"n = {row['n']}"
        else:
            continue
        headlines.append((f"{row['kind']}, {name}", f"{row['dice_mean']:.3f}", beside))
    return headlines


def _embed(figure: Figure, kind: str) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format=kind, dpi=150)
    mime = {"svg": "image/svg+xml", "png": "image/png"}[kind]
    return f"data:{mime};base64,{b64encode(buffer.getvalue()).decode()}"


def _flatten(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{above}{key} / ")
        else:
            yield f"{above}{key}", value
