"""Measurements arranged for reading: tables of text for page and terminal, and the values behind box plots.

What is shown is computed in ``metrics``. Rows may lack measurements, such as landmark errors; a column
without any value is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isnan, nan
from typing import Any, NamedTuple

from ..metrics import OURS, Row, grouped, means, sample_means

EVALUATED = ("source", "target", OURS)  # what is compared with them
# measurement -> heading, decimals
OVERLAP = {"dice": ("Dice", 3), "hd95_mm": ("HD95 (mm)", 2), "assd_mm": ("ASSD (mm)", 2)}
LANDMARKS = {"tre_mm": ("TRE (mm)", 2)}
DEFORMATION = {
    "folds_percent": ("Folds (%)", 3),
    "sd_log_jacobian": ("SD log Jacobian", 3),
    "inverse_error_mm": ("Inverse error (mm)", 3),
    "seconds": ("Time (s)", 3),
    "memory_mib": ("Memory (MiB)", 0),
}
MEASURES = OVERLAP | LANDMARKS | DEFORMATION
_COMPARED = {"segmentation": "Network", "registration": "Method"}
_COUNTED = {"segmentation": "Images", "registration": "Pairs"}
_SIDES = ("moving", "fixed")
_DASH, _INTERVAL, _BEFORE = "–", "95 % interval", "unregistered_"
FIGURE_SPACE = "\u2007"  # as wide as a figure

Groups = Mapping[str, Mapping[str, Sequence[float]]]


class Table(NamedTuple):
    """A table of text.

    Attributes:
        header: headings of the columns; the first column names the lines.
        groups: name of a group of lines -> its lines, as long as the header.
    """

    header: list[str]
    groups: dict[str, list[list[str]]]


def group_name(row: Row) -> str:
    """What a measurement is compared within: the modality, or the direction as ``"dxa to xray"``."""
    return row["modality"] if row["kind"] == "segmentation" else row["direction"].replace("_to_", " to ")


def condition_name(row: Row) -> str:
    """What is compared: the network, or the method."""
    return row["network"] if row["kind"] == "segmentation" else row["method"]


def overview(summary: Sequence[Row], comparison: Sequence[Row] = ()) -> dict[str, Table]:
    """What the terminal shows of an evaluation: tables by their titles, those without a line left out.

    Args:
        summary: what :func:`~crosswarp.metrics.summary.summarise` returns.
        comparison: see :func:`comparison_table`.
    """
    spread = "mean ± standard deviation over the"
    tables = {
        f"Segmentation, {spread} images": summary_table(summary, "segmentation", by_class=True),
        f"Registration, {spread} pairs": summary_table(summary, "registration", by_class=True),
        f"Deformation and cost, {spread} pairs": deformation_table(summary),
        "Comparison on the same pairs, Dice averaged over the classes": comparison_table(comparison),
    }
    return {title: table for title, table in tables.items() if table.groups and len(table.header) > 1}


def summary_table(summary: Iterable[Row], kind: str, by_class: bool = False) -> Table:
    """Lay out the means over all images or pairs; a registration stands below the same pairs unregistered.

    Args:
        summary: what :func:`~crosswarp.metrics.summary.summarise` returns.
        kind: ``"segmentation"`` or ``"registration"``.
        by_class: whether the Dice of each class has a column, too.
    """
    rows = [row for row in summary if row["kind"] == kind]
    classes = [name for name in dict.fromkeys(row["class"] for row in rows) if by_class and name != "mean"]
    measures = OVERLAP | LANDMARKS
    groups: dict[str, list[list[str]]] = {}
    for own in grouped(rows, "modality", "network", "direction", "method").values():
        found = {row["class"]: row for row in own}
        cells = [found.get(name, {}) for name in (*classes, "mean")]
        lines = groups.setdefault(group_name(own[0]), [])
        if f"{_BEFORE}dice_mean" in cells[-1] and not lines:
            lines.append(_line("unregistered", [_unregistered(row) for row in cells], measures))
        lines.append(_line(condition_name(own[0]), cells, measures))
    return _table(_header(_COMPARED[kind], kind, measures, classes), groups)


def deformation_table(summary: Iterable[Row]) -> Table:
    """Lay out the quality of the maps and what they cost, means over all pairs.

    Args:
        summary: what :func:`~crosswarp.metrics.summary.summarise` returns.
    """
    groups: dict[str, list[list[str]]] = {}
    for row in (row for row in summary if row["kind"] == "registration" and row["class"] == "mean"):
        line = [_cell(row, key, decimals) for key, (_, decimals) in DEFORMATION.items()]
        groups.setdefault(group_name(row), []).append([condition_name(row), *line])
    return _table(["Method", *(heading for heading, _ in DEFORMATION.values())], groups)


def comparison_table(compared: Iterable[Row]) -> Table:
    """Lay out the paired comparison of our method with others.

    Args:
        compared: what :func:`~crosswarp.metrics.statistics.compare_methods` returns.
    """
    groups: dict[str, list[list[str]]] = {}
    for row in compared:
        line = [row["method"], str(row["pairs"]), _text(row["dice_mean"], 3), _interval(row, "dice")]
        line += [
            f"{row['difference_mean']:+.3f}" if "difference_mean" in row else _DASH,
            _interval(row, "difference"),
        ]
        line += [f"{row['p_holm']:.2g}" if "p_holm" in row else _DASH]
        groups.setdefault(row["direction"].replace("_to_", " to "), []).append(line)
    return _table(["Method", "Pairs", "Dice", _INTERVAL, f"{OURS} ahead by", _INTERVAL, "p (Holm)"], groups)


def seeds_table(spreads: Iterable[Row]) -> Table:
    """Lay out how Dice differs between trainings, a group for each network or method.

    Args:
        spreads: what :func:`~crosswarp.metrics.trainings.spread` returns.
    """
    groups: dict[str, list[list[str]]] = {}
    names: list[str] = []
    for row in spreads:
        names = [key for key in row if key.startswith("dice ")]
        line = [row["class"], _cell(row, "dice", 3), _interval(row, "dice")]
        line += [_text(row[key], 3) for key in names]
        groups.setdefault(f"{group_name(row)}, {condition_name(row)}", []).append(line)
    return _table(["Class", "Dice", _INTERVAL, *(key.removeprefix("dice ") for key in names)], groups)


def class_table(summary: Iterable[Row], kind: str) -> Table:
    """Lay out the means of each class and over the classes, a group for each network or method.

    Args:
        summary: what :func:`~crosswarp.metrics.summary.summarise` returns.
        kind: ``"segmentation"`` or ``"registration"``.
    """
    groups: dict[str, list[list[str]]] = {}
    for row in (row for row in summary if row["kind"] == kind):
        line = [*_line(row["class"], [row], OVERLAP), _cell(row, f"{_BEFORE}dice", 3)]
        groups.setdefault(f"{group_name(row)}, {condition_name(row)}", []).append(line)
    return _table([*_header("Class", kind, OVERLAP), "Dice, unregistered"], groups)


def segmentation_subjects(rows: Iterable[Row]) -> Table:
    """Lay out the mean Dice of each subject in each class, of the networks that are evaluated."""
    rows = [row for row in rows if row["kind"] == "segmentation" and row["network"] in EVALUATED]
    classes = list(dict.fromkeys(row["class"] for row in rows))
    by_class = {
        (row["modality"], row["subject"], row["class"]): row["dice"]
        for row in means(rows, "modality", "subject", "class")
    }
    groups: dict[str, list[list[str]]] = {}
    for row in means(sample_means(rows), "modality", "subject"):
        names = row["modality"], row["subject"]
        dice = [*(by_class.get((*names, name), nan) for name in classes), row["dice"]]
        line = [str(row["subject"]), str(row["n"]), *(_text(value, 3) for value in dice)]
        groups.setdefault(row["modality"], []).append(line)
    return _table(["Subject", "Images", *classes, "mean"], groups)


def registration_subjects(rows: Iterable[Row]) -> Table:
    """Lay out our mean Dice and landmark error over each subject's pairs, as moving and as fixed."""
    pairs = sample_means(row for row in ours(rows) if row["kind"] == "registration")
    measured = [
        {_member(row, side): row for row in means(pairs, "direction", f"{side}_subject")} for side in _SIDES
    ]
    groups: dict[str, list[list[str]]] = {}
    for member in dict.fromkeys(_member(row, side) for row in pairs for side in _SIDES):
        modality, subject = member
        line = [str(subject)]
        for row in (side.get(member, {}) for side in measured):
            line += [str(row.get("n", _DASH)), _text(row.get("dice", nan), 3)]
            line.append(_text(row.get("tre_mm", nan), 2))
        groups.setdefault(modality, []).append(line)
    columns = (f"{what}, as {side}" for side in _SIDES for what in ("Pairs", "Dice", "TRE (mm)"))
    return _table(["Subject", *columns], groups)


