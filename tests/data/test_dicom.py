"""DICOM read with its values and its place, and refused where there is no telling them."""

from __future__ import annotations

import numpy as np
import pydicom
import pytest
from monai.transforms import LoadImage

from crosswarp.data.readers import AnyFormatReader, UnfitFileError, read_image

from .dicom import write_dicom, write_series

RNG = np.random.default_rng(0)
STORED = RNG.integers(0, 4096, (6, 9))
VOLUME = RNG.integers(0, 4096, (9, 6, 5))
SPACING = (0.5, 0.7, 2.0)
TURN = np.linalg.qr(RNG.normal(size=(3, 3)))[0]
TURN[:, 2] = np.cross(TURN[:, 0], TURN[:, 1])  # slices are stacked along the normal
MATRIX = np.block([[TURN @ np.diag(SPACING), np.array([[10.0], [-20], [30]])], [np.array([[0, 0, 0, 1]])]])


def load(path, **arguments):
    reader = AnyFormatReader(**arguments)
    return LoadImage(reader=reader, ensure_channel_first=True, image_only=True)(path)


@pytest.mark.parametrize("bits", [8, 12, 16])
def test_monochrome1_is_turned_round_within_the_bits_that_are_stored(tmp_path, bits):
    stored = STORED % 2**bits
    plain = load(write_dicom(tmp_path / "a.dcm", stored, bits=bits))
    inverted = load(
        write_dicom(tmp_path / "b.dcm", stored, bits=bits, PhotometricInterpretation="MONOCHROME1")
    )
    np.testing.assert_array_equal(plain[0], stored.T)
    np.testing.assert_array_equal(inverted[0], 2**bits - 1 - stored.T)


def test_values_are_rescaled(tmp_path):
    image = load(write_dicom(tmp_path / "a.dcm", STORED, RescaleSlope="0.5", RescaleIntercept="-1000"))
    np.testing.assert_allclose(image[0], STORED.T * 0.5 - 1000)
    np.testing.assert_allclose(image.meta["spacing"], SPACING[:2])


@pytest.mark.parametrize("kind", ["1.2.840.10008.5.1.4.1.1.1.1", "1.2.840.10008.5.1.4.1.1.7"])
@pytest.mark.parametrize("tag", ["PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing"])
def test_whichever_tag_states_the_spacing_of_a_radiograph_is_heeded(tmp_path, tag, kind):
    path = write_dicom(tmp_path / "a.dcm", STORED, None, kind=kind, **{tag: [0.3, 0.2]})
    np.testing.assert_allclose(load(path).affine, np.diag([-0.2, -0.3, 1]))


