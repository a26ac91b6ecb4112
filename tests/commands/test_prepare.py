"""From folders and tables to checked datalists."""

from __future__ import annotations

import csv
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import itk
import nibabel as nib
import numpy as np
import pytest
from PIL import Image

from crosswarp.__main__ import main
from crosswarp.commands.prepare import prepare
from crosswarp.data import DatalistError, check_datalist, load_datalist
from tests.cohorts import write_blob_cohort
from tests.data.dicom import write_dicom

ROOT = Path(__file__).parents[2]
LUMBAR = ROOT.parent / "shared" / "data" / "lumbar" / "manifest.csv"


@pytest.fixture
def tree(tmp_path) -> Path:
    """Warm: 6 subjects with 2 labelled images each, 4 subjects without; cold: 5, the last two with labels."""
    cohort = write_blob_cohort(
        tmp_path / "cohort", num_classes=3, train_labelled=12, train_unlabelled=4, target=5
    )
    datalist = load_datalist(cohort)
    tree = tmp_path / "tree"
    for folder in ("warm/images", "warm/labels", "cold/images", "cold/labels"):
        (tree / folder).mkdir(parents=True)
    for number, record in enumerate(datalist.source.train_labelled):
        name = f"p{number // 2}_{number % 2}.nii.gz"
        shutil.copy(record["image"], tree / "warm/images" / name)
        shutil.copy(record["label"], tree / "warm/labels" / name)
    for number, record in enumerate(datalist.source.train_unlabelled):
        shutil.copy(record["image"], tree / "warm/images" / f"u{number}_0.nii.gz")
    for number, record in enumerate(datalist.target.train_unlabelled[:3] + datalist.target.test):
        shutil.copy(record["image"], tree / "cold/images" / f"c{number}.nii.gz")
        if "label" in record:
            shutil.copy(record["label"], tree / "cold/labels" / f"c{number}.nii.gz")
    (tree / "warm/images/.DS_Store").write_bytes(b"")
    return tree


def to_png(tree: Path) -> None:
    """Replace every NIfTI file by a PNG file of the same picture."""
    for path in tree.rglob("*.nii.gz"):
        array = nib.load(path).get_fdata().T
        if path.parent.name == "images":
            array = 255 * np.clip(array, 0, 1)
        Image.fromarray(array.astype(np.uint8)).save(str(path).replace(".nii.gz", ".png"))
        path.unlink()


def subjects(records) -> set[str]:
    return {record["subject"] for record in records}


def prepare_tree(tree, out, **options):
    return load_datalist(prepare(tree, out, source="warm", target="cold", **options))


def test_folders(tree, tmp_path, capsys):
    datalist = prepare_tree(tree, tmp_path / "out" / "mine.json", val_fraction=0.2, test_fraction=0.3)
    assert (datalist.name, datalist.spatial_dims) == ("mine", 2)
    assert datalist.spatial_size == [32, 32]  # 24 and 20 are rounded to multiples of 16, at least 32
    assert datalist.spacing == [0.6, 0.6]  # 24 x 0.8 = 19.2 mm on 32 points; 20 x 0.9 mm need 0.5625
    assert datalist.label_names == ["background", "label 1", "label 2"]
    source, target = datalist.source, datalist.target
    assert [len(subjects(source.records(s))) for s in ("train_labelled", "val", "test")] == [3, 1, 2]
    assert [len(source.records(s)) for s in ("train_labelled", "val", "test")] == [6, 2, 4]
    assert subjects(source.train_unlabelled) == {"u0", "u1", "u2", "u3"}
    assert subjects(target.test) == {"c3", "c4"} and all("label" in record for record in target.test)
    assert len(target.val) == 1 and len(target.train_unlabelled) == 2
    for record in source.train_labelled + source.val + source.test + target.test:
        assert Path(record["image"]).name == Path(record["label"]).name
    for path in json.loads((tmp_path / "out/mine.json").read_text())["source"]["val"][0].values():
        assert not os.path.isabs(path)
    printed = capsys.readouterr().out
    assert "mine, 2D, networks' grid 32 x 32 of 0.6 x 0.6 mm\n" in printed
    assert "\nframe: 19.2 x 19.2 mm, no training image is larger\n" in printed
    assert "classes: 0 background, 1 label 1, 2 label 2" in printed
    assert "warm        train_labelled          6      6        3  24x20                   0.8x0.9" in printed


