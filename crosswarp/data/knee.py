"""A synthetic knee cohort in two modalities: DXA-like source and X-ray-like target, with exact labels.

Every image is another knee seen from the front, a right one (the fibula on the left of the picture) unless
its view says otherwise, drawn from splines in millimetres, so that the same subject has the same anatomy at
every image size. Bones are
projected as tubes: a shell of cortex around trabecular bone, which is what gives radiographs their bright
outlines. The two modalities differ as the real ones do: DXA is coarse, noisy and shows bone only; X-ray is
sharp and shows skin, fat, muscles and the patella in front of the femur, through a display window that
varies, sometimes with collimation and a side marker.

Where bones overlap in projection the label is the one in front: femur before tibia before fibula, so the
head of the fibula is labelled only where it is not behind the tibia. The patella belongs to no class of its
own. What collimation hides is background.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import nibabel as nib
import numpy as np
from matplotlib.textpath import TextPath
from numpy.random import Generator, default_rng
from numpy.typing import NDArray
from scipy.interpolate import PchipInterpolator, make_interp_spline
from scipy.ndimage import gaussian_filter, map_coordinates, zoom
from scipy.spatial import cKDTree

from .views import PLAIN, View

LABELS = ("background", "femur", "tibia", "fibula")
MODALITIES = ("dxa", "xray")

Array = NDArray[np.float64]

# Contours of an average knee in mm, from shaft to shaft around the end of the bone, which lies to their left:
# x to the medial side (right of the picture), y downwards, the origin at the centre of the joint.
_FEMUR = """
    -15,-200 -14.5,-150 -15,-110 -17,-78 -22,-58 -30,-44 -37,-32 -40,-22 -39,-12 -34,-5 -25,-2 -16,-3.5
    -10,-9 -6,-16 0,-19 6,-16 10,-9 16,-3 25,-1 34,-3.5 40,-11 41.5,-23 39,-33 31,-45 22,-60 17,-80
    15,-110 14.5,-150 15,-200
"""
_TIBIA = """
    12,200 12,150 12.5,115 14,85 18,60 26,38 34,23 38.5,12 37.5,6 30,4 20,5 11,3 6.5,-2 4,-5 1,-2
    -2,-1.5 -4.5,-3.5 -7.5,0 -11,3.5 -20,4 -30,3.5 -37.5,6 -38.5,12 -34,22 -25,37 -17,60 -13.5,85
    -12.5,115 -12,150 -12,200
"""
_FIBULA = """
    5.5,200 5.5,110 5,75 5,50 6.5,36 9,26 9.5,19 5,15 0,11.5 -3.5,11 -8,16 -9.5,24 -8,34 -5.5,48 -5,75
    -5.5,110 -5.5,200
