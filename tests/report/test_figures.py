from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from matplotlib.axes import Axes
from matplotlib.collections import PathCollection
from matplotlib.colors import to_rgba
from matplotlib.contour import ContourSet
from matplotlib.figure import Figure

from crosswarp.report import (
    box_figure,
    checkerboard,
    curves_figure,
    grid,
    jacobian,
    most_labelled,
    overlay,
    pair_figure,
    pair_panels,
    panel_figure,
    reliability_figure,
    segmentation_figure,
)
from crosswarp.report.figures import (
    CLASS_COLOURS,
    FOLD_COLOUR,
    GAP,
    VOLUME_COLOURS,
    picture_size,
    planes_of,
)
from crosswarp.spatial import identity_map

nan = float("nan")


@pytest.fixture
def ax() -> Axes:
    return Figure().subplots()


def contours(ax: Axes) -> list[ContourSet]:
    """Those of axes and of the planes in them."""
    axes = [ax, *ax.child_axes]
    return [each for part in axes for each in part.collections if isinstance(each, ContourSet)]


def pixels(ax: Axes) -> np.ndarray:
    return np.asarray(ax.images[0].get_array())


def test_most_labelled_slice() -> None:
    assert most_labelled(np.zeros((4, 5))) == (...,)
    label, whole = np.zeros((4, 5, 6)), slice(None)
    assert most_labelled(label) == (..., whole, whole, 3), "nothing labelled: the middle"
    label[1:3, 1, 4] = 2
    label[1, 1, 5] = 7
    assert most_labelled(label) == (..., whole, whole, 4), "counts voxels, not values"
    assert most_labelled(label, 0) == (..., 1, whole, whole)
    label[0:2, 3, :] = 1
    assert most_labelled(label, 2) == (..., whole, whole, 4), "of 2, 2, 2, 2, 4 and 3 voxels"
    label[:, 0, :] = label[2:4, 3, :] = 1
    assert most_labelled(label, 2) == (..., whole, whole, 3), "of 8, 8, 8, 8, 10 and 9 the middle one"
    phi = np.zeros((3, 4, 5, 6))
    assert phi[most_labelled(label)].shape == (3, 4, 5)


def test_planes_of_a_volume_are_cut_through_its_label_as_radiologists_look_at_it() -> None:
    x, y, z = np.indices((6, 8, 10))
    volume, label = 100 * x + 10 * y + z, np.zeros((6, 8, 10))
    label[1:4, 2:5, 6:9] = 1
    planes = planes_of(label, [2, 1, 0.5])
    sagittal, coronal, axial = planes
    seen = [  # the corner on the top left, then one step to the right and one downwards
        ("front and top", 279, -10, -1),
        ("right and top", 539, -100, -1),
        ("right and front", 577, -100, -10),
    ]
    for plane, (words, corner, right, down) in zip(planes, seen, strict=True):
        cut = volume[plane.at]
        assert (cut[0, 0], cut[1, 0] - cut[0, 0], cut[0, 1] - cut[0, 0]) == (corner, right, down), words
    assert [plane.size for plane in planes] == [(8, 5), (12, 5), (12, 8)]
    assert picture_size(planes) == (pytest.approx(32 * (1 + 2 * GAP)), 8)
    phi = np.stack([x, y, z])
    assert (coronal.of_map(phi) == np.stack([x[coronal.at], z[coronal.at]])).all()
    assert len(planes_of(label[0])) == 1