def _member(pair: Row, side: str) -> tuple[str, str]:
    """Modality and subject of one side of a pair."""
    return pair["direction"].partition("_to_")[2 * _SIDES.index(side)], pair[f"{side}_subject"]


def pair_table(rows: Sequence[Row]) -> Table:
    """Lay out what was measured on one pair, before and after registration.

    Args:
        rows: of each class of the pair.
    """
    measures = {f"{_BEFORE}dice": ("Dice, unregistered", 3)} | OVERLAP
    lines = [
        [row["class"], *(_text(row.get(key, nan), decimals) for key, (_, decimals) in measures.items())]
        for row in rows
    ]
    return _table(["Class", *(heading for heading, _ in measures.values())], {"": lines})


def pair_facts(row: Row) -> dict[str, str]:
    """What was measured on a pair as a whole: heading -> value."""
    measures = {f"{_BEFORE}tre_mm": ("TRE, unregistered (mm)", 2)} | LANDMARKS | DEFORMATION
    facts = {heading: _text(row.get(key, nan), decimals) for key, (heading, decimals) in measures.items()}
    return {heading: value for heading, value in facts.items() if value != _DASH}


def training_table(stages: Mapping[str, Mapping[str, Any]]) -> Table:
    """Lay out what chose the weights of each stage, and how long the stage took.

    Args:
        stages: what their manifests say, by name: ``criterion``, ``value``, ``epoch``, ``seconds``.
    """
    lines = [
        [
            name.replace("_", " "),
            str(manifest.get("epoch", _DASH)),
            str(manifest.get("criterion", _DASH)).replace("_", " "),
            _text(manifest.get("value", nan), 3),
            _text(manifest.get("seconds", nan) / 60, 1),
        ]
        for name, manifest in stages.items()
    ]
    return _table(["Stage", "Epoch chosen", "by", "Value", "Training (min)"], {"": lines})