"""
# Half widths of the leg in mm at heights in mm, lateral and medial.
_LEG_HEIGHTS = (-220, -150, -90, -40, 0, 40, 90, 150, 220)
_LEG_LATERAL = (84, 78, 68, 58, 55, 56, 62, 60, 50)
_LEG_MEDIAL = (82, 76, 66, 58, 54, 54, 60, 58, 48)


@dataclass(frozen=True)
class _Bone:
    """A bone as signed distances in mm (negative inside) on the grid below, and what its projection needs."""

    distance: NDArray[np.float32]
    radius: float  # of the tube, mm
    shaft_cortex: float  # thickness, mm
    end_cortex: float


_STEP = 1.5  # mm
_GRID_X, _GRID_Y = _STEP * np.arange(-44, 45), _STEP * np.arange(-100, 101)


def draw_knee(
    modality: str, index: int, size: int, seed: int = 0, view: View = PLAIN
) -> tuple[NDArray[np.int16], NDArray[np.uint8], tuple[float, float]]:
    """Draw one subject.

    Args:
        modality: ``"dxa"`` (mg/cm² of bone) or ``"xray"`` (display values 0 to 4095).
        index: number of the subject in its modality.
        size: image size in pixels, both axes; another view may have others.
        seed: seed of the population.
        view: how the picture is taken and stored.

    Returns:
        Image and label of shape ``[size, size]``, first axis left to right, second axis top to bottom (the
        order of ITK), and the pixel spacing in mm along both axes. Those of a turned view are turned.

    Raises:
        ValueError: for another modality.
    """
    if modality not in MODALITIES:
        raise ValueError(f"Expected a modality of {MODALITIES}, got {modality!r}.")
    rng = default_rng([seed, MODALITIES.index(modality), index])
    bones = _draw_bones(rng)
    bend = rng.normal(0, 2.5, (2, 9, 9))  # control displacements in mm, 45 mm apart
    field_of_view = rng.uniform(150, 185) if modality == "dxa" else rng.uniform(162, 215)
    angle = np.deg2rad(rng.uniform(-7, 7) if modality == "dxa" else rng.uniform(-10, 10))
    shift = rng.uniform(-8, 8, 2) if modality == "dxa" else rng.uniform(-14, 14, 2)

    shape, pixel = np.array(view.shape(size)), np.array(view.pixel)
    field = field_of_view * (shape * pixel / size)  # of whole pixels
    angle += np.deg2rad(view.tilt)

    def anatomy_points(factor: int) -> tuple[Array, Array]:
        """Where the pixels lie in the picture and in the anatomy, in mm, `[2, X, Y]` each."""
        axes = [((np.arange(n) + 0.5) / n - 0.5) * mm for n, mm in zip(factor * shape, field, strict=True)]
        picture = np.stack(np.meshgrid(*axes, indexing="ij"))
        seen = picture * np.array([-1.0 if view.left else 1.0, 1.0])[:, None, None]
        cos, sin = np.cos(angle), np.sin(angle)
        points = np.einsum("ij,jxy->ixy", np.array([[cos, -sin], [sin, cos]]), seen) + shift[:, None, None]
        points = points / view.scale
        return picture, points + _sample(bend, points / 45 + 4, order=3)

    factor = max(1, -(-256 // int(shape.min())))  # drawn at 256 pixels or more, then averaged
    picture, points = anatomy_points(factor)
    fine = np.stack(
        _render_dxa(rng, bones, points, field)
        if modality == "dxa"
        else _render_xray(rng, bones, picture, points, field, view.left)
    )
    image, beam = fine.reshape(2, shape[0], factor, shape[1], factor).mean((2, 4))
    _, points = anatomy_points(1)
    label = np.zeros(shape, np.uint8)
    for value in (3, 2, 1):  # from behind to the front
        label[_distance(bones[value - 1], points) < 0] = value
    label[beam < 0.5] = 0  # nobody sees what was not exposed
    image = view.developed(np.rint(image).astype(np.int16))
    spacing = [float(mm) for mm in field_of_view / size * pixel]
    x, y = reversed(spacing) if view.quarter_turns % 2 else spacing
    return view.stored(image), view.stored(label), (x, y)


def save_picture(array: NDArray[Any], spacing: tuple[float, float], path: Path) -> None:
    """Write a drawn image or label as NIfTI, in the identity of ITK's LPS frame, as radiographs have it."""
    image = nib.Nifti1Image(array, np.diag([-spacing[0], -spacing[1], 1, 1]))
    image.header.set_xyzt_units("mm")
    nib.save(image, path)


def _sample(values: NDArray, indices: Array, order: int = 1) -> Array:
    """Values `[..., X, Y]` interpolated at indices `[2, *shape]`, constant beyond the border."""
    flat = values.reshape(-1, *values.shape[-2:])
    sampled = [map_coordinates(value, indices, order=order, mode="nearest") for value in flat]
    return np.stack(sampled).reshape(*values.shape[:-2], *indices.shape[1:])


