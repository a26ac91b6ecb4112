"""Tables of pairs to register: their rows as they are asked for, checked, each with a name of its own."""

from __future__ import annotations

import os
import re
import unicodedata
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import blake2b, sha256
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..wording import did_you_mean, printable, shown
from .bids import bids_name, bids_place
from .datalist import SIDES
from .tables import TableRow, stream_table

NEEDED = ("moving", "fixed")
MODALITIES = ("source", "target")
OPTIONS = tuple(f"{image}_{what}" for image in NEEDED for what in ("modality", "pose", "side"))
COLUMNS = ("id", *NEEDED, *OPTIONS)
PARQUET = (".parquet", ".pq")
STEM, STEM_BYTES, MOST_BYTES = 40, 66, 150  # of an image's name, and of a pair's, in names of files
DIGEST = "S16"  # of an id: 16 bytes a pair, however long the table is
SUFFIX = re.compile(
    r"\.(nii(\.gz)?|img(\.gz)?|hdr|mh[ad]|nrrd|nhdr|dcm|png|tiff?|jpe?g|bmp|h5|tfm|json)$", re.I
)


@dataclass(frozen=True)
class PairRow:
    """A pair to register.

    Attributes:
        number: of its row in the table.
        id: given, or made of the names and a digest of the paths as the table has them.
        moving: absolute path.
        fixed: absolute path.
        place: where its results go within the output folder, and what their names begin with.
        options: columns of `OPTIONS` that say something.
    """

    number: int
    id: str
    moving: str
    fixed: str
    place: str
    options: dict[str, str] = field(default_factory=dict)


def pair_rows(path: str | Path, shard: tuple[int, int] = (1, 1)) -> Iterator[PairRow]:
    """The pairs of a table, CSV or Parquet, as they are asked for; relative paths are relative to the table.

    Args:
        path: the table, with the columns `NEEDED` and any of `COLUMNS`; others are not read.
        shard: `i`, `n`: each n-th row, from the i-th on.

    Raises:
        FileNotFoundError: where there is no table.
        ValueError: where it is none with these columns, or a row is not as it should be: the first fault.
    """
    path = Path(path)
    for index, row in enumerate(_raw_rows(path)):
        if index % shard[1] == shard[0] - 1:
            if faults := _faults(row):
                raise ValueError(f"{path}, row {row.number}: {'; '.join(faults)}")
            yield _pair(row, path.parent)


def survey(path: str | Path, files: Sequence[str] = ("transform",)) -> tuple[int, bool]:
    """Look through a whole table before anything is computed.

    Args:
        path: the table.
        files: what is to be written of each pair; see :func:`result_names`.

    Returns:
        number of pairs, and whether images of some are named after BIDS.

    Raises:
        FileNotFoundError: where there is no table.
        ValueError: naming up to 20 faulty rows, and pairs whose ids or results would have one name.
    """
    path, faults, count, bids = Path(path), list[str](), 0, False
    ids, places = bytearray(), bytearray()
    for row in _raw_rows(path):
        count += 1
        if count == 1:
            for name in row.cells.keys() - set(COLUMNS):
                if near := did_you_mean(name, set(COLUMNS) - row.cells.keys()):
                    faults.append(f"column {shown(name)} is unknown{near}; rename or remove it")
        if found := _faults(row):
            faults.append(f"row {row.number}: {'; '.join(found)}")
            if len(faults) > 20:
                break
            continue
        pair = _pair(row, path.parent)
        ids += id_digest(pair.id)
        places += b"".join(map(id_digest, result_names(pair.place, files)))
        bids |= not pair.place.startswith("files/")
    doubled = {key for keys in (ids, places) for key in _doubled(np.frombuffer(keys, DIGEST))}
    if doubled and not faults:
        faults += _clashes(path, doubled, files)
    if faults:
        more = ["and more rows like these"] * (len(faults) > 20)
        raise ValueError("\n- ".join([f"{path}: correct this table of pairs:", *faults[:20], *more]))
    return count, bids


def result_names(place: str, files: Sequence[str]) -> list[str]:
    """Names of a pair's results by which it is told whether another pair's would overwrite them.

    Args:
        place: of a :class:`PairRow`.
        files: what is written. After BIDS, the inverse of one pair may be named as the transform of another.

    Returns:
        paths in the output folder, without suffix.
    """
    if not files or "|" not in place:
        return [place] * bool(files)
    both = {"transform", "inverse"} <= {*files}
    return [bids_name(place, kind) for kind in ("transform", *["inverse"] * both)]


def remedy(place: str) -> str:
    """What to do about results of one name: those after BIDS are named after the images alone."""
    what = "rename images, after which they are named," if "|" in place else "give ids of other letters,"
    return f"{what} or register them into another output folder"


