"""An image is decoded once and a sample prepared once, for all that ask for it at one time."""

from __future__ import annotations

import gc
import os
from collections import Counter
from functools import partial
from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
import torch
from monai.transforms import Compose, Lambdad, LoadImaged, RandFlipd, Resized, ScaleIntensityd

from crosswarp.data import ReadOnce, SharedDataset
from crosswarp.data.readers import AnyFormatReader, read_image
from crosswarp.data.sharing import states, value_of


@pytest.fixture
def decodes(monkeypatch) -> Counter:
    """How often each file is decoded."""
    counted: Counter = Counter()
    decode = AnyFormatReader.decode

    def counting(self, path):
        counted[path.name] += 1
        return decode(self, path)

    monkeypatch.setattr(AnyFormatReader, "decode", counting)
    return counted


@pytest.fixture
def records(tmp_path) -> list[dict]:
    for number in range(3):
        image = np.full((6, 5), number, np.float32)
        image[0, 0] = 9
        nib.save(nib.Nifti1Image(image, np.eye(4)), tmp_path / f"{number}.nii.gz")
    return [{"image": str(tmp_path / f"{number}.nii.gz"), "subject": str(number)} for number in range(3)]


def preprocessing(size=(4, 4), *more) -> Compose:
    load = LoadImaged("image", reader=AnyFormatReader, ensure_channel_first=True, image_only=True)
    return Compose([load, Resized("image", size), ScaleIntensityd("image"), *more])


def test_data_sets_that_overlap_hold_a_sample_once(records, decodes):
    first = SharedDataset(records, preprocessing())
    second = SharedDataset(records[1:], preprocessing())
    assert [second[i] is first[i + 1] for i in range(2)] == [True, True]
    assert set(decodes.values()) == {1}


def test_another_preparation_or_another_record_is_another_sample(records, decodes):
    first = SharedDataset(records, preprocessing())
    for records_, transform in (
        (records, preprocessing((3, 4))),
        (records, preprocessing((4, 4), Lambdad("image", lambda image: image))),
        ([record | {"subject": "x"} for record in records], preprocessing()),
    ):
        assert SharedDataset(records_, transform)[0] is not first[0]
    assert set(decodes.values()) == {4}


def test_a_file_that_was_written_again_is_prepared_again(records):
    first = SharedDataset(records, preprocessing())
    path = Path(records[0]["image"])
    nib.save(nib.Nifti1Image(np.eye(6, 5, dtype=np.float32), np.eye(4)), path)
    second = SharedDataset(records, preprocessing())
    assert not torch.equal(second[0]["image"], first[0]["image"]) and second[1] is first[1]


def test_random_transforms_are_run_anew_on_a_copy(records):
    dataset = SharedDataset(records[:1], preprocessing((4, 4), RandFlipd("image", prob=1.0, spatial_axis=0)))
    plain = SharedDataset(records[:1], preprocessing())
    assert torch.equal(dataset[0]["image"].flip(1), plain[0]["image"])
    assert torch.equal(dataset[0]["image"].flip(1), plain[0]["image"])


def test_samples_go_with_their_data_sets_unless_they_are_remembered(records, decodes):
    SharedDataset(records, preprocessing())
    gc.collect()
    memory = ReadOnce()
    SharedDataset(records, preprocessing())
    gc.collect()
    assert set(decodes.values()) == {2}
    kept = SharedDataset(records, preprocessing())
    assert set(decodes.values()) == {2}
    memory.forget()
    del kept
    gc.collect()
    SharedDataset(records, preprocessing())
    assert set(decodes.values()) == {3}


def test_images_are_remembered_up_to_a_limit_and_handed_out_as_copies(records, decodes):
    memory = ReadOnce(max_bytes=2 * 6 * 5 * 4)  # two of the three
    for _ in range(3):
        for record in records:
            array, meta = read_image(record["image"])
            array[:] = -1  # nobody else's
    array, meta = read_image(records[1]["image"])
    assert array[0, 0] == 9 and array[1, 1] == 1 and meta["spatial_shape"].tolist() == [6, 5]
    assert [decodes[Path(record["image"]).name] for record in records] == [1, 1, 3]
    memory.forget()
    read_image(records[0]["image"])
    assert decodes["0.nii.gz"] == 2


def test_a_folder_is_what_its_files_are(tmp_path):
    (tmp_path / "series").mkdir()
    (tmp_path / "series" / "1.dcm").write_bytes(b"1")
    before = states(tmp_path / "series")
    os.utime(tmp_path / "series" / "1.dcm", ns=(5, 5))
    assert states(tmp_path / "series") != before


def test_what_hides_its_values_is_equal_to_itself_alone():
    one, other = partial(torch.add, other=1), partial(torch.add, other=2)
    assert value_of([one]) == value_of([one]) != value_of([other])
    assert value_of({"a": np.ones(2)}) == value_of({"a": np.ones(2)}) != value_of({"a": np.zeros(2)})
    with pytest.raises(TypeError):
        value_of([{1, 2}])


def test_an_image_whose_voxels_change_beside_its_header_is_read_anew(tmp_path):
    path, voxels = tmp_path / "a.mhd", tmp_path / "a.raw"
    path.write_text("NDims = 2\nDimSize = 2 2\nElementType = MET_UCHAR\nElementDataFile = a.raw\n")
    memory, found = ReadOnce(), []
    for value in (1, 2):
        voxels.write_bytes(bytes([value] * 4))
        found.append(read_image(path)[0].max())
    memory.forget()
    assert found == [1, 2]