def _draw_bones(rng: Generator) -> tuple[_Bone, _Bone, _Bone]:
    """Femur, tibia and fibula of a new subject."""
    stature = rng.normal(1, 0.05)
    gap, varus = rng.uniform(-1.0, 2.5), np.deg2rad(rng.normal(0, 2.5))
    cortex = rng.normal(1, 0.15)
    femur, tibia, fibula = (
        np.array([point.split(",") for point in contour.split()], float)
        for contour in (_FEMUR, _TIBIA, _FIBULA)
    )
    for contour, noise in ((femur, 0.8), (tibia, 0.7), (fibula, 0.5)):
        contour += rng.normal(0, noise, contour.shape)
    for contour, spread in ((femur, 0.05), (tibia, 0.05)):
        contour[:, 0] *= rng.normal(1, spread)
        shaft = np.clip((np.abs(contour[:, 1]) - 30) / 60, 0, 1)  # shafts vary on their own
        contour[:, 0] *= 1 + shaft * rng.normal(0, 0.1)
        contour[:, 1] *= rng.normal(1, 0.06)
    tibia[:, 1] += gap
    fibula[:, 0] = fibula[:, 0] * rng.normal(1, 0.15) + tibia[:, 0].min() + rng.normal(1, 3)
    fibula[:, 0] += np.clip(fibula[:, 1] / 150, 0, 1.3) * rng.normal(7, 3)  # it runs towards the ankle
    fibula[:, 1] += rng.normal(3, 4) + gap
    cos, sin = np.cos(varus), np.sin(varus)
    femur = femur @ np.array([[cos, sin], [-sin, cos]])
    return (
        _Bone(_signed_distance(femur * stature), 12.5, 5.5 * cortex, 1.5 * cortex),
        _Bone(_signed_distance(tibia * stature), 11.5, 5.0 * cortex, 1.5 * cortex),
        _Bone(_signed_distance(fibula * stature), 4.5, 2.2 * cortex, 1.0 * cortex),
    )


def _signed_distance(contour: Array) -> NDArray[np.float32]:
    """Distance in mm of the grid to the spline through the contour's points, negative on its left."""
    steps = np.linalg.norm(np.diff(contour, axis=0), axis=1)
    length = np.concatenate([[0], np.cumsum(steps)])
    spline = make_interp_spline(length, contour, k=3)
    dense = np.linspace(0, length[-1], int(length[-1] / 0.3))
    curve, tangent = spline(dense), spline.derivative()(dense)
    points = np.stack(np.meshgrid(_GRID_X, _GRID_Y, indexing="ij"), -1)
    distance, nearest = cKDTree(curve).query(points)
    away = points - curve[nearest]
    side = tangent[nearest][..., 0] * away[..., 1] - tangent[nearest][..., 1] * away[..., 0]
    return (distance * np.sign(side)).astype(np.float32)


def _distance(bone: _Bone, points: Array) -> Array:
    return _sample(bone.distance, points / _STEP + np.array([44, 100])[:, None, None])


def _chord(depth: Array, radius: Array | float) -> Array:
    """Length in mm of a ray through a tube of that radius, at a depth in mm inside its edge."""
    depth = np.clip(depth, 0, radius)
    return 2 * np.sqrt(depth * (2 * radius - depth))


def _project(bone: _Bone, points: Array, trabeculae: Array | float = 1.0) -> Array:
    """Bone along the ray in mm of compact bone: cortex, and trabecular bone that thins out in the shaft."""
    depth = -_distance(bone, points)
    shaft = np.clip((np.abs(points[1]) - 25) / 60, 0, 1)
    shaft = shaft**2 * (3 - 2 * shaft)
    cortex = bone.end_cortex + shaft * (bone.shaft_cortex - bone.end_cortex)
    inner = _chord(depth - cortex, bone.radius - cortex)
    return _chord(depth, bone.radius) - inner + inner * (0.32 - 0.24 * shaft) * trabeculae


