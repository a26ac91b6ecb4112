"""One fixed image stored in many ways: wherever its grid lies, the same points meet in space."""

from __future__ import annotations

from pathlib import Path

import nibabel as nib
import numpy as np
import pytest
from scipy.ndimage import zoom

from crosswarp.commands.register import register

from ..cohorts import write_blob_cohort
from ..data.dicom import write_dicom, write_series
from ..trained_run import write_trained_run

sitk = pytest.importorskip("SimpleITK")

SPACING = (0.8, 0.9, 1.1)  # of the cohort


@pytest.mark.parametrize("spatial_dims", [2, 3])
def test_how_the_fixed_image_is_stored_does_not_matter(tmp_path: Path, spatial_dims: int) -> None:
    datalist = write_blob_cohort(tmp_path / "data", spatial_dims, num_classes=3, spatial_size=(16, 12))
    run = write_trained_run(tmp_path / "run", datalist, deformation=0.3)
    images = tmp_path / "data" / "images"
    fixed, moving = images / "warmtest1.nii.gz", images / "coldtest0.nii.gz"
    paths = [fixed, *stored_otherwise(nib.load(fixed), tmp_path / "otherwise")]
    transforms = []
    for number, path in enumerate(paths):
        out = tmp_path / f"out{number}"
        register(str(moving), str(path), str(run), str(out), "target", "source")
        (file,) = out.glob("*_transform.h5")
        transforms.append(sitk.ReadTransform(str(file)))
    reference = sitk.ReadImage(str(fixed))
    size = np.array(reference.GetSize()) - 1
    indices = np.random.default_rng(0).uniform(0.1, 0.9, (50, spatial_dims)) * size
    places = [reference.TransformContinuousIndexToPhysicalPoint(index.tolist()) for index in indices]
    expected, *others = ([t.TransformPoint(place) for place in places] for t in transforms)
    moved = np.linalg.norm(np.subtract(expected, places), axis=1)
    assert moved.max() > 2 * min(SPACING), "the map is not the identity"
    for path, other in zip(paths[1:], others, strict=True):
        apart = np.linalg.norm(np.subtract(other, expected), axis=1).max()
        lossless = path.name in ("flipped.nii.gz", "turned.nii.gz")
        # half a pixel; the same voxels in another order give the same values
        assert apart <= (0.01 if lossless else 0.5 * min(SPACING[:spatial_dims])), (path.name, apart)


def stored_otherwise(image: nib.Nifti1Image, folder: Path) -> list[Path]:
    """The same picture in space with its axes reversed, exchanged, sampled more finely, and as DICOM."""
    folder.mkdir()
    array, affine = np.asarray(image.dataobj), image.affine
    dims = array.ndim
    back = np.diag([-1.0, -1, 1, 1])
    back[:2, 3] = np.array(array.shape[:2]) - 1
    flipped = array[::-1, ::-1], affine @ back
    turned = flipped[0].swapaxes(0, 1), flipped[1][:, [1, 0, 2, 3]]
    if dims == 3:
        turned = turned[0].transpose(2, 0, 1), turned[1][:, [2, 0, 1, 3]]
    finer_shape = [2 * size - 1 for size in array.shape]
    finer = zoom(array, np.divide(finer_shape, array.shape), order=1, grid_mode=False)
    names = {"flipped": flipped, "turned": turned}
    names["finer"] = finer, affine @ np.diag([*[0.5] * dims, *[1] * (4 - dims)])
    paths = []
    for name, (voxels, matrix) in names.items():
        paths.append(folder / f"{name}.nii.gz")
        nib.save(nib.Nifti1Image(voxels, matrix), paths[-1])
    scaled = (array - array.min()) / np.ptp(array) * 4095  # 12 bits
    stored, tags = np.rint(4095 - scaled), {"PhotometricInterpretation": "MONOCHROME1"}
    if dims == 2:
        mirrored = {"PatientOrientation": ["F", "R"], **tags}  # and turned: rows run to the feet
        exchanged = stored[::-1], SPACING[1::-1]
        return [
            *paths,
            write_dicom(folder / "dicom.dcm", stored.T, SPACING[:2], **tags),
            write_dicom(folder / "turned_dicom.dcm", *exchanged, **mirrored),
        ]
    lps = np.diag([-1.0, -1, 1, 1]) @ affine
    return [*paths, write_series(folder / "dicom", stored, SPACING, lps, **tags)]
