"""Positions in files of points, and what stands beside them."""

from __future__ import annotations

import json

import numpy as np
import pytest

from crosswarp.data.points import read_csv, read_fcsv, read_markups, read_vtk

SHIFT = np.array([10.0, 20, 30])


def moved(read, path):
    """The points of a file, and the file with all of them shifted."""
    found = read(path)
    result = path.with_name(f"moved{path.suffix}")
    result.write_bytes(
        found.rebuild(found.points + SHIFT[: found.points.shape[1]], np.ones(len(found.points)))
    )
    return found.points, result


def markup(*positions, **fields):
    points = [{"label": "p", "position": list(each)} for each in positions]
    return {"type": "Fiducial", "controlPoints": points, **fields}


@pytest.mark.parametrize(
    ("stated", "expected"),
    [({}, [1, 2, 3]), ({"coordinateSystem": "LPS"}, [1, 2, 3]), ({"coordinateSystem": "RAS"}, [-1, -2, 3])],
)
@pytest.mark.parametrize("kind", ["Fiducial", "Line", "Angle", "Curve", "ClosedCurve"])
def test_markups_are_in_lps_unless_they_say_otherwise(tmp_path, stated, expected, kind):
    path = tmp_path / "a.mrk.json"
    measured = {"measurements": [{"name": "length", "value": 3.0}], "display": {"color": [1, 0, 0]}}
    path.write_text(json.dumps({"markups": [markup([1, 2, 3], **stated, **measured) | {"type": kind}]}))
    points, result = moved(read_markups, path)
    assert points.tolist() == [expected]
    (found,) = json.loads(result.read_text())["markups"]
    assert read_markups(result).points.tolist() == [(np.array(expected) + SHIFT).tolist()]
    assert found.pop("display") == {"color": [1, 0, 0]} and found["type"] == kind
    assert "measurements" not in found, "they are those of before"


def test_points_that_were_not_placed_stay_where_they_are(tmp_path):
    path = tmp_path / "a.mrk.json"
    content = markup([0, 0, 0], [1, 2, 3], [0, 0, 0], [0, 0, 0])
    for point, status in zip(
        content["controlPoints"], ("undefined", "defined", "preview", "missing"), strict=True
    ):
        point["positionStatus"] = status
    path.write_text(json.dumps({"markups": [content]}))
    points, result = moved(read_markups, path)
    assert points.tolist() == [[1, 2, 3]]
    found = json.loads(result.read_text())["markups"][0]["controlPoints"]
    assert [point["position"] for point in found] == [[0, 0, 0], [11, 22, 33], [0, 0, 0], [0, 0, 0]]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"markups": [markup(), {"type": "ROI", "center": [1, 2, 3]}]},
            "a markup of type ROI; only Fiducial, L",
        ),
        ({"markups": [markup([1, 2, 3]) | {"type": "Plane"}]}, "a markup of type Plane"),
        ({"markups": [markup([1, 2, 3], coordinateSystem="IJK")]}, "LPS or RAS, got IJK"),
        ({"markups": [markup([1, 2, 3], coordinateUnits="m")]}, "coordinates in mm, got m"),
        ({"markups": [markup([1, 2, 3], [1, 2], [1, "x", 3], [1, 2, float("nan")])]}, "coordinates: 2, 3, 4"),
        ({"markups": [markup()]}, "no control points with a position that was placed"),
        ({"markups": {}}, "an object with a list `markups`"),
        ([], "an object with a list `markups`"),
    ],
)
def test_markups_that_cannot_be_moved_whole_are_refused(tmp_path, content, message):
    path = tmp_path / "a.mrk.json"
    path.write_text(json.dumps(content))
    with pytest.raises(ValueError, match=f"a.mrk.json: .*{message}"):
        read_markups(path)


FCSV = """# Markups fiducial file version = 4.11
# CoordinateSystem = {}
# columns = id,x,y,z,ow,ox,oy,oz,vis,sel,lock,label,desc,associatedNodeID
1,1.5,2,3,0,0,0,1,1,1,0,"a, b",,,2,0
2,0,0,0,0,0,0,1,1,1,0,unplaced,,,0,0
"""