def test_panels_of_a_volume_show_three_planes_in_their_proportions() -> None:
    generator, shape, spacing = np.random.default_rng(0), (6, 12, 10), (4.0, 2.0, 1.0)
    label = np.zeros(shape, dtype=int)
    label[2:4, 3:8, 2:6] = 1
    pair: dict[str, Any] = {key: generator.random(shape) for key in ("moving", "fixed", "warped")}
    pair |= {f"{key}_label": label for key in ("moving", "fixed", "warped")}
    pair |= {key: identity_map(shape)[0].numpy() for key in ("phi", "phi_inverse")}
    figure = pair_figure(pair | {"spacing": spacing})
    figure.draw_without_rendering()
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert len(panels) == 8
    insets = panels[3].child_axes
    assert len(insets) == 9, "the image and two labels, each of three planes"
    boxes = [inset.get_window_extent().bounds[2:] for inset in insets[:3]]
    ratios = [width / height for width, height in boxes]
    assert ratios == pytest.approx([24 / 10, 24 / 10, 24 / 24], rel=1e-3)
    example = {"image": pair["fixed"], "predicted": label, "label": label, "spacing": spacing}
    assert [len(ax.child_axes) for ax in segmentation_figure(example).axes] == [3, 3]


def test_overlay_shows_the_first_axis_to_the_right_and_the_second_downwards(ax: Axes) -> None:
    image = np.zeros((3, 2))
    image[2, 0] = 1
    overlay(ax, image)
    assert pixels(ax).shape == (2, 3)
    assert pixels(ax)[0, 2] == pixels(ax).max() > 0
    bottom, top = ax.get_ylim()
    assert bottom > top


def test_overlay_outlines_each_class_in_its_colour(ax: Axes) -> None:
    label = np.zeros((12, 10), dtype=int)
    label[2:5, 3:6] = 1
    label[7:10, 3:6] = 3
    overlay(ax, np.random.default_rng(0).random((12, 10)), label, "dotted")
    first, third = contours(ax)
    assert first.get_edgecolor()[0] == pytest.approx(to_rgba(CLASS_COLOURS[0]))
    assert third.get_edgecolor()[0] == pytest.approx(to_rgba(CLASS_COLOURS[2]))
    x, y = np.concatenate(first.allsegs[0]).T
    # half-way between the pixels inside and those outside
    assert (x.min(), x.max(), y.min(), y.max()) == (1.5, 4.5, 2.5, 5.5)


def test_overlay_takes_constant_images_and_labels_without_a_boundary(ax: Axes) -> None:
    overlay(ax, np.full((4, 4), 7.0), np.ones((4, 4), dtype=int))
    assert not pixels(ax).any() and not contours(ax)


def test_checkerboard_alternates(ax: Axes) -> None:
    ramp = np.linspace(0, 1, 8)[:, None].repeat(4, 1)
    checkerboard(ax, ramp, 1 - ramp, tiles=4)  # tiles of two pixels
    board = pixels(ax).T
    rising = np.diff(board, axis=0)[::2] > 0  # within the tiles
    assert rising.tolist() == [[True, True, False, False], [False, False, True, True]] * 2


@pytest.mark.parametrize("spatial", [(17, 9), (17, 9, 4)])
def test_grid_of_a_shift_is_shifted(ax: Axes, spatial: tuple[int, ...]) -> None:
    phi = identity_map(spatial)[0].numpy()
    phi[0] += 1 / 16  # reads one pixel further: what is drawn comes to lie one pixel before
    grid(ax, phi[most_labelled(np.zeros(spatial))], lines=5)  # every four pixels
    across, along = contours(ax)
    x = sorted({round(float(v), 3) for segments in across.allsegs for s in segments for v in s[:, 0]})
    y = sorted({round(float(v), 3) for segments in along.allsegs for s in segments for v in s[:, 1]})
    assert set(x) >= {3, 7, 11} and all(v % 4 == 3 for v in x)
    assert set(y) >= {4} and all(v % 4 == 0 for v in y)


