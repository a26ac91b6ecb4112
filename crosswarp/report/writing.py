"""Writing measurements as CSV, and a run's report as one HTML file that needs nothing else."""

from __future__ import annotations

import csv
import io
from base64 import b64encode
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from math import isnan, nan
from pathlib import Path
from statistics import median
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from matplotlib import rc_context
from matplotlib.figure import Figure

from .. import __version__
from ..files import replacing
from ..metrics import Row, summarise
from .figures import (
    CLASS_COLOURS,
    FOLD_COLOUR,
    VOLUME_COLOURS,
    box_figure,
    curves_figure,
    pair_panels,
    panel_figure,
    picture_size,
    planes_of,
    reliability_figure,
    segmentation_figure,
)
from .tables import (
    EVALUATED,
    Groups,
    class_table,
    comparison_table,
    condition_name,
    deformation_table,
    dice_facets,
    group_name,
    measure_facets,
    ours,
    pair_facts,
    pair_table,
    registration_subjects,
    seeds_table,
    segmentation_subjects,
    summary_table,
    training_table,
)

MOST_FACETS = 4  # of what was expected: the mean over classes, and the first ones
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


@rc_context({"text.parse_math": False})  # names in figures are no formulas
def write_report(
    path: str | Path,
    title: str,
    rows: Sequence[Row],
    pairs: Sequence[Mapping[str, Any]],
    segmentations: Sequence[Mapping[str, Any]],
    curves: Curves,
    provenance: Mapping[str, Any],
    notes: Sequence[str] = (),
    comparison: Sequence[Row] = (),
    warnings: Sequence[str] = (),
    expected: Sequence[Row] = (),
    seeds: Sequence[Row] = (),
) -> None:
    """Write a run's report: one HTML file, figures inside, readable offline and on paper.

    What is not given is left out: sections, and columns of the tables.

    Args:
        path: the file to write; it appears whole or not at all.
        title: heading.
        rows: measurements, as the functions of ``metrics`` return them; tables and charts are made of them.
            Registrations of several methods (``method``) stand beside each other.
        pairs: registered pairs to show, see :func:`~.figures.pair_panels`, each with a ``title``; with
            ``direction``, ``moving_name`` and ``fixed_name``, as in the rows, its measurements stand below.
        segmentations: segmented images to show, see :func:`~.figures.segmentation_figure`, each with a
            ``title``.
        curves: stage -> name of the curve -> ``(step, value)`` pairs.
        provenance: what the run was made from, nested at will; a ``device`` also stands below the title, and
            what ``stages`` say of their training with the curves, see :func:`~.tables.training_table`.
        notes: sentences to read with the numbers, such as the grid that they were measured on.
        comparison: of our method with others on the same pairs, see :func:`~.tables.comparison_table`.
        warnings: what the training of the networks warned of; they stand above all else.
        expected: of pairs, for each ``class``, the ``mean`` over them among these: what ``dice`` was found,
            what was ``expected``, and between what, ``expected_low`` and ``expected_high``.
        seeds: where ``rows`` are means over several trainings, how these differ, see
            :func:`~.tables.seeds_table`.
    """
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
    )
    summary = summarise(rows)
    kinds = [kind for kind in ("segmentation", "registration") if any(row["kind"] == kind for row in rows)]
    classes = dict.fromkeys(row["class"] for row in rows)
    subjects = {"segmentation": segmentation_subjects(rows), "registration": registration_subjects(rows)}
    html = environment.get_template("template.html").render(
        title=title,
        date=f"{datetime.now().astimezone():%Y-%m-%d %H:%M %Z}",
        version=__version__,
        device=provenance.get("device"),
        notes=notes,
        warnings=warnings,
        headlines=_headlines(summary),
        summaries={kind: summary_table(summary, kind) for kind in kinds},
        by_class={kind: class_table(summary, kind) for kind in kinds},
        by_subject=subjects,
        charts={kind: _charts(rows, kind) for kind in kinds},
        deformation=deformation_table(summary),
        reliability=_reliability(expected),
        comparison=comparison_table(comparison),
        seeds=seeds_table(seeds),
        evaluated=EVALUATED,
        colours={name: CLASS_COLOURS[i % len(CLASS_COLOURS)] for i, name in enumerate(classes)},
        fold_colour=FOLD_COLOUR,
        volume_colours=VOLUME_COLOURS,
        segmentations=[(each["title"], _embed(segmentation_figure(each))) for each in segmentations],
        pairs=[_picture(pair, rows) for pair in pairs],
        training=training_table(provenance.get("stages", {})),
        curves={stage: _embed(curves_figure(series)) for stage, series in curves.items() if series},
        provenance=list(_flatten(provenance)),
    )
    with replacing(path) as partial:
        partial.write_text(html, encoding="utf-8", newline="")


