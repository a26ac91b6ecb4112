"""HDF5 files of the same content are the same files."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest
import SimpleITK as sitk

from crosswarp.spatial.hdf5 import lookup3, remove_times


@pytest.mark.parametrize(
    ("text", "expected"), [(b"", 0xDEADBEEF), (b"Four score and seven years ago", 0x17770551)]
)
def test_the_hash_is_that_of_its_author(text: bytes, expected: int) -> None:
    assert lookup3(text) == expected


@pytest.mark.parametrize("dims", [2, 3])
def test_a_transform_written_later_is_the_same_file_and_the_same_transform(tmp_path: Path, dims: int) -> None:
    field = sitk.GetImageFromArray(np.random.default_rng(0).random((4,) * dims + (dims,)), isVector=True)
    transform = sitk.CompositeTransform([sitk.Euler2DTransform() if dims == 2 else sitk.Euler3DTransform()])
    transform.AddTransform(sitk.DisplacementFieldTransform(field))
    files = [tmp_path / name for name in ("one.h5", "two.h5")]
    for path in files:
        sitk.WriteTransform(transform, str(path))
        time.sleep(1.05)  # HDF5 counts seconds
    assert files[0].read_bytes() != files[1].read_bytes()
    for path in files:
        remove_times(path)
    assert files[0].read_bytes() == files[1].read_bytes()
    point = (1.2, 0.7, 1.9)[:dims]
    assert sitk.ReadTransform(str(files[0])).TransformPoint(point) == transform.TransformPoint(point)


def test_what_is_no_header_stays_as_it_is(tmp_path: Path) -> None:
    path, content = tmp_path / "a", b"OHDR\x02\x20" + bytes(range(60)) + b"OHDR"
    path.write_bytes(content)
    remove_times(path)
    assert path.read_bytes() == content