def test_png_folders_give_the_same_splits_and_say_that_spacing_is_missing(tree, tmp_path, capsys):
    nifti = prepare_tree(tree, tmp_path / "nifti.json")
    to_png(tree)
    with pytest.warns(UserWarning, match="do not state their pixel spacing"):
        png = prepare_tree(tree, tmp_path / "png.json")
    printed = capsys.readouterr().out
    assert "not stated" in printed
    assert "frame: the whole extent of each image: 15 of 15 training images do not state" in printed
    assert png.spatial_size == nifti.spatial_size and png.spacing is None
    for a, b in ((nifti.source, png.source), (nifti.target, png.target)):
        assert [record["subject"] for record in a.records()] == [record["subject"] for record in b.records()]


@pytest.mark.parametrize("suffix", [".mhd", ".nhdr"])
def test_headers_with_their_voxels_in_another_file(tree, tmp_path, suffix):
    for path in tree.rglob("*.nii.gz"):
        itk.imwrite(itk.imread(path), str(path).replace(".nii.gz", suffix))
        path.unlink()
    datalist = prepare_tree(tree, tmp_path / "out.json")
    images = [record["image"] for record in datalist.source.records() + datalist.target.records()]
    assert len(images) == 16 + 5 and all(image.endswith(suffix) for image in images)


def test_splits_follow_the_seed(tree, tmp_path):
    splits = [
        [
            subjects(prepare_tree(tree, tmp_path / f"{n}.json", seed=seed).source.records(s))
            for s in ("val", "test")
        ]
        for n, seed in enumerate((0, 0, 1, 2, 3))
    ]
    assert splits[0] == splits[1]
    assert any(split != splits[0] for split in splits[2:])


def test_two_labelled_subjects_train_and_validate(tree, tmp_path):
    for number in range(2, 6):
        for path in tree.glob(f"warm/*/p{number}_*"):
            path.unlink()
    datalist = prepare_tree(tree, tmp_path / "few.json", test_fraction=0.5, val_fraction=0.4)
    assert len(subjects(datalist.source.train_labelled)) == len(subjects(datalist.source.val)) == 1
    assert datalist.source.test == []


def test_unlabelled_images_of_validation_subjects_are_left_out(tree, tmp_path):
    for path in tree.glob("warm/labels/p*_1.nii.gz"):
        path.unlink()
    source = prepare_tree(tree, tmp_path / "out.json").source
    kept_back = subjects(source.val + source.test)
    assert len(kept_back) == 2
    assert subjects(source.train_unlabelled) == {"u0", "u1", "u2", "u3"} | (
        {f"p{number}" for number in range(6)} - kept_back
    )


def test_options(tree, tmp_path):
    datalist = prepare_tree(
        tree,
        tmp_path / "out.json",
        labels={1: "femur", 2: "tibia"},
        spatial_size=(40, 24),
        subject_pattern="^([a-z][0-9])",
        name="knee",
    )
    assert datalist.label_names == ["background", "femur", "tibia"]
    assert (datalist.spatial_size, datalist.name) == ([40, 24], "knee")
    assert "p3" in subjects(datalist.source.records())
    assert prepare_tree(tree, tmp_path / "square.json", spatial_size=64).spatial_size == [64, 64]


def test_the_same_is_written_again_and_other_content_only_on_demand(tree, tmp_path):
    out = tmp_path / "out.json"
    first = prepare_tree(tree, out)
    assert prepare_tree(tree, out) == first
    with pytest.raises(FileExistsError, match="--overwrite"):
        prepare_tree(tree, out, spatial_size=64)
    assert load_datalist(out) == first
    assert prepare_tree(tree, out, spatial_size=64, overwrite=True).spatial_size == [64, 64]


def stretch(path: Path, factor: float, axes: tuple[int, ...] = (0, 1)) -> None:
    """Multiply the spacing of a NIfTI file along some axes."""
    image = nib.load(path)
    for axis in axes:
        image.affine[:, axis] *= factor
    nib.save(nib.Nifti1Image(np.asarray(image.dataobj), image.affine), path)


def frame_line(printed: str) -> str:
    return next(line for line in printed.splitlines() if line.startswith("frame: "))