def dice_facets(rows: Sequence[Row], kind: str) -> dict[str, Groups]:
    """The Dice of every image or pair: class -> group -> what is compared -> values; the mean comes last."""
    rows = [row for row in rows if row["kind"] == kind]
    facets = {name: _values(own, "dice") for (name,), own in grouped(rows, "class").items()}
    facets["mean over classes"] = _values(sample_means(rows), "dice")
    return {name: groups for name, groups in facets.items() if groups}


def measure_facets(rows: Sequence[Row], kind: str) -> dict[str, Groups]:
    """What else was measured on every image or pair, as :func:`dice_facets`; not what is the same for all."""
    samples = sample_means(row for row in rows if row["kind"] == kind)
    facets = {heading: _values(samples, key) for key, (heading, _) in MEASURES.items() if key != "dice"}
    return {
        heading: groups
        for heading, groups in facets.items()
        if len({value for each in groups.values() for values in each.values() for value in values}) > 1
    }


def ours(rows: Iterable[Row]) -> list[Row]:
    """The measurements without the registrations of other methods."""
    return [row for row in rows if row.get("method", OURS) == OURS]


def _values(rows: Iterable[Row], key: str) -> Groups:
    """Group -> what is compared -> what was measured; unregistered pairs count once, not for each method."""
    groups: dict[str, dict[str, dict[tuple, float]]] = {}
    for row in rows:
        sample = (row.get("image"), row.get("moving"), row.get("fixed"))
        for condition, name in (("unregistered", f"{_BEFORE}{key}"), (condition_name(row), key)):
            value = row.get(name, nan)
            if not isnan(value):
                groups.setdefault(group_name(row), {}).setdefault(condition, {})[sample] = value
    return {
        group: {condition: list(values.values()) for condition, values in conditions.items()}
        for group, conditions in groups.items()
    }


def _unregistered(row: Row) -> Row:
    """What was measured before registration, as if it had been after it."""
    before = {key.removeprefix(_BEFORE): row[key] for key in row if key.startswith(_BEFORE)}
    return before | {key: row[key] for key in ("n",) if key in row}


def _header(
    first: str, kind: str, measures: Mapping[str, tuple[str, int]], classes: Sequence[str] = ()
) -> list[str]:
    dice, *others = (heading for heading, _ in measures.values())
    overlap = [f"{dice}, {name}" for name in (*classes, "mean")] if classes else [dice]
    return [first, _COUNTED[kind], *overlap, _INTERVAL, *others]


def _line(name: str, rows: Sequence[Row], measures: Mapping[str, tuple[str, int]]) -> list[str]:
    """Dice of all rows, and what else was measured of the last of them."""
    dice, *others = (_cell(rows[-1], key, decimals) for key, (_, decimals) in measures.items())
    overlap = [*(_cell(row, "dice", 3) for row in rows[:-1]), dice]
    return [name, str(rows[-1]["n"]), *overlap, _interval(rows[-1], "dice"), *others]


def _interval(row: Row, key: str) -> str:
    low, high = (row.get(f"{key}_{end}", nan) for end in ("low", "high"))
    return _DASH if isnan(low) else f"{low:.3f} to {high:.3f}"


def _cell(row: Row, key: str, decimals: int) -> str:
    """Mean ± standard deviation; a dash where nothing was measured."""
    mean, spread = (row.get(f"{key}_{name}", nan) for name in ("mean", "sd"))
    return _text(mean, decimals) + ("" if isnan(mean) or isnan(spread) else f" ± {spread:.{decimals}f}")


def _text(value: float, decimals: int) -> str:
    return _DASH if isnan(value) else f"{value:.{decimals}f}"


def _table(header: list[str], groups: Mapping[str, list[list[str]]]) -> Table:
    """The table without empty columns; deviations get equal widths, so that right-aligned cells line up."""
    lines = [line for lines in groups.values() for line in lines]
    kept = [i for i in range(len(header)) if i == 0 or any(line[i] not in ("", _DASH) for line in lines)]
    widths = [max((len(line[i].partition("± ")[2]) for line in lines), default=0) for i in kept]

    def aligned(cell: str, width: int) -> str:
        mean, sign, spread = cell.partition("± ")
        return mean + sign + spread.rjust(width, FIGURE_SPACE) if sign else cell

    return Table(
        [header[i] for i in kept],
        {
            group: [
                [aligned(line[i], width) for i, width in zip(kept, widths, strict=True)] for line in lines
            ]
            for group, lines in groups.items()
        },
    )
