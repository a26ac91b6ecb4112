"""Seeded damage to files of landmarks, contours and transforms: right values, or a short error."""

from __future__ import annotations

import json
import struct
import time
from pathlib import Path

import itk
import numpy as np
import pytest

from crosswarp.data.points import READERS
from crosswarp.spatial.itk import read_transforms

POINTS = [[1.5, -2.0, 3.0], [40.25, 5.0, -6.0], [7.0, 8.0, 9.0]]
SEEDS = range(6)
LONGEST = 600  # characters of an error
SLOWEST = 5  # seconds for a file, on a machine that is busy


def csv_file() -> bytes:
    return ("name,x,y,z\n" + "".join(f"p,{x},{y},{z}\n" for x, y, z in POINTS)).encode()


def fcsv_file() -> bytes:
    head = "# Markups fiducial file version = 4.11\n# CoordinateSystem = LPS\n# columns = id,x,y,z,ow\n"
    return (head + "".join(f"1,{x},{y},{z},0\n" for x, y, z in POINTS)).encode()


def markups_file() -> bytes:
    points = [{"label": "p", "position": each, "positionStatus": "defined"} for each in POINTS]
    markup = {"type": "Fiducial", "coordinateSystem": "LPS", "controlPoints": points}
    return json.dumps({"markups": [markup]}).encode()


def vtk_file(binary: bool) -> bytes:
    form = b"BINARY" if binary else b"ASCII"
    body = np.array(POINTS, ">f8").tobytes() if binary else " ".join(map(str, np.ravel(POINTS))).encode()
    head = b"# vtk DataFile Version 3.0\ntitle\n" + form + b"\nDATASET POLYDATA\nPOINTS 3 double\n"
    return head + body + b"\nLINES 1 4\n3 0 1 2\n"


POINT_FILES = {
    ".csv": csv_file(),
    ".fcsv": fcsv_file(),
    ".mrk.json": markups_file(),
    ".ascii.vtk": vtk_file(False),
    ".binary.vtk": vtk_file(True),
}


@pytest.fixture(scope="module")
def transform_files(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """A composite, an affine and a displacement field, in every format."""
    folder = tmp_path_factory.mktemp("transforms")
    field = itk.image_from_array(np.random.default_rng(0).normal(size=(3, 4, 2)), is_vector=True)
    affine = itk.AffineTransform[itk.D, 2].New()
    affine.Translate([1.0, 2.0])
    displacement = itk.DisplacementFieldTransform[itk.D, 2].New()
    displacement.SetDisplacementField(field)
    composite = itk.CompositeTransform[itk.D, 2].New()
    composite.AddTransform(affine)
    composite.AddTransform(displacement)
    for name in ("a.h5", "a.tfm", "a.txt"):
        itk.transformwrite([composite], str(folder / name))
    itk.transformwrite([affine], str(folder / "a.mat"))
    for name in ("a.mha", "a.nrrd", "a.nii"):
        itk.imwrite(field, str(folder / name))
    return {path.suffix: path.read_bytes() for path in folder.iterdir()}


def cut(content: bytes, rng: np.random.Generator) -> bytes:
    return content[: rng.integers(len(content))]


def flipped(content: bytes, rng: np.random.Generator) -> bytes:
    changed = bytearray(content)
    for place in rng.integers(len(content), size=3):
        changed[place] ^= 1 << int(rng.integers(8))
    return bytes(changed)


def overwritten(content: bytes, rng: np.random.Generator) -> bytes:
    start = int(rng.integers(len(content)))
    return content[:start] + rng.bytes(16) + content[start + 16 :]


def numbers_replaced(content: bytes, rng: np.random.Generator) -> bytes:
    """One number of a text becomes something else; of a binary file, eight bytes."""
    word = rng.choice([b"nan", b"inf", b"1e400", b"-99999999999999999999", b"x", b""])
    tokens = content.replace(b",", b" , ").split(b" ")
    places = [place for place, token in enumerate(tokens) if token[:1].isdigit() or token[:1] == b"-"]
    if not places:
        return content[:-8] + struct.pack("<d", np.inf)
    tokens[rng.choice(places)] = word
    return b" ".join(tokens)


DAMAGES = (cut, flipped, overwritten, numbers_replaced)


def outcome(read, path: Path):
    """What is read, or None where it is refused as it should be."""
    started = time.perf_counter()
    try:
        return read()
    except (ValueError, FileNotFoundError) as error:
        message = str(error)
        assert path.name in message and len(message) < LONGEST, message
        assert message.replace("\n", "").isprintable(), message
        return None
    finally:
        assert time.perf_counter() - started < SLOWEST


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("suffix", POINT_FILES)
def test_damaged_points_are_read_right_or_refused(tmp_path, suffix, damage):
    path = tmp_path / f"some points{suffix}"
    read = READERS[path.suffix]
    path.write_bytes(POINT_FILES[suffix])
    np.testing.assert_array_equal(read(path).points, POINTS)
    for seed in SEEDS:
        path.write_bytes(damage(POINT_FILES[suffix], np.random.default_rng(seed)))
        found = outcome(lambda: read(path), path)
        if found is not None:
            assert found.points.ndim == 2 and len(found.points) and np.isfinite(found.points).all()
            again = tmp_path / f"again{path.suffix}"
            again.write_bytes(found.rebuild(found.points, np.ones(len(found.points), bool)))
            np.testing.assert_allclose(read(again).points, found.points, rtol=1e-6, atol=1e-5)


@pytest.mark.parametrize("damage", DAMAGES)
@pytest.mark.parametrize("suffix", [".h5", ".tfm", ".txt", ".mat", ".mha", ".nrrd", ".nii"])
def test_damaged_transforms_are_read_or_refused(tmp_path, transform_files, suffix, damage):
    path = tmp_path / f"some transform{suffix}"
    path.write_bytes(transform_files[suffix])
    assert read_transforms([path]).GetInputSpaceDimension() == 2
    for seed in SEEDS:
        path.write_bytes(damage(transform_files[suffix], np.random.default_rng(seed)))
        found = outcome(lambda: read_transforms([path]), path)
        if found is not None:
            assert np.isfinite(found.TransformPoint([0.5] * found.GetInputSpaceDimension())).all()


CONTENTS = [
    b"",
    b"\0" * 100,
    b"\xff\xfe",
    b"PK\x03\x04" + bytes(60),
    b"{" * 100_000,
    b"[" * 100_000,
    b"nan\n" * 9,
]
SUFFIXES = [".csv", ".tsv", ".fcsv", ".mrk.json", ".vtk", ".h5", ".tfm", ".txt", ".mat", ".nii.gz", ".mha"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_nothing_of_the_kind_is_refused(tmp_path, suffix):
    path = tmp_path / f"nothing{suffix}"
    reader = READERS.get(path.suffix)
    read = (lambda: reader(path)) if reader else (lambda: read_transforms([path]))
    for content in CONTENTS:
        path.write_bytes(content)
        assert outcome(read, path) is None
    path.unlink()
    assert outcome(read, path) is None
    path.mkdir()
    assert outcome(read, path) is None