def test_a_few_larger_images_are_named_and_no_fault(tree, tmp_path, capsys):
    before = prepare_tree(tree, tmp_path / "before.json")
    stretch(Path(before.source.train_unlabelled[0]["image"]), 3)
    stretch(Path(before.target.test[0]["image"]), 3)  # not in training, so of no say
    stretch(Path(before.target.test[0]["label"]), 3)
    capsys.readouterr()
    after = prepare_tree(tree, tmp_path / "after.json")
    name = Path(before.source.train_unlabelled[0]["image"]).name
    line = frame_line(capsys.readouterr().out)
    count = len(
        before.source.train_labelled + before.source.train_unlabelled + before.target.train_unlabelled
    )
    assert line.endswith(f" mm, 1 of {count} training images are larger ({name})")
    number = len(before.source.train_labelled + before.source.train_unlabelled)
    largest = 19.2 + 2 * 19.2 * (1 - (0.05 * (number - 1)))  # numpy's linear percentile
    assert after.spacing[0] * after.spatial_size[0] == pytest.approx(largest, rel=0.01)


def test_images_stored_rows_first_count_along_the_networks_axes(tree, tmp_path):
    for path in tree.rglob("*.nii.gz"):
        stretch(path, 2, axes=(0,))
    datalist = prepare_tree(tree, tmp_path / "columns.json")
    assert datalist.spacing == [1.2, 0.563]  # 38.4 and 18 mm on 32 points
    for path in sorted(tree.rglob("*.nii.gz"))[::2]:
        image = nib.load(path)
        affine = image.affine[:, [1, 0, 2, 3]]
        nib.save(nib.Nifti1Image(np.asarray(image.dataobj).swapaxes(0, 1), affine), path)
    for path in tree.glob("*/labels/*.nii.gz"):  # of the same axes as its image
        image = nib.load(path.parents[1] / "images" / path.name)
        label = np.asarray(nib.load(path).dataobj)
        label = label if label.shape == image.shape else label.swapaxes(0, 1)
        nib.save(nib.Nifti1Image(label, image.affine), path)
    assert prepare_tree(tree, tmp_path / "both.json").spacing == datalist.spacing


@pytest.mark.parametrize("spacing", [0.7, (0.7, 0.7), "0.7", ["0.7", "0.7"]])
def test_a_spacing_given_by_hand(tree, tmp_path, capsys, spacing):
    datalist = prepare_tree(tree, tmp_path / "out.json", spacing=spacing)
    assert (datalist.spacing, datalist.spatial_size) == ([0.7, 0.7], [32, 32])
    assert "frame: 22.4 x 22.4 mm, no training image is larger" in capsys.readouterr().out
    tight = prepare_tree(tree, tmp_path / "tight.json", spacing=spacing, spatial_size=26)
    assert tight.spacing == [0.7, 0.7]
    assert "frame: 18.2 x 18.2 mm, 15 of 15 training images are larger (" in capsys.readouterr().out


def test_the_extent_instead_of_a_spacing(tree, tmp_path, capsys):
    assert prepare_tree(tree, tmp_path / "out.json", spacing="extent").spacing is None
    assert "\nframe: the whole extent of each image\n" in capsys.readouterr().out
    assert "spacing" not in json.loads((tmp_path / "out.json").read_text())


def test_where_some_images_state_their_spacing_and_others_do_not_there_is_none(tree, tmp_path, capsys):
    name = Path(prepare_tree(tree, tmp_path / "all.json").target.train_unlabelled[0]["image"]).name
    path = tree / "cold/images" / name
    nib.save(nib.Nifti1Image(np.asarray(nib.load(path).dataobj), None), path)
    capsys.readouterr()
    with pytest.warns(UserWarning, match="do not state their pixel spacing"):
        datalist = prepare_tree(tree, tmp_path / "out.json")
    assert datalist.spacing is None
    assert frame_line(capsys.readouterr().out) == (
        "frame: the whole extent of each image: 1 of 15 training images do not state their spacing "
        f"({name}); store it in all, as NIfTI, MHA and DICOM do"
    )
    with pytest.warns(UserWarning, match="do not state their pixel spacing"):
        assert prepare_tree(tree, tmp_path / "given.json", spacing=0.7).spacing == [0.7, 0.7]
    assert frame_line(capsys.readouterr().out) == (
        f"frame: 22.4 x 22.4 mm, 1 do not state their spacing ({name})"
    )


def test_every_problem_of_folders_is_named_and_nothing_written(tree, tmp_path):
    (tree / "warm/images/u0_0.nii.gz").write_bytes(b"no image")
    shutil.copy(tree / "warm/images/u1_0.nii.gz", tree / "warm/images/u1_0.nii")
    shutil.move(tree / "warm/labels/p0_0.nii.gz", tree / "warm/labels/q0_0.nii.gz")
    nib.save(nib.Nifti1Image(np.zeros((24, 20)), np.eye(4)), tree / "cold/images/c0.nii.gz")
    with pytest.raises(DatalistError) as raised:
        prepare_tree(tree, tmp_path / "out.json", labels={1: "femur", 2: "tibia", 3: "patella"})
    message = str(raised.value)
    for part in (
        "u0_0.nii.gz: unreadable",
        "u1_0.nii.gz: same name as u1_0.nii up to the suffix",
        "q0_0.nii.gz: label without an image",
        "c0.nii.gz: all voxels are equal",
        "class 3 (patella) is in no training label",
    ):
        assert part in message
    assert len(raised.value.faults) == 5
    assert not (tmp_path / "out.json").exists()


