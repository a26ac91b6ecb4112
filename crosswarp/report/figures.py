"""Pictures of images, labels, deformations and measurements.

Images are shown as ITK orders them: the first axis to the right, the second downwards. Of a volume, whose
axes run to the right, to the front and upwards (RAS), three planes are shown side by side, sagittal, coronal
and axial, as radiologists look at them: the front or the right on the left, the head or the front on top. The
small functions draw 2D arrays into given axes; the caller cuts volumes first, see :func:`planes_of`. Nothing
here touches matplotlib's global state.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, Literal, NamedTuple

import numpy as np
import torch
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.layout_engine import ConstrainedLayoutEngine
from numpy.typing import NDArray

from ..spatial import jacobian_determinant
from .tables import EVALUATED, Groups

Array = NDArray[Any]
Slice = tuple[Any, ...]
Layer = Callable[[Axes], Any]

# After Okabe & Ito (2008): told apart with any colour vision, and on grey. Blue is kept for measurements.
CLASS_COLOURS = ("#e69f00", "#56b4e9", "#00b884", "#e377c2", "#f0e442", "#ff5a36")
_INK, _MUTED, _LINE, _ACCENT = "#1f2933", "#7b8794", "#dfe4e9", "#0b66a8"

FOLD_COLOUR = "#ff00c8"
GAP = 0.02  # between the planes of a volume, of their width
_VOLUME = colormaps["PuOr_r"].with_extremes(bad=FOLD_COLOUR)
VOLUME_COLOURS = tuple(to_hex(_VOLUME(i / 8)) for i in range(9))  # from a volume of 1/4 to one of 4


def most_labelled(label: Array, axis: int = 2) -> Slice:
    """Return the index of a slice across an axis, through the middle of what is labelled; ``(...,)`` in 2D.

    Of the slices that have at least 80 % of the most labelled voxels it is the one nearest to their mean.

    Args:
        label: ``[*spatial]``; where nothing is labelled, the middle slice is chosen.
        axis: across which to cut.

    Returns:
        An index for any array whose last axes are those of the label, with or without leading axes.
    """
    if label.ndim == 2:
        return (...,)
    counts = (label > 0).sum(tuple(each for each in range(3) if each != axis))
    slices = np.arange(len(counts))
    many = slices[counts >= 0.8 * counts.max()]
    middle = np.average(slices, weights=counts) if counts.any() else len(counts) // 2
    index: list[Any] = [slice(None)] * 3
    index[axis] = int(many[np.abs(many - middle).argmin()])
    return (..., *index)


class Plane(NamedTuple):
    """A 2D image, or a plane of a volume.

    Attributes:
        axes: of the array, that run to the right and downwards.
        at: index of the plane in any array whose last axes are those of the image.
        size: width and height of its picture, pixels of an image, mm of a volume.
    """

    axes: tuple[int, int]
    at: Slice
    size: tuple[float, float]

    def of_map(self, phi: Array) -> Array:
        """What :func:`grid` draws of a map ``[D, *spatial]``: its components along the plane."""
        return phi[self.at][list(self.axes)]


def planes_of(label: Array, spacing: Sequence[float] | None = None) -> list[Plane]:
    """Return what to show of an image: a 2D image itself; of a volume three planes through what is labelled.

    Args:
        label: ``[*spatial]``; of a volume in RAS, cut as :func:`most_labelled` says.
        spacing: mm along each axis of a volume; None for voxels as long as wide.
    """
    if label.ndim == 2:
        return [Plane((0, 1), (...,), (float(label.shape[0]), float(label.shape[1])))]
    lengths = np.array(label.shape) * (np.ones(3) if spacing is None else np.asarray(spacing))
    back, found = slice(None, None, -1), []
    for normal, (across, down) in enumerate([(1, 2), (0, 2), (0, 1)]):  # sagittal, coronal, axial
        at = tuple(back if part == slice(None) else part for part in most_labelled(label, normal))
        found.append(Plane((across, down), at, (float(lengths[across]), float(lengths[down]))))
    return found


def picture_size(planes: Sequence[Plane]) -> tuple[float, float]:
    """Return the width and height of planes side by side, with narrow gaps."""
    width, height = (list(each) for each in zip(*(plane.size for plane in planes), strict=True))
    return sum(width) * (1 + GAP * (len(planes) - 1)), max(height)


def side_by_side(planes: Sequence[Plane], draw: Callable[[Axes, Plane], Any]) -> Layer:
    """Return a layer of several planes, each in axes of its own in those that it is given.

    Args:
        planes: of :func:`planes_of`.
        draw: draws one into axes.
    """
    if len(planes) == 1:
        return lambda ax: draw(ax, planes[0])
    width, height = picture_size(planes)

    def layer(ax: Axes) -> Any:
        ax.set(xlim=(0, width), ylim=(height, 0), aspect="equal", xticks=[], yticks=[], facecolor="none")
        ax.spines[:].set_visible(False)
        gap = (width - sum(plane.size[0] for plane in planes)) / (len(planes) - 1)
        left, drawn = 0.0, None
        for plane in planes:
            across, down = plane.size[0] / width, plane.size[1] / height
            inset = ax.inset_axes((left / width, (1 - down) / 2, across, down), facecolor="none")
            drawn = draw(inset, plane)
            inset.set_aspect("auto")
            left += plane.size[0] + gap
        return drawn

    return layer


def overlay(ax: Axes, image: Array, label: Array | None = None, linestyle: str = "solid") -> None:
    """Show an image in grey with the outlines of a label over it.

    Args:
        ax: where to draw.
        image: ``[X, Y]``; grey runs from its 1st to its 99th percentile.
        label: ``[X, Y]``, see :func:`outline`.
        linestyle: of the outlines.
    """
    _frame(ax, image.shape)
    ax.imshow(_grey(image).T, cmap="gray", vmin=0, vmax=1)
    if label is not None:
        outline(ax, label, linestyle)


def outline(ax: Axes, label: Array, linestyle: str = "solid") -> None:
    """Draw the outlines of the classes, whatever is below them.

    Args:
        ax: where to draw.
        label: ``[X, Y]``, integer; each class has its own colour of ``CLASS_COLOURS``.
        linestyle: of the outlines.
    """
    _frame(ax, label.shape)
    for value in np.unique(label[label > 0]):
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
    return ax.imshow(change.T, cmap=_VOLUME, vmin=-2, vmax=2)


def pair_panels(pair: Mapping[str, Any]) -> dict[str, list[Layer]]:
    """What there is to see of a registered pair: images, labels, alignment, deformation, volume change.

    Args:
        pair: ``moving``, ``fixed``, ``warped`` and their ``moving_label``, ``fixed_label``, ``warped_label``,
            each ``[*spatial]`` on one grid, and ``phi`` (moving to fixed) and ``phi_inverse`` (fixed to
            moving), each ``[D, *spatial]``. Of volumes three planes through the fixed label are shown, with
            ``spacing``, mm along each axis, in their proportions.

    Returns:
        title of a panel -> its layers, the lowest first: functions that draw into the axes they are given.
    """
    planes = planes_of(pair["fixed_label"], pair.get("spacing"))
    shown = partial(side_by_side, planes)

    def image(key: str) -> Layer:
        return shown(lambda ax, plane: overlay(ax, pair[key][plane.at]))

    def label(key: str, linestyle: str) -> Layer:
        return shown(lambda ax, plane: outline(ax, pair[f"{key}_label"][plane.at], linestyle))

    def lines(key: str) -> Layer:
        return shown(lambda ax, plane: grid(ax, plane.of_map(pair[key])))

    def tiles(ax: Axes, plane: Plane) -> None:
        checkerboard(ax, pair["warped"][plane.at], pair["fixed"][plane.at])

    moving, fixed, warped = label("moving", "solid"), label("fixed", "dotted"), label("warped", "solid")
    return {
        "moving": [image("moving"), moving],
        "fixed": [image("fixed"), fixed],
        "warped moving": [image("warped"), warped],
        "fixed, both labels": [image("fixed"), warped, fixed],
        "warped and fixed": [shown(tiles)],
        "moving to fixed": [lines("phi")],
        "fixed to moving": [lines("phi_inverse")],
        "volume change": [shown(lambda ax, plane: jacobian(ax, pair["phi"], plane.at))],
    }


def pair_figure(pair: Mapping[str, Any]) -> Figure:
    """Show one registered pair in one figure: the panels of :func:`pair_panels`, with a colour bar.

    Args:
        pair: see :func:`pair_panels`.
    """
    panels = pair_panels(pair)
    planes = planes_of(pair["fixed_label"], pair.get("spacing"))
    width, height = picture_size(planes)
    rows, columns = (2, 4) if len(planes) == 1 else (4, 2)  # planes are wide
    panel = 9.6 / columns
    figure = Figure(figsize=(10, rows * (panel * height / width + 0.25)), layout="constrained")
    axes = figure.subplots(rows, columns).ravel()
    for ax, (title, layers) in zip(axes, panels.items(), strict=True):
        ax.set_title(title, fontsize=9, color=_INK)
        drawn = [draw(ax) for draw in layers]
    bar = figure.colorbar(drawn[-1], ax=axes[-1], ticks=[-2, -1, 0, 1, 2], shrink=0.8)
    bar.ax.set_yticklabels(["¼", "½", "1", "2", "4"], fontsize=8)
    bar.outline.set_visible(False)
    return figure


def panel_figure(layer: Layer, shape: Sequence[float]) -> Figure:
    """Show one layer of a panel by itself, without margins and on nothing, so that layers can be stacked.

    Args:
        layer: draws it, see :func:`pair_panels`.
        shape: width and height of the picture, in any one unit; see :func:`picture_size`.
    """
    figure = Figure(figsize=(2.8, 2.8 * shape[1] / shape[0]), facecolor="none")
    layer(figure.add_axes((0, 0, 1, 1), facecolor="none"))
    return figure


def segmentation_figure(example: Mapping[str, Any]) -> Figure:
    """Show an image, then the same with its label (dotted) and its prediction (solid).

    Args:
        example: ``image``, ``predicted`` and, where there is one, ``label``, each ``[*spatial]``. Of volumes
            three planes through the label, or else the prediction, are shown, with ``spacing``, mm along each
            axis, in their proportions.
    """
    image, predicted, label = example["image"], example["predicted"], example.get("label")
    planes = planes_of(predicted if label is None else label, example.get("spacing"))
    width, height = picture_size(planes)
    rows, columns = (1, 2) if len(planes) == 1 else (2, 1)
    figure = Figure(figsize=(5, 4.9 / columns * rows * height / width), facecolor="none")
    space = {"left": 0, "right": 1, "bottom": 0, "top": 1, "wspace": 0.04, "hspace": 0.04}
    plain, outlined = figure.subplots(rows, columns, gridspec_kw=space)

    def outlines(ax: Axes, plane: Plane) -> None:
        overlay(ax, image[plane.at], predicted[plane.at])
        if label is not None:
            overlay(ax, image[plane.at], label[plane.at], "dotted")

    side_by_side(planes, lambda ax, plane: overlay(ax, image[plane.at]))(plain)
    side_by_side(planes, outlines)(outlined)
    return figure


def box_figure(facets: Mapping[str, Groups], limits: tuple[float, float] | None = None) -> Figure:
    """Show how measurements are distributed: a facet for each, within it a box for each thing to compare.

    Each value is a dot. Box: quartiles and median; whiskers: the furthest values within 1.5 interquartile
    ranges of the box (Tukey); diamond: mean. What is not of ``EVALUATED`` is grey.

    Args:
        facets: title -> group -> what is compared within it -> values; NaN are passed over.
        limits: of the values' axes; None for each facet from 0 to where its values end.
    """
    order: dict[str, dict[str, None]] = {}
    for groups in facets.values():
        for group, conditions in groups.items():
            order.setdefault(group, {}).update(dict.fromkeys(conditions))
    lines = [
        (group, condition)
        for group, conditions in order.items()
        # the name of a group stands on a line of its own; not every facet has a value before registration
        for condition in ("", *sorted(conditions, key="unregistered".__ne__))
    ]
    columns = min(4, len(facets))
    rows = -(-len(facets) // columns)
    layout = ConstrainedLayoutEngine(h_pad=0.08)
    figure = Figure(figsize=(9.6, rows * (0.24 * len(lines) + 0.6)), facecolor="none", layout=layout)
    axes = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel()
    for ax, (title, groups) in zip(axes, facets.items(), strict=False):
        values = [groups.get(group, {}).get(condition, ()) for group, condition in lines]
        for y, (_, condition) in enumerate(lines):
            _box(ax, y, values[y], condition in EVALUATED)
        _plain(ax, "x")
        ax.set_title(title, fontsize=9, color=_INK, loc="left", fontweight="bold")
        ax.set_xlim(limits or (0, 1.05 * np.nanmax(np.concatenate(values))))
        ax.locator_params(axis="x", nbins=5)
        ax.xaxis.set_major_formatter("{x:g}")
    axes[0].set_ylim(len(lines) - 0.4, -0.6)
    axes[0].set_yticks(range(len(lines)), [condition or group for group, condition in lines])
    for ax in axes[::columns]:
        for (_, condition), text in zip(lines, ax.get_yticklabels(), strict=True):
            text.set_fontweight("normal" if condition else "bold")
    for ax in axes[len(facets) :]:
        ax.set_visible(False)
    return figure


def reliability_figure(facets: Mapping[str, Sequence[Sequence[float]]]) -> Figure:
    """Show what overlap was found of pairs against what was expected: a facet for each, side by side.

    A dot is a pair, and its line the interval in which it was expected; on the diagonal they are equal. What
    is found outside its interval is magenta.

    Args:
        facets: title -> pairs ``[N, 4]``: found, expected, and the interval's lower and upper end.
    """
    figure = Figure(figsize=(3.2 * len(facets), 3.4), facecolor="none", layout="constrained")
    axes = figure.subplots(1, len(facets), squeeze=False, sharey=True)[0]
    for ax, (title, pairs) in zip(axes, facets.items(), strict=True):
        found, expected, low, high = np.array(pairs, dtype=float).reshape(-1, 4).T
        outside = (found < low) | (found > high)
        ax.plot([0, 1], [0, 1], color=_LINE, linewidth=1.2)
        for chosen, colour in ((~outside, _ACCENT), (outside, FOLD_COLOUR)):
            ends = found[chosen], low[chosen], high[chosen]
            ax.hlines(*ends, color=colour, linewidth=0.8, alpha=0.3, rasterized=len(found) > 99)
            ax.scatter(expected[chosen], found[chosen], s=8, color=colour, linewidth=0, alpha=0.7)
        _plain(ax)
        ax.set(xlim=(-0.02, 1.02), ylim=(-0.02, 1.02), aspect="equal", xlabel="expected Dice")
        ax.set_title(title, fontsize=9, color=_INK, loc="left", fontweight="bold")
    axes[0].set_ylabel("found")
    return figure


def curves_figure(series: Mapping[str, Sequence[tuple[float, float]]]) -> Figure:
    """Show training curves, a panel for each: long ones as they are, faintly, under their running mean.

    Args:
        series: ``(step, value)`` pairs of each curve.
    """
    rows = -(-len(series) // 4)
    figure = Figure(figsize=(9.6, 1.8 * rows), facecolor="none", layout="constrained")
    axes = figure.subplots(rows, 4, squeeze=False).ravel()
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
        ax.set_title(name.replace("_", " "), fontsize=9, color=_INK, loc="left", fontweight="bold")
    for ax in axes[len(series) :]:
        ax.set_visible(False)
    return figure


def _box(ax: Axes, y: float, values: Sequence[float], evaluated: bool) -> None:
    """Draw the dots of the values, and their box over them."""
    measured = np.array([value for value in values if value == value], dtype=float)
    if not len(measured):
        return
    colour = _ACCENT if evaluated else _MUTED
    jitter = np.arange(len(measured)) * 0.618 % 1 - 0.5  # the golden ratio: evenly, and always the same
    many = len(measured) > 99
    dots: dict[str, Any] = {"s": 7, "color": colour, "linewidth": 0, "rasterized": many}
    ax.scatter(measured, y + 0.5 * jitter, alpha=0.15 if many else 0.35, **dots)
    line = {"color": colour, "linewidth": 1.1}
    ax.boxplot(
        measured,
        positions=[y],
        orientation="horizontal",
        widths=0.6,
        showfliers=False,
        showmeans=True,
        manage_ticks=False,
        boxprops=line,
        whiskerprops=line,
        capprops={"linewidth": 0},
        medianprops=line | {"linewidth": 2},
        meanprops={"marker": "D", "markersize": 3.5, "markerfacecolor": "white", "markeredgecolor": colour},
    )


def _plain(ax: Axes, along: Literal["x", "y"] = "y") -> None:
    """Light axes: no box, faint lines at the ticks of the measured values."""
    ax.set_facecolor("none")
    ax.spines[:].set_visible(False)
    ax.spines["bottom"].set(visible=True, color=_MUTED)
    ax.grid(axis=along, color=_LINE, linewidth=0.8)
    ax.set_axisbelow(True)
    ax.tick_params(labelsize=8.5, length=0, labelcolor=_INK)


def _frame(ax: Axes, shape: Sequence[int]) -> None:
    """Axes for an image ``[X, Y]``: the first axis to the right, the second downwards, no ticks."""
    ax.set(xlim=(-0.5, shape[0] - 0.5), ylim=(shape[1] - 0.5, -0.5), aspect="equal", xticks=[], yticks=[])
    ax.spines[:].set_visible(False)


def _grey(image: Array) -> Array:
    """The image from 0 to 1 between its 1st and 99th percentile."""
    low, high = np.percentile(image, (1, 99))
    return np.clip((image - low) / max(high - low, np.finfo(float).tiny), 0, 1)
