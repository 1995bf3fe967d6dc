"""Key-values from `metadata.{csv,tsv,xlsx,json,yml}` beside the data: for the session, for a folder, or for single files.

    metadata.csv    key,value            one pair a line, for the folder (in the top folder: for the session)
                    file,stain,dose      one file a line, its pairs in the columns
    metadata.xlsx   the same, in the first sheet of a spreadsheet
    metadata.json   {"stain": "DAPI", "channels": ["red", "green"], "files": {"a.tif": {"dose": "3 mg"}}}
    metadata.yml    the same; every value is taken as written ("no" stays "no")

A table in another form is a finding: nobody guesses what a column means.
"""

import csv
import io
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from lading.findings import Finding, error
from lading.listing.names import printable
from omero_importer import sheet
from omero_importer.bounded import TooLargeError, read_bounded
from omero_importer.filesets import FilesetPlan, KeyValues

MAX_BYTES = 16 << 20
MAX_PAIRS = 200_000
MAX_GIVEN = 2_000_000
"""Pairs that sidecars of folders give to images, each counted for every image."""
MAX_KEY = 255
MAX_VALUE = 10_000
_MAX_DEPTH = 8
_MAX_YAML = 1 << 20  # a second per 100 kB
_FILE_COLUMNS = frozenset({"file", "filename", "file name", "file_name", "path", "image"})
_PAIR_COLUMNS = frozenset({("key", "value"), ("name", "value"), ("property", "value")})

Pair = tuple[str, str]


@dataclass(frozen=True, slots=True)
class Values:
    """What all sidecars of a delivery say. `file_values` is by a fileset's entry point, or by an attachment's path."""

    session_values: KeyValues = ()
    file_values: Mapping[str, KeyValues] = field(default_factory=dict)
    findings: tuple[Finding, ...] = ()


def is_sidecar(path: str, names: Sequence[str]) -> bool:
    """Whether the file at `path` is called like a sidecar, by case or not."""
    return path.rpartition("/")[2].lower() in {name.lower() for name in names}


def read_all(base: Path, paths: Iterable[str], filesets: Sequence[FilesetPlan], *, names: Sequence[str]) -> Values:
    """The values of every sidecar among `paths` (relative POSIX, below `base`), the files that are in no fileset.

    Errors: sidecar-unclear (not in one of the forms above, or over the limits), sidecar-file-unknown (it names a file that the
    delivery does not hold).
    """
    paths = list(paths)
    sidecars = sorted((path for path in paths if is_sidecar(path, names)), key=lambda path: (path.count("/"), path))
    if not sidecars:
        return Values()
    targets = _Targets(paths, filesets)
    session: list[Pair] = []
    by_file: dict[str, list[Pair]] = {}
    findings: list[Finding] = []
    given = 0
    for path in sidecars:
        folder = path.rpartition("/")[0]
        try:
            content = _parsed(path, read_bounded(base, path, MAX_BYTES))
        except (_UnclearError, TooLargeError, OSError) as exc:
            findings.append(
                error("sidecar-unclear", f"{printable(path)}: {exc}", path=path, hint="see the OMERO how-to")
            )
            continue
        if folder:
            below = list(targets.below(folder))
            given += len(below) * len(content.pairs)
            if given > MAX_GIVEN:
                findings.append(_too_much(path, len(content.pairs), len(below)))
                break
            for entry in below:
                by_file.setdefault(entry, []).extend(content.pairs)
        else:
            session += content.pairs
        for name, pairs in content.files:
            target = targets.find(folder, name)
            if target:
                by_file.setdefault(target, []).extend(pairs)
            else:
                findings.append(_unknown(path, name))
    return Values(tuple(session), {path: tuple(pairs) for path, pairs in by_file.items() if pairs}, tuple(findings))


class _UnclearError(Exception):
    pass


@dataclass(slots=True)
class _Content:
    pairs: list[Pair] = field(default_factory=list)
    files: list[tuple[str, list[Pair]]] = field(default_factory=list)


class _Targets:
    """What a sidecar may speak of: filesets, by any of their files or their Zarr folder, and other files."""

    def __init__(self, paths: Iterable[str], filesets: Sequence[FilesetPlan]) -> None:
        self._entries = [plan.entry for plan in filesets]
        self._by_path = {path: path for path in paths}
        for plan in filesets:
            self._by_path |= dict.fromkeys(plan.files, plan.entry)
            folder = plan.entry.rpartition("/")[0]
            if folder.lower().endswith(".zarr"):
                self._by_path[folder] = plan.entry

    def below(self, folder: str) -> Iterator[str]:
        return (entry for entry in self._entries if entry.startswith(folder + "/"))

    def find(self, folder: str, name: str) -> str:
        """The target that a sidecar in `folder` calls `name`, or ""."""
        relative = name.replace("\\", "/").removeprefix("./").rstrip("/")
        return self._by_path.get(f"{folder}/{relative}" if folder else relative, "")


def _parsed(path: str, raw: bytes) -> _Content:
    kind = path.rpartition(".")[2].lower()
    if kind == _SHEET:
        content = _sheet(raw)
    elif kind in _FORMS:
        content = _FORMS[kind](_decoded(raw))
    else:
        raise _UnclearError(f"sidecars end in {', '.join('.' + known for known in (*_FORMS, _SHEET))}")
    count = len(content.pairs) + sum(len(pairs) for _, pairs in content.files)
    if count > MAX_PAIRS:
        raise _UnclearError(f"it has {count} values, {MAX_PAIRS} are allowed")
    return content