def test_one_labelled_subject_is_not_enough(tree, tmp_path):
    with pytest.raises(DatalistError, match="are of one subject, 'p'.*--subject-pattern"):
        prepare_tree(tree, tmp_path / "out.json", subject_pattern="^[a-z]")
    with pytest.raises(DatalistError, match="c0.nii.gz: no subject found.*--subject-pattern") as raised:
        prepare_tree(tree, tmp_path / "out.json", subject_pattern="^[pu][0-9]")
    assert sum("no subject found" in fault for fault in raised.value.faults) == 5


def test_missing_folders(tree, tmp_path):
    with pytest.raises(FileNotFoundError, match="No folder or CSV file"):
        prepare(tmp_path / "none", tmp_path / "out.json")
    with pytest.raises(FileNotFoundError, match="--source and --target"):
        prepare(tree, tmp_path / "out.json")


def write_table(path: Path, lines: list[dict[str, str]]) -> Path:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, sorted(set().union(*lines)))
        writer.writeheader()
        writer.writerows(lines)
    return path


def table_of(cohort: Path, **more: str) -> list[dict[str, str]]:
    """One line for each record of a datalist, with its section as split."""
    content = json.loads(cohort.read_text())
    folder = cohort.parent.name
    return [
        {
            "modality": content[key]["name"],
            "split": section,
            "subject": record["subject"],
            "image": f"{folder}/{record['image']}",
            "label": f"{folder}/{record['label']}" if "label" in record else "",
            **more,
        }
        for key in ("source", "target")
        for section in ("train_labelled", "train_unlabelled", "val", "test")
        for record in content[key].get(section, [])
    ]


@pytest.fixture
def tables(tmp_path) -> list[dict[str, str]]:
    flat = write_blob_cohort(tmp_path / "flat", num_classes=3)
    deep = write_blob_cohort(tmp_path / "deep", 3, 3, channels=2, spatial_size=(24, 20, 16))
    return table_of(flat, dims="2") + table_of(deep, dims="3")


@pytest.mark.parametrize(("dims", "channels", "size"), [(2, 1, [32, 32]), (3, 2, [32, 16, 16])])
def test_table_with_splits(tables, tmp_path, dims, channels, size):
    table = write_table(tmp_path / "table.csv", tables)
    datalist = prepare_tree(table, tmp_path / "out.json", dims=dims)
    assert (datalist.spatial_dims, datalist.spatial_size) == (dims, size)
    assert (datalist.source.channels, datalist.target.channels) == (channels, channels)
    written = load_datalist(tmp_path / {2: "flat", 3: "deep"}[dims] / "datalist.json")
    for modality, original in ((datalist.source, written.source), (datalist.target, written.target)):
        for section in ("train_labelled", "train_unlabelled", "val", "test"):
            found, wanted = modality.records(section), original.records(section)
            assert [r["subject"] for r in found] == [r["subject"] for r in wanted]
            assert [Path(r["image"]).resolve() for r in found] == [Path(r["image"]) for r in wanted]
            assert [set(r) for r in found] == [set(r) for r in wanted]


def test_table_without_splits_or_with_some(tables, tmp_path):
    lines = [line for line in tables if line["dims"] == "2"]
    kept = lines[0]["subject"]
    for line in lines[1:]:
        line["split"] = ""
    lines[0]["split"] = "test"
    lines[1]["subject"] = kept
    datalist = prepare_tree(write_table(tmp_path / "table.csv", lines), tmp_path / "out.json")
    assert [record["subject"] for record in datalist.source.test if record["subject"] == kept] == [kept] * 2
    assert len(datalist.source.val) == 1
    assert len(datalist.source.records()) == 11
    for line in lines:
        del line["split"]
    check_datalist(prepare_tree(write_table(tmp_path / "table2.csv", lines), tmp_path / "out2.json"))


