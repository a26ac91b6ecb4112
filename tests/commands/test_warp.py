"""`warp` against SimpleITK and ANTs: images, labels and points, 2D and 3D, oblique and anisotropic."""

from __future__ import annotations

import csv
import json
import struct

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
import torch.nn.functional as F

from crosswarp.commands.warp import warp
from crosswarp.spatial import identity_map
from crosswarp.spatial.grid import Grid
from crosswarp.spatial.physical import itk_transforms, total_displacement_field
from tests.spatial.places import oblique

sitk = pytest.importorskip("SimpleITK")
ants = pytest.importorskip("ants")


class Files:
    """A moving and a fixed image, a label, and the transform between them as files."""

    def __init__(self, folder, dims):
        self.folder, self.dims = folder, dims
        self.shape = ((26, 31), (30, 24, 18))[dims - 2]
        self.moving_shape = tuple(size - 4 for size in self.shape)
        self.fixed_affine = oblique((0.7, 1.3, 2.5)[:dims], 0)
        self.moving_affine = oblique((1.1, 0.6, 3.0)[:dims], 1)
        rng = np.random.default_rng(dims)
        self.array = rng.normal(100, 30, self.moving_shape).astype(np.int16)
        self.label = rng.integers(0, 4, self.moving_shape).astype(np.uint8)
        self.save("a", self.array, self.moving_affine)
        self.save("a_label", self.label, self.moving_affine)
        self.save("b", np.zeros(self.shape, np.uint8), self.fixed_affine)
        coarse = 0.02 * torch.randn(1, dims, *[5] * dims, generator=torch.Generator().manual_seed(0))
        mode = "bilinear" if dims == 2 else "trilinear"
        grid = tuple(size // 2 + 2 for size in self.shape)
        phi = identity_map(grid) + F.interpolate(coarse, size=grid, mode=mode, align_corners=True)
        fixed = Grid.from_ras(self.fixed_affine, self.shape)
        self.moving = Grid.from_ras(self.moving_affine, self.moving_shape)
        self.forward, self.inverse = itk_transforms(phi, fixed, self.moving)
        for name, transform in (("transform", self.forward), ("inverse", self.inverse)):
            itk.transformwrite([transform], self[f"{name}.h5"])
        itk.transformwrite([self.forward], self["transform.tfm"])
        field = total_displacement_field(self.forward, fixed)
        for suffix in (".nii.gz", ".mha"):
            itk.imwrite(field, self[f"field{suffix}"])

    def __getitem__(self, name):
        return str(self.folder / name)

    def save(self, name, array, affine):
        whole = np.eye(4)
        dims = len(affine) - 1
        whole[:dims, :dims], whole[:dims, 3] = affine[:-1, :-1], affine[:-1, -1]
        nib.save(nib.Nifti1Image(array, whole), self[f"{name}.nii.gz"])

    def points(self, count=40, low=0.2):
        """Places in the moving image, in mm and LPS."""
        fractions = np.random.default_rng(5).uniform(low, 1 - low, (count, self.dims))
        return self.moving.fractions_to_mm(fractions)


@pytest.fixture(params=[2, 3], scope="module")
def files(request, tmp_path_factory):
    return Files(tmp_path_factory.mktemp(f"warp{request.param}"), request.param)


def transformed(transform, points):
    return np.array([tuple(transform.TransformPoint(point.tolist())) for point in points])


def read(path):
    return sitk.ReadImage(path)


@pytest.mark.parametrize("transform", ["transform.h5", "transform.tfm", "field.nii.gz", "field.mha"])
@pytest.mark.parametrize(("image", "label"), [("a", False), ("a_label", True)])
def test_images_and_labels_are_what_simpleitk_makes_of_them(files, transform, image, label, capsys):
    warp(files[f"{image}.nii.gz"], files[transform], files["out.nii.gz"], files["b.nii.gz"], label=label)
    found, fixed = read(files["out.nii.gz"]), read(files["b.nii.gz"])
    interpolation = sitk.sitkNearestNeighbor if label else sitk.sitkLinear
    wanted = sitk.Resample(
        read(files[f"{image}.nii.gz"]), fixed, sitk.ReadTransform(files["transform.h5"]), interpolation
    )
    assert found.GetPixelID() == wanted.GetPixelID() and found.GetSize() == wanted.GetSize()
    for geometry in ("GetOrigin", "GetSpacing", "GetDirection"):
        np.testing.assert_allclose(getattr(found, geometry)(), getattr(fixed, geometry)(), atol=1e-4)
    ours, theirs = (sitk.GetArrayFromImage(each).astype(float) for each in (found, wanted))
    assert np.ptp(theirs) > 2
    # rounded to integers, and at half way between two voxels either is nearest
    assert (np.abs(ours - theirs) <= (0 if label else 1)).mean() > (0.99 if label else 0.999)
    assert "Wrote" in capsys.readouterr().out


@pytest.mark.parametrize("spacing", [0.9, "each"])
def test_any_resolution_has_the_same_extent(files, spacing):
    sizes = [0.4, 0.9, 1.1][: files.dims] if spacing == "each" else spacing
    warp(files["a.nii.gz"], files["transform.h5"], files["out.mha"], files["b.nii.gz"], spacing=sizes)
    found, fixed = read(files["out.mha"]), read(files["b.nii.gz"])
    np.testing.assert_allclose(found.GetSpacing(), np.broadcast_to(sizes, files.dims), atol=1e-6)
    centres = [
        image.TransformContinuousIndexToPhysicalPoint([(size - 1) / 2 for size in image.GetSize()])
        for image in (found, fixed)
    ]
    np.testing.assert_allclose(*centres, atol=1e-4)
    extents = [np.array(image.GetSize()) * image.GetSpacing() for image in (found, fixed)]
    assert (np.abs(extents[0] - extents[1]) <= np.array(found.GetSpacing()) / 2 + 1e-6).all()
    transform = sitk.ReadTransform(files["transform.h5"])
    wanted = sitk.GetArrayFromImage(sitk.Resample(read(files["a.nii.gz"]), found, transform))
    assert (np.abs(sitk.GetArrayFromImage(found).astype(int) - wanted) <= 1).mean() > 0.999


def test_composed_transforms_follow_the_order_of_ants(files):
    turn = itk.AffineTransform[itk.D, files.dims].New()
    turn.Rotate2D(0.1) if files.dims == 2 else turn.Rotate(0, 1, 0.1)
    turn.Translate([3.0] * files.dims)
    itk.transformwrite([turn], files["turn.tfm"])
    chain = [files["turn.tfm"], files["transform.h5"]]
    warp(files["a.nii.gz"], ",".join(chain), files["out.nii.gz"], files["b.nii.gz"])
    wanted = ants.apply_transforms(
        ants.image_read(files["b.nii.gz"]), ants.image_read(files["a.nii.gz"]), chain
    ).numpy()
    found = nib.load(files["out.nii.gz"]).get_fdata().reshape(wanted.shape)
    assert np.ptp(wanted) > 50 and (np.abs(found - wanted) <= 1).mean() > 0.99
    warp(files["a.nii.gz"], chain[::-1], files["other.nii.gz"], files["b.nii.gz"])
    assert np.abs(nib.load(files["other.nii.gz"]).get_fdata().ravel() - found.ravel()).max() > 20


def write_landmarks(path, points):
    names = "xyz"[: points.shape[1]]
    with open(path, "w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["name", *names.upper(), "remark"])
        writer.writerows([f"p{i}", *point, "a, b"] for i, point in enumerate(points.tolist()))


@pytest.mark.parametrize("transform", ["transform.h5", "field.nii.gz"])
def test_landmarks_go_where_the_image_goes_with_the_same_transform(files, transform, capsys):
    points = files.points()
    write_landmarks(files["a.csv"], points)
    warp(files["a.csv"], files[transform], files["a_in_b.csv"])
    with open(files["a_in_b.csv"], newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["name", *"XYZ"[: files.dims], "remark", "inside"]
    assert [row["remark"] for row in rows] == ["a, b"] * 40 and {row["inside"] for row in rows} == {"1"}
    moved = np.array([[float(row[axis]) for axis in "XYZ"[: files.dims]] for row in rows])
    # SimpleITK, with the file that was given, brings them back
    if transform == "transform.h5":
        back = transformed(sitk.ReadTransform(files[transform]), moved)
    else:
        image = sitk.ReadImage(files[transform], sitk.sitkVectorFloat64)
        back = transformed(sitk.DisplacementFieldTransform(image), moved)
    np.testing.assert_allclose(back, points, atol=1e-3)
    inverse = transformed(sitk.ReadTransform(files["inverse.h5"]), points)
    assert np.linalg.norm(moved - inverse, axis=1).mean() < 0.1
    assert np.linalg.norm(moved - points, axis=1).max() > 1, "they have moved"
    assert "40 points" in capsys.readouterr().out


def test_landmarks_outside_are_flagged(files, capsys):
    points = files.points(3)
    points[1] += 500
    write_landmarks(files["a.csv"], points)
    for fixed in (None, files["b.nii.gz"]):
        warp(files["a.csv"], files["transform.h5"], files["far.csv"], fixed)
        with open(files["far.csv"], newline="") as file:
            assert [row["inside"] for row in csv.DictReader(file)] == ["1", "0", "1"]
        assert "1 of them lie outside of what was registered" in capsys.readouterr().out


@pytest.mark.parametrize(("binary", "kind"), [(False, "float"), (True, "float"), (True, "double")])
def test_contours_keep_their_lines(files, binary, kind):
    points = np.zeros((5, 3))
    points[:, : files.dims] = files.points(5)
    body = (
        points.astype({"float": ">f4", "double": ">f8"}[kind]).tobytes()
        if binary
        else "\n".join(" ".join(map(str, point)) for point in points.tolist()).encode()
    )
    form = b"BINARY" if binary else b"ASCII"
    head = b"# vtk DataFile Version 3.0\noutline\n" + form + f"\nDATASET POLYDATA\nPOINTS 5 {kind}\n".encode()
    tail = b"\nLINES 1 7\n6 0 1 2 3 4 0\nPOINT_DATA 5\n"
    (files.folder / "a.vtk").write_bytes(head + body + tail)
    warp(files["a.vtk"], files["transform.h5"], files["a_in_b.vtk"])
    content = (files.folder / "a_in_b.vtk").read_bytes()
    assert content.startswith(head) and content.endswith(tail)
    body = content[len(head) : -len(tail)]
    moved = (
        np.frombuffer(body, {"float": ">f4", "double": ">f8"}[kind])
        if binary
        else np.array(body.split(), float)
    )
    moved = moved.reshape(5, 3)
    back = transformed(sitk.ReadTransform(files["transform.h5"]), moved[:, : files.dims].astype(float))
    np.testing.assert_allclose(back, points[:, : files.dims], atol=1e-3)
    assert not moved[:, files.dims :].any()


def test_the_markups_of_slicer_keep_their_axes(files):
    points = np.zeros((4, 3))
    points[:, : files.dims] = files.points(4)
    content = {
        "markups": [
            {
                "coordinateSystem": system,
                "controlPoints": [
                    {"label": f"{i}", "position": (p * signs).tolist()} for i, p in enumerate(points)
                ],
            }
            for system, signs in (("LPS", [1, 1, 1]), ("RAS", [-1, -1, 1]))
        ]
    }
    content["markups"][0]["controlPoints"].append({"label": "not placed"})
    (files.folder / "a.mrk.json").write_text(json.dumps(content))
    warp(files["a.mrk.json"], files["transform.h5"], files["b.mrk.json"])
    first, second = json.loads((files.folder / "b.mrk.json").read_text())["markups"]
    assert first["controlPoints"].pop() == {"label": "not placed"}
    lps, ras = (np.array([point["position"] for point in each["controlPoints"]]) for each in (first, second))
    np.testing.assert_allclose(lps, ras * [-1, -1, 1], atol=1e-9)
    back = transformed(sitk.ReadTransform(files["transform.h5"]), lps[:, : files.dims])
    np.testing.assert_allclose(back, points[:, : files.dims], atol=1e-3)


def test_pictures_and_channels(tmp_path):
    colours = np.random.default_rng(0).integers(0, 256, (12, 10, 3)).astype(np.uint8)
    itk.imwrite(itk.image_from_array(colours, is_vector=True), str(tmp_path / "a.png"))
    itk.transformwrite([itk.TranslationTransform[itk.D, 2].New(Offset=[1.0, 2.0])], str(tmp_path / "t.tfm"))
    paths = [str(tmp_path / name) for name in ("a.png", "t.tfm", "out.png", "a.png")]
    warp(*paths, moving_spacing=0.5, fixed_spacing=0.5)
    found = itk.array_from_image(itk.imread(paths[2]))
    np.testing.assert_array_equal(found[:-4, :-2], colours[4:, 2:])
    assert not found[-4:].any() and not found[:, -2:].any()


@pytest.mark.parametrize(
    ("change", "error", "message"),
    [
        (
            {"moving": "no.nii.gz", "fixed": "none.mha"},
            FileNotFoundError,
            "not there: .*no.nii.gz, .*none.mha",
        ),
        ({"transform": ["no.h5", "nor.h5"]}, FileNotFoundError, "no.h5, .*nor.h5"),
        (
            {"transform": "a.nii.gz"},
            ValueError,
            "a.nii.gz is no displacement field: expected {dims} comp.*got 1",
        ),
        ({"transform": "bad.h5"}, ValueError, "bad.h5 holds no transform that ITK can read"),
        ({"transform": ["transform.h5", "other.tfm"]}, ValueError, "different dimensions cannot be composed"),
        (
            {"transform": ["bad.h5", "transform.h5", "other.tfm"]},
            ValueError,
            "different dimensions.*: [^ ]*transform.h5 {dims}D, [^ ]*other.tfm .D",
        ),
        ({"transform": "other.tfm"}, ValueError, "Expected a transform of {dims} dimensions for .*b.nii.gz"),
        ({"moving": "bad.nii.gz"}, ValueError, "bad.nii.gz: unreadable as an image"),
        ({"transform": "flat.tfm"}, ValueError, "flat.tfm holds an affine that flattens space"),
        ({"transform": "nan.mha"}, ValueError, "nan.mha holds NaN"),
        ({"transform": "grid.tfm"}, ValueError, "grid.tfm holds no transform .*its grid ends early"),
        ({"transform": "huge.mat"}, ValueError, "huge.mat holds no transform .*its matrices end early"),
        ({"transform": "b.png"}, ValueError, "b.png is no transform: expected .h5, "),
        ({"fixed": None}, ValueError, "Expected --fixed, the image whose grid"),
        ({"out": "out.jpg"}, ValueError, "Expected a file name with one of .*nii.gz.* got .*out.jpg"),
        ({"out": "out.png"}, ValueError, "A PNG cannot hold the values of .*int16"),
        ({"spacing": [1, 2, 3, 4]}, ValueError, "Expected a spacing in mm, positive, one number or {dims}"),
        ({"moving": "flat.csv"}, ValueError, "expected the columns x, y; x, y missing, found a, b"),
        ({"moving": "empty.csv"}, ValueError, r"empty.csv: correct this table:\n- has a header and no rows"),
        (
            {"moving": "words.csv"},
            ValueError,
            r"words.csv: correct these rows:\n- row 3: expected 3 numbers, .*\n- row 4: ",
        ),
        (
            {"moving": "other.csv", "fixed": None},
            ValueError,
            "Expected a transform of . dimensions for .*other.csv",
        ),
        ({"moving": "short.vtk"}, ValueError, "short.vtk: expected 3 points, more than none, got 1"),
        ({"moving": "bad.vtk"}, ValueError, "bad.vtk: expected a legacy VTK file with POINTS"),
        ({"moving": "empty.mrk.json"}, ValueError, "has no control points with a position"),
        (
            {"moving": "mesh.stl"},
            ValueError,
            "mesh.stl: is no image .* no file of points by its suffix .*.fcsv",
        ),
        ({"moving": "table.csv.gz"}, ValueError, "table.csv.gz: is no image"),
        ({"moving": "short.vtk", "out": "out.csv"}, ValueError, "Expected .*out.csv to have the suffix of"),
        ({"out": "a.nii.gz"}, ValueError, "Expected another file to write than .*a.nii.gz, which is read"),
        ({"out": "transform.h5"}, ValueError, "Expected another file to write than .*transform.h5"),
        ({"out": "."}, ValueError, "Expected the name of a file to write, got the folder"),
        (
            {"out": "b.nii.gz/out.nii.gz"},
            ValueError,
            "Expected a folder that can be written to for .*out.nii",
        ),
        (
            {"moving": "bad.nii.gz", "transform": "bad.h5", "out": "out.jpg", "fixed": None},
            ValueError,
            r"(?s)Nothing was computed:.*bad.h5 holds no.*bad.nii.gz: unreadable.*\n- Expected --fixed",
        ),
    ],
)
def test_faults_are_said(files, change, error, message):
    folder, dims = files.folder, files.dims
    for name, text in {
        "bad.h5": "nothing",
        "bad.nii.gz": "nothing",
        "bad.vtk": "nothing",
        "mesh.stl": "solid",
        "table.csv.gz": "nothing",
        "short.vtk": "# vtk DataFile Version 3.0\nt\nASCII\nDATASET POLYDATA\nPOINTS 3 float\n0 0 0\n",
        "empty.mrk.json": '{"markups": []}',
        "flat.csv": "a,b\n1,2\n",
        "empty.csv": "x,y\n",
        "words.csv": "x,y,z\n0,0,0\n0,here,0\n0,0,\n",
        "other.csv": "x,y,z\n0,0,0\n0,0,1\n" if dims == 2 else "x,y\n0,0\n",
    }.items():
        (folder / name).write_text(text)
    other = itk.AffineTransform[itk.D, 5 - dims].New()
    itk.transformwrite([other], files["other.tfm"])
    affine = "#Insight Transform File V1.0\nTransform: AffineTransform_double_{0}_{0}\nParameters: {1}\n"
    text = affine.format(dims, "0 " * (dims * dims + dims))
    (folder / "flat.tfm").write_text(f"{text}FixedParameters: {'0 ' * dims}\n")
    nan = np.full((*[3] * dims, dims), np.nan)
    itk.imwrite(itk.image_from_array(nan, is_vector=True), files["nan.mha"])
    field = affine.replace("Affine", "DisplacementField").format(dims, "0 0")
    (folder / "grid.tfm").write_text(f"{field}FixedParameters: {'90000 ' * dims} {'0 ' * dims}\n")
    (folder / "huge.mat").write_bytes(struct.pack("<5i", 0, 10**9, 10**9, 0, 5) + b"name\0")
    (folder / "b.png").touch()
    arguments = {"moving": "a.nii.gz", "transform": "transform.h5", "out": "out.nii.gz", "fixed": "b.nii.gz"}
    arguments |= change
    for key in ("moving", "transform", "out", "fixed"):
        value = arguments[key]
        if value is not None:
            arguments[key] = files[value] if isinstance(value, str) else [files[each] for each in value]
    with pytest.raises(error, match=message.format(dims=dims)):
        warp(**arguments)