def _decoded(raw: bytes) -> str:
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise _UnclearError(f"it is not UTF-8 (byte {exc.start})") from exc


def _sheet(raw: bytes) -> _Content:
    try:
        return _rows(list(sheet.rows(raw)))
    except sheet.SheetError as exc:
        raise _UnclearError(str(exc)) from exc


def _table(text: str, delimiter: str) -> _Content:
    try:
        rows = [
            [cell.strip() for cell in row]
            for row in csv.reader(io.StringIO(text), delimiter=delimiter, strict=True)
            if any(row)
        ]
    except csv.Error as exc:
        raise _UnclearError(f"it is not a table: {exc}") from exc
    return _rows(rows)


def _rows(rows: Sequence[Sequence[str]]) -> _Content:
    if not rows:
        return _Content()
    header, *body = rows
    if any(len(row) > len(header) for row in body):
        raise _UnclearError("a line has more columns than the first")
    if tuple(cell.lower() for cell in header) in _PAIR_COLUMNS:
        return _Content(pairs=[_pair(row[0], row[1]) for row in body if len(row) == 2 and row[1]])
    if header[0].lower() in _FILE_COLUMNS and len(header) > 1:
        keys = header[1:]
        return _Content(
            files=[(row[0], [_pair(k, v) for k, v in zip(keys, row[1:], strict=False) if v]) for row in body if row[0]]
        )
    raise _UnclearError('its first line must be "key,value", or begin with the column "file"')


def _csv(text: str) -> _Content:
    first = text.partition("\n")[0]
    # Spreadsheets of countries with a decimal comma write semicolons.
    return _table(text, ";" if ";" in first and "," not in first else ",")


def _json(text: str) -> _Content:
    try:
        return _mapping(json.loads(text, parse_int=str, parse_float=str, parse_constant=str))
    except (ValueError, RecursionError) as exc:
        raise _UnclearError(f"it is not JSON: {exc}") from exc


class _PlainLoader(yaml.BaseLoader):
    """YAML without types (all text) and without aliases: a few lines of them can stand for gigabytes."""

    def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
        if self.check_event(yaml.AliasEvent):
            raise _UnclearError("it uses YAML aliases")
        return super().compose_node(parent, index)


def _yaml(text: str) -> _Content:
    if len(text) > _MAX_YAML:
        raise _UnclearError(f"it has more than {_MAX_YAML} characters; write so much as a table")
    try:
        return _mapping(yaml.load(text, Loader=_PlainLoader))  # noqa: S506 - a BaseLoader makes nothing but text
    except (yaml.YAMLError, RecursionError, ValueError) as exc:
        raise _UnclearError(f"it is not YAML: {str(exc).splitlines()[0] if str(exc) else type(exc).__name__}") from exc


def _mapping(raw: object) -> _Content:
    if raw is None or raw == "":
        return _Content()
    if not isinstance(raw, dict):
        raise _UnclearError("its top must be a mapping of keys to values")
    rest = {str(key): value for key, value in raw.items()}
    files = rest.pop("files", {})
    if not isinstance(files, dict):
        raise _UnclearError('"files" must be a mapping of file names to mappings')
    return _Content(
        pairs=list(_flat("", rest, 0)),
        files=[(str(name), list(_flat("", values, 0))) for name, values in files.items()],
    )


def _flat(prefix: str, value: object, depth: int) -> Iterator[Pair]:
    if depth > _MAX_DEPTH:
        raise _UnclearError(f"it is nested deeper than {_MAX_DEPTH}")
    if isinstance(value, dict):
        for key, inner in value.items():
            yield from _flat(f"{prefix}.{key}" if prefix else str(key), inner, depth + 1)
    elif isinstance(value, list):
        for inner in value:
            yield from _flat(prefix, inner, depth + 1)
    elif value is not None and value != "":
        text = {True: "true", False: "false"}[value] if isinstance(value, bool) else str(value)
        if not prefix:
            raise _UnclearError("a file's values must be a mapping")
        yield _pair(prefix, text)


def _pair(key: str, value: str) -> Pair:
    if not key or len(key) > MAX_KEY or len(value) > MAX_VALUE:
        raise _UnclearError(
            f"the pair {printable(key)!r:.80} has a key of {len(key)} and a value of {len(value)} characters; "
            f"1 to {MAX_KEY} and up to {MAX_VALUE} are allowed"
        )
    for text in (key, value):
        bad = next((c for c in text if (ord(c) < 0x20 and c not in "\t\n\r") or "\ud800" <= c <= "\udfff"), "")
        if bad:
            raise _UnclearError(f"the pair {printable(key)!r:.80} holds the control character {bad!r}")
    return key, value


def _too_much(path: str, pairs: int, images: int) -> Finding:
    return error(
        "sidecar-unclear",
        f"{printable(path)} gives {pairs} values to each of {images} images; with what other folders give, more than {MAX_GIVEN}",
        path=path,
        hint="put it into the top folder, where it speaks of the session",
    )


def _unknown(path: str, name: str) -> Finding:
    return error(
        "sidecar-file-unknown",
        f"{printable(path)} speaks of {printable(name)!r:.200}, which the delivery does not hold beside it",
        path=path,
        hint="write the file's name as it is, relative to the sidecar's folder",
    )


_SHEET = "xlsx"
_FORMS: Mapping[str, Callable[[str], _Content]] = {
    "csv": _csv,
    "tsv": lambda text: _table(text, "\t"),
    "json": _json,
    "yml": _yaml,
    "yaml": _yaml,
}