def test_train_means_what_the_label_says(tables, tmp_path):
    lines = [line for line in tables if line["dims"] == "2"]
    for line in lines:
        line["split"] = line["split"].replace("train_labelled", "train").replace("train_unlabelled", "train")
    datalist = prepare_tree(write_table(tmp_path / "table.csv", lines), tmp_path / "out.json")
    assert [len(datalist.source.records(s)) for s in ("train_labelled", "train_unlabelled")] == [3, 4]
    assert len(datalist.target.train_unlabelled) == 4


def test_every_problem_of_a_table_is_named(tables, tmp_path):
    lines = [line for line in tables if line["dims"] == "2"]
    source = [line for line in lines if line["modality"] == "warm"]
    source[0]["image"] = "flat/images/none.nii.gz"
    source[3]["split"] = "training"
    source[4]["subject"] = ""
    source[7]["label"] = ""
    with pytest.raises(DatalistError) as raised:
        prepare_tree(write_table(tmp_path / "table.csv", lines), tmp_path / "out.json")
    for part in (
        "none.nii.gz: missing",
        "table.csv, row 5: split is 'training' (did you mean train?); expected train, train_labelled",
        "table.csv, row 6: subject is empty",
        "source.val[0] (flat/images/warmval0.nii.gz): label is missing",
    ):
        assert part in str(raised.value)


def test_every_row_is_used_or_named(tables, tmp_path, capsys):
    lines = [line for line in tables if line["dims"] == "2"]
    lines[3]["modality"], lines[4]["modality"], lines[5]["modality"] = "wram", "Warm", ""
    lines[6]["split"], lines[7]["dims"] = "valid", "4"
    other = [dict(lines[5], modality="ultrasound", subject=f"o{number}") for number in range(3)]
    with pytest.raises(DatalistError) as raised:
        prepare_tree(write_table(tmp_path / "table.csv", lines + other), tmp_path / "out.json", dims=2)
    for part in (
        "row 5: modality is 'wram' (did you mean warm?); expected warm or cold; correct it, or leave",
        "row 6: modality is 'Warm' (did you mean warm?)",
        "row 7: modality is ''; expected warm or cold; correct it",
        "row 8: split is 'valid' (did you mean val?); expected train, ",
        "row 9: dims is '4'; expected 2, 3 or nothing",
    ):
        assert f"{tmp_path / 'table.csv'}, {part}" in str(raised.value)
    assert len(raised.value.faults) == 5


def test_what_is_left_out_is_said(tables, tmp_path, capsys):
    flat = [line for line in tables if line["dims"] == "2"]
    other = [dict(flat[5], modality="ultrasound", subject=f"o{number}") for number in range(3)]
    near = [dict(flat[5], modality="warmer", subject="w")]
    declared = [dict(flat[5], split="left_out", subject="l", image="none.nii.gz")]
    noted = [line | {"age": "7"} for line in tables + other + near + declared]
    table = write_table(tmp_path / "table.csv", noted)
    datalist = prepare_tree(table, tmp_path / "out.json", dims=2, leave_out="warmer")
    assert len(datalist.source.records() + datalist.target.records()) == len(flat)
    said = [line for line in capsys.readouterr().out.splitlines() if line.startswith("not used: ")]
    assert sorted(said) == [
        "not used: 1 rows of modality warmer",
        "not used: 1 rows that the table leaves out",
        f"not used: {len(tables) - len(flat)} rows of 3 dimensions",
        "not used: 3 rows of modality ultrasound, neither --source nor --target",
        "not used: columns age",
    ]


def test_a_misspelt_column_is_a_fault_and_another_one_is_not(tables, tmp_path):
    lines = [
        {("lable" if key == "label" else key): value for key, value in line.items()}
        for line in tables
        if line["dims"] == "2"
    ]
    with pytest.raises(DatalistError, match=r"table.csv: column lable is unknown \(did you mean label\?\)"):
        prepare_tree(write_table(tmp_path / "table.csv", lines), tmp_path / "out.json")


def test_a_table_of_excel_gives_what_the_same_table_of_commas_gives(tables, tmp_path):
    lines = [dict(line, dims="2.0") for line in tables if line["dims"] == "2"]
    table = write_table(tmp_path / "table.csv", lines)
    plain = load_datalist(prepare(table, tmp_path / "a.json", source="warm", target="cold", name="x"))
    text = table.read_text().replace(",", ";")
    table.write_bytes(("sep=;\r\n" + text).encode("utf-16"))
    excel = load_datalist(prepare(table, tmp_path / "b.json", source="warm", target="cold", name="x"))
    assert (excel.source, excel.target) == (plain.source, plain.target)


