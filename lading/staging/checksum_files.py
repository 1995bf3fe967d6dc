"""Checksum files that came along with the data: `x.md5`, `MD5SUMS`, `SHA256SUMS`, `x.sha256`, BagIt's `manifest-<alg>.txt`.

They are all that proves the way of a folder that was dropped into an inbox without a seal. Formats: coreutils ("digest  name",
"digest *name", escaped with a leading backslash), BSD ("MD5 (name) = digest"), a digest alone beside its file, and
RFC 8493 (BagIt 1.0) payload manifests.
"""

import posixpath
import re
from collections.abc import Container, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import unquote

from lading.disk import read_small
from lading.findings import Finding, error
from lading.listing.names import printable
from lading.manifest import Entry

MAX_LIST_BYTES = 64 << 20
MAX_CLAIMS = 2_000_000

_HEX_CHARS = {"md5": 32, "sha1": 40, "sha256": 64}
_BY_NAME = re.compile(r"(?:.*\.)?(md5|sha1|sha256)(?:sums?)?(?:\.txt)?", re.IGNORECASE | re.DOTALL)
_BAGIT = re.compile(r"manifest-(md5|sha1|sha256)\.txt")
_COREUTILS = re.compile(r"(\\?)([0-9a-fA-F]{32,64})(?: [ *]|\s+)(.+)", re.DOTALL)
_PAYLOAD = re.compile(r"()([0-9a-fA-F]{32,64})\s+\*?(.+)", re.DOTALL)
_BSD = re.compile(r"(?:MD5|SHA1|SHA256) ?\((.+)\) ?= ?([0-9a-fA-F]{32,64})")
_ALONE = re.compile(r"[0-9a-fA-F]{32,64}")


@dataclass(frozen=True, slots=True)
class ChecksumFile:
    """One such file: `path` relative POSIX, `algorithm`, and whether it follows BagIt's rules."""

    path: str
    algorithm: str
    bagit: bool = False


@dataclass(slots=True)
class Claims:
    """What the checksum files say: path → (algorithm, digest, said by). `unusable` names those that say nothing."""

    said: dict[str, list[tuple[str, str, str]]] = field(default_factory=dict)
    unusable: list[str] = field(default_factory=list)


def recognise(paths: Iterable[str]) -> list[ChecksumFile]:
    """The checksum files among `paths` (relative POSIX)."""
    found: list[ChecksumFile] = []
    bags: set[str] = set()
    payload: list[tuple[str, str, str]] = []
    for path in paths:
        folder, _, name = path.rpartition("/")
        if name == "bagit.txt":
            bags.add(folder)
        elif match := _BAGIT.fullmatch(name):
            payload.append((folder, path, match[1]))
        elif match := _BY_NAME.fullmatch(name):
            found.append(ChecksumFile(path, match[1].lower()))
    return found + [ChecksumFile(path, alg, bagit=True) for folder, path, alg in payload if folder in bags]


def read(data: Path, files: Iterable[ChecksumFile]) -> Claims:
    """What `files` below `data` say. One that is too large or says nothing we understand is named as unusable."""
    claims = Claims()
    total = 0
    for file in files:
        try:
            text = read_small(data / file.path, MAX_LIST_BYTES).decode("utf-8-sig", "surrogateescape")
        except (OSError, ValueError):
            claims.unusable.append(file.path)
            continue
        said = list(_lines(file, text))
        total += len(said)
        if not said or total > MAX_CLAIMS:
            claims.unusable.append(file.path)
            continue
        for path, digest in said:
            claims.said.setdefault(path, []).append((file.algorithm, digest, file.path))
    return claims


def compare(
    claims: Claims, entries: Iterable[Entry], *, left_out: Iterable[str], lists: Container[str]
) -> tuple[list[Finding], int]:
    """Findings where the files differ from what was said about them, and how many files were confirmed.

    `left_out`: files that were filtered; `lists`: the checksum files themselves, which are not counted.
    """
    open_claims = dict(claims.said)
    found: list[Finding] = []
    confirmed = 0
    for entry in entries:
        said = open_claims.pop(entry.path, ())
        wrong = [(a, d, by) for a, d, by in said if entry.digests.get(a, d) != d]
        found += [_mismatch(entry, *each) for each in wrong]
        confirmed += bool(said) and not wrong and entry.path not in lists
    for path in left_out:
        open_claims.pop(path, None)
    found += [_absent(path, said[0][2]) for path, said in open_claims.items()]
    return found, confirmed


def _lines(file: ChecksumFile, text: str) -> Iterator[tuple[str, str]]:
    folder = posixpath.dirname(file.path)
    length = _HEX_CHARS[file.algorithm]
    for line in text.replace("\r\n", "\n").split("\n"):
        found = _split(file, line)
        if found is None or len(found[1]) != length:
            continue
        path = posixpath.normpath(posixpath.join(folder, found[0]))
        if not path.startswith(("../", "/")) and path != "..":
            yield path, found[1].lower()


def _split(file: ChecksumFile, line: str) -> tuple[str, str] | None:
    if match := _BSD.fullmatch(line.strip()):
        return match[1], match[2]
    if _ALONE.fullmatch(line.strip()):
        return posixpath.basename(file.path).rpartition(".")[0], line.strip()
    match = (_PAYLOAD if file.bagit else _COREUTILS).fullmatch(line)
    if match is None:
        return None
    escaped, digest, name = match.groups()
    if file.bagit:
        return unquote(name, errors="surrogateescape"), digest
    if escaped:
        name = re.sub(r"\\(.)", lambda m: {"n": "\n", "r": "\r"}.get(m[1], m[1]), name)
    elif "\\" in name and "/" not in name:
        name = name.replace("\\", "/")  # written on Windows
    return name, digest


def _mismatch(entry: Entry, algorithm: str, digest: str, said_by: str) -> Finding:
    return error(
        "checksum-file-mismatch",
        f"{printable(entry.path)} has the {algorithm} {entry.digests[algorithm]}, {printable(said_by)} says {digest}",
        path=entry.path,
        hint="copy the file again from where the checksum was made",
    )


def _absent(path: str, said_by: str) -> Finding:
    return error(
        "checksum-file-mismatch",
        f"{printable(path)} is not there, but {printable(said_by)} lists it",
        path=path,
        hint="copy the missing file, or correct the checksum file",
    )
