"""Bodies of the formats that ITK reads: too short, too long or damaged, they are refused."""

from __future__ import annotations

import itk
import numpy as np
import pytest
from PIL import Image

from crosswarp.data.readers import UnfitFileError, read_image

VOLUME = np.random.default_rng(0).integers(0, 99, (7, 6, 5), dtype=np.int16)
PICTURE = np.random.default_rng(0).integers(0, 256, (60, 50), dtype=np.uint8)


@pytest.fixture(
    params=["raw.mha", "zip.mha", "raw.nrrd", "zip.nrrd", "raw.mhd", "zip.mhd", "raw.nhdr", "zip.nhdr"]
)
def volume(request, tmp_path):
    """A volume and the file that holds its voxels."""
    path = tmp_path / request.param
    itk.imwrite(itk.image_from_array(VOLUME.T.copy()), str(path), compression=request.param.startswith("zip"))
    return path, next((each for each in tmp_path.iterdir() if each.suffix in (".raw", ".zraw", ".gz")), path)


def test_sound_volumes_are_read(volume):
    np.testing.assert_array_equal(read_image(volume[0])[0], VOLUME)


@pytest.mark.parametrize("change", ["cut", "longer", "flipped", "absent"])
def test_voxels_that_do_not_fit_the_header_are_refused(volume, change):
    path, body = volume
    content = bytearray(body.read_bytes())
    if change == "absent":
        if body == path:
            pytest.skip("the voxels are in the file itself")
        body.unlink()
    elif change == "flipped":
        if path.name.startswith("raw"):
            pytest.skip("without a checksum nobody can tell")
        content[-20] ^= 8
        body.write_bytes(content)
    else:
        body.write_bytes(content[:-3] if change == "cut" else content + b"abc")
    with pytest.raises(
        UnfitFileError, match=f"{path.name}: (unreadable as an image|has its voxels in)"
    ) as caught:
        read_image(path)
    assert len(str(caught.value)) < 500


@pytest.mark.parametrize("suffix", [".png", ".jpg", ".bmp", ".tif"])
@pytest.mark.parametrize("share", [0.3, 0.6, 0.97])
def test_pictures_that_end_early_are_refused(tmp_path, suffix, share):
    path = tmp_path / f"a{suffix}"
    Image.fromarray(PICTURE).save(path)
    read_image(path)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(UnfitFileError, match=f"a{suffix}: unreadable as an image") as caught:
        read_image(path)
    assert len(str(caught.value)) < 500


def test_pictures_of_every_depth(tmp_path):
    deep = PICTURE.astype(np.uint16) * 257
    Image.fromarray(deep).save(tmp_path / "deep.png")
    np.testing.assert_array_equal(read_image(tmp_path / "deep.png")[0], deep.T)
    for mode, channels in (("RGB", 3), ("RGBA", 4), ("P", 3)):
        image = Image.fromarray(PICTURE).convert(mode)
        image.save(tmp_path / "a.png")
        array, meta = read_image(tmp_path / "a.png")
        assert array.shape == (50, 60, channels) and meta["original_channel_dim"] == -1
        np.testing.assert_array_equal(
            array, np.asarray(image.convert("RGB") if mode == "P" else image).swapaxes(0, 1)
        )


def test_pages_of_a_tiff_are_a_third_axis(tmp_path):
    pages = [Image.fromarray(PICTURE + k) for k in range(3)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    array, meta = read_image(tmp_path / "a.tif")
    np.testing.assert_array_equal(array, np.stack([PICTURE.T + k for k in range(3)], -1))
    assert not meta["spacing_known"]


def test_what_takes_too_much_memory_is_refused_before_it_is_decoded(tmp_path):
    head = b"NRRD0004\ntype: float\nendian: little\ndimension: 3\nsizes: 9000 9000 9000\nencoding: gzip\n\n"
    (tmp_path / "a.nrrd").write_bytes(head)
    with pytest.raises(
        UnfitFileError, match="a.nrrd: its header states 2,715.7 GiB of voxels, at most 2 GiB"
    ):
        read_image(tmp_path / "a.nrrd")


def test_what_is_no_image_is_refused(tmp_path):
    (tmp_path / "a.foo").write_text("no image")
    with pytest.raises(UnfitFileError, match="a.foo: unreadable as an image, of no format that ITK knows"):
        read_image(tmp_path / "a.foo")


def test_axes_that_are_not_at_right_angles_are_refused(tmp_path):
    head = (
        "NRRD0004\ntype: int16\ndimension: 3\nspace: left-posterior-superior\nsizes: 7 6 5\nencoding: raw\n"
        "space directions: (1,0,0) (0.2,1,0) (0,0,1)\nspace origin: (0,0,0)\nendian: little\n\n"
    )
    (tmp_path / "a.nrrd").write_bytes(head.encode() + VOLUME.tobytes("F"))
    with pytest.raises(UnfitFileError, match=r"a.nrrd: by its header has axes .*\(shear\)"):
        read_image(tmp_path / "a.nrrd")


@pytest.mark.parametrize("dims", ["9999999", "-1", "", "4", "nan"])
def test_metaimages_of_dimensions_that_cannot_be_are_refused(tmp_path, dims):
    itk.imwrite(itk.image_from_array(VOLUME.T.copy()), str(tmp_path / "a.mha"))
    content = (tmp_path / "a.mha").read_bytes()
    (tmp_path / "a.mha").write_bytes(content.replace(b"NDims = 3", f"NDims = {dims}".encode()))
    with pytest.raises(UnfitFileError, match="a.mha: unreadable as an image, its header has .* of 3 sizes"):
        read_image(tmp_path / "a.mha")


def test_a_picture_with_transparency_is_refused(tmp_path):
    Image.fromarray(PICTURE).convert("LA").save(tmp_path / "a.png")
    with pytest.raises(UnfitFileError, match="a.png: has two values at each voxel; store one"):
        read_image(tmp_path / "a.png")


HEADERS = {  # what says how large voxels are, of files that hold the same
    ".nrrd": {"": False, "spacings: nan nan": False, "spacings: 1 1": True, "spacings: 0.5 0.7": True}
    | {"space dimension: 2\nspace directions: (1,0) (0,1)": True},
    ".mha": {"": False, "ElementSpacing = 1 1": True, "ElementSize = 1 1": True, "Offset = 1 2": False},
}


@pytest.mark.parametrize(
    ("suffix", "said", "known"), [(k, *each) for k, v in HEADERS.items() for each in v.items()]
)
def test_a_header_without_spacing_is_not_taken_to_say_1_mm(tmp_path, suffix, said, known):
    """As of pynrrd, where an array is written without a header."""
    head = {
        ".nrrd": "NRRD0004\ntype: uint8\ndimension: 2\nsizes: 60 50\nencoding: raw\n{}\n",
        ".mha": "ObjectType = Image\nNDims = 2\nBinaryData = True\n{}DimSize = 60 50\n"
        "ElementType = MET_UCHAR\nElementDataFile = LOCAL\n",
    }[suffix]
    path = tmp_path / f"a{suffix}"
    path.write_bytes(head.format(said + "\n" * bool(said)).encode() + PICTURE.tobytes(order="F"))
    array, meta = read_image(path)
    np.testing.assert_array_equal(array, PICTURE)
    assert meta["spacing_known"] is known
