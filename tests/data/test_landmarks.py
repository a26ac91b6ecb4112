from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from crosswarp.data.landmarks import landmark_table, read_landmarks


def test_names_or_rows(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text("label,X, y,z,t\ntip,1.5, -2,3,0\n,4,5,3,0\n")
    points = read_landmarks(path, 3)
    assert list(points) == ["tip", "2"]
    np.testing.assert_array_equal(points["tip"], [1.5, -2, 3])
    assert list(read_landmarks(path, 2)["2"]) == [4, 5]
    path.write_text("x,y\n1,2\n3,4\n")
    assert list(read_landmarks(path, 2)) == ["1", "2"]


def test_every_fault_is_named(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    path.write_text("name,x,y\na,1,2\nb,one,2\na,1,2\nc,nan,1\nd,1\n")
    with pytest.raises(ValueError, match="points.csv") as caught:
        read_landmarks(path, 2)
    assert [line[:8] for line in str(caught.value).splitlines()[1:]] == [f"- row {i}:" for i in (3, 4, 5, 6)]
    with pytest.raises(ValueError, match="expected the columns x, y, z; z missing"):
        read_landmarks(path, 3)


def test_what_spreadsheets_write_is_read(tmp_path: Path) -> None:
    path = tmp_path / "POINTS.CSV"
    path.write_bytes("sep=;\r\nName;X;Y;Z\r\nHüfte;1,5;-2;3\r\n;;;\r\n".encode("utf-16"))
    points = read_landmarks(path, 3)
    assert list(points) == ["Hüfte"]
    np.testing.assert_array_equal(points["Hüfte"], [1.5, -2, 3])
    table, found = landmark_table(path)
    assert found.tolist() == [[1.5, -2, 3]] and table.columns["name"] == "Name"
    path.write_text("x,y,z\n1,2,\n3,4,\n")  # a picture's, from a table that has a third axis
    assert landmark_table(path)[1].tolist() == [[1, 2], [3, 4]]


def test_points_in_space_are_not_taken_for_points_of_a_picture(tmp_path: Path) -> None:
    path = tmp_path / "points.csv"
    for heights in (("", ""), ("57", "57"), ("57", "57.0001"), ("57", ""), ("n/a", "57")):
        path.write_text("x,y,z\n1,2,{}\n3,4,{}\n".format(*heights))
        assert [list(point) for point in read_landmarks(path, 2).values()] == [[1, 2], [3, 4]]
    path.write_text("x,y,z\n-3,2,10\n-3,4,20\n")  # of a sagittal slice, whose x is always the same
    with pytest.raises(ValueError, match="points.csv: z differs from row to row"):
        read_landmarks(path, 2)
    assert len(read_landmarks(path, 3)) == 2