def sided(tables, tmp_path, sides) -> Path:
    lines = [dict(line) for line in tables if line["dims"] == "2"]
    for number, line in enumerate(lines):
        line["side"] = sides[number % len(sides)]
    return write_table(tmp_path / "table.csv", lines)


def test_sides_of_a_table(tables, tmp_path, capsys):
    datalist = prepare_tree(
        sided(tables, tmp_path, ["L", "right", "Left", "r"]), tmp_path / "out.json", dims=2
    )
    records = datalist.source.records() + datalist.target.records()
    assert [record["side"] for record in records] == (["left", "right"] * len(records))[: len(records)]
    half = len(records) / 2
    assert f"\nside: {int(half + 0.5)} images of the left, {int(half)} of the right\n" in (
        capsys.readouterr().out + "\n"
    )


def test_sides_of_some_images_are_counted_and_none_is_written(tables, tmp_path, capsys):
    datalist = prepare_tree(sided(tables, tmp_path, ["left", "", "right", ""]), tmp_path / "out.json", dims=2)
    records = datalist.source.records() + datalist.target.records()
    assert not any("side" in record for record in records)
    assert (
        f"side: known of {(len(records) + 1) // 2} images, not of {len(records) // 2} "
        f"({Path(records[1]['image']).name}, {Path(records[3]['image']).name}, "
        f"{Path(records[5]['image']).name} and {len(records) // 2 - 3} more), so none is written; "
    ) in capsys.readouterr().out
    prepare_tree(sided(tables, tmp_path, [""]), tmp_path / "none.json", dims=2)
    assert "side:" not in capsys.readouterr().out


@pytest.mark.parametrize("side", ["both", "lr", "0", "links"])
def test_a_side_that_is_none_is_a_fault(tables, tmp_path, side):
    message = f"table.csv, row 2: side is '{side}'; expected left, right, l, r or nothing"
    with pytest.raises(DatalistError, match=message):
        prepare_tree(sided(tables, tmp_path, [side, *["left"] * 99]), tmp_path / "out.json", dims=2)


@pytest.mark.parametrize("column", ["site", "Size", "slide"])
def test_columns_that_only_look_like_the_side(tables, tmp_path, capsys, column):
    lines = [line | {column: "left"} for line in tables if line["dims"] == "2"]
    prepare_tree(write_table(tmp_path / "table.csv", lines), tmp_path / "out.json")
    assert f"not used: columns {column}" in capsys.readouterr().out


def test_sides_of_dicom_headers_count_where_the_table_is_silent(tables, tmp_path, capsys):
    lines = [dict(line) for line in tables if line["dims"] == "2"]
    for number, line in enumerate(lines):
        array = np.asarray(nib.load(tmp_path / line["image"]).dataobj).squeeze().T
        line["image"] = f"dicom/{number}.dcm"
        stored = (1000 + 1000 * np.clip(array, -0.5, 1.5)).astype(np.uint16)
        write_dicom(tmp_path / line["image"], stored, (0.8, 0.9), ImageLaterality="LR"[number % 2])
        line["side"] = "l" if number == 1 else ""
        if line["label"]:  # a label that does not say where it lies
            label = np.asarray(nib.load(tmp_path / line["label"]).dataobj)
            nib.save(nib.Nifti1Image(label.squeeze(), None), tmp_path / line["label"])
    datalist = prepare_tree(write_table(tmp_path / "table.csv", lines), tmp_path / "out.json")
    records = datalist.source.records() + datalist.target.records()
    expected = ["left", "right"] * len(records)
    expected[1] = "left"
    assert [record["side"] for record in records] == expected[: len(records)]
    assert datalist.spacing == [0.6, 0.6]
    assert (
        "side: 1 images are of the other side by their DICOM header (1.dcm); what the table says is taken"
    ) in capsys.readouterr().out


def test_one_patient_in_both_modalities_is_in_one_split(tree, tmp_path, capsys):
    for number in range(5):  # the cold people are five of the warm ones
        for kind in ("images", "labels"):
            path = tree / f"cold/{kind}/c{number}.nii.gz"
            if path.exists():
                path.rename(path.with_name(f"p{number}.nii.gz"))
    datalist = prepare_tree(tree, tmp_path / "out.json", val_fraction=0.2, test_fraction=0.3)
    split = {}
    for modality in (datalist.source, datalist.target):
        for section in ("train_labelled", "train_unlabelled", "val", "test"):
            for record in modality.records(section):
                assert split.setdefault(record["subject"], section[:5]) == section[:5]
    assert len({person for person, section in split.items() if section == "test"}) == 2
    assert {"p3", "p4"} == subjects(datalist.target.test)  # those with labels in both
    assert "5 of 10 people are in both modalities, by name" in capsys.readouterr().out
    apart = prepare_tree(tree, tmp_path / "apart.json", test_fraction=0.3, subjects="per_modality")
    assert apart.subjects == "per_modality"
    assert "are in both modalities" not in capsys.readouterr().out


