"""What a WebDAV server answers: its lists of files, which are not to be trusted, and the table from its errors to ours."""

import ssl
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from email.utils import parsedate_to_datetime
from pathlib import Path
from xml.parsers import expat

import httpx

from lading.errors import AccessDenied, LadingError, OutOfSpace, UnexpectedFault, Unreachable
from transport.foreign import shown
from transport.https import certificate_refused, untrusted

_MAX_XML = 1 << 30  # a folder of a million files; read as a stream
_MAX_TEXT = 64 << 10  # of one property
_KEPT = "what arrived is kept"
_DISK_IS_FULL = ("no space left", "disk quota exceeded")
_DAV, _OWNCLOUD = "DAV:", "http://owncloud.org/ns"
ASKED = (
    b'<?xml version="1.0" encoding="utf-8"?><propfind xmlns="DAV:" xmlns:oc="http://owncloud.org/ns"><prop><resourcetype/>'
    b"<getcontentlength/><getlastmodified/><getetag/><quota-available-bytes/><oc:checksums/></prop></propfind>"
)


@dataclass(slots=True)
class Listed:
    """One `response` of a multistatus. `href` as the server wrote it; `free`: bytes, None when it does not say."""

    href: str = ""
    folder: bool = False
    size: int = 0
    mtime: float | None = None
    etag: str = ""
    free: int | None = None
    checksums: dict[str, str] = field(default_factory=dict)


def listed(blocks: Iterator[bytes], name: str) -> Iterator[Listed]:
    """Every file and folder of a multistatus, while it comes in. Raises Unreachable for broken XML, UnexpectedFault for hostile."""
    reading = _Reading()
    try:
        for block in blocks:
            yield from reading.more(block)
        yield from reading.more(b"")
    except expat.ExpatError as exc:
        raise Unreachable(f"{name} sent a broken list of files: {exc}") from exc
    except _HostileError as exc:
        raise UnexpectedFault(f"{name} sent {exc}", safe="nothing was changed", next_command="lading doctor") from exc


class _HostileError(Exception):
    """XML that no honest server sends."""


class _Reading:
    """The parser's handlers. Entities need a document type, and that is refused before it can declare any."""

    def __init__(self) -> None:
        self._parser = expat.ParserCreate(namespace_separator=" ")
        self._parser.StartDoctypeDeclHandler = self._refuse
        self._parser.StartElementHandler = self._start
        self._parser.EndElementHandler = self._end
        self._parser.CharacterDataHandler = self._text
        self._done: list[Listed] = []
        self._size = 0
        self._now = Listed()
        self._found: list[tuple[str, str]] = []
        self._status = ""
        self._chars = ""

    def more(self, block: bytes) -> list[Listed]:
        """What is complete with this block; an empty one is the end."""
        self._size += len(block)
        if self._size > _MAX_XML:
            raise _HostileError(f"a list of more than {_MAX_XML:,} bytes")
        self._parser.Parse(block, not block)
        done, self._done = self._done, []
        return done

    def _refuse(self, *_: object) -> None:
        raise _HostileError("a list of files with a document type, which may hold bombs")

    def _start(self, tag: str, _attributes: object) -> None:
        self._chars = ""
        if tag == f"{_DAV} response":
            self._now = Listed()
        elif tag == f"{_DAV} propstat":
            self._found, self._status = [], ""

    def _text(self, text: str) -> None:
        self._chars += text
        if len(self._chars) > _MAX_TEXT:
            raise _HostileError(f"a list of files with a property of more than {_MAX_TEXT:,} characters")

    def _end(self, tag: str) -> None:
        text, self._chars = self._chars.strip(), ""
        space, _, name = tag.rpartition(" ")
        if tag == f"{_DAV} href":
            # The properties may hold links too; only the first belongs to the response.
            self._now.href = self._now.href or text
        elif tag == f"{_DAV} status":
            self._status = text
        elif tag == f"{_DAV} propstat":
            if " 200 " in f"{self._status} ":
                for found, value in self._found:
                    _keep(self._now, found, value)
        elif tag == f"{_DAV} response":
            self._done.append(self._now)
        elif space in {_DAV, _OWNCLOUD}:
            self._found.append((name, text))


def _keep(entry: Listed, name: str, text: str) -> None:
    with suppress(ValueError, TypeError, OverflowError):
        if name == "collection":
            entry.folder = True
        elif name == "getcontentlength":
            entry.size = int(text)
        elif name == "getlastmodified":
            entry.mtime = parsedate_to_datetime(text).timestamp()
        elif name == "getetag":
            entry.etag = text
        elif name == "quota-available-bytes":
            entry.free = int(text) if int(text) >= 0 else None
        elif name == "checksum":
            entry.checksums = checksums_of(text)


def checksums_of(text: str) -> dict[str, str]:
    """`SHA1:ab… MD5:…`, as ownCloud and Nextcloud write it, as algorithm → lower-case hex."""
    pairs = (word.partition(":") for word in text.split())
    return {name.lower(): value.lower() for name, colon, value in pairs if colon and _is_hex(value)}


def _is_hex(text: str) -> bool:
    with suppress(ValueError):
        return bool(bytes.fromhex(text))
    return False


@contextmanager
def translating(doing: str, name: str, ca: Path | None) -> Iterator[None]:
    """Turns what httpx raises in the block into an error of ours."""
    try:
        yield
    except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, ssl.SSLError, OSError) as exc:
        if certificate_refused(exc):
            raise untrusted(name, ca) from exc
        if isinstance(exc, httpx.TransportError | OSError):
            raise Unreachable(f"{doing}: {type(exc).__name__} {exc}".rstrip(), safe=_KEPT) from exc
        raise UnexpectedFault(f"{doing}: {type(exc).__name__}: {exc}", next_command="lading doctor") from exc


def refusal(status: int, said: str, doing: str) -> LadingError:
    """The error for an answer that is not the one we need; `said`: what the server wrote, shortened by the caller."""
    message = f"{doing}: the server answered {status} {shown(said)}".rstrip()
    if status in {301, 302, 303, 307, 308}:
        return AccessDenied(
            f"{doing}: the server sends us to {shown(said)}, where the log-in must not go",
            safe="nothing was sent",
            next_command="set url in the route's transport to the address of the WebDAV folder itself",
        )
    if status == 401:
        return AccessDenied(f"{message}: the user or the (app) password is wrong", next_command="lading doctor")
    if status == 413:
        return OutOfSpace(f"{message}: the server takes no request of that size", safe=_KEPT)
    if status == 507 or (status >= 500 and any(words in said.lower() for words in _DISK_IS_FULL)):
        return OutOfSpace(message, safe=_KEPT)
    if status in {400, 403, 405, 415, 501}:
        return AccessDenied(message, safe=_KEPT, next_command="lading doctor")
    if status in {404, 408, 409, 412, 423, 424, 425, 429} or status >= 500:
        return Unreachable(message, safe=_KEPT)
    return UnexpectedFault(message, safe=_KEPT, next_command="lading doctor")
