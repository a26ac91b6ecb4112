from __future__ import annotations

import doctest
import gc
import json
import shutil
import subprocess
import sys
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
import torch
from monai.data import MetaTensor
from monai.transforms import LoadImaged

import crosswarp
from crosswarp.commands.package import package
from crosswarp.commands.register import register
from crosswarp.inference import registrar
from crosswarp.inference.memory import alike
from crosswarp.runs.config import read_config
from crosswarp.runs.weights import read_weights
from crosswarp.training import save_atomically
from tests.cohorts import write_blob_cohort
from tests.release.zips import changed, read_files, stored
from tests.trained_run import ROOT, write_trained_run


@pytest.fixture(scope="module", params=[2, 3], ids=["2D", "3D"])
def run(request, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("run")
    size = (24, 20) if request.param == 2 else (16, 12)
    datalist = write_blob_cohort(folder / "data", request.param, num_classes=3, spatial_size=size)
    return write_trained_run(folder / "run", datalist, deformation=0.02)


@pytest.fixture
def images(run: Path, tmp_path: Path) -> tuple[Path, Path]:
    """A target and a source image, the second stored with other axes, and of other size and spacing."""
    moving, fixed = (run.parent / "data" / "images" / f"{n}.nii.gz" for n in ("coldtest0", "warmtest1"))
    image = nib.load(fixed)
    array = np.asarray(image.dataobj)[::-1, 2:].swapaxes(0, 1)
    affine = (image.affine @ np.diag([-1.0, 1.3, 1, 1]))[:, [1, 0, 2, 3]]
    nib.save(nib.Nifti1Image(array, affine), tmp_path / "turned.nii.gz")
    return moving, tmp_path / "turned.nii.gz"


def loaded(path: Path) -> np.ndarray:
    """`[*spatial]`."""
    return np.squeeze(nib.load(path).get_fdata(dtype=np.float32))


def change(run: Path) -> None:
    """Change the run as a user may: another percentile, aligned first, labels without class 1, poses."""
    file = run / "configs" / "inference.json"
    config = json.loads(file.read_text())
    for transform in config["preprocessing"]["transforms"]:
        if transform["_target_"] == "ScaleIntensityRangePercentilesd":
            transform["upper"] = 80.0
    labels = [t["_target_"].endswith("PredictedLabelsd") for t in config["postprocessing"]["transforms"]]
    mapped = {"_target_": "MapLabelValued", "keys": "moving_label", "orig_labels": [1], "target_labels": [0]}
    config["postprocessing"]["transforms"].insert(labels.index(True) + 1, mapped)
    config["initialisation"] = "moments"
    template = read_config(ROOT / "configs" / "inference.json").get()
    config["pose_network"] = template["pose_network"] | {"channels": [4, 8], "strides": [2, 2]}
    file.write_text(json.dumps(config))
    pose = read_config(file).get_parsed_content("pose_network").state_dict()
    weights = run / "models" / "model.pt"
    save_atomically(read_weights(weights) | {f"pose.{key}": value for key, value in pose.items()}, weights)


@pytest.mark.parametrize("changed", [False, True])
def test_python_and_the_command_line_agree(
    run: Path, images: tuple[Path, Path], tmp_path: Path, changed: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if changed:
        run = write_trained_run(tmp_path / "run", run.parent / "data" / "datalist.json", deformation=0.02)
        change(run)
    monkeypatch.setattr(sys, "path", sys.path[:])
    register(str(images[0]), str(images[1]), str(run), str(tmp_path / "cli"), "target", "source")
    pair = crosswarp.load(run).register(*images, "target", "source")
    pair.save(tmp_path / "api")
    files = {path.name for path in (tmp_path / "cli").iterdir()}
    assert len(files) == 10 and files == {path.name for path in (tmp_path / "api").iterdir()}
    for name in files:
        theirs, ours = tmp_path / "cli" / name, tmp_path / "api" / name
        if name.endswith(".nii.gz"):
            np.testing.assert_array_equal(loaded(theirs), loaded(ours))
            np.testing.assert_array_equal(nib.load(theirs).affine, nib.load(ours).affine)
        elif name.endswith(".json"):
            assert json.loads(theirs.read_text()) == json.loads(ours.read_text())
    stem = "coldtest0_to_turned"
    for result, name in (
        (pair.warped, f"{stem}_warped"),
        (pair.warped_label, f"{stem}_warped_seg"),
        (pair.moving_label, "coldtest0_moving_seg"),
        (pair.fixed_label, "turned_fixed_seg"),
    ):
        np.testing.assert_allclose(result[0], loaded(tmp_path / "cli" / f"{name}.nii.gz"), atol=1e-6)
    found = json.loads((tmp_path / "cli" / f"{stem}_quality.json").read_text())
    assert {key: found[key] for key in pair.quality} == json.loads(json.dumps(pair.quality))
    assert (found["pose_odds"]["moving"] is not None) == changed
    table = tmp_path / "pairs.csv"
    table.write_text(f"moving,fixed,moving_modality,fixed_modality\n{images[0]},{images[1]},target,source\n")
    register(pairs=str(table), models=str(run), out=str(tmp_path / "table"))
    (of_table,) = (tmp_path / "table").rglob("*_quality.json")
    assert json.loads(of_table.read_text()) == found
    assert (1 in pair.moving_label) != changed
    written = itk.transformread(str(tmp_path / "cli" / f"{stem}_transform.h5"))[0]
    dims = pair.moving_to_fixed.shape[1]
    for point in np.random.default_rng(0).uniform(-9, 9, (5, dims)).tolist():
        assert list(pair.transform.TransformPoint(point)) == pytest.approx(
            list(written.TransformPoint(point))
        )


def as_kind(path: Path, kind: str, dims: int) -> object:
    image = LoadImaged("i", reader="crosswarp.data.readers.AnyFormatReader")({"i": str(path)})["i"]
    return {
        "path": path,
        "itk": itk.imread(str(path), itk.F),
        "metatensor": image,
        "metatensor_with_channel": image[None],
    }[kind]


@pytest.mark.parametrize("kind", ["itk", "metatensor", "metatensor_with_channel"])
def test_what_comes_in_decides_what_goes_out(run: Path, images: tuple[Path, Path], kind: str) -> None:
    trained = crosswarp.load(run)
    expected = trained.register(*images, "target", "source")
    moving, fixed = (as_kind(path, kind, trained.spatial_dims) for path in images)
    pair = trained.register(moving, fixed, "target", "source")
    for name, original in (
        *(("warped", fixed), ("warped_label", fixed), ("fixed_label", fixed), ("moving_label", moving)),
        *(("moving_probabilities", moving), ("fixed_probabilities", fixed)),
    ):
        result, wanted = getattr(pair, name), alike(getattr(expected, name), original)
        if kind == "itk":
            assert result.GetOrigin() == original.GetOrigin()
            assert result.GetDirection() == original.GetDirection()
            result, wanted = itk.array_from_image(result), itk.array_from_image(wanted)
        else:
            assert isinstance(result, MetaTensor)
            torch.testing.assert_close(result.affine, original.affine)
            assert result.shape[-original.ndim :] == original.shape or "probabilities" in name
        np.testing.assert_allclose(result, wanted, atol=1e-5)
    for name in ("confidence", "overlap"):
        assert pair.quality[name] == pytest.approx(expected.quality[name], abs=0.01)


def test_probabilities_and_labels_of_an_array_belong_together(run: Path) -> None:
    trained = crosswarp.load(run)
    size = (30, 26, 22)[: trained.spatial_dims]
    image = np.random.default_rng(0).normal(size=size)
    found = trained.segment(image, "source")
    assert isinstance(found.label, np.ndarray) and found.label.shape == size
    assert found.probabilities.shape == (3, *size)
    np.testing.assert_allclose(found.probabilities.sum(0), 1, atol=1e-5)
    np.testing.assert_array_equal(found.probabilities.argmax(0), found.label)
    # the same network segments a moving image before it is registered
    pair = trained.register(torch.as_tensor(image), image, "source", "target")
    assert isinstance(pair.moving_label, torch.Tensor)
    np.testing.assert_array_equal(pair.moving_label, found.label)


def segmented(trained: registrar.Registrar, monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int]]:
    """Modality and number of the images of each call of the segmentation, as they come."""
    network = trained.runner("source", "target").network.__class__
    calls, original = [], network.segment

    def segment(self, image, modality):
        calls.append((modality, len(image)))
        return original(self, image, modality)

    monkeypatch.setattr(network, "segment", segment)
    return calls


def test_a_stream_is_taken_as_it_is_needed_and_an_image_segmented_once(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = crosswarp.load(run)
    rng = np.random.default_rng(0)
    size = (30, 26, 22)[: trained.spatial_dims]
    moving, atlas = [rng.normal(size=size) for _ in range(5)], rng.normal(size=size)
    taken, calls = [], segmented(trained, monkeypatch)

    def pairs():
        for number, image in enumerate(moving):
            taken.append(number)
            yield image, atlas

    results = trained.register_pairs(pairs(), batch_size=2)
    assert taken == []
    first = next(results)
    assert taken == [0, 1]
    everything = [first, *results]
    assert calls == [("source", 2), ("target", 1), ("source", 2), ("source", 1)]
    for image, result in zip(moving, everything, strict=True):
        alone = crosswarp.load(run).register(image, atlas)
        torch.testing.assert_close(result.moving_to_fixed, alone.moving_to_fixed, atol=1e-5, rtol=0)
        np.testing.assert_allclose(result.warped, alone.warped, atol=1e-4)


def test_an_atlas_of_the_same_modality_is_segmented_once_whatever_its_role(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = crosswarp.load(run)
    rng = np.random.default_rng(0)
    size = (30, 26, 22)[: trained.spatial_dims]
    atlas, others = rng.normal(size=size), [rng.normal(size=size) for _ in range(3)]
    calls = segmented(trained, monkeypatch)
    for pairs in ([(atlas, other) for other in others], [(other, atlas) for other in others]):
        calls.clear()
        list(trained.register_pairs(pairs, "source", "source"))
        assert calls == [("source", 1)] * 4


def test_a_packaged_run_is_verified_and_its_copy_goes_with_the_registrar(run: Path, tmp_path: Path) -> None:
    package(str(run), str(tmp_path / "dist"))
    (archive,) = (tmp_path / "dist").glob("crosswarp_v*.zip")
    trained = crosswarp.load(archive)
    folder = Path(trained.unpacked.name)
    assert folder.is_dir()
    image = np.random.default_rng(0).normal(size=(20,) * trained.spatial_dims)
    np.testing.assert_array_equal(
        trained.segment(image, "target").label, crosswarp.load(run).segment(image, "target").label
    )
    del trained
    gc.collect()
    assert not folder.exists()
    own = {"_target_": "my_package.Own"}
    files = changed(read_files(archive), "configs/inference.json", lambda config: config.update(own=own))
    (tmp_path / "own.zip").write_bytes(stored(files, "crosswarp"))
    with pytest.raises(ValueError, match=r"own.zip: refused\n.*my_package.Own"):
        crosswarp.load(tmp_path / "own.zip")
    assert crosswarp.load(tmp_path / "own.zip", trust=True).spatial_dims == image.ndim
    archive.write_bytes(archive.read_bytes()[:-9])
    with pytest.raises(ValueError, match=r"crosswarp_v.*zip: refused"):
        crosswarp.load(archive)


def test_what_cannot_be_loaded_is_named(run: Path, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError, match="nowhere"):
        crosswarp.load("nowhere")
    with pytest.raises(ValueError, match=r"no parameter 'quality_limit' .did you mean quality_limits"):
        crosswarp.load(run, quality_limit={})
    with pytest.raises(ValueError, match="whole chain"):
        crosswarp.load(run / "source_segmentation")
    with pytest.raises(ValueError, match=r"(?s)model.pt do not fit the network of .*size mismatch"):
        crosswarp.load(run, num_classes=7)
    with pytest.raises(AttributeError, match="no attribute 'loads'"):
        _ = crosswarp.loads


def test_all_faults_of_both_images_are_named(run: Path) -> None:
    trained = crosswarp.load(run)
    dims = trained.spatial_dims
    bad = np.full((2, *(9,) * dims), np.nan)
    with pytest.raises(ValueError) as caught:
        trained.register(bad, np.zeros(9))
    assert str(caught.value).count("\n") == 2
    for words in ("fixed: Expected a", "moving: Expected an image of the source with 1", "finite"):
        assert words in str(caught.value)
    with pytest.raises(ValueError, match="moving: Expected an image, got 3 at every point"):
        trained.segment(np.full((9,) * dims, 3.0), "source")
    with pytest.raises(FileNotFoundError, match=r"not there: \S*a\.nii, \S*b\.nii"):
        trained.register("a.nii", "b.nii")
    with pytest.raises(ValueError, match="Expected modalities"):
        trained.segment(np.zeros((9,) * dims), "mr")


def test_files_that_cannot_be_read_are_named_before_anything_is_computed(run: Path, tmp_path: Path) -> None:
    trained = crosswarp.load(run)
    sound = run.parent / "data" / "images" / "warmtest0.nii.gz"
    content = bytearray(sound.read_bytes())
    content[-20] ^= 8
    (tmp_path / "spoilt.nii.gz").write_bytes(content)
    image = nib.load(sound)
    shear = np.eye(4)
    shear[0, 1] = 0.2
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine @ shear), tmp_path / "sheared.nii.gz")
    with pytest.raises(ValueError) as caught:
        trained.register(tmp_path / "spoilt.nii.gz", tmp_path / "sheared.nii.gz")
    for words in (
        "spoilt.nii.gz: unreadable as an image",
        "sheared.nii.gz: by its header has axes that are not",
    ):
        assert words in str(caught.value)
    assert len(str(caught.value)) < 1200
    array, dims = np.random.default_rng(0).random((9,) * trained.spatial_dims), trained.spatial_dims
    with pytest.raises(ValueError, match=r"moving: by its header has axes .*\(shear\)"):
        trained.register(MetaTensor(array, affine=shear[np.ix_([*range(dims), 3], [*range(dims), 3])]), array)


def test_overrides_reach_the_config(run: Path) -> None:
    image = np.random.default_rng(0).normal(size=(20, 18, 16)[: crosswarp.load(run).spatial_dims])
    assert crosswarp.load(run).register(image, image).verdict == "failed"
    lenient = {"overlap": [0, -1], "confidence": [0, -1], "inverse_error_percent": [100, 100]}
    assert crosswarp.load(run, quality_limits=lenient).register(image, image).verdict == "ok"


def test_what_training_warned_of_stands_in_every_verdict(run: Path) -> None:
    image = np.random.default_rng(0).normal(size=(20, 18, 16)[: crosswarp.load(run).spatial_dims])
    lenient = {"overlap": [0, -1], "confidence": [0, -1], "inverse_error_percent": [100, 100]}
    warned = ["domain_adaptation: outlines do not lie on edges", "source_segmentation: a guess"]
    pair = crosswarp.load(run, quality_limits=lenient, training_warnings=warned).register(image, image)
    assert pair.verdict == "check"
    assert pair.quality["reasons"] == [f"training of {warning}" for warning in warned]
    failed = crosswarp.load(run, training_warnings=warned).register(image, image)
    assert failed.verdict == "failed" and failed.quality["reasons"][-2:] == pair.quality["reasons"]


def test_a_given_spacing_is_that_of_an_array(run: Path) -> None:
    trained = crosswarp.load(run, moving_spacing=0.5)
    image = np.random.default_rng(0).normal(size=(20, 18, 16)[: trained.spatial_dims])
    pair = trained.register(image, image)
    assert pair.quality["notes"] == [
        "the fixed image does not state its spacing: 1 mm stands in (give fixed_spacing)"
    ]
    assert pair.quality["extent_overlap"] < 1
    corners = [pair.transform.TransformPoint(point) for point in ([0.0] * image.ndim, [1.0] * image.ndim)]
    assert np.abs(np.subtract(*corners)) == pytest.approx(0.5, abs=0.1)  # the run deforms a little
    with pytest.raises(ValueError, match="moving: states its spacing, 2 ×.* 0.5 ×.*was given"):
        trained.register(MetaTensor(image, affine=np.diag([2.0] * image.ndim + [1])), image)


def test_saves_under_the_names_of_files_or_of_the_roles(run: Path, tmp_path: Path) -> None:
    trained = crosswarp.load(run)
    image = run.parent / "data" / "images" / "warmtest0.nii.gz"
    trained.segment(image, "source").save(tmp_path)
    np.testing.assert_array_equal(
        loaded(tmp_path / "warmtest0_seg.nii.gz"), trained.segment(image, "source").label[0]
    )
    trained.register(image, np.random.rand(*(20,) * trained.spatial_dims)).save(tmp_path / "pair")
    assert (tmp_path / "pair" / "warmtest0_to_fixed_warped.nii.gz").is_file()


@pytest.mark.parametrize("run", [2], indirect=True, ids=["2D"])
def test_saving_replaces_results_of_the_same_images_alone(run: Path, tmp_path: Path) -> None:
    trained = crosswarp.load(run)
    first, second = np.random.default_rng(0).random((2, 20, 20))
    place = tmp_path / "knee.v1"
    place.mkdir()
    shutil.copy(run.parent / "data" / "images" / "warmtest0.nii.gz", place / "ray.1.nii.gz")
    shutil.copy(run.parent / "data" / "images" / "warmtest1.nii.gz", place / "ray.2.nii.gz")
    out = tmp_path / "out"
    for name in ("ray.1", "ray.2", "ray.1"):
        trained.register(place / f"{name}.nii.gz", first).save(out)
        trained.segment(place / f"{name}.nii.gz", "source").save(str(out))
        for kind in ("to_fixed_warped", "moving_seg", "seg"):
            assert (out / f"{name}_{kind}.nii.gz").is_file()
    with pytest.raises(ValueError, match="ray.1_to_fixed_.*is there and was made of .*ray.1.nii.gz"):
        trained.register(place / "ray.1.nii.gz", second).save(out)
    trained.segment(first, "source").save(out)
    with pytest.raises(ValueError, match="image_seg.nii.gz is there and was made of sha256"):
        trained.segment(second, "source").save(out)
    np.testing.assert_array_equal(loaded(out / "image_seg.nii.gz"), trained.segment(first, "source").label)


@pytest.mark.parametrize("run", [2], indirect=True, ids=["2D"])
def test_importing_is_light_and_works_under_the_name_that_bundles_use(run: Path) -> None:
    program = (
        "import sys, crosswarp, scripts; assert not {'torch', 'monai', 'itk'} & set(sys.modules)\n"
        "trained = scripts.load(sys.argv[1]); assert 'crosswarp.inference.registrar' not in sys.modules\n"
        "print(type(trained.runner('source', 'target').network).__module__)"
    )
    finished = subprocess.run(
        [sys.executable, "-c", program, str(run)], cwd=ROOT, capture_output=True, text=True
    )
    assert finished.returncode == 0, finished.stderr
    assert finished.stdout == "scripts.networks.cross_modal\n"


def test_the_examples_of_the_docstrings(tmp_path: Path) -> None:
    run = write_trained_run(tmp_path / "run", write_blob_cohort(tmp_path / "data"))
    context = {"run": run, "registrar": crosswarp.load(run, device="cpu"), "np": np}
    runner = doctest.DocTestRunner()
    tests = doctest.DocTestFinder().find(registrar, globs=context)
    for test in tests:
        runner.run(test)
    assert runner.failures == 0 and runner.tries > 10
