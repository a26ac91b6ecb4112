"""Pictures of images, labels, deformations and measurements.

Images are shown as ITK orders them: the first axis to the right, the second downwards. The small functions
draw 2D arrays into given axes; of a volume, the caller takes the slice ``array[most_labelled(label)]`` first.
Nothing here touches matplotlib's global state.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import EllipsisType
from typing import Any

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from numpy.typing import NDArray

from ..metrics import Row
from ..spatial import jacobian_determinant

Array = NDArray[Any]
Slice = tuple[EllipsisType] | tuple[EllipsisType, int]

# After Okabe & Ito (2008): told apart with any colour vision, and on grey. Blue is kept for measurements.
CLASS_COLOURS = ("#e69f00", "#56b4e9", "#00b884", "#e377c2", "#f0e442", "#ff5a36")
BASELINES = ("source as is", "unregistered")
_INK, _MUTED, _ACCENT, _FOLD = "#1f2933", "#9aa5b1", "#0b66a8", "#ff00c8"
_PAIR_TITLES = (
    *("moving", "fixed", "warped moving", "fixed, both labels"),
    *("warped and fixed", "moving to fixed", "fixed to moving", "volume change"),
)


def most_labelled(label: Array) -> Slice:
    """Return the index of the slice along the last axis with the most labelled voxels; ``(...,)`` in 2D.

    Args:
        label: ``[*spatial]``; where nothing is labelled, the middle slice is chosen.

    Returns:
        An index for any array whose last axes are those of the label, with or without leading axes.
    """
    if label.ndim == 2:
        return (...,)
    counts = (label > 0).sum((0, 1))
    return (..., int(counts.argmax()) if counts.any() else label.shape[-1] // 2)


def overlay(ax: Axes, image: Array, label: Array | None = None, linestyle: str = "solid") -> None:
    """Show an image in grey with the contours of a label over it.

    Args:
        ax: where to draw.
        image: ``[X, Y]``; grey runs from its 1st to its 99th percentile.
        label: ``[X, Y]``, integer; each class has its own colour of ``CLASS_COLOURS``.
        linestyle: of the contours.
    """
    _frame(ax, image.shape)
    ax.imshow(_grey(image).T, cmap="gray", vmin=0, vmax=1)
    for value in () if label is None else np.unique(label[label > 0]):
        mask = label == value
        if not mask.all():
            colour = CLASS_COLOURS[(int(value) - 1) % len(CLASS_COLOURS)]
            ax.contour(mask.T, [0.5], colors=colour, linewidths=1.4, linestyles=linestyle)


def checkerboard(ax: Axes, first: Array, second: Array, tiles: int = 8) -> None:
    """Show two images in alternating tiles: where they are aligned, edges go on from tile to tile.

    Args:
        ax: where to draw.
        first: ``[X, Y]``.
        second: ``[X, Y]``.
        tiles: number of tiles along the longer axis.
    """
    _frame(ax, first.shape)
    parity = (np.indices(first.shape) // -(-max(first.shape) // tiles)).sum(0) % 2
    ax.imshow(np.where(parity == 0, _grey(first), _grey(second)).T, cmap="gray", vmin=0, vmax=1)


def grid(ax: Axes, phi: Array, lines: int = 24) -> None:
    """Draw a map as the regular grid of the moving image, carried along to the fixed image.

    Args:
        ax: where to draw.
        phi: ``[D, X, Y]``, normalised. The lines are level sets of its first two components, so that a slice
            of a 3D map shows exactly where it cuts the planes of the moving grid.
        lines: number of grid lines along the longer axis.
    """
    shape = phi.shape[1:]
    _frame(ax, shape)
    spacing = (max(shape) - 1) / (lines - 1)
    for component, size in zip(phi, shape, strict=False):
        position = component * (size - 1) / spacing
        levels = np.arange(np.floor(position.min()), np.ceil(position.max()) + 1)
        ax.contour(position.T, levels, colors=_INK, linewidths=0.6, linestyles="solid")


def jacobian(ax: Axes, phi: Array, at: Slice = (...,)) -> AxesImage:
    """Show the local volume change of a map, on a logarithmic scale from ¼ to 4; folds are magenta.

    Args:
        ax: where to draw.
        phi: ``[D, *spatial]``, normalised, a whole volume in 3D.
        at: the slice to show.

    Returns:
        The drawn image, for a colour bar: log2 of the Jacobian determinant.
    """
    determinant = jacobian_determinant(torch.as_tensor(phi)[None])[0].numpy()[at]
    _frame(ax, determinant.shape)
    change = np.ma.log2(np.ma.masked_less_equal(determinant, 0))
    return ax.imshow(change.T, cmap=colormaps["PuOr_r"].with_extremes(bad=_FOLD), vmin=-2, vmax=2)


def pair_figure(pair: Mapping[str, Any]) -> Figure:
    """Show one registered pair: images, labels, alignment, deformation both ways and volume change.

    Args:
        pair: ``moving``, ``fixed``, ``warped`` and their ``moving_label``, ``fixed_label``, ``warped_label``,
            each ``[*spatial]`` on one grid, and ``phi`` (moving to fixed) and ``phi_inverse`` (fixed to
            moving), each ``[D, *spatial]``. Of volumes the slice with most of the fixed label is shown.
    """
    at = most_labelled(pair["fixed_label"])
    moving, fixed, warped = (pair[key][at] for key in ("moving", "fixed", "warped"))
    moving_label, fixed_label, warped_label = (
        pair[key][at] for key in ("moving_label", "fixed_label", "warped_label")
    )
    figure = Figure(figsize=(10, 2 * (2.4 * fixed.shape[1] / fixed.shape[0] + 0.25)), layout="constrained")
    axes = figure.subplots(2, 4).ravel()
    for ax, title in zip(axes, _PAIR_TITLES, strict=True):
        ax.set_title(title, fontsize=9, color=_INK)
    overlay(axes[0], moving, moving_label)
    overlay(axes[1], fixed, fixed_label, "dotted")
    overlay(axes[2], warped, warped_label)
    overlay(axes[3], fixed, warped_label)
    overlay(axes[3], fixed, fixed_label, "dotted")
    checkerboard(axes[4], warped, fixed)
    grid(axes[5], pair["phi"][at])
    grid(axes[6], pair["phi_inverse"][at])
    change = jacobian(axes[7], pair["phi"], at)
    bar = figure.colorbar(change, ax=axes[7], ticks=[-2, -1, 0, 1, 2], shrink=0.8)
    bar.ax.set_yticklabels(["¼", "½", "1", "2", "4"], fontsize=8)
    bar.outline.set_visible(False)
    return figure


def segmentation_figure(example: Mapping[str, Any]) -> Figure:
    """Show an image, then the same with its label (dotted) and its prediction (solid).

    Args:
        example: ``image``, ``predicted`` and, where there is one, ``label``, each ``[*spatial]``. Of volumes
            the slice with most of the label, or else of the prediction, is shown.
    """
    predicted, label = example["predicted"], example.get("label")
    at = most_labelled(predicted if label is None else label)
    image = example["image"][at]
    figure = Figure(figsize=(5, 2.45 * image.shape[1] / image.shape[0]), layout="constrained")
    plain, outlined = figure.subplots(1, 2)
    overlay(plain, image)
    overlay(outlined, image, predicted[at])
    if label is not None:
        overlay(outlined, image, label[at], "dotted")
    return figure


def dice_figure(rows: Sequence[Row], kind: str) -> Figure:
    """Show the Dice of every image or pair in each class, with means and standard deviations.

    Args:
        rows: measurements, as the functions of ``metrics`` return them.
        kind: ``"segmentation"``: a panel for each modality, "source as is" beside the other networks;
            ``"registration"``: a panel for each direction, unregistered beside registered.
    """
    panels: dict[str, dict[str, dict[str, list[float]]]] = {}
    for row in (row for row in rows if row["kind"] == kind):
        if kind == "segmentation":
            panel, values = row["modality"], {row["network"]: row["dice"]}
        else:
            panel = row["direction"].replace("_to_", " to ")
            values = {"unregistered": row["unregistered_dice"], "registered": row["dice"]}
        for condition, dice in values.items():
            classes = panels.setdefault(panel, {}).setdefault(condition, {})
            classes.setdefault(row["class"], []).append(dice)
    figure = Figure(figsize=(10, 3.2), layout="constrained")
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for ax, (title, conditions) in zip(axes, panels.items(), strict=True):
        _strips(ax, conditions)
        ax.set_title(title, fontsize=10, color=_INK, loc="left")
    axes[0].set_ylabel("Dice", fontsize=9)
    return figure


def curves_figure(series: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Show training curves, a panel for each: long ones as they are, faintly, under their running mean.

    Args:
        series: ``(step, value)`` pairs of each curve.
    """
    columns = min(4, len(series))
    rows = -(-len(series) // columns)
    figure = Figure(figsize=(2.5 * columns, 1.9 * rows), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel()
    for ax, (name, points) in zip(axes, series.items(), strict=False):
        steps, values = np.array(points, dtype=float).reshape(-1, 2).T
        window = max(1, len(values) // 40)
        smooth = window > 1
        ax.plot(
            steps, values, "" if smooth else ".-", color=_ACCENT, linewidth=0.8, alpha=0.3 if smooth else 1
        )
        if smooth:
            mean = np.convolve(values, np.full(window, 1 / window), "valid")
            ax.plot(steps[window - 1 :], mean, color=_ACCENT, linewidth=1.4)
        _plain(ax)
        ax.set_title(name, fontsize=9, color=_INK, loc="left")
    for ax in axes[len(series) :]:
        ax.set_visible(False)
    return figure


def _strips(ax: Axes, conditions: Mapping[str, Mapping[str, Sequence[float]]]) -> None:
    """Draw a dot for each value of a class, beside them mean and standard deviation; baselines are grey."""
    classes = list(dict.fromkeys(name for values in conditions.values() for name in values))
    step = 0.8 / len(conditions)
    for i, (condition, values) in enumerate(conditions.items()):
        style: dict[str, Any] = {"color": _MUTED if condition in BASELINES else _ACCENT, "linewidth": 0}
        ax.plot([], [], "o", label=condition, markersize=5, **style)
        for name, measured in values.items():
            dice = np.array(measured)[~np.isnan(measured)]
            if not len(dice):
                continue
            centre = classes.index(name) + (i - (len(conditions) - 1) / 2) * step
            jitter = np.arange(len(dice)) * 0.618 % 1 - 0.5  # the golden ratio: evenly, and always the same
            ax.scatter(centre + (0.4 * jitter - 0.12) * step, dice, s=12, alpha=0.5, **style)
            spread = dice.std(ddof=1) if len(dice) > 1 else 0
            mark = {**style, "linewidth": 1.4, "markersize": 5, "capsize": 2}
            ax.errorbar(centre + 0.25 * step, dice.mean(), spread, fmt="o", **mark)
    _plain(ax)
    ax.set(xlim=(-0.5, len(classes) - 0.5), ylim=(-0.02, 1.02))
    ax.set_xticks(range(len(classes)), classes, rotation=30 if len(classes) > 6 else 0)
    ax.legend(fontsize=8, frameon=False, loc="lower right", ncols=len(conditions), bbox_to_anchor=(1, 0.99))


def _plain(ax: Axes) -> None:
    """Light axes: no box, faint horizontal lines."""
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.spines["bottom"].set_color(_MUTED)
    ax.grid(axis="y", color="#e4e7eb", linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=8, length=0, labelcolor=_INK)


def _frame(ax: Axes, shape: Sequence[int]) -> None:
    """Axes for an image ``[X, Y]``: the first axis to the right, the second downwards, no ticks."""
    ax.set(xlim=(-0.5, shape[0] - 0.5), ylim=(shape[1] - 0.5, -0.5), aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _grey(image: Array) -> Array:
    """The image from 0 to 1 between its 1st and 99th percentile."""
    low, high = np.percentile(image, (1, 99))
    return np.clip((image - low) / max(high - low, np.finfo(float).tiny), 0, 1)
