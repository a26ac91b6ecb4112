"""The command `package`."""

from __future__ import annotations

from pathlib import Path

from .. import __version__
from ..places import META, ROOT, STAGES


def package(
    run: str,
    out: str = "dist",
    datalist: str | None = None,
    version: str | None = None,
    changes: str | None = None,
    overwrite: bool = False,
) -> list[Path]:
    """Write a trained run as five zips, ``<name>_v<version>.zip``: its four stages and the whole chain.

    Args:
        run: the run's folder.
        out: where to write.
        datalist: the run's data, where they are not where they were in training.
        version: of this release; that of the library if not given.
        changes: what is new in this version, for the changelog; what it was trained on if not given.
        overwrite: replace zips that are there already with other content.

    Returns:
        the zips, the whole chain last.

    Raises:
        FileNotFoundError: for a run that is not there or whose data are not, and within the zip of a single
            stage, which has not the other bundles.
        ValueError: for a run that is not finished, whose data have changed, or of another version of the
            library.
        FileExistsError: when a zip is there already with other content; nothing is written.
    """
    from ..files import replacing
    from ..kept import read_json
    from ..lock import one_writer
    from ..release.package import Release, check_run, warn_of_edits_left_out, zipped
    from ..release.verify import BundleError, inspect
    from ..runs.chain import data_of_run

    if not (ROOT / "bundles").is_dir():
        raise FileNotFoundError(
            f"Expected the bundles in {ROOT}: packaging needs crosswarp itself or an unpacked {META} bundle."
        )
    run_dir = Path(run)
    data = data_of_run(run_dir, datalist)
    provenance = read_json(run_dir / "provenance.json")
    check_run(run_dir, provenance)
    warn_of_edits_left_out(run_dir)
    release = Release(run_dir, data, provenance, str(version or __version__), changes)
    bundles = {name: release.stage(name) for name in STAGES} | {META: release.chain()}
    contents = {
        Path(out) / f"{name}_v{release.version}.zip": zipped(name, files) for name, files in bundles.items()
    }
    faults = [
        f"- {path.name}: {fault}"
        for path, content in contents.items()
        for fault in inspect(content, path.name).faults
    ]
    if faults:
        raise BundleError("\n".join([f"The bundles of {run_dir} would not pass verification:", *faults]))
    others = [
        str(path) for path, content in contents.items() if path.exists() and path.read_bytes() != content
    ]
    if others and not overwrite:
        raise FileExistsError(
            f"There with other content: {', '.join(others)}. Name another --out, give this release another "
            "--version, or replace them: --overwrite."
        )
    with one_writer(out):
        for path, content in contents.items():
            with replacing(path, size=len(content)) as partial:
                partial.write_bytes(content)
    return list(contents)
