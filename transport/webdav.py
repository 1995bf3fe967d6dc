"""Carries deliveries into a WebDAV folder: plain WebDAV, Nextcloud (see `transport.webdav_nextcloud`) and Seafile.

Plain WebDAV cannot continue inside a file, and some servers show a file while it grows: each is sent whole under a
temporary name, and moved. What no server says twice the same way is not asked for: no ranges, no conditions.
"""

import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Self
from urllib.parse import unquote_to_bytes, urlsplit

import attrs

from lading.config import structure
from lading.errors import ConfigError, Corrupted, UnexpectedFault, Unreachable
from lading.manifest import NameLimits
from lading.ports import Settings
from transport.foreign import shown
from transport.https import demand_tls, tls_context
from transport.logins import password
from transport.placing import PlacingTransport
from transport.remote import BLOCK, Body, RemoteFile, RemoteFiles, RemoteTraits, part_path
from transport.webdav_answers import ASKED, Listed, listed
from transport.webdav_line import Line, Reach, encoded

_SERVERS = ("auto", "plain", "nextcloud", "seafile")
_MADE_MANY = 10_000
# Nextcloud refuses these on every system, and its table of files has room for 250 characters of a name.
_NEXTCLOUD_NAMES = replace(
    NameLimits.POSIX, name_bytes=250, utf8_only=True, refused="\\" + "".join(map(chr, range(32))) + "\x7f"
)
_NAMES = {"posix": NameLimits.POSIX, "utf8": replace(NameLimits.POSIX, utf8_only=True), "windows": NameLimits.WINDOWS}
_NAMES_OF = {
    "plain": NameLimits.POSIX,
    "nextcloud": _NEXTCLOUD_NAMES,
    "seafile": replace(NameLimits.WINDOWS, refused=";"),
}


@attrs.frozen(kw_only=True)
class WebdavConfig:
    """`url`: the inbox's folder, as https://cloud.example.org/remote.php/dav/files/USER/Inbox.

    `user`, with its password, or better an app password, in `password` as "env:NAME", "file:PATH" (0600) or
    "keyring:SERVICE/USER"; no user: no log-in. `server`: "nextcloud" (ownCloud too), "seafile", "plain", or "auto": Nextcloud
    is known by its address. `names`: what the server refuses, "posix", "utf8" or "windows"; "" is what its kind refuses.
    `ca`: certificates (PEM) to trust instead of the system's. `chunk_mib`: files larger than that go to Nextcloud in chunks
    that a later attempt need not send again; it wants at least 5. `streams`: files at a time. `connect_timeout` and `timeout`
    (seconds without a byte).
    """

    url: str
    user: str = ""
    password: str = ""
    server: str = "auto"
    names: str = ""
    ca: Path | None = None
    chunk_mib: int = 10
    streams: int = 4
    connect_timeout: float = 10.0
    timeout: float = 60.0

    def __attrs_post_init__(self) -> None:
        """Refuse what cannot work. Raises ValueError, which `structure` turns into a ConfigError."""
        if self.server not in _SERVERS:
            raise ValueError(f"server must be one of {', '.join(_SERVERS)}")
        if self.names not in {"", *_NAMES}:
            raise ValueError(f"names must be one of {', '.join(_NAMES)}")
        if bool(self.user) != bool(self.password):
            raise ValueError("user and password belong together")
        if self.chunk_mib < 5 or self.streams < 1:
            raise ValueError("chunk_mib must be at least 5, streams at least 1")