def test_a_given_split_that_contradicts_the_other_modality_is_named(tables, tmp_path):
    lines = [line for line in tables if line["dims"] == "2"]
    train = next(line for line in lines if line["split"] == "train_labelled")
    test = next(line for line in lines if line["split"] == "test" and line["modality"] == "cold")
    test["subject"] = train["subject"]
    table = write_table(tmp_path / "table.csv", lines)
    with pytest.raises(DatalistError, match="is in test of cold and train of warm.*--subjects per_modality"):
        prepare_tree(table, tmp_path / "out.json")
    assert prepare_tree(table, tmp_path / "out.json", subjects="per_modality").subjects == "per_modality"


def test_folders_that_are_not_read_are_named(tree, tmp_path, capsys):
    (tree / "warm/labels").rename(tree / "warm/lables")
    (tree / "hot/images").mkdir(parents=True)
    with pytest.raises(DatalistError, match=r"warm/lables: is not read \(did you mean labels\?\)"):
        prepare_tree(tree, tmp_path / "out.json")
    (tree / "warm/lables").rename(tree / "warm/labels")
    prepare_tree(tree, tmp_path / "out.json")
    assert f"not used: folder {tree / 'hot'}" in capsys.readouterr().out
    (tree / "warm/images/loop.nii.gz").symlink_to(tree / "warm/images/loop.nii.gz")
    with pytest.raises(DatalistError, match="loop.nii.gz: missing; correct the path"):
        prepare_tree(tree, tmp_path / "out2.json")


OPTIONS = {
    "pattern": ({"subject_pattern": "("}, "--subject-pattern, got '\\('"),
    "val": ({"val_fraction": -0.1}, "--val-fraction: expected a number from 0 to 1, got -0.1"),
    "NaN": ({"test_fraction": float("nan")}, "--test-fraction: expected a number from 0 to 1, got nan"),
    "words": ({"val_fraction": "many"}, "--val-fraction: expected a number from 0 to 1, got 'many'"),
    "sum": ({"val_fraction": 0.5, "test_fraction": 0.5}, "fractions that leave a part to train on"),
    "dims": ({"dims": 4}, "--dims: expected dims of 2 or 3, got 4"),
    "dims of text": ({"dims": "2"}, "--dims: expected dims of 2 or 3, got '2'"),
    "seed": ({"seed": -1}, "--seed: expected a whole number from 0 on, got -1"),
    "subjects": ({"subjects": "shraed"}, r"--subjects: .*got 'shraed' \(did you mean shared\?\)"),
    "labels": ({"labels": "1:femur,2:tibia"}, "--labels as a JSON object, such as .*got '1:femur,2:tibia'"),
    "label list": ({"labels": ["femur", "tibia"]}, "--labels as a JSON object"),
    "label values": ({"labels": {"a": "femur", "2": "tibia"}}, "labels: expected the consecutive values"),
    "label names": ({"labels": {1: 2, 2: "tibia"}}, "labels.'1': expected a non-empty string, got 2"),
    "size": ({"spatial_size": 0}, "spatial_size: expected a list of 2 positive integers, got .0, 0."),
    "sizes": ({"spatial_size": [32]}, "spatial_size: expected a list of 2 positive integers, got .32."),
    "half a size": ({"spatial_size": 32.5}, "spatial_size: expected a list of 2 positive integers, got .32"),
    "spacing": ({"spacing": 0}, "--spacing: expected a positive number .mm., one for each axis, or extent"),
    "spacing of words": ({"spacing": "extents"}, r"got 'extents' \(did you mean extent\?\)"),
    "Extent": ({"spacing": "Extent"}, r"got 'Extent' \(did you mean extent\?\)"),
    "spacing of NaN": ({"spacing": [0.5, float("nan")]}, "--spacing: .*got .0.5, nan."),
    "spacing of text": ({"spacing": ["0.5", "x"]}, "--spacing: .*got .'0.5', 'x'."),
    "spacings": ({"spacing": [0.5] * 3}, "spacing: expected a list of 2 positive numbers .mm., or null"),
    "one modality": ({"target": "warm"}, "--source, --target: expected two modalities, got 'warm' twice"),
    "no modality": ({"target": "clod"}, r"No folder .*clod/images \(did you mean cold\?\)"),
}  # fmt: skip