def test_a_calibrated_spacing_comes_before_that_of_the_detector(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", STORED, (0.2, 0.3), ImagerPixelSpacing=[0.5, 0.5])
    np.testing.assert_allclose(load(path).meta["spacing"], [0.2, 0.3])


@pytest.mark.parametrize("spacing", [(1, 1), None])
def test_spacing_is_known_where_the_header_states_it_even_as_one(tmp_path, spacing):
    path = write_dicom(tmp_path / "a.dcm", STORED, spacing)
    assert load(path).meta["spacing_known"] is (spacing is not None)


def test_a_series_has_the_place_that_its_slices_say(tmp_path):
    image = load(write_series(tmp_path / "series", VOLUME, SPACING, MATRIX))
    np.testing.assert_array_equal(image[0], VOLUME)
    np.testing.assert_allclose(image.affine, np.diag([-1, -1, 1, 1]) @ MATRIX, atol=1e-4)
    assert image.meta["spacing_known"]


def test_a_folder_of_one_radiograph_is_a_picture(tmp_path):
    write_dicom(tmp_path / "study" / "a.dcm", STORED)
    (tmp_path / "study" / "notes.txt").write_text("no image")
    np.testing.assert_array_equal(load(tmp_path / "study")[0], STORED.T)


def spoil(folder, **change):
    """Change tags of the slice in the middle of a series."""
    path = sorted(folder.iterdir(), key=lambda path: float(pydicom.dcmread(path).ImagePositionPatient[2]))[2]
    dataset = pydicom.dcmread(path)
    for name, value in change.items():
        setattr(dataset, name, value)
    dataset.save_as(path)
    return path


@pytest.mark.parametrize(
    ("fault", "message"),
    [
        ("gap", r"its 4 DICOM slices have a gap of 4 mm where the step is 2 mm; bring the whole series"),
        ("orientation", "have mixed orientations"),
        ("place", "several images at one place"),
        ("tilt", "a shift in plane, as of a tilted gantry"),
        ("sizes", "have mixed sizes and mixed pixel spacings"),
        ("series", r"has 2 DICOM series: .*1.2.3 \(4 files\).*keep one in a folder"),
        ("position", "do not say where they lie"),
        ("spacing", "mixed pixel spacings"),
        ("nothing", "has no DICOM image"),
    ],
)
def test_a_folder_that_is_no_volume_is_refused(tmp_path, fault, message):
    folder = write_series(tmp_path / "series", VOLUME, SPACING, np.diag([*SPACING, 1.0]))
    if fault == "gap":
        spoil(folder).unlink()
    elif fault == "nothing":
        for path in folder.iterdir():
            path.write_text("no image")
    elif fault in ("position", "spacing"):
        dataset = pydicom.dcmread(path := spoil(folder))
        del dataset[{"position": "ImagePositionPatient", "spacing": "PixelSpacing"}[fault]]
        dataset.save_as(path)
    elif fault == "sizes":
        path = spoil(folder)
        position = pydicom.dcmread(path).ImagePositionPatient
        orientation = pydicom.dcmread(path).ImageOrientationPatient
        write_dicom(
            path, STORED[:4], (1, 1), ImagePositionPatient=position, ImageOrientationPatient=orientation
        )
    else:
        change = {
            "orientation": {"ImageOrientationPatient": [0, 1, 0, 0, 0, 1]},
            "place": {"ImagePositionPatient": [0, 0, 2]},
            "tilt": {"ImagePositionPatient": [0, 1, 4]},
            "series": {"SeriesInstanceUID": "1.2.4"},
        }
        spoil(folder, **change[fault])
    with pytest.raises(UnfitFileError, match=message):
        read_image(folder)


@pytest.mark.parametrize(
    ("array", "bits", "message"),
    [
        (RNG.integers(0, 256, (6, 9, 3)), 8, r"a.dcm: is a colour DICOM \(RGB\); convert"),
        (RNG.integers(0, 4096, (4, 6, 9)), 12, "a.dcm: has 4 DICOM frames"),
    ],
)
def test_colour_and_frames_are_refused(tmp_path, array, bits, message):
    with pytest.raises(UnfitFileError, match=message):
        read_image(write_dicom(tmp_path / "a.dcm", array, bits=bits))


def test_a_given_spacing_serves_where_none_is_stated_and_contradicts_none(tmp_path):
    silent = write_dicom(tmp_path / "silent.dcm", STORED, None)
    image = load(silent, spacing=(0.25, 0.5))
    np.testing.assert_allclose(image.affine, np.diag([-0.25, -0.5, 1]))
    np.testing.assert_allclose(image.meta["spacing"], [0.25, 0.5])
    assert image.meta["spacing_known"]
    reader = AnyFormatReader(spacing=0.25)
    stated = write_dicom(tmp_path / "stated.dcm", STORED)
    with pytest.raises(
        UnfitFileError, match=r"its spacing, 0.5 × 0.7 mm, and 0.25 × 0.25 mm was given for it"
    ):
        reader.get_data(reader.read(stated))
    for wrong in (0, -1, [1, 2, 3], float("nan")):
        with pytest.raises(ValueError, match="Expected a spacing in mm, positive, one number or 2"):
            load_raw = AnyFormatReader(spacing=wrong)
            load_raw.get_data(load_raw.read(silent))


def lut(first, entries, bits=16):
    item = pydicom.Dataset()
    item.LUTDescriptor = [len(entries), first, bits]
    item.ModalityLUTType = "US"
    if bits == 8:
        item.add_new("LUTData", "US", [int(entry) for entry in entries])
    else:
        item.add_new("LUTData", "OW", np.asarray(entries).astype("<u2").tobytes())
    return [item]


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("first", [0, 100])
def test_a_modality_lut_gives_the_values(tmp_path, photometric, first):
    entries = (
        4095 - np.arange(4096 - 2 * first)
    ) * 3  # inverting; what lies beyond its ends has the value there
    tags = {"ModalityLUTSequence": lut(first, entries), "PhotometricInterpretation": photometric}
    image = load(write_dicom(tmp_path / "a.dcm", STORED, **tags))
    expected = entries[np.clip(STORED - first, 0, len(entries) - 1)]
    expected = 65535 - expected if photometric == "MONOCHROME1" else expected
    np.testing.assert_array_equal(image[0], expected.T)
    np.testing.assert_allclose(image.meta["spacing"], SPACING[:2])


def test_a_lut_of_bytes(tmp_path):
    entries = RNG.integers(0, 256, 256)
    stored = STORED % 256
    image = load(write_dicom(tmp_path / "a.dcm", stored, bits=8, ModalityLUTSequence=lut(0, entries, 8)))
    np.testing.assert_array_equal(image[0], entries[stored].T)


@pytest.mark.parametrize("photometric", ["MONOCHROME1", "MONOCHROME2"])
@pytest.mark.parametrize("bits", [8, 12, 16])
@pytest.mark.parametrize("extended", [False, True])
def test_signed_values(tmp_path, bits, extended, photometric):
    values = STORED % 2**bits - 2 ** (bits - 1)
    stored = values % 2 ** ((8 if bits == 8 else 16) if extended else bits)
    tags = {"PixelRepresentation": 1, "PhotometricInterpretation": photometric, "RescaleSlope": 2}
    path = write_dicom(tmp_path / "a.dcm", stored, bits=bits, RescaleIntercept=10, **tags)
    expected = -1 - values if photometric == "MONOCHROME1" else values
    np.testing.assert_array_equal(load(path)[0], expected.T * 2 + 10)


def test_values_in_the_upper_bits(tmp_path):
    stored = STORED << 4 | 5  # the lowest are no part of the values
    np.testing.assert_array_equal(load(write_dicom(tmp_path / "a.dcm", stored, HighBit=15))[0], STORED.T)


def test_slices_are_rescaled_each_by_its_own_header(tmp_path):
    folder = write_series(tmp_path / "series", VOLUME, SPACING, MATRIX)
    expected = VOLUME.astype(np.float64)
    for path in folder.iterdir():
        dataset = pydicom.dcmread(path)
        k = int(
            round(np.linalg.norm(np.array(dataset.ImagePositionPatient, float) - MATRIX[:3, 3]) / SPACING[2])
        )
        dataset.RescaleSlope, dataset.RescaleIntercept = str(0.25 * (k + 1)), str(-k)
        dataset.save_as(path)
        expected[..., k] = VOLUME[..., k] * 0.25 * (k + 1) - k
    np.testing.assert_allclose(load(folder)[0], expected)


@pytest.mark.parametrize("silent", [[0, 0], "", [0.0, 0.3], [-1, -1]])
def test_a_spacing_that_is_empty_or_zero_hides_none(tmp_path, silent):
    path = write_dicom(tmp_path / "a.dcm", STORED, None, PixelSpacing=silent, ImagerPixelSpacing=[0.3, 0.2])
    image = load(path)
    np.testing.assert_allclose(image.affine, np.diag([-0.2, -0.3, 1]))
    assert image.meta["spacing_known"]
    path = write_dicom(tmp_path / "b.dcm", STORED, None, PixelSpacing=silent)
    assert not load(path).meta["spacing_known"]


def test_an_element_that_claims_more_than_there_is_is_refused_before_room_is_made_for_it(tmp_path):
    path = write_dicom(tmp_path / "a.dcm", STORED, PatientComments="knee")
    content = path.read_bytes()
    place = content.index(b"LT\x04\x00knee")
    # the same element with a length of four bytes, almost 2 GiB
    path.write_bytes(content[:place] + b"UT\x00\x00\xf0\xff\xff\x7f" + content[place + 4 :])
    with pytest.raises(UnfitFileError, match="a.dcm: unreadable as an image, it ends within an element"):
        read_image(path)


def test_dicom_without_an_image_is_refused_and_passed_over_in_a_folder(tmp_path):
    folder = write_series(tmp_path / "series", VOLUME, SPACING, MATRIX)
    dataset = pydicom.dcmread(next(folder.iterdir()))
    for name in ("Rows", "Columns", "PixelData"):
        delattr(dataset, name)
    dataset.save_as(folder / "report.dcm")
    np.testing.assert_array_equal(load(folder)[0], VOLUME)
    with pytest.raises(UnfitFileError, match="report.dcm: unreadable as an image, it is DICOM without one"):
        read_image(folder / "report.dcm")