class WebdavPlace:
    """A folder of a WebDAV server."""

    def __init__(self, config: WebdavConfig) -> None:
        demand_tls(config.url, key="url")
        parts = urlsplit(config.url)
        if parts.query or parts.fragment:
            raise ConfigError("url must end with the folder: no ? and no #", next_command="lading doctor")
        self._config = config
        self._tls = tls_context(config.ca)
        self._kind = _kind(config)
        # As a server writes it: encoded once, and no more, whatever the settings had encoded already.
        self._path = encoded(os.fsdecode(unquote_to_bytes(parts.path.rstrip("/"))))
        self._url = f"{parts.scheme}://{parts.netloc}{self._path}"

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Made from the route's transport table. Raises ConfigError."""
        return cls(structure(settings, WebdavConfig, where="transport"))

    @property
    def name(self) -> str:
        """The folder's address."""
        return self._url

    @property
    def traits(self) -> RemoteTraits:
        """Those of the kind of server."""
        names = _NAMES[self._config.names] if self._config.names else _NAMES_OF[self._kind]
        if self._kind == "nextcloud":
            # Its checksum goes ahead of the content.
            return RemoteTraits(whole=True, names=names, stall_s=None, lists_on_the_way=False)
        return RemoteTraits(resumes=False, keeps_mtime=False, names=names, stall_s=None)

    @property
    def streams(self) -> int:
        """As configured."""
        return self._config.streams

    def connect(self) -> RemoteFiles:
        """Reads the password; the first request tells whether the server takes it."""
        config = self._config
        secret = password(config.password, f"{config.user} at {self._url}") if config.user else ""
        reach = Reach(self._url, config.user, secret, self._tls, config.ca, config.connect_timeout, config.timeout)
        line = Line(reach)
        if self._kind == "nextcloud":
            from transport.webdav_nextcloud import NextcloudFiles  # noqa: PLC0415 - it is built from this module's class

            return NextcloudFiles(line, self._path, self._url, chunk_bytes=config.chunk_mib << 20)
        return WebdavFiles(line, self._path, self._url)


class WebdavTransport(PlacingTransport):
    """WebDAV: Nextcloud, Seafile, or any web folder."""

    place_type = WebdavPlace