@pytest.mark.parametrize(
    ("system", "expected"),
    [("LPS", [1.5, 2, 3]), ("1", [1.5, 2, 3]), ("RAS", [-1.5, -2, 3]), ("0", [-1.5, -2, 3])],
)
def test_the_header_of_old_fiducials_says_their_axes(tmp_path, system, expected):
    path = tmp_path / "a.fcsv"
    path.write_text(FCSV.format(system))
    points, result = moved(read_fcsv, path)
    assert points.tolist() == [expected]
    assert read_fcsv(result).points.tolist() == [(np.array(expected) + SHIFT).tolist()]
    lines = result.read_text().splitlines()
    assert lines[:3] == path.read_text().splitlines()[:3] and '"a, b"' in lines[3]
    assert lines[4] == "2,0,0,0,0,0,0,1,1,1,0,unplaced,,,0,0"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FCSV.format("IJK"), "LPS or RAS, got IJK"),
        (FCSV.format("LPS").replace("CoordinateSystem", "nothing"), "LPS or RAS, got none"),
        (FCSV.format("LPS").replace("columns", "rows"), "expected a line `# columns"),
        (FCSV.format("LPS").replace("1.5", "inf"), "lines without three finite coordinates: 4"),
        ("\n".join(FCSV.format("LPS").splitlines()[:3]), "has no lines with a position"),
    ],
)
def test_fiducials_without_what_is_needed_are_refused(tmp_path, text, message):
    (tmp_path / "a.fcsv").write_text(text)
    with pytest.raises(ValueError, match=f"a.fcsv: .*{message}"):
        read_fcsv(tmp_path / "a.fcsv")


def test_a_table_keeps_its_other_columns(tmp_path):
    path = tmp_path / "a.CSV"
    path.write_bytes('Remark;X;Y;Inside\n"à la ""x;y""";1,5;2;0\n'.encode("cp1252"))
    points, result = moved(read_csv, path)
    assert points.tolist() == [[1.5, 2]]
    assert result.read_text().splitlines() == ["Remark,X,Y,Inside", '"à la ""x;y""",11.5,22.0,1']


@pytest.mark.parametrize("binary", [False, True])
@pytest.mark.parametrize(
    ("title", "signs"), [("3D Slicer. SPACE=RAS", [-1, -1, 1]), ("SPACE=LPS", [1, 1, 1])]
)
def test_contours_state_their_axes(tmp_path, binary, title, signs):
    path = tmp_path / "a.vtk"
    form, body = ("BINARY", np.array([1, 2, 3], ">f4").tobytes()) if binary else ("ASCII", b"1 2 3")
    head = f"# vtk DataFile Version 5.1\n{title}\n{form}\nDATASET POLYDATA\nPOINTS 1 float\n"
    path.write_bytes(head.encode() + body + b"\nMETADATA\n")
    points, result = moved(read_vtk, path)
    assert points.tolist() == [(np.array([1, 2, 3]) * signs).tolist()]
    assert read_vtk(result).points.tolist() == [(points[0] + SHIFT).tolist()]
    assert result.read_bytes().endswith(b"\nMETADATA\n")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ((b"float", b"int"), "of type float or double, ASCII or BINARY, got int, BINARY"),
        ((b"BINARY", b"XML"), "got float, XML"),
        ((b"title", b"SPACE=RPI"), "LPS or RAS, got RPI"),
        ((b"POINTS 1", b"POINTS 2"), "expected 2 points, more than none, got 1"),
        ((b"POINTS 1", b"POINTS 0"), "expected 0 points, more than none"),
        (
            (np.array(3, ">f4").tobytes(), np.array(np.nan, ">f4").tobytes()),
            "coordinates: 1",
        ),
    ],
)
def test_contours_that_are_none_are_refused(tmp_path, change, message):
    head = b"# vtk DataFile Version 3.0\ntitle\nBINARY\nDATASET POLYDATA\nPOINTS 1 float\n"
    content = head + np.array([1, 2, 3], ">f4").tobytes()
    (tmp_path / "a.vtk").write_bytes(content.replace(*change))
    with pytest.raises(ValueError, match=f"a.vtk: .*{message}"):
        read_vtk(tmp_path / "a.vtk")