@pytest.mark.parametrize("case", OPTIONS)
def test_options_that_cannot_be(tree, tmp_path, case):
    options, message = OPTIONS[case]
    with pytest.raises((ValueError, FileNotFoundError), match=message):
        prepare(tree, tmp_path / "out.json", **{"source": "warm", "target": "cold"} | options)
    assert not (tmp_path / "out.json").exists()


def test_the_data_are_never_overwritten(tree, tables, tmp_path):
    table = write_table(tmp_path / "table.csv", tables)
    before = table.read_bytes()
    for data, out in ((table, table), (tree, tree), (table, tmp_path)):
        with pytest.raises(ValueError, match="--out: expected a file to write, got"):
            prepare_tree(data, out, dims=2, overwrite=True)
    assert table.read_bytes() == before


def test_tables_that_cannot_be_read_as_asked(tables, tmp_path):
    table = write_table(tmp_path / "table.csv", tables)
    with pytest.raises(ValueError, match="rows with dims 2, 3. Choose one by --dims"):
        prepare_tree(table, tmp_path / "out.json")
    with pytest.raises(ValueError, match="no rows of modality 'mr', found cold, warm"):
        prepare(table, tmp_path / "out.json", source="mr", target="cold")
    with pytest.raises(ValueError, match=r"no rows of modality 'clod' \(did you mean cold\?\)"):
        prepare(table, tmp_path / "out.json", source="warm", target="clod")
    with pytest.raises(ValueError, match="expected the columns modality, subject, image; subject missing"):
        prepare(write_table(tmp_path / "bad.csv", [{"modality": "a", "image": "b"}]), tmp_path / "out.json")


@pytest.mark.skipif(not LUMBAR.is_file(), reason="the lumbar spine data set is not beside the repository")
def test_lumbar_manifest(tmp_path, capsys):
    levels = {str(k): f"L{k}" for k in range(1, 6)}
    options = {"source": "water", "target": "t2tse", "labels": levels, "spatial_size": 96}
    flat = load_datalist(prepare(LUMBAR, tmp_path / "flat.json", dims=2, **options))
    assert (flat.spatial_dims, flat.spatial_size, flat.spacing) == (2, [96, 96], [2.34, 2.34])
    assert flat.label_names == ["background", "L1", "L2", "L3", "L4", "L5"]
    counts = {
        m.name: [len(m.records(s)) for s in ("train_labelled", "train_unlabelled", "val", "test")]
        for m in (flat.source, flat.target)
    }
    assert counts == {"water": [25, 150, 25, 30], "t2tse": [0, 50, 0, 20]}
    deep = load_datalist(prepare(LUMBAR, tmp_path / "deep.json", dims=3, **options))
    assert (deep.spatial_dims, deep.spatial_size) == (3, [96, 96, 96])
    assert len(deep.target.test) == 4
    assert "224x224" in capsys.readouterr().out


def test_command_line(tree, tmp_path, monkeypatch):
    options = ["--source", "warm", "--target", "cold", "--labels", '{"1": "femur", "2": "tibia"}']
    sizes = ["--spatial-size", "32", "--spacing", "0.7,0.8"]
    command = ["prepare", str(tree), "--out", str(tmp_path / "out.json"), *sizes, *options]
    done = subprocess.run(
        [sys.executable, "-m", "crosswarp", *command], capture_output=True, text=True, cwd=ROOT, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert "2 tibia" in done.stdout and str(tmp_path / "out.json") in done.stdout
    datalist = load_datalist(tmp_path / "out.json")
    assert (datalist.spatial_size, datalist.spacing) == ([32, 32], [0.7, 0.8])
    for path in tree.glob("warm/labels/*"):
        path.unlink()
    monkeypatch.setattr(sys, "argv", ["crosswarp", *command])
    with pytest.raises(SystemExit, match="source.train_labelled .warm. is empty"):
        main()


def test_command_line_draws_the_cohort(tmp_path, monkeypatch, capsys):
    counts = (
        "train_labelled",
        "train_unlabelled",
        "val",
        "test",
        "target_train",
        "target_val",
        "target_test",
    )
    options = [f"--{name}=1" for name in counts]
    monkeypatch.setattr(sys, "argv", ["crosswarp", "cohort", str(tmp_path), "--size", "32", *options])
    main()
    assert capsys.readouterr().out.strip() == str(tmp_path / "datalist.json")
    assert len(load_datalist(tmp_path / "datalist.json").source.records()) == 4
