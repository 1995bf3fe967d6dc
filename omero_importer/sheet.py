"""Reads the first sheet of a spreadsheet (`.xlsx`) as rows of text: what a person sees in the cells, and never a formula.

Numbers are written without a fraction that is not there (3, 1.5), dates and times in ISO form, truth values as true and false.
"""

import io
import zipfile
import zlib
from collections.abc import Iterable, Iterator, Sequence
from datetime import date, datetime, time, timedelta

MAX_ROWS = 20_000
_MAX_CELLS = 2_000_000
_MAX_UNPACKED = 64 << 20
_MAX_PARTS = 1_000
# A package of XML by a stranger: whatever is wrong in it, some line of the library stumbles over it.
_MALFORMED = (
    zipfile.BadZipFile, zlib.error, SyntaxError, ArithmeticError, AttributeError, EOFError, LookupError, NotImplementedError,
    OSError, RuntimeError, TypeError, ValueError,
)  # fmt: skip


class SheetError(Exception):
    """The sheet cannot be read, or says something that cannot be taken as it is written."""


def rows(raw: bytes) -> Iterator[list[str]]:
    """The rows that have anything in them, each without the empty cells at its end. Raises SheetError."""
    try:
        from openpyxl import load_workbook  # noqa: PLC0415 - of the optional part, and slow to import
    except ImportError as exc:
        raise SheetError("reading spreadsheets needs openpyxl: pip install 'lading[omero]'") from exc
    try:
        _demand_small(raw)
        # Values as the program that wrote the file computed them, beside what it computed them from; no links to other files.
        seen, written = (
            load_workbook(io.BytesIO(raw), read_only=True, data_only=computed, keep_links=False)
            for computed in (True, False)
        )
        if not seen.worksheets:
            raise SheetError("it has no sheet")
        for book in (seen, written):
            # What the file says about its own size is not believed.
            book.worksheets[0].reset_dimensions()
        yield from _compared(
            seen.worksheets[0].iter_rows(values_only=True), written.worksheets[0].iter_rows(values_only=True)
        )
    except _MALFORMED as exc:
        raise SheetError("it is not a spreadsheet in the format .xlsx, or it is damaged") from exc


def _compared(seen: Iterable[Sequence[object]], written: Iterable[Sequence[object]]) -> Iterator[list[str]]:
    """The rows as they are seen. A formula that was never computed is empty to see, and must not be passed over."""
    cells = 0
    for number, (values, formulas) in enumerate(zip(seen, written, strict=True), 1):
        cells += len(values)
        # One cell in the last corner would make a billion empty ones.
        if number > MAX_ROWS or cells > _MAX_CELLS:
            raise SheetError(f"it has more than {MAX_ROWS} rows, or is very wide; write so much as a table (.csv)")
        for value, formula in zip(values, formulas, strict=True):
            if value is None and formula is not None:
                raise SheetError(f"row {number} has a formula that no program has computed yet; save it in one")
        row = [_text(value) for value in values]
        while row and not row[-1]:
            row.pop()
        if row:
            yield row


def _demand_small(raw: bytes) -> None:
    with zipfile.ZipFile(io.BytesIO(raw)) as package:
        parts = package.infolist()
    if len(parts) > _MAX_PARTS or sum(part.file_size for part in parts) > _MAX_UNPACKED:
        raise SheetError(f"unpacked it has more than {_MAX_PARTS} parts or {_MAX_UNPACKED >> 20} MB")


def _text(cell: object) -> str:
    if cell is None:
        return ""
    if isinstance(cell, bool):
        return "true" if cell else "false"
    if isinstance(cell, float) and cell.is_integer() and abs(cell) < 1e15:
        return str(int(cell))
    if isinstance(cell, datetime):
        # Excel has no dates without a time; midnight is how it writes them.
        return (cell.date() if cell.time() == time() else cell).isoformat()
    if isinstance(cell, date | time):
        return cell.isoformat()
    if isinstance(cell, timedelta):
        return str(cell)
    text = str(cell).strip()
    if text in ("#REF!", "#DIV/0!", "#VALUE!", "#NAME?", "#N/A", "#NUM!", "#NULL!"):
        raise SheetError(f"a cell says {text}")
    return text