def _headlines(summary: Sequence[Row]) -> list[dict[str, Any]]:
    """The numbers to read first: ``what``, ``within`` what, the ``value``, and what to read it ``with``."""
    overall = [row for row in summary if row["class"] == "mean" and not isnan(row["dice_mean"])]
    as_is = {row["modality"]: row["dice_mean"] for row in overall if row.get("network") == "source as is"}
    headlines = []
    for row in (row for row in overall if condition_name(row) in EVALUATED):
        low, high = row.get("dice_low", nan), row.get("dice_high", nan)
        before = row.get("unregistered_dice_mean", as_is.get(group_name(row), nan))
        baseline = "unregistered" if row["kind"] == "registration" else "source network as is"
        compared = [
            *([] if isnan(low) else [f"95 % interval {low:.3f} to {high:.3f}"]),
            *([] if isnan(before) else [f"{baseline} {before:.3f}"]),
        ]
        headlines.append(
            {
                "what": row["kind"].capitalize(),
                "within": group_name(row),
                "value": f"{row['dice_mean']:.3f}",
                "with": compared or [f"n = {row['n']}"],
            }
        )
    return headlines


def _charts(rows: Sequence[Row], kind: str) -> list[tuple[str, str, str]]:
    """The box plots of a kind of measurement: what they show, the picture, the same in words."""
    what = "pair" if kind == "registration" else "image"
    dice, measures = dice_facets(rows, kind), measure_facets(rows, kind)
    charts = []
    if dice:
        caption = f"Dice of every test {what} in each class, and averaged over its classes."
        overall = {"mean over classes": dice["mean over classes"]}
        charts.append((caption, _embed(box_figure(dice, limits=(-0.02, 1.02))), _in_words("Dice", overall)))
    if measures:
        caption = f"Further measurements of every test {what}, averaged over its classes."
        charts.append((caption, _embed(box_figure(measures)), _in_words("further measurements", measures)))
    return charts


def _reliability(rows: Sequence[Row]) -> tuple[str, str] | None:
    """The picture of what was expected and found, and the same in words; None without any."""
    facets: dict[str, list[list[float]]] = {}
    for row in rows:
        values = [row[key] for key in ("dice", "expected", "expected_low", "expected_high")]
        if not any(map(isnan, values)):
            title = "mean over classes" if row["class"] == "mean" else row["class"]
            facets.setdefault(title, []).append(values)
    chosen = dict(list(facets.items())[:MOST_FACETS])
    if not chosen:
        return None
    medians = [
        f"{title}, found {median(v[0] for v in values):.3g}, expected {median(v[1] for v in values):.3g}"
        for title, values in chosen.items()
    ]
    return _embed(reliability_figure(chosen)), f"Expected and found Dice. Medians: {'; '.join(medians)}."


def _in_words(what: str, facets: Mapping[str, Groups]) -> str:
    medians = [
        f"{title}, {group}, {condition} {median(values):.3g}"
        for title, groups in facets.items()
        for group, conditions in groups.items()
        for condition, values in conditions.items()
    ]
    return f"Box plots of {what}. Medians: {'; '.join(medians)}."


def _picture(pair: Mapping[str, Any], rows: Sequence[Row]) -> dict[str, Any]:
    """A pair's panels, each a stack of pictures, and its measurements."""
    names = tuple(pair.get(key) for key in ("direction", "moving_name", "fixed_name"))
    measured = [row for row in ours(rows) if tuple(map(row.get, ("direction", "moving", "fixed"))) == names]
    shape = picture_size(planes_of(pair["fixed_label"], pair.get("spacing")))
    return {
        "title": pair["title"],
        "ratio": shape[0] / shape[1],
        "names": names[1:] if pair.get("moving_name") else (),
        "panels": {
            title: [_embed(panel_figure(layer, shape)) for layer in layers]
            for title, layers in pair_panels(pair).items()
        },
        "table": pair_table(measured),
        "facts": pair_facts(measured[0]) if measured else {},
    }


def _embed(figure: Figure) -> str:
    buffer = io.BytesIO()
    figure.savefig(buffer, format="svg", dpi=150, metadata={"Date": None})
    return f"data:image/svg+xml;base64,{b64encode(buffer.getvalue()).decode()}"


def _flatten(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flatten(value, f"{above}{key} / ")
        else:
            yield f"{above}{key}", value