def _render_dxa(rng: Generator, bones: tuple[_Bone, ...], points: Array, fov: Array) -> tuple[Array, Array]:
    """Areal bone density in mg/cm² (soft tissue is subtracted, up to its noise), and the beam: all 1."""
    density = rng.uniform(0.75, 1.15)
    weights = density * np.array([1, rng.normal(0.95, 0.05), rng.normal(0.65, 0.1)])
    mineral = sum(weight * _project(bone, points) for weight, bone in zip(weights, bones, strict=True))
    pixel = fov / points.shape[1:]
    mineral = gaussian_filter(70 * mineral, rng.uniform(1.0, 1.5) / pixel)
    detector = (fov / 1.3).astype(int)  # the scanner's own pixels, to which the noise belongs
    noise = rng.normal(size=(2, *detector))
    scale = points.shape[1:] / detector
    noise = np.stack([zoom(each, scale, order=1, grid_mode=True, mode="nearest") for each in noise])
    shading = rng.normal(0, 25) * points[1] / 100
    level = rng.uniform(0.7, 1.3)
    noise = level * (28 * noise[0] + 2.2 * np.sqrt(np.maximum(mineral, 0)) * noise[1])
    return mineral + shading + noise, np.ones_like(mineral)


def _render_xray(
    rng: Generator, bones: tuple[_Bone, ...], picture: Array, points: Array, fov: Array, left: bool
) -> tuple[Array, Array]:
    """Display values of a radiograph, 0 to 4095, and the beam: 1 where exposed, 0 where collimated."""
    pixel = fov / points.shape[1:]
    (noise_rng,) = rng.spawn(1)  # noise belongs to the pixels; all else must not depend on their number
    texture = gaussian_filter(rng.normal(size=(280, 400)), (0.7, 1.1))  # 0.8 mm grain along the load
    texture = _sample(texture / texture.std(), points / 0.8 + np.array([140, 200])[:, None, None])
    texture = 1 + rng.uniform(0.1, 0.22) * texture
    weights = (1, 1, rng.uniform(1.2, 1.5))  # the fibula is nearly all cortex
    mineral = sum(
        weight * _project(bone, points, texture) for weight, bone in zip(weights, bones, strict=True)
    )
    mineral = mineral + _draw_patella(rng, points, texture)
    attenuation = rng.uniform(0.6, 1.0) * _draw_soft_tissue(rng, points) + rng.uniform(0.015, 0.021) * mineral
    attenuation = gaussian_filter(attenuation, 0.35 / pixel)
    attenuation += rng.uniform(0.1, 0.25) * gaussian_filter(attenuation, 15 / pixel)  # scatter
    direction = rng.uniform(0, 2 * np.pi)
    heel = rng.uniform(0, 0.25) * (np.cos(direction) * picture[0] + np.sin(direction) * picture[1])
    attenuation = attenuation * (1 + heel / fov.max())
    low, high = np.quantile(attenuation, [0.01, 0.999])
    low, high = low - rng.uniform(0, 0.1) * (high - low), high + rng.uniform(-0.05, 0.15) * (high - low)
    display = np.clip((attenuation - low) / (high - low), 0, 1) ** rng.uniform(0.75, 1.3)
    display += noise_rng.normal(0, rng.uniform(0.004, 0.012), display.shape)
    display = _add_marker(rng, display, picture, fov, left)
    beam = _draw_collimation(rng, picture, fov)
    return 4095 * np.clip(display * (0.04 + 0.96 * beam), 0, 1), beam


