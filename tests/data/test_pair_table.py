"""Tables of pairs: names that are always the same, collisions that are named, shards, BIDS."""

from __future__ import annotations

from pathlib import Path

import pytest

from crosswarp.data.bids import bids_name, bids_place
from crosswarp.data.pair_table import id_digest, pair_rows, survey
from crosswarp.data.tables import stream_table


def table(folder: Path, *lines: str, name: str = "pairs.csv") -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / name


def test_ids_are_readable_and_of_the_paths_as_the_table_has_them(tmp_path: Path) -> None:
    lines = (
        "moving,fixed,fixed_pose",
        "m/a.nii.gz,f/b.dcm,",
        "m/a.nii.gz,f/b.dcm,mirrored",
        "m2/a.nii.gz,f/b.dcm,",
    )
    here, there = (list(pair_rows(table(tmp_path / name, *lines))) for name in ("here", "there"))
    assert [row.id for row in here] == [row.id for row in there]
    assert len({row.id for row in here}) == 3 and all(row.id.startswith("a_to_b-") for row in here)
    assert here[0].id == "a_to_b-ecc68e36125e"  # of sha256("m/a.nii.gz\0f/b.dcm")
    assert here[0].moving == str(tmp_path / "here" / "m" / "a.nii.gz")
    assert here[1].options == {"fixed_pose": "mirrored"}
    assert here[0].place == f"files/{id_digest(here[0].id).hex()[:3]}/{here[0].id}"


def test_given_ids_are_kept_and_their_files_have_plain_names(tmp_path: Path) -> None:
    (row,) = pair_rows(table(tmp_path, "id,moving,fixed", "../case 1/é,a.png,b.png"))
    assert row.id == "../case 1/é" and row.place.endswith("/_._case_1_é")


def test_names_of_many_bytes_make_ids_that_file_systems_take(tmp_path: Path) -> None:
    path = table(tmp_path, "moving,fixed", f"{'膝' * 80}.png,{'é' * 80}.png", f"{'a' * 80}.png,b.png")
    wide, narrow = pair_rows(path)
    assert wide.id.startswith(f"{'膝' * 22}_to_{'é' * 33}-") and len(wide.id.encode()) <= 150
    assert narrow.id.startswith(f"{'a' * 40}_to_b-")


@pytest.mark.parametrize(
    ("rows", "said"),
    [
        (["a,x.png,y.png", "b,x.png,y.png", "a,z.png,y.png"], "rows 2, 4 have the id 'a'"),
        ([",x.png,y.png", ",u.png,y.png", ",x.png,y.png"], "rows 2, 4 are the same pair; remove"),
        (
            ["a,sub-1/sub-1_x.png,p/b.png", "b,sub-1/sub-1_x.png,q/b.png"],
            "rows 2, 3 would have results of one name, sub-1/sub-1_from-x_to-b_mode-image_xfm; "
            "rename images, after which they are named, or register them into another output folder",
        ),
        (["a,,y.png", "b,x.png,"], "row 2: moving is empty; fill it in\n- row 3: fixed is empty"),
        ([f"{'x' * 151},x.png,y.png"], "row 2: id has more than 150 bytes"),
    ],
)
def test_what_would_be_lost_or_overwritten_is_named(tmp_path: Path, rows: list[str], said: str) -> None:
    with pytest.raises(ValueError, match="correct this table of pairs") as error:
        survey(table(tmp_path, "id,moving,fixed", *rows))
    assert said in str(error.value)


def test_columns_and_values_that_are_misspelt_are_named(tmp_path: Path) -> None:
    path = table(tmp_path, "moving,fixed,moving_posse,fixed_side", "a,b,,up")
    with pytest.raises(ValueError, match=r"did you mean moving_pose.*\n.*fixed_side is 'up'; expected left"):
        survey(path)


def test_shards_are_all_pairs_and_none_twice(tmp_path: Path) -> None:
    path = table(tmp_path, "moving,fixed", *(f"{number}.png,atlas.png" for number in range(11)))
    shards = [[row.id for row in pair_rows(path, (i, 4))] for i in (1, 2, 3, 4)]
    assert [len(shard) for shard in shards] == [3, 3, 3, 2]
    assert sorted(sum(shards, [])) == sorted(row.id for row in pair_rows(path))
    assert survey(path) == (11, False)


