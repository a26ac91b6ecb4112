"""One reader for tables of text: what spreadsheets and people call CSV."""

from __future__ import annotations

import codecs
import csv
import io
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ..files import read_bounded
from ..wording import printable

MAX_BYTES = 16 * 2**20
MAX_CELLS = 10**6
SEPARATORS = ",;\t"  # where several are as likely, the first of them
BYTE_ORDER_MARKS = {
    codecs.BOM_UTF8: "utf-8-sig",
    codecs.BOM_UTF32_LE: "utf-32",  # begins with the mark of UTF-16, so it is asked for first
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
NO_TEXT = {
    b"PK\x03\x04": "a spreadsheet or a zip",  # .xlsx, .ods, .numbers
    b"\xd0\xcf\x11\xe0": "a spreadsheet",  # .xls
    b"\x1f\x8b": "a compressed file",
    b"%PDF": "a PDF document",
}
SAVE_AS_CSV = "save it as text: in Excel by Save As, CSV UTF-8; in LibreOffice Save As, Text CSV with UTF-8"
NUMBER = re.compile(r"[+-]?(\d+([.,]\d*)?|[.,]\d+)([eE][+-]?\d+)?", re.ASCII)


@dataclass(frozen=True)
class TableRow:
    """A row that is not empty.

    Attributes:
        number: as a spreadsheet counts, the header being row 1 where nothing stands above it.
        cells: column, in lower case, -> text without the blanks around it, "" where the cell is empty.
    """

    number: int
    cells: dict[str, str]


@dataclass(frozen=True)
class Table:
    """A table as :func:`read_table` returns it.

    Attributes:
        path: the file.
        columns: column, in lower case, -> its name as it is written in the header.
        rows: all rows that hold anything; at least one.
        separator: what stands between the cells, ``,``, ``;`` or a tab as a rule.
    """

    path: Path
    columns: dict[str, str]
    rows: list[TableRow]
    separator: str

    def numbers(self, columns: Sequence[str]) -> NDArray[np.float64]:
        """The numbers in some columns, ``[rows, columns]``, NaN for every cell that is not one.

        Where cells are not separated by commas, one comma in a number is its decimal comma.

        Raises:
            ValueError: where some numbers have a decimal comma and others a decimal point, of which one may
                separate thousands.
        """
        texts = np.array([[row.cells[column] for column in columns] for row in self.rows], dtype=object)
        marks = {
            mark: next((row.number for row in self.rows if any(mark in row.cells[c] for c in columns)), None)
            for mark in ".,"
        }
        if self.separator != "," and None not in marks.values():
            raise ValueError(
                f"{self.path}: has numbers with a decimal point (row {marks['.']}) and numbers with a comma "
                f"(row {marks[',']}); write all with a point and without thousands separators"
            )
        return np.vectorize(self._number, otypes=[float])(texts)

    def _number(self, text: str) -> float:
        if not NUMBER.fullmatch(text) or (self.separator == "," and "," in text):
            return float("nan")
        return float(text.replace(",", "."))


def read_table(path: str | Path, needed: Sequence[str] = ()) -> Table:
    """Read a table of text as Excel, LibreOffice, R, pandas and people write it.

    The first row that is not empty names the columns; upper and lower case are the same. Cells are separated
    by commas, semicolons or tabs, whichever the header has most of, or by what a line ``sep=;`` says. The
    encoding is UTF-8, UTF-16 or UTF-32 with a byte order mark, else UTF-8, UTF-16 where every other byte is
    zero, or Windows-1252. Quoted cells may hold separators and new lines. Empty rows, columns without name
    and cells, and empty cells beyond the header count as nothing; missing cells at a row's end are empty.

    Args:
        path: the file, of at most 16 MiB and a million cells.
        needed: columns, in lower case, that there must be.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: naming the file, the row and what to do: for spreadsheets and other files that are no
            text, more cells in a row than columns, an open quotation mark, columns of one name, cells below
            no name, missing columns, and for tables without rows.
    """
    path = Path(path)
    content = read_bounded(path, MAX_BYTES, "a table of text (CSV)")
    text = _decoded(content, path)
    announced = re.match(r"[ \t]*\"?sep=([^\r\n\"])\"?[ \t]*(\r\n|\r|\n)", text, re.IGNORECASE)
    if announced:
        text = text[announced.end() :]
    separator = announced[1] if announced else _separator(text)
    records = _records(text, separator, path)
    if not records:
        raise ValueError(f"{path}: is empty; write a header and a row for each entry")
    (header_row, header), *body = records
    faults = _header_faults(header, header_row)
    if absent := [column for column in needed if column not in map(str.lower, header)]:
        found = printable(", ".join(filter(None, header)), 300)
        faults.append(
            f"expected the columns {', '.join(needed)}; {', '.join(absent)} missing, found {found}; name the "
            "columns in the first row, separated by commas, semicolons or tabs"
        )
    long = [(number, len(record)) for number, record in body if len(record) > len(header)]
    faults += [f"row {number} has {cells} cells, the header {len(header)} columns" for number, cells in long]
    if long:
        faults[-len(long)] += (
            "; write decimal points, put a cell that holds a separator in quotation marks, or correct the "
            "header"
        )
    if not (body or faults):
        faults.append("has a header and no rows; write a row for each entry")
    if faults:
        more = [f"and {len(faults) - 20} more rows like these"] * (len(faults) > 20)
        raise ValueError("\n- ".join([f"{path}: correct this table:", *faults[:20], *more]))
    columns = {name.lower(): name for name in header}
    rows = [
        TableRow(number, dict(zip(columns, [*record, *[""] * (len(header) - len(record))], strict=True)))
        for number, record in body
    ]
    return Table(path, columns, rows, separator)


def stream_table(path: str | Path, needed: Sequence[str] = (), small: int = 2**22) -> Iterator[TableRow]:
    """The rows of a table of text of any length, read as they are asked for.

    Args:
        path: the file. Up to `small` bytes it is read as :func:`read_table` does it; beyond that it is UTF-8,
            separated by what its first row has most of.
        needed: columns, in lower case, that there must be.
        small: bytes.

    Raises:
        FileNotFoundError: when there is no such file.
        ValueError: as :func:`read_table`, for a row when it is reached.
    """
    path = Path(path)
    if not path.is_file() or path.stat().st_size <= small:
        yield from read_table(path, needed).rows
        return
    with open(path, encoding="utf-8-sig", newline="") as file:
        separator = _separator(file.readline())
        file.seek(0)
        reader = csv.reader(file, delimiter=separator, skipinitialspace=True, strict=True)
        try:
            header = [cell.strip().lower() for cell in next(reader)]
            if faults := _header_faults(header, 1) + [
                f"expected the column {column}; name it in the first row"
                for column in needed
                if column not in header
            ]:
                raise ValueError("\n- ".join([f"{path}: correct this table:", *faults]))
            for number, record in enumerate(reader, 2):
                cells = [cell.strip() for cell in record]
                if any(cells[len(header) :]):
                    raise ValueError(f"{path}: row {number} has more cells than the header has columns")
                if any(cells):
                    yield TableRow(number, dict(zip_longest(header, cells[: len(header)], fillvalue="")))
        except csv.Error as error:
            raise ValueError(f"{path}: cannot be read ({error}); close its quotation marks") from error
        except UnicodeDecodeError as error:
            raise ValueError(f"{path}: is not text in UTF-8; {SAVE_AS_CSV}") from error


def _decoded(content: bytes, path: Path) -> str:
    for start, what in NO_TEXT.items():
        if content.startswith(start):
            raise ValueError(f"{path}: is {what}, not a table of text; {SAVE_AS_CSV}")
    marked = (encoding for mark, encoding in BYTE_ORDER_MARKS.items() if content.startswith(mark))
    encodings = [next(marked, "")]
    if not encodings[0]:
        zeros = [content[start:4096:2].count(0) / max(len(content[start:4096:2]), 1) for start in (0, 1)]
        wide = ["utf-16-be"] * (zeros[0] > 0.4) + ["utf-16-le"] * (zeros[1] > 0.4)
        encodings = wide if len(wide) == 1 else ["utf-8", "cp1252"]
    for encoding in encodings:
        try:
            text = content.decode(encoding)
        except UnicodeDecodeError:
            continue
        if "\0" in text:
            row = re.sub("\r\n?", "\n", text[: text.index("\0")]).count("\n") + 1
            raise ValueError(f"{path}: has a NUL character in line {row}, so it is no text; {SAVE_AS_CSV}")
        return text
    raise ValueError(f"{path}: is not text in UTF-8, UTF-16 or Windows-1252; {SAVE_AS_CSV}")


def _separator(text: str) -> str:
    """The likeliest: the one that the first line has most of, outside of quotation marks."""
    outside = re.sub(r'"[^"]*"', '""', text[:65536]).lstrip("\r\n").splitlines()
    return max(SEPARATORS, key=(outside or [""])[0].count)


def _records(text: str, separator: str, path: Path) -> list[tuple[int, list[str]]]:
    """Rows that hold anything, as number and cells without the empty ones at the end."""
    records: list[tuple[int, list[str]]] = []
    cells = number = 0
    try:
        reader = csv.reader(
            io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True, strict=True
        )
        for number, record in enumerate(reader, 1):
            stripped = [cell.strip() for cell in record]
            while stripped and not stripped[-1]:
                stripped.pop()
            cells += max(len(stripped), len(records[0][1])) if records else len(stripped)
            if cells > MAX_CELLS:
                raise ValueError(f"{path}: has more than {MAX_CELLS:,} cells; divide it, or correct the path")
            if stripped:
                records.append((number, stripped))
    except csv.Error as error:
        raise ValueError(
            f"{path}: row {number + 1} cannot be read ({error}); close its quotation marks, and write a "
            'quotation mark within a cell twice ("")'
        ) from error
    return records


def _header_faults(header: list[str], number: int) -> list[str]:
    faults = []
    lower = [name.lower() for name in header]
    for name in sorted({name for name in lower if lower.count(name) > 1 and name}):
        written = ", ".join(printable(each) for each in header if each.lower() == name)
        faults.append(f"row {number} names a column twice: {written}; rename or remove one")
    for index in [index for index, name in enumerate(header) if not name][1:]:
        faults.append(f"row {number}: column {index + 1} has no name; name or remove it")
    return faults