def _draw_soft_tissue(rng: Generator, points: Array) -> Array:
    """Attenuation of fat and muscle: tubes in the leg's outline, bellies of single muscles, joint fat."""
    x, y = points
    girth, fat = rng.normal(1, 0.06), rng.uniform(5, 14)
    x = x + rng.normal(0, 3)
    sides = [
        PchipInterpolator(_LEG_HEIGHTS, widths * rng.normal(girth, 0.03, len(widths)))(np.clip(y, -220, 220))
        for widths in np.array([_LEG_LATERAL, _LEG_MEDIAL])
    ]
    width = np.where(x < 0, sides[0], sides[1])
    girths = (sides[0] + sides[1]) / 2
    tissue = np.zeros_like(x)
    for half_width, attenuation in ((width, 0.0104), (width - fat, 0.0044)):  # skin and fat, muscle
        tissue = tissue + attenuation * girths * np.sqrt(np.clip(1 - (x / half_width) ** 2, 0, None))
    bellies = [(-30, -95, 20, 55), (34, -75, 16, 40), (10, -110, 16, 50), (24, 75, 22, 50), (-22, 85, 17, 55)]
    for bx, by, rx, ry in bellies + [(0, 5, 14, 9)]:
        from_x, from_y = x - bx - rng.normal(0, 3), y - by - rng.normal(0, 6)
        inside = np.clip(1 - (from_x / rx) ** 2 - (from_y / ry) ** 2, 0, None)
        strength = -0.03 if ry == 9 else rng.uniform(0.02, 0.09)  # the last one is the fat of the joint
        tissue = tissue + strength * np.sqrt(inside)
    return tissue


def _draw_patella(rng: Generator, points: Array, texture: Array) -> Array:
    """The patella in front of the femur, in mm of compact bone."""
    cx, cy = rng.normal(0, 3), rng.normal(-30, 5)
    rx, ry = rng.normal(21, 1.5), rng.normal(22, 1.5)
    x, y = (points[0] - cx) / rx, (points[1] - cy) / ry
    radius = np.sqrt(x**2 + y**2 * np.where(y > 0, 1 + 0.25 * y, 1))  # pointed below
    depth = (1 - radius) * (rx + ry) / 2
    inner = _chord(depth - 1.2, 9)
    return 0.8 * (_chord(depth, 10) - inner + 0.35 * inner * texture)


def _add_marker(rng: Generator, display: Array, picture: Array, fov: Array, left: bool) -> Array:
    """Sometimes a lead letter in an upper or lower corner of the fibula's side, tilted as hands leave it."""
    present, height = rng.random() < 0.6, rng.uniform(10, 15)
    corner = fov * np.array([rng.uniform(-0.44, -0.38), rng.choice([-1, 1]) * rng.uniform(0.33, 0.4)])
    tilt = rng.normal(0, 0.15)
    if not present:
        return display
    letter = TextPath((0, -height / 2), "L" if left else "R", size=1.4 * height)
    if left:  # on the right of the picture, and still to be read
        corner[0] = -corner[0] - letter.get_extents().width
    cos, sin = np.cos(tilt), np.sin(tilt)
    u, v = np.einsum("ij,jxy->ixy", np.array([[cos, sin], [sin, -cos]]), picture - corner[:, None, None])
    inside = letter.contains_points(np.c_[u.ravel(), v.ravel()])
    return np.where(inside.reshape(u.shape), rng.uniform(0.9, 1.05), display)


def _draw_collimation(rng: Generator, picture: Array, fov: Array) -> Array:
    """The beam, 0 to 1: sometimes with borders, slightly rotated and soft, that it does not reach."""
    present, angle = rng.random() < 0.5, rng.normal(0, 0.03)
    margins = fov.repeat(2) * rng.uniform((0.34, 0.34, 0.44, 0.44), 0.52)
    if not present:
        return np.ones_like(picture[0])
    x = np.cos(angle) * picture[0] - np.sin(angle) * picture[1]
    y = np.sin(angle) * picture[0] + np.cos(angle) * picture[1]
    inside = np.min([x + margins[0], margins[1] - x, y + margins[2], margins[3] - y], axis=0)
    return np.clip(0.5 + inside / 1.5, 0, 1)
