r"""The list of what a delivery holds: name, size, time and digests of every file, made with one read each.

On disk a manifest is a folder of three files, all streamed, so that a million files need no more memory than ten:

    manifest.jsonl         one Entry a line, ASCII JSON (undecodable names survive as lone surrogates, escaped)
    manifest-sha256.txt    the same list for `sha256sum -c` run inside the data folder (coreutils escaping rules)
    filtered.jsonl         one Filtered a line: what was left out, and why

Order: depth first, the names of each folder in byte order. The delivery's digest is the SHA-256 of
`manifest-sha256.txt`: it says what the content is, whatever the times.
"""

import errno
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import takewhile
from pathlib import Path
from types import TracebackType
from typing import IO, BinaryIO, TypeVar

from lading.errors import AccessDenied, LadingError, OwnDiskFull, Rejected, Unreachable
from lading.filters import FileRules
from lading.findings import Finding, Severity, error
from lading.listing.ahead import SurveyAhead
from lading.listing.below import Below
from lading.listing.digests import available
from lading.listing.entries import (
    DIGEST_CHARS,
    Entry,
    Filtered,
    PathEscapesError,
    entry_line,
    filtered_line,
    order_key,
    parse_entry,
    parse_filtered,
    sums_bytes,
    sums_line,
)
from lading.listing.hashing import MANY_FILES, default_workers, list_files, many_tiny, rehash
from lading.listing.names import NameLimits
from lading.listing.reading import BLOCK, FileSink, Listed, Progress, Sink, Verdict
from lading.listing.survey import Seen, Survey, survey

__all__ = [
    "FILTERED_NAME",
    "LIST_NAME",
    "SUMS_NAME",
    "Entry",
    "FileSink",
    "Filtered",
    "Limits",
    "Manifest",
    "NameLimits",
    "Progress",
    "Seen",
    "Sink",
    "Summary",
    "Survey",
    "Verdict",
    "default_workers",
    "make",
    "order_key",
    "rehash",
    "survey",
    "unchanged",
    "write",
]

LIST_NAME = "manifest.jsonl"
SUMS_NAME = "manifest-sha256.txt"
FILTERED_NAME = "filtered.jsonl"

_SHORTEST_LINE = 100  # bytes: a SHA-256 alone is 64 of them

Line = TypeVar("Line")


@dataclass(frozen=True, slots=True)
class Summary:
    """What a whole list amounts to.

    `bytes` counts the files' content; `digest` is the SHA-256 of manifest-sha256.txt, `list_digest` of manifest.jsonl;
    `filtered` counts the files left out; `algorithms` are those every entry has, "sha256" first.
    """

    files: int
    bytes: int
    digest: str
    list_digest: str
    filtered: int
    algorithms: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """What a reader of untrusted manifests tolerates. The line length also bounds memory."""

    max_files: int = 5_000_000
    max_list_bytes: int = 4 << 30
    max_line_bytes: int = 64 << 10
    max_depth: int = 64


SHORT_BYTES = 1 << 20
"""A list that takes no more on the disk (some 5,000 files, and as many MB) stays in memory once it was gone through."""


class Manifest:
    """A finished list in `folder`. Iterating streams its entries; every line is checked, whoever wrote it.

    A short list is read once: what was checked is what is gone through later, whatever lies in the folder then.
    """

    def __init__(self, folder: Path, summary: Summary, limits: Limits, entries: Sequence[Entry] | None = None) -> None:
        """`entries`: all of them, where they were read before."""
        self.folder = folder
        self.summary = summary
        self._limits = limits
        self._entries = entries

    def __repr__(self) -> str:
        return f"Manifest({str(self.folder)!r}, {self.summary.files} files, digest {self.summary.digest[:12]})"

    @classmethod
    def open(cls, folder: Path, *, limits: Limits | None = None) -> "Manifest":
        """The manifest that a stranger left in `folder`, read once from end to end.

        Raises Rejected with one finding: manifest-missing, manifest-not-a-file, manifest-too-large, manifest-malformed,
        manifest-path-escapes, manifest-order (a duplicate or out of order), manifest-lists-disagree.
        Raises AccessDenied or Unreachable when the disk, not the sender, is at fault.
        """
        limits = limits or Limits()
        summary, entries = _summarise(folder, limits)
        return cls(folder, summary, limits, entries)

    @classmethod
    def trusted(cls, folder: Path, summary: Summary) -> "Manifest":
        """The manifest in a folder that this program wrote, or has opened before: nothing is read now."""
        return cls(folder, summary, Limits(max_files=max(summary.files, summary.filtered)))

    def __iter__(self) -> Iterator[Entry]:
        if self._entries is not None:
            return iter(self._entries)
        return self._streamed()

    def _streamed(self) -> Iterator[Entry]:
        short = _Short(self.folder)
        for entry in _entries(self.folder, self._limits, hashlib.sha256(), hashlib.sha256()):
            short.add(entry)
            yield entry
        self._entries = short.entries

    def __len__(self) -> int:
        return self.summary.files

    def filtered(self) -> Iterator[Filtered]:
        """What was left out, in order of the walk."""
        return _filtered(self.folder, self._limits)

    def contains_same_content(self, other: "Manifest") -> bool:
        """Whether both list the same names with the same content, whatever the times."""
        return self.summary.digest == other.summary.digest


