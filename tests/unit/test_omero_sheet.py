"""Key-values from a spreadsheet: what is seen in its cells counts, and a hostile or half-computed one is a finding."""

import io
import re
import zipfile
from collections.abc import Callable, Sequence
from datetime import date, datetime, time
from pathlib import Path

import pytest

pytest.importorskip("openpyxl")

import openpyxl

from omero_importer.file_rules import SIDECARS
from omero_importer.filesets import FilesetPlan
from omero_importer.sheet import MAX_ROWS
from omero_importer.sidecar import Values, read_all

FILESETS = (FilesetPlan(("a.tif",)), FilesetPlan(("b.tif",)))


def book(*rows: Sequence[object]) -> bytes:
    made = openpyxl.Workbook()
    for row in rows:
        made.active.append(row)
    made.create_sheet("another").append(["key", "not looked at"])
    out = io.BytesIO()
    made.save(out)
    return out.getvalue()


def edited(raw: bytes, edit: Callable[[str], str], part: str = "xl/worksheets/sheet1.xml") -> bytes:
    """The same package with one part changed."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(raw)) as old, zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            content = old.read(name)
            new.writestr(name, edit(content.decode()) if name == part else content)
    return out.getvalue()


def read(tmp_path: Path, raw: bytes) -> Values:
    (tmp_path / "metadata.xlsx").write_bytes(raw)
    return read_all(tmp_path, ["metadata.xlsx", "notes.pdf"], FILESETS, names=SIDECARS)


def test_pairs_are_what_is_seen(tmp_path: Path) -> None:
    raw = book(
        ("Key", "Value"), (), ("stain", " DAPI "), ("dose", 3.0), ("ratio", 1.5), ("ok", True), ("empty", None),
        ("day", datetime.fromisoformat("2026-05-04")), ("begun", datetime.fromisoformat("2026-05-04T18:15")),
        ("at", time(9, 30)), ("id", "007"),
    )  # fmt: skip

    values = read(tmp_path, raw)

    assert values.findings == ()
    assert values.session_values == (
        ("stain", "DAPI"), ("dose", "3"), ("ratio", "1.5"), ("ok", "true"),
        ("day", date(2026, 5, 4).isoformat()), ("begun", "2026-05-04T18:15:00"), ("at", "09:30:00"), ("id", "007"),
    )  # fmt: skip


def test_a_table_of_files_gives_each_its_values(tmp_path: Path) -> None:
    values = read(tmp_path, book(("file", "stain", "dose"), ("a.tif", "DAPI", None), ("b.tif", None, 2)))

    assert values.findings == ()
    assert values.file_values == {"a.tif": (("stain", "DAPI"),), "b.tif": (("dose", "2"),)}


def test_the_result_of_a_formula_counts(tmp_path: Path) -> None:
    raw = edited(
        book(("key", "value"), ("dose", "=1+2")),
        lambda xml: re.sub("<v ?/>|<v></v>", "<v>3</v>", xml),
    )

    assert read(tmp_path, raw).session_values == (("dose", "3"),)


LAUGHS = "".join(f'<!ENTITY l{n + 1} "{f"&l{n};" * 10}">' for n in range(9))
BILLION = f'<!DOCTYPE worksheet [<!ENTITY l0 "lol">{LAUGHS}]>'


@pytest.mark.parametrize(
    ("raw", "says"),
    [
        (b"key,value\nstain,DAPI\n", "not a spreadsheet"),
        (book(("key", "value"), ("stain", "DAPI"))[:-200], "not a spreadsheet"),
        (edited(book(("key", "value")), lambda _: "<worksheet><sheetData>"), "damaged"),
        (edited(book(("key", "value")), lambda _: "", "xl/workbook.xml"), "damaged"),
        (edited(book(("key", "value"), ("a", "b")), lambda xml: BILLION + xml.replace("<t>", "<t>&l9;", 1)), "damaged"),
        (edited(book(("key", "value")), lambda xml: xml + " " * (65 << 20)), "unpacked"),
        (book(("key", "value"), ("dose", "=1+2")), "a formula that no program has computed"),
        (book(("key", "value"), ("dose", "#REF!")), "#REF!"),
        (book(("sample", "treatment"), ("1", "A")), "its first line must be"),
        (edited(book(("key", "value"), ("a", "b")), lambda xml: xml.replace('r="2"', 'r="1048576"')), f"more than {MAX_ROWS}"),
        (book(("key", "value"), ("a", "b\x00c".replace("\x00", "\t"), "more columns")), "more columns than the first"),
    ],
    ids=lambda value: value[:20] if isinstance(value, str) else "",
)  # fmt: skip
def test_what_is_not_clear_is_a_finding(tmp_path: Path, raw: bytes, says: str) -> None:
    values = read(tmp_path, raw)

    assert [finding.code for finding in values.findings] == ["sidecar-unclear"]
    assert says in values.findings[0].message
    assert (values.session_values, values.file_values) == ((), {})


def test_a_cell_in_the_last_corner_is_no_billion_of_empty_ones(tmp_path: Path) -> None:
    far = "".join(f'<row r="{number}"><c r="XFD{number}"><v>1</v></c></row>' for number in range(3, 3000))
    raw = edited(book(("key", "value"), ("a", "b")), lambda xml: xml.replace("</sheetData>", f"{far}</sheetData>"))

    values = read(tmp_path, raw)

    assert [finding.code for finding in values.findings] == ["sidecar-unclear"]
    assert "very wide" in values.findings[0].message or "more columns" in values.findings[0].message