def test_jacobian_of_known_maps(ax: Axes) -> None:
    half = identity_map((6, 5))[0].numpy() / 2
    np.testing.assert_allclose(jacobian(ax, half).get_array(), -2, atol=1e-5)  # (1/2)² = 2⁻²
    volume = identity_map((6, 5, 4))[0].numpy() * np.array([2, 1, 1]).reshape(3, 1, 1, 1)
    change = jacobian(ax, volume, (..., 1)).get_array()
    assert change.shape == (5, 6)
    np.testing.assert_allclose(change, 1, atol=1e-5)
    mirror = identity_map((6, 5))[0].numpy()[:, ::-1].copy()
    assert jacobian(ax, mirror).get_array().mask.all(), "folds have no logarithm"


def test_pair_figure_has_eight_panels(pair: dict[str, Any]) -> None:
    figure = pair_figure(pair)
    panels = [ax for ax in figure.axes if ax.get_title()]
    assert [ax.get_title() for ax in panels] == [
        *("moving", "fixed", "warped moving", "fixed, both labels"),
        *("warped and fixed", "moving to fixed", "fixed to moving", "volume change"),
    ]
    if pair["fixed"].ndim == 2:
        shape = pair["fixed"].shape
        assert all(ax.get_xlim() == (-0.5, shape[0] - 0.5) for ax in panels)
        assert all(ax.get_ylim() == (shape[1] - 0.5, -0.5) for ax in panels)
    planes = len(planes_of(pair["fixed_label"]))
    assert len(contours(panels[3])) == 4 * planes, "two classes, of fixed and of warped, in each plane"
    figure.draw_without_rendering()


def test_layers_of_a_panel_lie_on_each_other(pair: dict[str, Any]) -> None:
    planes = planes_of(pair["fixed_label"])
    shape = picture_size(planes)
    picture, *outlines = (panel_figure(each, shape) for each in pair_panels(pair)["fixed, both labels"])
    assert len(outlines) == 2 and all(len(contours(each.axes[0])) == 2 * len(planes) for each in outlines)
    shown = picture.axes[0].child_axes or picture.axes
    assert [pixels(ax).shape for ax in shown] == [pair["fixed"][plane.at].shape[::-1] for plane in planes]
    for figure in (picture, *outlines):
        (ax,) = figure.axes
        assert figure.get_size_inches() == pytest.approx([2.8, 2.8 * shape[1] / shape[0]])
        figure.draw_without_rendering()  # the aspect of the axes is applied here
        assert ax.get_position().bounds == pytest.approx((0, 0, 1, 1)), "no margins"
        assert figure.get_facecolor()[3] == 0
    assert not any(part.images for each in outlines for ax in each.axes for part in (ax, *ax.child_axes))


def test_key_of_the_volume_change_has_the_colours_of_the_map(ax: Axes) -> None:
    drawn = jacobian(ax, identity_map((6, 5))[0].numpy())
    for colour, change in zip(VOLUME_COLOURS, np.linspace(-2, 2, 9), strict=True):
        assert to_rgba(colour) == pytest.approx(drawn.to_rgba(change), abs=0.01)
    assert to_rgba(FOLD_COLOUR) == pytest.approx(drawn.cmap.get_bad())


def test_segmentation_figure_with_and_without_a_label(pair: dict[str, Any]) -> None:
    example = {"image": pair["fixed"], "predicted": pair["warped_label"], "label": pair["fixed_label"]}
    planes = len(planes_of(pair["fixed_label"]))
    plain, outlined = segmentation_figure(example).axes
    assert len(contours(plain)) == 0 and len(contours(outlined)) == 4 * planes
    del example["label"]
    assert len(contours(segmentation_figure(example).axes[1])) == 2 * planes