def make(
    root: Path,
    folder: Path,
    *,
    rules: FileRules | None = None,
    limits: NameLimits = NameLimits.POSIX,
    algorithms: Sequence[str] = (),
    workers: int | None = None,
    sink: Sink | None = None,
    progress: Progress | None = None,
    on_finding: Callable[[Finding], None] | None = None,
) -> Manifest:
    """List the files below `root` that `rules` let through, and write the list into `folder` (which must exist).

    `algorithms`: digests besides SHA-256, of DIGEST_CHARS, from the same read. `workers`: threads; None is one per core,
    1 suits rotating and removable disks. `sink` gets every block of every file. `on_finding` hears the warnings and
    notes of the survey. On return the three files are durable; until then none has its final name. One maker per
    folder.

    Raises Rejected with the survey's findings before a sink sees anything, ConfigError where a digest needs a library that is not
    here, SourceChanged when a file is not the same before and after the read, AccessDenied, Unreachable (the source),
    OutOfSpace (`folder`'s disk); and what the sink raises.
    """
    unknown = set(algorithms) - DIGEST_CHARS.keys()
    if unknown:
        raise ValueError(f"no such digest: {', '.join(sorted(unknown))}; there are {', '.join(DIGEST_CHARS)}")
    wanted = tuple(name for name in DIGEST_CHARS if name == "sha256" or name in algorithms)
    available(wanted, "the manifest")
    look = survey(root, rules=rules or FileRules(), limits=limits)
    threads = default_workers() if workers is None else workers
    with _Writing(folder) as writing, SurveyAhead(look, folder, writing.leave_out) as ahead:
        tiny = sink is None and not ahead.wait(MANY_FILES) and many_tiny(look.files, look.bytes)
        if not tiny:
            # Nothing is read in vain, and no sink sees a file, before the whole folder is known to be fit to send.
            # A million tiny files are read soon enough not to wait.
            _refuse_unfit(root, look, ahead)
        read = list_files(
            root, ahead.runs(), algorithms=wanted, workers=threads, tiny=tiny, sink=sink, progress=progress
        )
        try:
            with closing(read):  # an error must not leave threads or processes behind
                for part in takewhile(lambda _: not look.refuses, read):
                    writing.add(part)
        except LadingError:
            # What the survey says about the whole folder explains more than the first file that could not be read.
            _refuse_unfit(root, look, ahead)
            raise
        _refuse_unfit(root, look, ahead)
        if on_finding:
            for finding in look.findings:
                on_finding(finding)
        return Manifest.trusted(folder, writing.finish(wanted))


def write(
    folder: Path, entries: Iterable[Entry], filtered: Iterable[Filtered] = (), *, algorithms: Sequence[str] = ()
) -> Manifest:
    """A manifest of files that somebody else has read and hashed, written into `folder` (which must exist).

    `entries` come in the order of a manifest, each with SHA-256 and every one of `algorithms`. On return the three files are
    durable. Raises OutOfSpace, AccessDenied, Unreachable (`folder`'s disk), and ValueError for what is out of order.
    """
    wanted = tuple(name for name in DIGEST_CHARS if name == "sha256" or name in algorithms)
    last = b""
    with _Writing(folder) as writing:
        for entry in entries:
            key = order_key(entry.path)
            if key <= last:
                raise ValueError(f"{entry.path!r:.120} is a duplicate or out of order")
            last = key
            digests = {name: entry.digests[name] for name in wanted}
            line = entry_line(entry.path, entry.size, entry.mtime_ns, digests).encode("ascii")
            writing.add(Listed(line, sums_bytes(sums_line(entry.path, entry.sha256)), 1, entry.size))
        for left_out in filtered:
            writing.leave_out(left_out)
        return Manifest.trusted(folder, writing.finish(wanted))


