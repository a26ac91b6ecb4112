"""Broken image files, made by seeded mutation: read as something sound, or refused with the file's name."""

from __future__ import annotations

import gzip
import time
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from crosswarp.data.readers import read_image

from .dicom import write_dicom

CASES = 48  # of each format, of which each third changes bytes, cuts off the end, or writes junk over a part
LONGEST = 600  # characters of a message


def write_nifti(path: Path, array: np.ndarray) -> None:
    nib.Nifti1Image(array, np.diag([1.5, 0.5, 2.0, 1.0])).to_filename(path)


def write_itk(path: Path, array: np.ndarray) -> None:
    itk.imwrite(itk.image_from_array(array), str(path), compression=path.stem.endswith("packed"))


def write_radiograph(path: Path, array: np.ndarray) -> None:
    write_dicom(path, array[:, :, 0].astype(np.uint16))


def write_picture(path: Path, array: np.ndarray) -> None:
    Image.fromarray(array[:, :, 0].astype(np.uint8)).save(path)


FORMATS = {
    "a.nii": write_nifti,
    "a.nii.gz": write_nifti,
    "a.mha": write_itk,
    "packed.mha": write_itk,
    "a.nrrd": write_itk,
    "packed.nrrd": write_itk,
    "a.dcm": write_radiograph,
    "a.png": write_picture,
    "a.tif": write_picture,
}


def broken(content: bytes, kind: int, rng: np.random.Generator) -> bytes:
    """A file that differs: most changes strike the header, where they mean most."""
    found = bytearray(content)
    reach = len(found) if rng.random() < 0.3 else min(len(found), 400)
    if kind == 0:
        for place in rng.integers(reach, size=rng.integers(1, 4)):
            found[place] ^= 1 << int(rng.integers(8))
    elif kind == 1:
        del found[int(rng.integers(len(found))) :]
    else:
        start = int(rng.integers(reach))
        found[start : start + int(rng.integers(1, 9))] = rng.bytes(int(rng.integers(0, 9)))
    return bytes(found)


@pytest.mark.parametrize("name", FORMATS)
def test_broken_files_are_sound_or_refused_by_name(tmp_path, name):
    rng = np.random.default_rng([list(FORMATS).index(name), 20261125])
    path = tmp_path / name
    FORMATS[name](path, rng.integers(0, 200, (9, 7, 5), dtype=np.int16))
    content, (sound, _) = path.read_bytes(), read_image(path)
    refused = 0
    for case in range(CASES):
        path.write_bytes(broken(content, case % 3, rng))
        start = time.monotonic()
        try:
            array, meta = read_image(path)
        except (ValueError, FileNotFoundError) as error:
            refused += 1
            assert name in str(error) and len(str(error)) < LONGEST + len(str(tmp_path)), (case, str(error))
        else:
            assert array.ndim in (2, 3, 4) and np.isrealobj(array), case
            assert np.isfinite(meta["affine"]).all() and abs(np.linalg.det(meta["affine"])) > 0, case
        assert time.monotonic() - start < 60, case  # seconds: ITK loads its classes at their first use
    assert refused >= CASES // 4  # no mutation that changes nothing
    path.write_bytes(content)
    np.testing.assert_array_equal(read_image(path)[0], sound)


def test_a_compressed_file_is_never_read_with_other_voxels(tmp_path):
    rng = np.random.default_rng(7)
    array = rng.integers(0, 200, (9, 7, 5), dtype=np.int16)
    write_nifti(tmp_path / "a.nii.gz", array)
    content = (tmp_path / "a.nii.gz").read_bytes()
    assert len(gzip.decompress(content)) == 352 + array.nbytes
    for place in rng.integers(12, len(content), size=60):
        flipped = bytearray(content)
        flipped[place] ^= 1 << int(rng.integers(8))
        (tmp_path / "a.nii.gz").write_bytes(flipped)
        try:
            found = read_image(tmp_path / "a.nii.gz")[0]
        except ValueError as error:
            assert "a.nii.gz" in str(error)
        else:
            np.testing.assert_array_equal(found, array)
