"""Tables of text: every encoding and separator of the same table reads alike, and what cannot be is named."""

from __future__ import annotations

import codecs
import io
import zipfile
from pathlib import Path

import numpy as np
import pytest

from crosswarp.data.tables import MAX_BYTES, MAX_CELLS, read_table

CELLS = [["Modality", "subject", "x"], ["kälte", "p 1", "1.5"], ["warm", "Zoë", "-2e1"]]
EXPECTED = [
    (2, {"modality": "kälte", "subject": "p 1", "x": "1.5"}),
    (3, {"modality": "warm", "subject": "Zoë", "x": "-2e1"}),
]


def text_of(cells: list[list[str]], separator: str, newline: str = "\n") -> str:
    return "".join(separator.join(row) + newline for row in cells)


def rows_of(path: Path) -> list[tuple[int, dict[str, str]]]:
    return [(row.number, row.cells) for row in read_table(path).rows]


def written(folder: Path, content: str | bytes) -> Path:
    path = folder / "table.csv"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return path


@pytest.mark.parametrize("separator", [",", ";", "\t"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize(
    "encoding", ["utf-8", "utf-8-sig", "cp1252", "utf-16", "utf-16-le", "utf-16-be", "utf-32"]
)
def test_every_encoding_and_separator_reads_alike(tmp_path, separator, newline, encoding):
    path = written(tmp_path, text_of(CELLS, separator, newline).encode(encoding))
    table = read_table(path)
    assert [(row.number, row.cells) for row in table.rows] == EXPECTED
    assert table.columns == {"modality": "Modality", "subject": "subject", "x": "x"}
    assert table.separator == separator
    np.testing.assert_array_equal(table.numbers(["x"]), [[1.5], [-20]])


def test_utf_16_of_either_order_with_its_mark(tmp_path):
    for mark, encoding in ((codecs.BOM_UTF16_LE, "utf-16-le"), (codecs.BOM_UTF16_BE, "utf-16-be")):
        assert rows_of(written(tmp_path, mark + text_of(CELLS, "\t").encode(encoding))) == EXPECTED


@pytest.mark.parametrize("announced", ["sep=;\r\n", "SEP=;\n", '"sep=;"\n'])
def test_the_separator_that_excel_is_told(tmp_path, announced):
    cells = [["a,b,c,d", "x"], ["1", "2"]]  # by its commas alone the header would be split wrongly
    path = written(tmp_path, announced + text_of(cells, ";"))
    assert rows_of(path) == [(2, {"a,b,c,d": "1", "x": "2"})]


def test_cells_in_quotation_marks_hold_anything(tmp_path):
    path = written(tmp_path, 'name, "note; a"\n"p\n1", "say ""hi"", ok"\n\n , \nq,\n')
    assert rows_of(path) == [
        (2, {"name": "p\n1", "note; a": 'say "hi", ok'}),
        (5, {"name": "q", "note; a": ""}),
    ]


def test_missing_cells_are_empty_and_empty_ones_beyond_the_header_are_none(tmp_path):
    path = written(tmp_path, "a,b,c,,\n1,,\n1,2,3,,,\n")
    assert rows_of(path) == [(2, {"a": "1", "b": "", "c": ""}), (3, {"a": "1", "b": "2", "c": "3"})]


def test_the_numbered_rows_of_pandas(tmp_path):
    assert rows_of(written(tmp_path, ",x,y\n0,1,2\n")) == [(2, {"": "0", "x": "1", "y": "2"})]


@pytest.mark.parametrize("separator", [";", "\t"])
def test_decimal_commas(tmp_path, separator):
    table = read_table(written(tmp_path, text_of([["x", "y"], ["1,5", "-,25"], ["2e1", "3"]], separator)))
    np.testing.assert_array_equal(table.numbers(["y", "x"]), [[-0.25, 1.5], [3, 20]])


def test_what_is_no_number(tmp_path):
    cells = ["", "one", "nan", "inf", "1_000", '"1,5"', "0x10", "١", "1.5.2", "--1", "1e", "1 2"]  # noqa: RUF001
    table = read_table(written(tmp_path, "x,name\n" + "".join(f"{cell},a\n" for cell in cells)))
    assert len(table.rows) == len(cells) and np.isnan(table.numbers(["x"])).all()


def test_points_and_commas_are_not_guessed_at(tmp_path):
    table = read_table(written(tmp_path, "x;y\n1.234;5\n7;1,5\n"))
    with pytest.raises(ValueError, match=r"table.csv: .* decimal point \(row 2\) and .* comma \(row 3\)"):
        table.numbers(["x", "y"])


def spreadsheet() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("xl/workbook.xml", "<workbook/>")
    return file.getvalue()


FAULTS = {
    "empty": (b"", "is empty"),
    "blank": (b"\n \n,,\n", "is empty"),
    "header alone": (b"a,b\n\n", "has a header and no rows"),
    "spreadsheet": (spreadsheet(), "is a spreadsheet or a zip, not a table of text; "),
    "old spreadsheet": (b"\xd0\xcf\x11\xe0" + bytes(99), "is a spreadsheet, .*CSV UTF-8"),
    "compressed": (b"\x1f\x8b\x08" + bytes(9), "is a compressed file"),
    "NUL": (b"a,b\n1,2\n3,\x00\n4,5\n", "NUL character in line 3"),
    "no text": (b"a,b\n\x81,2\n", "is not text in UTF-8, UTF-16 or Windows-1252"),
    "half a UTF-16": (text_of(CELLS, ",").encode("utf-16")[:-1], "is not text in UTF-8"),
    "more cells than columns": (b"a,b\n1,2\n1,5,2,5\n", "row 3 has 4 cells, the header 2 columns"),
    "twice": (b"X,y,x\n1,2,3\n", "row 1 names a column twice: X, x"),
    "nameless": (b"a,,b,,c\n1,2,3,4,5\n", "row 1: column 4 has no name"),
    "open quotation mark": (b'a,b\n1,2\n"3,4\n5,6\n', "row 3 cannot be read "),
    "huge cell": (b"a,b\n1," + b"x" * 200000 + b"\n", "row 2 cannot be read .field larger"),
    "too many bytes": (b"a,b\n" * (MAX_BYTES // 4 + 1), "has more than 16,777,216 bytes"),
    "too many cells": (b"a," * 999 + b"b\n" + b"1\n" * (MAX_CELLS // 1000), "has more than 1,000,000 cells"),
}  # fmt: skip


@pytest.mark.parametrize("case", FAULTS)
def test_faults_name_file_row_and_remedy(tmp_path, case):
    content, message = FAULTS[case]
    path = written(tmp_path, content)
    with pytest.raises(ValueError, match=f"(?s){path}: .*{message}.*; ") as raised:
        read_table(path)
    assert len(str(raised.value)) < 600


def test_all_faults_are_named_at_once(tmp_path):
    path = written(tmp_path, "a,A\n1,2,3\n" + "1,2,3,4\n" * 50)
    with pytest.raises(ValueError) as raised:
        read_table(path, ["b", "a"])
    lines = str(raised.value).splitlines()
    assert len(lines) == 1 + 20 + 1 and lines[-1] == "- and 33 more rows like these"
    assert lines[1].startswith("- row 1 names a column twice: a, A; ")
    assert lines[2].startswith("- expected the columns b, a; b missing, found a, A; ")
    assert lines[3].startswith("- row 2 has 3 cells")


def test_files_that_are_not_there_or_no_files(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"none.csv: no such file"):
        read_table(tmp_path / "none.csv")
    with pytest.raises(FileNotFoundError, match=r"no such file"):
        read_table(tmp_path / "no\0ne.csv")
    for path in (tmp_path, Path("/dev/zero")):
        with pytest.raises(ValueError, match=f"{path}: expected a table"):
            read_table(path)