def unchanged(root: Path, manifest: Iterable[Entry]) -> list[str]:
    """The paths whose size or time differ from the manifest, or that are gone. Reads no content.

    Raises Unreachable when `root` itself is not there, AccessDenied.
    """
    different = []
    try:
        with Below(root) as below:
            for entry in manifest:
                parent, _, name = entry.path.rpartition("/")
                try:
                    below.enter(parent)
                    info = below.lstat(name)
                except (FileNotFoundError, NotADirectoryError):
                    different.append(entry.path)
                    continue
                figures = stat.S_ISREG(info.st_mode), info.st_size, info.st_mtime_ns
                if figures != (True, entry.size, entry.mtime_ns):
                    different.append(entry.path)
    except PermissionError as exc:
        raise AccessDenied(f"looking at {root}: {exc}") from exc
    except OSError as exc:
        raise Unreachable(f"looking at {root}: {exc}; is the disk or share mounted?") from exc
    return different


class _Writing:
    """The three files, under temporary names until `finish`."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._files: dict[str, IO[bytes]] = {}
        self._list_hash, self._sums_hash = hashlib.sha256(), hashlib.sha256()
        self._count = self._bytes = self._filtered = 0

    def __enter__(self) -> "_Writing":
        with self._disk_errors():
            for name in (LIST_NAME, SUMS_NAME, FILTERED_NAME):
                self._files[name] = self._temporary(name).open("wb")
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        for name, file in self._files.items():
            with suppress(OSError):  # a full disk, already told
                file.close()
            self._temporary(name).unlink(missing_ok=True)

    def add(self, part: Listed) -> None:
        """The next files of the list."""
        with self._disk_errors():
            self._files[LIST_NAME].write(part.lines)
            self._files[SUMS_NAME].write(part.sums)
        self._list_hash.update(part.lines)
        self._sums_hash.update(part.sums)
        self._count += part.files
        self._bytes += part.bytes

    def leave_out(self, left_out: Filtered) -> None:
        """A file that stays behind."""
        with self._disk_errors():
            self._files[FILTERED_NAME].write(filtered_line(left_out).encode("ascii"))
        self._filtered += 1

    def finish(self, algorithms: tuple[str, ...]) -> Summary:
        """Make all durable and give the files their names."""
        with self._disk_errors():
            for file in self._files.values():
                file.flush()
                os.fsync(file.fileno())
                file.close()
            for name in self._files:
                self._temporary(name).replace(self._folder / name)
            _sync_folder(self._folder)
        return Summary(
            files=self._count,
            bytes=self._bytes,
            digest=self._sums_hash.hexdigest(),
            list_digest=self._list_hash.hexdigest(),
            filtered=self._filtered,
            algorithms=algorithms,
        )

    @contextmanager
    def _disk_errors(self) -> Iterator[None]:
        try:
            yield
        except OSError as exc:
            doing = f"writing the manifest into {self._folder}: {exc.strerror or exc}"
            if exc.errno in {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}:
                free = shutil.disk_usage(self._folder).free
                raise OwnDiskFull(f"{doing}; {free} bytes are free", safe="the source is untouched") from exc
            if isinstance(exc, PermissionError):
                raise AccessDenied(doing) from exc
            raise Unreachable(doing) from exc

    def _temporary(self, name: str) -> Path:
        return self._folder / f".{name}.part"


def _refuse_unfit(root: Path, look: Survey, ahead: SurveyAhead) -> None:
    ahead.wait()
    if not look.refuses:
        return
    errors = [f for f in look.findings if f.severity is Severity.ERROR]
    more = f" (and {len(errors) - 1} more)" if len(errors) > 1 else ""
    raise Rejected(f"{root} cannot be sent: {errors[0].message}{more}", findings=look.findings, safe="nothing was sent")


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":
        return  # Windows offers no such call; NTFS journals the rename
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


class _Short:
    """Keeps the entries of a list that is short; of a long one none, not even for a while."""

    def __init__(self, folder: Path) -> None:
        try:
            room = SHORT_BYTES - (folder / LIST_NAME).lstat().st_size
        except OSError:  # told by whoever reads it
            room = -1
        self.entries: list[Entry] | None = [] if room >= 0 else None

    def add(self, entry: Entry) -> None:
        if self.entries is not None:
            self.entries.append(entry)
            if len(self.entries) > SHORT_BYTES // _SHORTEST_LINE:  # it grew under our eyes
                self.entries = None


def _summarise(folder: Path, limits: Limits) -> tuple[Summary, Sequence[Entry] | None]:
    listed, sums = hashlib.sha256(), hashlib.sha256()
    files = total = 0
    common: set[str] = set(DIGEST_CHARS)
    short = _Short(folder)
    for entry in _entries(folder, limits, listed, sums):
        short.add(entry)
        files += 1
        total += entry.size
        common &= entry.digests.keys()
    filtered = sum(1 for _ in _filtered(folder, limits))
    digest = _digest_of(folder, SUMS_NAME, limits)
    if digest != sums.hexdigest():
        raise _refused("manifest-lists-disagree", SUMS_NAME, f"{LIST_NAME} and {SUMS_NAME} do not say the same", folder)
    algorithms = tuple(name for name in DIGEST_CHARS if name in common)
    return Summary(files, total, digest, listed.hexdigest(), filtered, algorithms), short.entries


def _entries(folder: Path, limits: Limits, listed: "hashlib._Hash", sums: "hashlib._Hash") -> Iterator[Entry]:
    last = b""
    for number, line in _lines(folder, LIST_NAME, limits):
        entry = _parsed(folder, LIST_NAME, number, line, lambda text: parse_entry(text, max_depth=limits.max_depth))
        key = order_key(entry.path)
        if key <= last:
            raise _refused(
                "manifest-order",
                LIST_NAME,
                f"line {number}: {entry.path!r:.120} is a duplicate or out of order",
                folder,
            )
        if last and key.startswith(last + b"\0"):
            raise _refused(
                "manifest-order", LIST_NAME, f"line {number}: {entry.path!r:.120} lies below another file", folder
            )
        last = key
        listed.update(line)
        sums.update(sums_bytes(sums_line(entry.path, entry.sha256)))
        yield entry


def _filtered(folder: Path, limits: Limits) -> Iterator[Filtered]:
    for number, line in _lines(folder, FILTERED_NAME, limits):
        yield _parsed(folder, FILTERED_NAME, number, line, parse_filtered)


def _parsed(folder: Path, name: str, number: int, line: bytes, parse: Callable[[str], Line]) -> Line:
    try:
        return parse(line.decode("ascii"))
    except PathEscapesError as exc:
        raise _refused("manifest-path-escapes", name, f"line {number}: {exc}", folder) from exc
    except ValueError as exc:
        raise _refused("manifest-malformed", name, f"line {number}: {exc}", folder) from exc


def _lines(folder: Path, name: str, limits: Limits) -> Iterator[tuple[int, bytes]]:
    with _open_list(folder, name, limits) as file:
        number = 0
        # A bounded readline: a line without end must not fill the memory.
        while line := file.readline(limits.max_line_bytes + 1):
            number += 1
            if number > limits.max_files:
                raise _refused("manifest-too-large", name, f"more than {limits.max_files} lines", folder)
            if len(line) > limits.max_line_bytes:
                raise _refused(
                    "manifest-malformed", name, f"line {number} is over {limits.max_line_bytes} bytes", folder
                )
            if not line.endswith(b"\n"):
                raise _refused("manifest-malformed", name, f"line {number} is cut off", folder)
            yield number, line


def _digest_of(folder: Path, name: str, limits: Limits) -> str:
    digest = hashlib.sha256()
    with _open_list(folder, name, limits) as file:
        while block := file.read(BLOCK):
            digest.update(block)
    return digest.hexdigest()


def _open_list(folder: Path, name: str, limits: Limits) -> BinaryIO:
    try:
        with Below(folder) as below:
            fd = below.open(name)
        file = open(fd, "rb", buffering=1 << 18)  # noqa: SIM115 - closed by the caller's with
    except FileNotFoundError as exc:
        raise _refused("manifest-missing", name, "it is missing", folder) from exc
    except PermissionError as exc:
        raise AccessDenied(f"reading {folder / name}: {exc.strerror}") from exc
    except OSError as exc:
        raise _refused("manifest-not-a-file", name, exc.strerror or str(exc), folder) from exc
    info = os.fstat(fd)
    if not stat.S_ISREG(info.st_mode):
        file.close()
        raise _refused("manifest-not-a-file", name, "it is not a regular file", folder)
    if info.st_size > limits.max_list_bytes:
        file.close()
        raise _refused(
            "manifest-too-large", name, f"it has {info.st_size} bytes, {limits.max_list_bytes} are allowed", folder
        )
    return file


def _refused(code: str, name: str, what: str, folder: Path) -> Rejected:
    message = f"{name}: {what}"
    return Rejected(
        f"the manifest in {folder} cannot be used: {message}",
        findings=[error(code, message, path=name, hint="make the manifest again with lading")],
        safe="nothing was deleted",
    )
