"""Measurements arranged for reading: tables of text, and the values behind box plots.

Rows may lack measurements, such as landmark errors; a column without any value is left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from math import isnan, nan
from statistics import fmean
from typing import Any, NamedTuple

from ..metrics import Row
from .figures import EVALUATED, Groups

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
OURS = "crosswarp"
_NAMES = ("kind", "modality", "network", "image", "subject", "method", "direction")
_PAIR_NAMES = ("moving", "fixed", "moving_subject", "fixed_subject")
_COMPARED = {"segmentation": "Network", "registration": "Method"}
_COUNTED = {"segmentation": "Images", "registration": "Pairs"}
_DASH, _INTERVAL = "–", "95 % interval"


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
    return row["network"] if row["kind"] == "segmentation" else row.get("method", OURS)


def summary_table(summary: Iterable[Row], kind: str) -> Table:
    """Lay out the means over all images or pairs; a registration stands below the same pairs unregistered.

    Args:
        summary: what :func:`~crosswarp.metrics.summary.summarise` returns.
        kind: ``"segmentation"`` or ``"registration"``.
    """
    measures = OVERLAP | LANDMARKS
    groups: dict[str, list[list[str]]] = {}
    for row in _overall(summary, kind):
        lines = groups.setdefault(group_name(row), [])
        before = {
            key.removeprefix("unregistered_"): row[key] for key in row if key.startswith("unregistered_")
        }
        if before and not lines:
            lines.append(_line("unregistered", before | {"n": row["n"]}, measures))
        lines.append(_line(condition_name(row), row, measures))
    return _table(_header(_COMPARED[kind], kind, measures), groups)


def deformation_table(summary: Iterable[Row]) -> Table:
    """Lay out the quality of the maps and what they cost, means over all pairs.

    Args:
        summary: what :func:`~crosswarp.metrics.summary.summarise` returns.
    """
    groups: dict[str, list[list[str]]] = {}
    for row in _overall(summary, "registration"):
        line = [_cell(row, key, decimals) for key, (_, decimals) in DEFORMATION.items()]
        groups.setdefault(group_name(row), []).append([condition_name(row), *line])
    return _table(["Method", *(heading for heading, _ in DEFORMATION.values())], groups)


def comparison_table(compared: Iterable[Row]) -> Table:
    """Lay out the paired comparison of our method with others.

    Args:
        compared: for each direction and method ``pairs``, ``dice_mean``, ``dice_low`` and ``dice_high``, and,
            but for our own method, ``difference_mean`` (our Dice minus the other's), ``difference_low``,
            ``difference_high`` and ``p_holm``.
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
    return _table(["Method", "Pairs", "Dice", _INTERVAL, "crosswarp ahead by", _INTERVAL, "p (Holm)"], groups)


def class_table(summary: Iterable[Row], kind: str) -> Table:
    """Lay out the means of each class and over the classes, a group for each network or method.

    Args:
        summary: what :func:`~crosswarp.metrics.summary.summarise` returns.
        kind: ``"segmentation"`` or ``"registration"``.
    """
    groups: dict[str, list[list[str]]] = {}
    for row in (row for row in summary if row["kind"] == kind):
        line = [*_line(row["class"], row, OVERLAP), _cell(row, "unregistered_dice", 3)]
        groups.setdefault(f"{group_name(row)}, {condition_name(row)}", []).append(line)
    return _table([*_header("Class", kind, OVERLAP), "Dice, unregistered"], groups)


def segmentation_subjects(rows: Iterable[Row]) -> Table:
    """Lay out the mean Dice of each subject in each class, of the networks that are evaluated."""
    rows = [row for row in rows if row["kind"] == "segmentation" and row["network"] in EVALUATED]
    rows = [row for row in rows if row.get("subject") is not None]
    classes = list(dict.fromkeys(row["class"] for row in rows))
    groups: dict[str, list[list[str]]] = {}
    for (modality, subject), own in _by(rows, "modality", "subject").items():
        images = sample_means(own)
        dice = [_mean(row["dice"] for row in own if row["class"] == name) for name in classes]
        line = [str(subject), str(len(images)), *(_text(value, 3) for value in dice)]
        groups.setdefault(modality, []).append([*line, _text(_mean(row["dice"] for row in images), 3)])
    return _table(["Subject", "Images", *classes, "mean"], groups)


def registration_subjects(rows: Iterable[Row]) -> Table:
    """Lay out our mean Dice and landmark error over each subject's pairs, as moving and as fixed."""
    pairs = [row for row in sample_means(ours(rows)) if row["kind"] == "registration"]
    sides = ("moving", "fixed")
    by_image: dict[tuple[str, str], dict[str, list[Row]]] = {}
    for row in pairs:
        modalities = row["direction"].partition("_to_")[::2]
        for side, modality in zip(sides, modalities, strict=True):
            if row.get(f"{side}_subject") is not None:
                own = by_image.setdefault((modality, row[f"{side}_subject"]), {side: [] for side in sides})
                own[side].append(row)
    groups: dict[str, list[list[str]]] = {}
    for (modality, subject), own in by_image.items():
        line = [str(subject)]
        for side in sides:
            means = {key: _mean(row.get(key, nan) for row in own[side]) for key in ("dice", "tre_mm")}
            count = str(len(own[side])) if own[side] else _DASH
            line += [count, _text(means["dice"], 3), _text(means["tre_mm"], 2)]
        groups.setdefault(modality, []).append(line)
    return _table(
        ["Subject", *(f"{what}, as {side}" for side in sides for what in ("Pairs", "Dice", "TRE (mm)"))],
        groups,
    )


def pair_table(rows: Sequence[Row]) -> Table:
    """Lay out what was measured on one pair, before and after registration.

    Args:
        rows: of each class of the pair.
    """
    measures = {"unregistered_dice": ("Dice, unregistered", 3)} | OVERLAP
    lines = [
        [row["class"], *(_text(row.get(key, nan), decimals) for key, (_, decimals) in measures.items())]
        for row in rows
    ]
    return _table(["Class", *(heading for heading, _ in measures.values())], {"": lines})


def pair_facts(row: Row) -> dict[str, str]:
    """What was measured on a pair as a whole: heading -> value."""
    measures = {"unregistered_tre_mm": ("TRE, unregistered (mm)", 2)} | LANDMARKS | DEFORMATION
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
    facets = {name: _grouped(own, "dice") for (name,), own in _by(rows, "class").items()}
    facets["mean over classes"] = _grouped(sample_means(rows), "dice")
    return {name: groups for name, groups in facets.items() if groups}


def measure_facets(rows: Sequence[Row], kind: str) -> dict[str, Groups]:
    """What else was measured on every image or pair, as :func:`dice_facets`; not what is the same for all."""
    samples = [row for row in sample_means(rows) if row["kind"] == kind]
    facets = {heading: _grouped(samples, key) for key, (heading, _) in MEASURES.items() if key != "dice"}
    return {
        heading: groups
        for heading, groups in facets.items()
        if len({value for each in groups.values() for values in each.values() for value in values}) > 1
    }


def ours(rows: Iterable[Row]) -> list[Row]:
    """The measurements without the registrations of other methods."""
    return [row for row in rows if row.get("method", OURS) == OURS]


def sample_means(rows: Iterable[Row]) -> list[Row]:
    """Average the measurements of every image or pair over its classes; what is NaN is left out."""
    means = []
    for own in _by(rows, *_NAMES, "moving", "fixed").values():
        names = {key: own[0][key] for key in (*_NAMES, *_PAIR_NAMES) if key in own[0]}
        measured = dict.fromkeys(
            key for row in own for key in row if key.removeprefix("unregistered_") in MEASURES
        )
        means.append(names | {key: _mean(row.get(key, nan) for row in own) for key in measured})
    return means


def _grouped(rows: Iterable[Row], key: str) -> Groups:
    """Group -> what is compared -> what was measured; unregistered pairs count once, not for each method."""
    groups: dict[str, dict[str, dict[tuple, float]]] = {}
    for row in rows:
        sample = (row.get("image"), row.get("moving"), row.get("fixed"))
        for condition, name in (("unregistered", f"unregistered_{key}"), (condition_name(row), key)):
            value = row.get(name, nan)
            if not isnan(value):
                groups.setdefault(group_name(row), {}).setdefault(condition, {})[sample] = value
    return {
        group: {condition: list(values.values()) for condition, values in conditions.items()}
        for group, conditions in groups.items()
    }


def _by(rows: Iterable[Row], *keys: str) -> dict[tuple, list[Row]]:
    """The rows by what the keys name."""
    groups: dict[tuple, list[Row]] = {}
    for row in rows:
        groups.setdefault(tuple(row.get(key) for key in keys), []).append(row)
    return groups


def _overall(summary: Iterable[Row], kind: str) -> list[Row]:
    return [row for row in summary if row["kind"] == kind and row["class"] == "mean"]


def _header(first: str, kind: str, measures: Mapping[str, tuple[str, int]]) -> list[str]:
    dice, *others = (heading for heading, _ in measures.values())
    return [first, _COUNTED[kind], dice, _INTERVAL, *others]


def _line(name: str, row: Row, measures: Mapping[str, tuple[str, int]]) -> list[str]:
    dice, *others = (_cell(row, key, decimals) for key, (_, decimals) in measures.items())
    return [name, str(row["n"]), dice, _interval(row, "dice"), *others]


def _interval(row: Row, key: str) -> str:
    low, high = (row.get(f"{key}_{end}", nan) for end in ("low", "high"))
    return _DASH if isnan(low) else f"{low:.3f} to {high:.3f}"


def _cell(row: Row, key: str, decimals: int) -> str:
    """Mean ± standard deviation; a dash where nothing was measured."""
    mean, spread = (row.get(f"{key}_{name}", nan) for name in ("mean", "sd"))
    return _text(mean, decimals) + ("" if isnan(mean) or isnan(spread) else f" ± {spread:.{decimals}f}")


def _text(value: float, decimals: int) -> str:
    return _DASH if isnan(value) else f"{value:.{decimals}f}"


def _mean(values: Iterable[float]) -> float:
    measured = [value for value in values if not isnan(value)]
    return fmean(measured) if measured else nan


def _table(header: list[str], groups: Mapping[str, list[list[str]]]) -> Table:
    """The table without empty columns; deviations get equal widths, so that right-aligned cells line up."""
    lines = [line for lines in groups.values() for line in lines]
    kept = [i for i in range(len(header)) if i == 0 or any(line[i] not in ("", _DASH) for line in lines)]
    widths = [max((len(line[i].partition("± ")[2]) for line in lines), default=0) for i in kept]

    def aligned(cell: str, width: int) -> str:
        mean, sign, spread = cell.partition("± ")
        return mean + sign + spread.rjust(width, "\u2007") if sign else cell  # a space as wide as a figure

    return Table(
        [header[i] for i in kept],
        {
            group: [
                [aligned(line[i], width) for i, width in zip(kept, widths, strict=True)] for line in lines
            ]
            for group, lines in groups.items()
        },
    )