def test_box_figure_against_numpy() -> None:
    values = [0.1, 0.5, 0.6, 0.7, nan, 0.9]  # 0.1 is 1.5 interquartile ranges and more below the box
    facets = {
        "femur": {"a to b": {"crosswarp": values}, "b to a": {"ants": [0.5], "unregistered": []}},
        "mean": {"a to b": {"unregistered": [0.3], "crosswarp": [0.8, 1.0]}},
    }
    figure = box_figure(facets, limits=(0, 1))
    femur, mean = figure.axes[:2]
    assert [ax.get_title("left") for ax in (femur, mean)] == ["femur", "mean"]
    labels = [label.get_text() for label in femur.get_yticklabels()]
    assert labels == ["a to b", "unregistered", "crosswarp", "b to a", "unregistered", "ants"]
    bottom, top = femur.get_ylim()
    assert bottom > top, "the first line is on top"
    assert femur.get_xlim() == (0, 1)

    (crosswarp, ants) = (each for each in femur.collections if isinstance(each, PathCollection))
    assert crosswarp.get_offsets()[:, 0].tolist() == [0.1, 0.5, 0.6, 0.7, 0.9], "what is NaN is not drawn"
    assert all(abs(y - labels.index("crosswarp")) < 0.3 for y in crosswarp.get_offsets()[:, 1])
    assert ants.get_offsets()[:, 0].tolist() == [0.5]
    assert not np.array_equal(crosswarp.get_facecolor(), ants.get_facecolor())
    box = next(line.get_xdata() for line in femur.lines if len(line.get_xdata()) == 5)
    assert {float(box.min()), float(box.max())} == set(np.quantile([0.1, 0.5, 0.6, 0.7, 0.9], [0.25, 0.75]))
    (diamond, *_) = (line for line in femur.lines if line.get_marker() == "D")
    assert diamond.get_xdata() == pytest.approx([0.56])
    ends = [float(x) for line in femur.lines if len(line.get_xdata()) == 2 for x in line.get_xdata()]
    assert 0.9 in ends and 0.1 not in ends
    figure.draw_without_rendering()


def test_many_dots_are_one_picture_and_free_axes_start_at_zero() -> None:
    figure = box_figure({"TRE": {"a to b": {"crosswarp": list(range(100)), "ants": [3.0]}}})
    many, few = (each for each in figure.axes[0].collections if isinstance(each, PathCollection))
    assert many.get_rasterized() and not few.get_rasterized()
    assert figure.axes[0].get_xlim() == (0, pytest.approx(1.05 * 99))


def test_curves_figure_short_long_and_empty() -> None:
    steps = np.arange(400)
    figure = curves_figure(
        {
            "one point": [(0, 0.5)],
            "long": list(zip(steps, steps % 2, strict=True)),
            "empty": [],
            "fourth": [(0, 1), (1, 2)],
            "second row": [(0, 1)],
        }
    )
    titles = [ax.get_title("left") for ax in figure.axes if ax.get_visible()]
    assert titles == ["one point", "long", "empty", "fourth", "second row"]
    raw, mean = figure.axes[1].lines
    assert len(raw.get_xdata()) == 400
    np.testing.assert_allclose(mean.get_ydata(), 0.5)  # over ten steps, five of them 1
    assert mean.get_xdata()[-1] == 399
    assert figure.axes[0].lines[0].get_marker() == ".", "a single point is seen"
    figure.draw_without_rendering()


def test_reliability_figure_shows_what_is_outside_its_interval() -> None:
    pairs = [(0.9, 0.8, 0.7, 0.95), (0.3, 0.6, 0.5, 0.7), (0.5, 0.4, 0.2, 0.6)]
    figure = reliability_figure({"mean": pairs, "femur": pairs[:1]})
    first, second = figure.axes
    dots = [each for each in first.collections if isinstance(each, PathCollection)]
    assert [each.get_offsets().tolist() for each in dots] == [[[0.8, 0.9], [0.4, 0.5]], [[0.6, 0.3]]]
    assert tuple(dots[1].get_facecolor()[0][:3]) == to_rgba(FOLD_COLOUR)[:3]
    segments = first.collections[0].get_segments()
    assert segments[0].tolist() == [[0.7, 0.9], [0.95, 0.9]], "found, from the lower to the upper end"
    assert [ax.get_title("left") for ax in (first, second)] == ["mean", "femur"]
