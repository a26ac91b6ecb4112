"""Tables of pairs: interrupted, divided, merged, and always what one process writes in one go."""

from __future__ import annotations

import csv
import json
import multiprocessing
import os
import signal
import threading
import time
from collections import OrderedDict
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import psutil
import pytest

from crosswarp.commands import COMMANDS
from crosswarp.data import pair_table
from crosswarp.inference import many_pairs, pair_session
from crosswarp.inference.dask_engine import InFlight, on_dask
from crosswarp.inference.jobs import DONE, Finished, Job, journal_rows
from crosswarp.inference.ledger import Ledger
from crosswarp.inference.many_pairs import job_of, merge, register_table, shard_of
from crosswarp.inference.pair_session import PairSession, Writer

from ..cohorts import write_blob_cohort
from ..trained_run import write_trained_run

FILES = ("transform", "warped")
TOO_LONG = "its name is longer than the file system takes. Shorten the names"
PAIRS = 12  # and one whose image is not there


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run, and a table of its images: three moving ones to four fixed ones each."""
    folder = tmp_path_factory.mktemp("many")
    datalist = write_blob_cohort(folder / "data", num_classes=3, spatial_size=(16, 20))
    write_trained_run(folder / "run", datalist, deformation=0.05)
    images = folder / "data" / "images"
    moving, fixed = sorted(images.glob("warm*"))[:3], sorted(images.glob("cold*"))[:4]
    rows = [(f"{a.name}", f"{b.name}") for a in moving for b in fixed] + [("gone.nii.gz", fixed[0].name)]
    lines = ["moving,fixed", *(f"data/images/{a},data/images/{b}" for a, b in rows)]
    (folder / "pairs.csv").write_text("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def table(folder: Path) -> Path:
    return folder / "pairs.csv"


def a_job(folder: Path, out: Path, **overrides: Any) -> Job:
    return job_of(
        str(folder / "run"), str(out), ("source", "target"), FILES, 1, 64, {"device": "cpu"} | overrides
    )


@pytest.fixture(scope="module")
def whole(folder: Path, table: Path) -> Path:
    """What one process writes in one go."""
    counts = register_table(table, a_job(folder, folder / "whole"))
    assert counts["error"] == 1 and counts["before"] == 0 and sum(counts.values()) == PAIRS + 1
    return folder / "whole"


def rows_of(out: Path) -> dict[str, Any]:
    """The table, by id; nothing is in it twice."""
    ledger = Ledger(out)
    rows = [row for path in (out / "table").iterdir() for some in ledger.read(path) for row in some]
    found = {row["id"]: {key: value for key, value in row.items() if key != "out"} for row in rows}
    assert len(found) == len(rows)
    return found


def assert_same(out: Path, whole: Path) -> None:
    expected, found = rows_of(whole), rows_of(out)
    assert found == expected
    files = [name for row in found.values() for name in row["files"]]
    assert len(files) == len(FILES) * PAIRS == len([*out.glob("files/*/*")])
    for name in files:
        assert (out / name).read_bytes() == (whole / name).read_bytes()
    assert not [*out.glob("journal/*/*"), *out.glob("partial/*")]


def test_pairs_of_a_table_are_what_register_writes_of_each(folder: Path, whole: Path, tmp_path: Path) -> None:
    rows = [row for row in rows_of(whole).values() if row["status"] == DONE]
    assert len(rows) == PAIRS
    for row in rows[::5]:
        COMMANDS["register"](row["moving"], row["fixed"], str(folder / "run"), str(tmp_path), device="cpu")
        stem = f"{Path(row['moving']).name[:-7]}_to_{Path(row['fixed']).name[:-7]}"
        quality = json.loads((tmp_path / f"{stem}_quality.json").read_text())
        assert (
            row["verdict"] == quality["verdict"] and row["reasons"] == quality["reasons"] + quality["notes"]
        )
        assert row["expected_overlap"] == quality["expected_overlap"]["mean"]["value"]
        for name, suffix in zip(row["files"], ("transform.h5", "warped.nii.gz"), strict=True):
            assert (whole / name).read_bytes() == (tmp_path / f"{stem}_{suffix}").read_bytes()


def test_an_image_that_comes_again_is_read_and_segmented_once(
    folder: Path, table: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    session = PairSession(a_job(folder, tmp_path))
    rows = [row for row in pair_table.pair_rows(table) if "gone" not in row.moving]
    runner, network, *_ = session.kind(rows[0])
    read, segmented = [], []
    load, segment = runner.preprocess_one, network.network.segment
    monkeypatch.setattr(runner, "preprocess_one", lambda *a, **k: read.append(a[0]) or load(*a, **k))
    monkeypatch.setattr(network.network, "segment", lambda i, m: segmented.append(m) or segment(i, m))
    session.register(rows, tmp_path / "journal" / "a")
    assert len(read) == len(set(read)) == 7 and sorted(segmented) == ["source"] * 3 + ["target"] * 4
    # with hardly any memory for them they are read again, and results are the same
    session.images.clear()
    session.job = replace(session.job, cache_mib=0)
    session.register(rows, tmp_path / "journal" / "b")
    assert len(read) > 14
    lines = [path.read_text() for path in sorted((tmp_path / "journal").iterdir())]
    assert sorted(lines[0].splitlines()) == sorted(lines[1].splitlines())


def test_errors_are_listed_with_their_reason_and_tried_again(
    folder: Path, table: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (row,) = csv.DictReader(open(whole / "errors.csv", encoding="utf-8"))
    assert row["moving"].endswith("gone.nii.gz") and "Expected files that are not there" in row["error"]
    command = partial(COMMANDS["register"], models=str(folder / "run"), pairs=str(table), files="table")
    for before in (0, PAIRS):
        with pytest.raises(SystemExit) as ended:
            command(out=str(tmp_path / "out"), device="cpu")
        assert ended.value.code == 11
        assert f"{before} were done before; 1 errors" in capsys.readouterr().out
    assert not (tmp_path / "out" / "files").exists()


@pytest.mark.parametrize("survives", [0, 1, 2])
def test_what_dies_while_it_writes_loses_nothing_and_doubles_nothing(
    folder: Path, table: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, survives: int
) -> None:
    class Killed(BaseException):
        pass

    put, groups = Writer._put, []

    def dies(self: Writer, group: Any) -> None:
        groups.append(group)
        if len(groups) > survives:
            if survives == 2:  # after all files, and half of a line
                put(self, group)
                self.path.write_text(self.path.read_text()[:-9])
            raise Killed
        put(self, group)

    monkeypatch.setattr(pair_session, "GROUP", 3)
    monkeypatch.setattr(pair_session, "GROUP_SECONDS", 1e9)
    monkeypatch.setattr(Writer, "_put", dies)
    with pytest.raises(Killed):
        register_table(table, a_job(folder, tmp_path))
    monkeypatch.setattr(Writer, "_put", put)
    counts = register_table(table, a_job(folder, tmp_path))
    assert counts["before"] == (0, 2, 5)[survives]
    assert_same(tmp_path, whole)


def test_a_journal_that_became_a_part_already_doubles_nothing(
    folder: Path, table: Path, whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        Path, "unlink", lambda path, missing_ok=False: None if "journal" in str(path) else os.unlink(path)
    )
    register_table(table, a_job(folder, tmp_path))
    monkeypatch.undo()
    assert list(tmp_path.glob("journal/*/*"))
    assert register_table(table, a_job(folder, tmp_path))["before"] == PAIRS
    assert_same(tmp_path, whole)


@pytest.mark.parametrize("with_pyarrow", [True, False])
def test_shards_are_merged_and_what_is_missing_is_listed(
    folder: Path,
    table: Path,
    whole: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    with_pyarrow: bool,
) -> None:
    if not with_pyarrow:

        def none(what_for: str) -> None:
            raise ValueError(f"Expected pyarrow {what_for}")

        monkeypatch.setattr("crosswarp.inference.ledger.require_pyarrow", none)
    for i in (1, 3):
        register_table(table, a_job(folder, tmp_path), (i, 3))
    assert merge(table, tmp_path) == (8, 1, 4)
    missing = list(csv.DictReader(open(tmp_path / "missing.csv", encoding="utf-8")))
    assert len(missing) == 4 and {row["error"] for row in missing} == {"not computed"}
    assert register_table(table, a_job(folder, tmp_path), (2, 3))["before"] == 0
    # a part that is there twice, as a copy of a folder may leave it
    part = next((tmp_path / "table").glob("part-*"))
    (part.parent / f"part-again{part.suffix}").write_bytes(part.read_bytes())
    assert merge(table, tmp_path) == (PAIRS, 1, 0)
    assert not (tmp_path / "missing.csv").exists()
    assert (part.suffix == ".parquet") == with_pyarrow
    monkeypatch.undo()
    assert_same(tmp_path, whole)


def test_results_of_other_networks_or_options_are_not_mixed(
    folder: Path, table: Path, whole: Path, tmp_path: Path
) -> None:
    with pytest.raises(ValueError, match="Expected the ids with which .* was begun"):
        register_table(table, a_job(folder, whole, initialisation="moments"))
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="it holds other things"):
        register_table(table, a_job(folder, tmp_path))
    with pytest.raises(FileNotFoundError, match="it has no job.json"):
        merge(table, tmp_path)


@pytest.mark.parametrize(
    ("file", "errors", "said"),
    [
        ("transform", {"a"}, TOO_LONG),
        ("warped", {"a"}, "SaveImage cannot find"),  # MONAI's word for it
        ("displacement", {"a", "b"}, TOO_LONG),  # that of b in its place alone
    ],
)
def test_names_too_long_for_files_are_an_error_of_their_pair_alone(
    folder: Path, tmp_path: Path, file: str, errors: set[str], said: str
) -> None:
    image, other = (f"{folder}/data/images/{name}test0.nii.gz" for name in ("warm", "cold"))
    long = [f"{letter * 120}.nii.gz" for letter in "ab"]
    bids = [f"sub-1/sub-1_acq-{'c' * 98}_xray.nii.gz", f"{'d' * 98}.nii.gz"]
    (tmp_path / "sub-1").mkdir()
    for name in (*long, *bids):
        (tmp_path / name).symlink_to(image)
    rows = ("a," + ",".join(long), "b," + ",".join(bids), f"c,{image},{other}")
    (tmp_path / "pairs.csv").write_text("\n".join(["id,moving,fixed", *rows]) + "\n")
    job = replace(a_job(folder, tmp_path / "out"), files=(file,))
    for before in (0, 3 - len(errors)):
        assert register_table(tmp_path / "pairs.csv", job)["before"] == before
        found = list(csv.DictReader(open(tmp_path / "out" / "errors.csv", encoding="utf-8")))
        assert {row["id"] for row in found} == errors
        assert all(said in row["error"] for row in found)


def write_table(folder: Path, *rows: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "pairs.csv").write_text("\n".join(["id,moving,fixed,moving_pose", *rows]) + "\n")
    return folder / "pairs.csv"


def as_done(out: Path, table: Path) -> dict[str, int]:
    """Note the pairs of a table that are not done, as if they had been registered; returns the counts."""
    job = Job(str(table), str(out), files=("transform",))

    def engine(job: Job, chunks: Any, journals: Path) -> Any:
        for name, rows in chunks:
            noted = [
                {"id": row.id, "moving": row.moving, "fixed": row.fixed, **row.options, "status": DONE}
                | {
                    "verdict": "ok",
                    "out": job.out,
                    "place": row.place,
                    "reasons": [],
                    "files": [],
                    "digests": [],
                }
                for row in rows
            ]
            journals.mkdir(parents=True, exist_ok=True)
            lines = "".join(json.dumps(each) + "\n" for each in noted)
            (journals / f"{name}.a.jsonl").write_text(lines)
            yield Finished(name, len(rows), 1.0, {"ok": len(rows)})

    return register_table(table, job, engine=engine)


@pytest.mark.parametrize("with_pyarrow", [True, False])
def test_ids_that_are_done_of_other_images_or_options_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, with_pyarrow: bool
) -> None:
    if not with_pyarrow:
        monkeypatch.setattr(
            "crosswarp.inference.ledger.require_pyarrow", lambda _: (_ for _ in ()).throw(ValueError())
        )
    out = tmp_path / "out"
    rows = ("p1,m.png,f.png,", ",a.png,f.png,mirrored", "é,x.png,f.png,")
    assert as_done(out, write_table(tmp_path, *rows)) == {"ok": 3, "before": 0, "error": 0}
    assert as_done(out, write_table(tmp_path, *rows)) == {"before": 3, "error": 0}
    others = (
        write_table(tmp_path, "p1,other/m.png,f.png,"),
        write_table(tmp_path / "pose", "p1,../m.png,../f.png,mirrored"),
        write_table(tmp_path / "elsewhere", *rows),  # the same relative paths, of a second cohort
    )
    was = f"row 2: 'p1' is done of {tmp_path}/m.png, {tmp_path}/f.png, but now is of"
    for table, now in zip(
        others, ("other/m.png", "f.png, moving_pose mirrored", "elsewhere/m.png"), strict=True
    ):
        for call in (lambda table: as_done(out, table), lambda table: merge(table, out)):
            with pytest.raises(ValueError, match="Give these pairs other ids, or another") as error:
                call(table)
            assert was in str(error.value) and now in str(error.value)
    assert as_done(out, write_table(tmp_path, *rows)) == {"before": 3, "error": 0}


def test_results_after_bids_of_a_second_table_do_not_overwrite_the_first(tmp_path: Path) -> None:
    out, image = tmp_path / "out", "sub-01/anat/sub-01_T1w.nii.gz"
    as_done(out, write_table(tmp_path / "a", f"a,siteA/{image},f.nii.gz,", "b,m.png,f.nii.gz,"))
    second = write_table(tmp_path / "b", f"c,siteB/{image},f.nii.gz,", "d,m.png,f.nii.gz,")
    with pytest.raises(
        ValueError, match="row 2: its results would overwrite those of 'a', sub-01/anat"
    ) as error:
        as_done(out, second)
    assert "rename images, after which they are named, or register them into another" in str(error.value)
    assert "row 3" not in str(error.value)
    assert merge(second, out) == (0, 0, 2)  # which overwrites nothing
    other = write_table(tmp_path / "b", f"c,siteB/{image},g.nii.gz,", "d,m.png,f.nii.gz,")
    assert as_done(out, other) == {"ok": 2, "before": 0, "error": 0}


def test_what_moved_with_its_folder_or_without_is_still_done(tmp_path: Path) -> None:
    atlas = tmp_path / "atlas.png"
    rows = ("p1,m.png,f.png,", f"p2,m.png,{atlas},")
    as_done(tmp_path / "here" / "out", write_table(tmp_path / "here", *rows))
    (tmp_path / "here").rename(tmp_path / "there")
    assert as_done(tmp_path / "there" / "out", tmp_path / "there" / "pairs.csv")["before"] == 2
    (tmp_path / "there" / "out").rename(tmp_path / "out")
    with pytest.raises(ValueError, match="row 2: 'p1' is done of"):
        as_done(tmp_path / "out", tmp_path / "there" / "pairs.csv")
    assert as_done(tmp_path / "out", write_table(tmp_path / "here", *rows))["before"] == 2


def begin(job: Job, barrier: Any, shard: int) -> None:
    barrier.wait()
    register_table(Path(job.models), job, (shard, 4), lambda *_: iter(()))


def test_shards_that_start_together_all_begin(tmp_path: Path) -> None:
    rows = (f"sub-{number}/sub-{number}_T1w.nii.gz,f.nii.gz" for number in range(4))
    (tmp_path / "pairs.csv").write_text("\n".join(["moving,fixed", *rows]) + "\n")
    context = multiprocessing.get_context("fork")  # what is loaded already
    for number in range(4):
        out, barrier = tmp_path / f"out{number}", context.Barrier(4)
        job = Job(str(tmp_path / "pairs.csv"), str(out), decided_by={"version": "1"})
        shards = [context.Process(target=begin, args=(job, barrier, i)) for i in (1, 2, 3, 4)]
        for each in shards:
            each.start()
        for each in shards:
            each.join(60)
        assert [each.exitcode for each in shards] == [0] * 4
        assert {path.name for path in out.iterdir()} >= {"job.json", "dataset_description.json", "SHA256SUMS"}


def test_a_folder_whose_first_process_was_killed_as_it_began_is_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def killed(*_: Any) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("crosswarp.files.os.replace", killed)
        with pytest.raises(KeyboardInterrupt):
            Ledger(tmp_path).claim({"version": "1"})
        patch.undo()
        patch.setattr(
            "crosswarp.files.os.replace", lambda a, b: killed() if "job" in b.name else os.rename(a, b)
        )
        with pytest.raises(KeyboardInterrupt):
            Ledger(tmp_path).claim({"version": "1"})
    assert {path.name for path in tmp_path.iterdir()} >= {"SHA256SUMS", "job.json.partial"}
    (tmp_path / ".writer.lock").touch()
    Ledger(tmp_path).claim({"version": "1"})
    assert json.loads((tmp_path / "job.json").read_text()) == {"version": "1"}


def test_a_misspelt_id_is_said_before_the_folder_is_begun(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "pairs.csv").write_text("moving,fixed\ngone.png,gone.png\n")
    with pytest.raises(ValueError, match="transform_sufix.*did you mean transform_suffix"):
        register_table(tmp_path / "pairs.csv", a_job(folder, tmp_path / "out", transform_sufix=".tfm"))
    job = a_job(folder, tmp_path / "out", transform_suffix=".tfm")
    assert register_table(tmp_path / "pairs.csv", job) == {"error": 1, "before": 0}


def test_images_named_after_bids_have_results_named_after_it(folder: Path, tmp_path: Path) -> None:
    images, data = folder / "data" / "images", tmp_path / "data"
    names = {"sub-01/anat/sub-01_dxa.nii.gz": "warmtest0", "sub-02/anat/sub-02_xray.nii.gz": "coldtest0"}
    for name, image in names.items():
        (data / name).parent.mkdir(parents=True)
        (data / name).write_bytes((images / f"{image}.nii.gz").read_bytes())
    (data / "pairs.csv").write_text("moving,fixed\n" + ",".join(names) + "\n")
    job = job_of(
        str(folder / "run"), str(tmp_path / "out"), ("source", "target"), None, 1, 64, {"device": "cpu"}
    )
    assert sum(register_table(data / "pairs.csv", job).values()) == 1
    found = {path.name for path in (tmp_path / "out" / "sub-01" / "anat").iterdir()}
    assert len(found) == 9
    assert "sub-01_from-dxa_to-sub02xray_mode-image_xfm.h5" in found
    assert "sub-01_space-sub02xray_desc-warped_dseg.nii.gz" in found
    description = json.loads((tmp_path / "out" / "dataset_description.json").read_text())
    assert description["DatasetType"] == "derivative" and description["BIDSVersion"]
    (row,) = Ledger(tmp_path / "out").done()
    assert row["place"] == "sub-01/anat/sub-01|dxa|sub02xray" and row["out"] == str(tmp_path / "out")


def test_poses_and_modalities_of_rows_are_used(folder: Path, tmp_path: Path) -> None:
    images = sorted((folder / "data" / "images").glob("*test0*"))
    columns = "id,moving,fixed,moving_modality,fixed_modality,moving_pose"
    ways = (
        f"a,{images[1]},{images[0]},,,",
        f"b,{images[1]},{images[0]},,,mirrored",
        f"c,{images[0]},{images[1]},target,source,",
    )
    (tmp_path / "pairs.csv").write_text(
        "\n".join([columns, *ways, f"d,{images[1]},{images[0]},,,upside"]) + "\n"
    )
    register_table(tmp_path / "pairs.csv", a_job(folder, tmp_path / "out"))
    found = rows_of(tmp_path / "out")
    assert len({tuple(found[name]["digests"]) for name in "abc"}) == 3
    assert "the moving image is seen mirrored" in " ".join(found["b"]["reasons"])
    assert found["d"]["status"] == "error" and "upside" in found["d"]["error"]


def test_sides_of_rows_go_with_their_images(tmp_path: Path) -> None:
    """The pose is asked for what :class:`PosedFramesd` calls it; one image of two sides is read twice."""
    columns = "moving,fixed,moving_side,fixed_side,moving_pose"
    (tmp_path / "pairs.csv").write_text(f"{columns}\na,b,left,,\na,b,right,,\na,b,,left,\na,b,left,,auto\n")
    read = list[tuple[str, str, dict[str, str]]]()
    session = PairSession.__new__(PairSession)
    session.images, session.held, session.job = OrderedDict(), 0, SimpleNamespace(cache_mib=1)
    runner = SimpleNamespace(
        modalities=("source", "target"),
        preprocess_one=lambda path, key, **said: read.append((Path(path).name, key, said)) or dict(said),
        pair=lambda moving, fixed: moving | fixed,
    )
    session.kind = lambda row: (runner,)  # type: ignore[method-assign, assignment]
    found = [session.read(row) for row in pair_table.pair_rows(tmp_path / "pairs.csv")]
    left, right, fixed = (
        {f"{key}_input_side": s} for key, s in (("moving", "left"), ("moving", "right"), ("fixed", "left"))
    )
    assert found == [left, right, fixed, left | {"moving_pose": "auto"}]
    assert len(read) == 4 + 2, "the moving image four ways, the fixed one two"


@pytest.mark.parametrize("text", ["0/3", "4/3", "1", "a/b", "1/0"])
def test_shards_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match="expected i/n with i from 1 to n"):
        shard_of(text)


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"pairs": "p.csv", "moving": "a"}, "--models is missing\n- --out is missing\n- --pairs names"),
        (
            {"moving": "a", "shard": "1/2", "models": "m", "out": "o"},
            "--fixed is missing\n- --shard is for tables",
        ),
        ({"pairs": "p", "models": "m", "out": "o", "workers": 2}, "--workers is for an engine"),
        ({"pairs": "p", "models": "m", "out": "o", "threads": 0, "cache_mib": 0}, "--threads: expected a"),
        ({"pairs": "p", "models": "m", "out": "o", "cache_mib": 0}, "--cache_mib: expected a positive"),
        (
            {"pairs": "p", "models": "m", "out": "o", "engine": "dask", "workers": 0},
            "--workers: expected a positive",
        ),
        ({"pairs": "p", "models": "m", "out": "o", "engine": "spark"}, "expected dask or nothing"),
        ({"pairs": "p", "models": "m", "out": "o", "files": "warp"}, "--files: expected some of transform"),
        (
            {"pairs": "p", "models": "m", "out": "o", "shard": "1/2", "merge": True},
            "--merge is of all shards",
        ),
        ({"pairs": "p", "models": "m", "out": "o", "moving_modality": "ct"}, "--moving_modality: expected"),
        ({"pairs": "p", "models": "m", "out": "o", "output_dir": "b"}, "Expected no output_dir"),
    ],
)
def test_options_that_do_not_go_together_are_refused(options: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError) as error:
        COMMANDS["register"](**options)
    assert said in str(error.value)


def test_progress_is_shown_before_anything_new_is_done(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    with many_pairs.Progress(100, SimpleNamespace(skipped=50)) as progress:
        progress.show({})
        progress.show({"ok": 10})
    assert ["60 of 100" in record.getMessage() for record in caplog.records] == [True]


def test_pairs_of_which_workers_die_are_tried_one_by_one_and_become_errors(
    table: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows, submitted = list(pair_table.pair_rows(table))[:3], list[Any]()
    flight = InFlight.__new__(InFlight)
    flight.journals = tmp_path
    monkeypatch.setattr(flight, "submit", lambda name, rows: submitted.append((name, rows)))
    (tmp_path / "c.1.jsonl").write_text(
        json.dumps({"id": rows[0].id, "status": DONE, "verdict": "ok"}) + "\n"
    )
    assert flight.killed("c", rows) == {"ok": 1}
    assert [each for _, each in submitted] == [[rows[1]], [rows[2]]]
    assert flight.killed(*submitted[0]) == {"error": 1}
    (noted,) = journal_rows(next(tmp_path.glob("c-*.jsonl")))
    assert noted["id"] == rows[1].id and "more memory" in noted["error"]


def test_a_worker_that_is_killed_loses_nothing_and_doubles_nothing(
    folder: Path, table: Path, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("distributed")
    killed: list[int] = []

    def kill_one() -> None:
        """Kill the worker that has written the first lines; its part of the chunk is done by the other."""
        own = psutil.Process()
        while not killed:
            time.sleep(0.02)
            if list(tmp_path.glob("journal/*/*.jsonl")):
                busy = max(own.children(), key=lambda child: sum(child.cpu_times()[:2]))
                os.kill(busy.pid, signal.SIGKILL)
                killed.append(busy.pid)

    many_pairs_least, many_pairs.LEAST = many_pairs.LEAST, 2
    killer = threading.Thread(target=kill_one, daemon=True)
    killer.start()
    try:
        counts = register_table(table, a_job(folder, tmp_path), engine=partial(on_dask, workers=2))
    finally:
        many_pairs.LEAST = many_pairs_least
    killer.join(5)
    assert killed and counts["error"] == 1
    assert_same(tmp_path, whole)