def id_digest(identifier: str) -> bytes:
    """16 bytes that stand for an id, equal for what file systems take for one name."""
    folded = unicodedata.normalize("NFC", identifier).casefold()
    return blake2b(folded.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def pair_digest(identifier: str, moving: str, fixed: str, options: Mapping[str, str | None]) -> bytes:
    """16 bytes that stand for an id with its images and `OPTIONS`, also as a table of text spells them."""
    told = "\0".join([moving, fixed, *(f"{name}={options[name]}" for name in OPTIONS if options.get(name))])
    return blake2b(id_digest(identifier) + told.encode("utf-8", "backslashreplace"), digest_size=16).digest()


def digests(identifiers: Sequence[str]) -> NDArray[np.bytes_]:
    """:func:`id_digest` of each."""
    return np.frombuffer(b"".join(map(id_digest, identifiers)), DIGEST)


def _raw_rows(path: Path) -> Iterator[TableRow]:
    if path.suffix.lower() not in PARQUET:
        yield from stream_table(path, NEEDED)
        return
    parquet = require_pyarrow(f"to read {path}").parquet
    if not path.is_file():
        raise FileNotFoundError(f"Expected a table of pairs at {path}: no such file.")
    try:
        file = parquet.ParquetFile(path)
    except Exception as error:  # pyarrow has kinds of its own
        raise ValueError(f"{path}: cannot be read as Parquet ({printable(str(error), 200)})") from error
    names = {name.lower(): name for name in file.schema_arrow.names}
    if absent := [column for column in NEEDED if column not in names]:
        raise ValueError(f"{path}: expected the columns moving, fixed; {', '.join(absent)} missing")
    wanted = {key: names[key] for key in COLUMNS if key in names}
    number = 1
    for batch in file.iter_batches(8192, columns=list(wanted.values())):
        for values in batch.to_pylist():
            number += 1
            texts = {k: "" if values[name] is None else str(values[name]) for k, name in wanted.items()}
            yield TableRow(number, texts)


def require_pyarrow(what_for: str):  # type: ignore[no-untyped-def] # a module without types
    """The package pyarrow with its Parquet.

    Raises:
        ValueError: where it is not installed.
    """
    try:
        import pyarrow
        import pyarrow.parquet
    except ImportError as error:
        raise ValueError(
            f"Expected the package pyarrow {what_for}: install crosswarp's extra `cohort` "
            "(pip install 'crosswarp[cohort]'), or use CSV."
        ) from error
    return pyarrow


def _faults(row: TableRow) -> list[str]:
    cells = row.cells
    faults = [f"{column} is empty; fill it in" for column in NEEDED if not cells.get(column)]
    for column in OPTIONS:
        allowed = {"modality": MODALITIES, "side": SIDES}.get(column.partition("_")[2])
        if (value := cells.get(column)) and allowed and value not in allowed:
            faults.append(f"{column} is {shown(value)}; expected {' or '.join(allowed)}, or nothing")
    if len(os.fsencode(cells.get("id", ""))) > MOST_BYTES:
        faults.append(f"id has more than {MOST_BYTES} bytes; shorten it")
    return faults


def _pair(row: TableRow, folder: Path) -> PairRow:
    cells = row.cells
    moving, fixed = cells["moving"], cells["fixed"]
    options = {column: cells[column] for column in OPTIONS if cells.get(column)}
    identifier = cells.get("id", "")
    if not identifier:
        told = "\0".join([moving, fixed, *(f"{k}={v}" for k, v in options.items())])
        digest = sha256(told.encode("utf-8", "surrogatepass")).hexdigest()[:12]
        identifier = f"{_stem(moving)}_to_{_stem(fixed)}-{digest}"
    # files of 10 million pairs are spread over 4096 folders
    spread = id_digest(identifier).hex()[:3]
    place = bids_place(moving, fixed) or f"files/{spread}/{_safe(identifier)}"
    moving, fixed = (os.path.abspath(os.path.join(folder, each)) for each in (moving, fixed))
    return PairRow(row.number, identifier, moving, fixed, place, options)


def _stem(path: str) -> str:
    """The end of an image's name, in which similar names differ."""
    stem = _safe(SUFFIX.sub("", os.path.basename(path.rstrip("/"))))[-STEM:]
    return stem.encode()[-STEM_BYTES:].decode(errors="ignore")


def _safe(name: str) -> str:
    return re.sub(r"[^\w.+=@-]|^\.", "_", name)


def _doubled(keys: NDArray[np.bytes_]) -> set[bytes]:
    ordered = np.sort(keys)
    return {bytes(each) for each in ordered[1:][ordered[1:] == ordered[:-1]][:20]}


def _clashes(path: Path, doubled: set[bytes], files: Sequence[str]) -> list[str]:
    """Rows whose ids, or results, are of one name."""
    rows: dict[bytes, list[PairRow]] = {}
    names: dict[bytes, str] = {}
    for pair in pair_rows(path):
        for name in (pair.id, *result_names(pair.place, files)):
            key = id_digest(name)
            if key.rstrip(b"\0") in doubled:  # numpy leaves out zeros at the end
                rows.setdefault(key, []).append(pair)
                names[key] = name
    faults = []
    for key, pairs in rows.items():
        numbers = ", ".join(str(pair.number) for pair in pairs[:5]) + ", ..." * (len(pairs) > 5)
        if len({(pair.moving, pair.fixed, *pair.options.items()) for pair in pairs}) == 1:
            faults.append(f"rows {numbers} are the same pair; remove all but one")
        elif len({pair.id for pair in pairs}) == 1:
            faults.append(f"rows {numbers} have the id {shown(pairs[0].id)}; give each its own")
        else:
            name = printable(names[key], 200)
            faults.append(f"rows {numbers} would have results of one name, {name}; {remedy(pairs[0].place)}")
    return list(dict.fromkeys(faults))