def test_parquet_names_the_pairs_that_csv_does(tmp_path: Path) -> None:
    pyarrow = pytest.importorskip("pyarrow")
    import pyarrow.parquet as parquet

    path = table(tmp_path, "moving,fixed,id,note", "a.png,b.png,,x", "c.png,b.png,7,y")
    columns = {"Moving": ["a.png", "c.png"], "fixed": ["b.png"] * 2, "id": [None, 7], "note": ["x", "y"]}
    parquet.write_table(pyarrow.table(columns), tmp_path / "pairs.parquet")
    assert list(pair_rows(tmp_path / "pairs.parquet")) == list(pair_rows(path))
    (tmp_path / "broken.parquet").write_bytes(b"PAR1 and no more")
    with pytest.raises(ValueError, match="cannot be read as Parquet"):
        survey(tmp_path / "broken.parquet")
    with pytest.raises(FileNotFoundError, match="no such file"):
        survey(tmp_path / "none.parquet")


def test_long_tables_are_read_row_by_row_as_short_ones_are(tmp_path: Path) -> None:
    path = table(tmp_path, "Moving;fixed;note", "a.png;b.png;'x'", "", '"c;d.png";b.png')
    long, short = ([row.cells for row in stream_table(path, ["moving"], small)] for small in (0, 10**6))
    assert long == short and long[1]["moving"] == "c;d.png" and long[1]["note"] == ""
    for line, said in (("a;b;c;d", "row 5 has more cells"), ('a;"b', "close its quotation marks")):
        broken = table(tmp_path, *path.read_text().splitlines(), line, name="broken.csv")
        with pytest.raises(ValueError, match=said):
            list(stream_table(broken, ["moving"], 0))
    with pytest.raises(ValueError, match="expected the column target"):
        list(stream_table(path, ["target"], 0))


@pytest.mark.parametrize(
    ("moving", "fixed", "expected"),
    [
        (
            "sub-01/ses-1/anat/sub-01_ses-1_dxa.nii.gz",
            "sub-01/ses-1/anat/sub-01_ses-1_acq-low_xray.nii.gz",
            "sub-01/ses-1/anat/sub-01_ses-1_from-dxa_to-acqlowxray_mode-image_xfm",
        ),
        (
            "/data/sub-01/anat/sub-01_dxa.nii.gz",
            "sub-02/anat/sub-02_xray.dcm",
            "sub-01/anat/sub-01_from-dxa_to-sub02xray_mode-image_xfm",
        ),
        ("sub-1/sub-1_T1w.nii", "MNI 152_v2.nii", "sub-1/sub-1_from-T1w_to-MNI152v2_mode-image_xfm"),
        ("sub-1/sub-1_T1w.nii", "sub-1/sub-1_T1w.mha", "sub-1/sub-1_from-T1w_to-T1w2_mode-image_xfm"),
    ],
)
def test_names_after_bids(moving: str, fixed: str, expected: str) -> None:
    place = bids_place(moving, fixed)
    assert place is not None and bids_name(place, "transform") == expected
    assert (
        len({bids_name(place, kind) for kind in ("transform", "inverse", "warped", "moving_seg", "own")}) == 5
    )


def test_other_names_are_not_bids() -> None:
    assert bids_place("a/sub-01_dxa.nii.gz", "b.png") is None  # not in a folder of the subject
    assert bids_place("sub-01/knee.nii.gz", "b.png") is None


def test_transform_and_inverse_after_bids_do_not_have_one_name(tmp_path: Path) -> None:
    images = "sub-1/sub-1_T1w.nii,sub-1/sub-1_T2w.nii"
    path = table(tmp_path, "moving,fixed", images, ",".join(reversed(images.split(","))))
    assert survey(path, ["transform", "quality"]) == survey(path, ["inverse"]) == (2, True)
    with pytest.raises(ValueError, match="rows 2, 3 would have .* one name, sub-1/sub-1_from-T1w_to-T2w"):
        survey(path, ["transform", "inverse"])


def test_bids_places_stay_within_the_output_folder_and_are_spelt_alike(tmp_path: Path) -> None:
    assert bids_place("sub-01/../../../victim/sub-01_T1w.nii.gz", "b.png") is None
    assert bids_place("sub-01/../../sub-01_T1w.nii.gz", "b.png") is None
    plain = bids_place("sub-01/anat/sub-01_T1w.nii.gz", "b.png")
    for folder in ("sub-01/./anat", "sub-01//anat", "sub-01/x/../anat", "../siteB/./sub-01/anat"):
        assert bids_place(f"{folder}/sub-01_T1w.nii.gz", "b.png") == plain
    rows = ("a,sub-01/anat/sub-01_T1w.nii.gz,b.png", "b,sub-01//anat/sub-01_T1w.nii.gz,b.png")
    with pytest.raises(ValueError, match="rows 2, 3 are the same pair"):
        survey(table(tmp_path, "id,moving,fixed", *rows))
    place = bids_place("sub-01/a|b/sub-01_T1w.nii.gz", "b.png")
    assert place and bids_name(place, "transform") == "sub-01/a|b/sub-01_from-T1w_to-b_mode-image_xfm"