class WebdavFiles:
    """See the role `RemoteFiles`. `root` is the folder's address on the server, encoded, without a slash at the end."""

    def __init__(self, line: Line, root: str, name: str) -> None:
        self._line, self._root, self._name = line, root, name
        self._made: set[str] = set()

    def look(self, path: str) -> RemoteFile | None:
        """See the role."""
        for found in self._propfind(path, depth=0):
            return _remote_file(path, found)
        return None

    def listed(self, folder: str) -> Iterator[RemoteFile]:
        """See the role."""
        own = unquote_to_bytes(self._address(folder))
        for found in self._propfind(folder, depth=1):
            name = self._name_in(own, found.href)
            if name:
                yield _remote_file(f"{folder}/{name}" if folder else name, found)

    def make_folders(self, path: str) -> None:
        """See the role. The root itself is never made: where it is missing, we are in the wrong place."""
        if not path or path in self._made:
            return
        doing = f"cannot make the folder {shown(path)} in {self._name}"
        # 405: it is there. 409: its parent is not.
        answer = self._line.ask("MKCOL", self._address(path), doing, expect=(201, 405, 409))
        if answer.status == 409:
            parent = path.rpartition("/")[0]
            if not parent:
                raise Unreachable(f"{doing}: {self._name} itself is not there")
            self._made.discard(parent)
            self.make_folders(parent)
            self._line.ask("MKCOL", self._address(path), doing, expect=(201, 405))
        if len(self._made) > _MADE_MANY:
            self._made.clear()
        self._made.add(path)

    def place(self, path: str, body: Body) -> None:
        """See the role. Sent whole: a server that takes a range may as well replace the file by it."""
        part = part_path(path, body)
        doing = f"cannot write {shown(path)} to {self._name}"
        self._line.ask(
            "PUT", self._address(part), doing, headers={"Content-Length": str(body.size)}, content=body.blocks()
        )
        self._move(part, path, doing, overwrite=True)

    def read(self, path: str, offset: int = 0) -> Iterator[bytes]:
        """See the role."""
        doing = f"cannot read {shown(path)} in {self._name}"
        headers = {"Range": f"bytes={offset}-"} if offset else {}
        with self._line.stream("GET", self._address(path), doing, headers=headers) as response:
            if response.status_code == 416 and offset:
                return
            if response.status_code == 404:
                raise Corrupted(f"{doing}: it is no longer there", paths=[path])
            if response.status_code not in {200, 206}:
                raise self._line.refused(response, "", doing)
            skip = _to_skip(offset, response.status_code, response.headers.get("Content-Range", ""), doing)
            for block in self._line.blocks(response, doing, BLOCK):
                if skip < len(block):
                    yield block[skip:]
                skip = max(0, skip - len(block))

    def digests(self, path: str, algorithms: tuple[str, ...]) -> Mapping[str, str]:  # noqa: ARG002 - the role's signature
        """Plain WebDAV knows none."""
        return {}

    def rename(self, old: str, new: str) -> None:
        """See the role."""
        self._move(old, new, f"cannot move {shown(old)} in {self._name}", overwrite=False)

    def remove(self, path: str) -> None:
        """See the role."""
        self._made.clear()
        doing = f"cannot remove {shown(path)} in {self._name}"
        self._line.ask("DELETE", self._address(path), doing, expect=(200, 202, 204, 404))

    def free_bytes(self) -> int | None:
        """See the role."""
        for found in self._propfind("", depth=0):
            return found.free
        return None

    def close(self) -> None:
        """See the role."""
        self._line.close()

    def _move(self, old: str, new: str, doing: str, *, overwrite: bool) -> None:
        headers = {"Destination": self._line.origin + self._address(new), "Overwrite": "T" if overwrite else "F"}
        self._line.ask("MOVE", self._address(old), doing, headers=headers)

    def _propfind(self, path: str, *, depth: int) -> Iterator[Listed]:
        """Nothing when there is nothing at `path`."""
        # A folder that is listed has a slash at the end, lest the server sends us there first.
        address = self._address(path) + ("/" if depth or not path else "")
        return self._propfind_at(address, f"cannot list {shown(path) or 'the folder'} in {self._name}", depth=depth)

    def _propfind_at(self, address: str, doing: str, *, depth: int) -> Iterator[Listed]:
        headers = {"Depth": str(depth), "Content-Type": "application/xml"}
        with self._line.stream("PROPFIND", address, doing, headers=headers, content=ASKED) as response:
            if response.status_code == 404:
                return
            if response.status_code != 207:
                raise self._line.refused(response, "", doing)
            yield from listed(self._line.blocks(response, doing, BLOCK), self._name)

    def _name_in(self, own: bytes, href: str) -> str:
        """The name in the folder `own` (its address, decoded) that `href` stands for; "" for the folder itself."""
        address = unquote_to_bytes(_path_of(href)).rstrip(b"/")
        if address == own.rstrip(b"/"):
            return ""
        name = address.removeprefix(own.rstrip(b"/") + b"/")
        if name == address or b"/" in name or b"\0" in name or name in {b"", b".", b".."}:
            raise UnexpectedFault(
                f"{self._name} lists something that does not lie in the folder asked for: {shown(href)!r:.300}",
                safe="nothing was read or changed",
                next_command="lading doctor",
            )
        return os.fsdecode(name)

    def _address(self, path: str) -> str:
        return f"{self._root}/{encoded(path)}" if path else self._root


def _remote_file(path: str, found: Listed) -> RemoteFile:
    if found.folder:
        return RemoteFile(path, 0, found.mtime, folder=True, version=found.etag)
    return RemoteFile(path, found.size, found.mtime, digests=found.checksums, version=found.etag)


def _path_of(href: str) -> str:
    """The path of a link that is either a path or a URL. Whose host it names does not matter: we do not go there."""
    scheme, mark, rest = href.partition("://")
    if not mark or "/" in scheme:
        return href
    return "/" + rest.partition("/")[2]


def _to_skip(offset: int, status: int, content_range: str, doing: str) -> int:
    """How much of the body lies before `offset`: a server may answer a range with the whole file."""
    if status == 200:
        return offset
    if not content_range.replace(" ", "").startswith(f"bytes{offset}-"):
        raise UnexpectedFault(f"{doing}: asked for bytes from {offset:,}, the server sent {content_range[:80]!r}")
    return 0


def _kind(config: WebdavConfig) -> str:
    if config.server != "auto":
        return config.server
    return "nextcloud" if "/remote.php/dav/files/" in f"{urlsplit(config.url).path}/" else "plain"
