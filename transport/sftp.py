"""Carries a delivery over SFTP: the half of it that speaks the protocol. `transport.placing` does the rest.

Writes and reads are many at a time on every connection, small files too, so that a long line is kept full. A file grows under
a temporary name; the server handles the writes in their order, so what a lost connection left is a beginning without holes.
"""

import re
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Self

import attrs

from lading.config import structure
from lading.errors import AccessDenied, ConfigError, LadingError, OutOfSpace, Unreachable
from lading.manifest import NameLimits
from lading.ports import Settings
from transport.foreign import shown
from transport.placing import PlacingTransport
from transport.remote import BLOCK, Body, RemoteFile, RemoteFiles, RemoteTraits, part_path
from transport.sftp_session import SftpSession, free_bytes, refusal
from transport.sftp_small import Small, SmallFiles
from transport.sftp_wire import (
    FSYNC,
    READ,
    READ_AND_WRITE,
    RENAME_OVER,
    WRITE_NEW,
    Attributes,
    Code,
    Kind,
    MalformedError,
    RefusedError,
    attributes,
    text,
)
from transport.ssh_access import Access, Gate

_TARGET = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.$@-]*)@)?(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.%]+\]):(?P<path>/.*)"
)
_NAMES = {"posix": NameLimits.POSIX, "windows": NameLimits.WINDOWS, "smb": NameLimits.SMB}
_ANOTHER_AFTER_S = 2.0  # a log-in takes both sides a tenth of a second of the processor
_COMPARED = BLOCK  # of the end of a part: what the server may not have written whole


@attrs.frozen(kw_only=True)
class SftpConfig:
    """`target`: the inbox, as `user@host:/path`.

    Logs in with the private key `identity` (`passphrase`: where it is kept, see below), or with `password`, else with the agent
    and the keys of the account. Secrets are given as "env:NAME", "file:PATH" (mode 0600) or "keyring:SERVICE/USER".
    `known_hosts`: the host keys we trust (default: those of the account); a host key that is not known is refused, always.
    `timeout`: seconds of silence before a connection counts as lost. `connect_timeout`: for the connection and the login.
    `streams`: connections at a time. `folder_mode`, `file_mode`: permissions in the inbox, octal ("" leaves them to the server).
    `fsync`: each file is forced to the remote disk before it gets its name, where the server can; without it the inbox does
    that when it reads everything back. `names`: what the inbox's disk refuses ("posix", "windows", "smb").
    `ssh`: OpenSSH's client, which encrypts several times as fast as the library does. It is used where it is installed and no
    secret has to be given to it; not on Windows. "" for never.
    """

    target: str
    port: int = 22
    identity: Path | None = None
    passphrase: str = ""
    password: str = ""
    known_hosts: Path | None = None
    timeout: float = 60.0
    connect_timeout: float = 10.0
    streams: int = 3
    folder_mode: str = "2770"
    file_mode: str = "0660"
    fsync: bool = False
    names: str = "posix"
    ssh: str = "ssh"


class SftpPlace:
    """A folder on an SSH server; see the role RemotePlace."""

    def __init__(self, config: SftpConfig) -> None:
        match = _TARGET.fullmatch(config.target)
        if not match:
            raise ConfigError(
                f"transport.target = {config.target!r} is not user@host:/path", next_command="lading doctor"
            )
        if config.names not in _NAMES:
            raise ConfigError(f"names = {config.names!r} is none of {', '.join(_NAMES)}")
        if config.streams < 1:
            raise ConfigError(f"streams = {config.streams} leaves no connection to carry over")
        if config.identity and config.password:
            raise ConfigError("transport has an identity and a password: which one is meant?")
        self._config = config
        self._root = match["path"].rstrip("/")
        self._modes = _mode(config.folder_mode, "folder_mode"), _mode(config.file_mode, "file_mode")
        access = Access(
            host=match["host"].strip("[]"),
            port=config.port,
            user=match["user"],
            identity=config.identity,
            passphrase=config.passphrase,
            password=config.password,
            known_hosts=config.known_hosts,
            connect_s=config.connect_timeout,
            silence_s=config.timeout,
            program=config.ssh,
        )
        self._gate = Gate(access)

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Made from the route's transport table. Raises ConfigError."""
        return cls(structure(settings, SftpConfig, where="transport"))

    @property
    def name(self) -> str:
        """The target."""
        return self._config.target

    @property
    def traits(self) -> RemoteTraits:
        """Parts are continued; times arrive to the second."""
        return RemoteTraits(
            names=_NAMES[self._config.names], stall_s=self._config.timeout, another_after_s=_ANOTHER_AFTER_S
        )

    @property
    def streams(self) -> int:
        """As configured."""
        return self._config.streams

    def connect(self) -> "SftpFiles":
        """See the role."""
        session = self._gate.session(self.name)
        return SftpFiles(session, self._root, self.name, modes=self._modes, fsync=self._config.fsync)


class SftpTransport(PlacingTransport):
    """SFTP: several connections, parts continued inside a file."""

    place_type = SftpPlace


class SftpFiles:
    """One SFTP session; see the role RemoteFiles. `modes`: of new folders and files (None: the server's choice)."""

    def __init__(
        self, session: SftpSession, root: str, name: str, *, modes: tuple[int | None, int | None], fsync: bool
    ) -> None:
        self._session, self._root, self._name = session, root, name
        self._folder_mode, self._file_mode = modes
        self._fsync = fsync

    def look(self, path: str) -> RemoteFile | None:
        """See the role."""
        with _asking(f"cannot look at {self._shown(path)}") as doing:
            found = self._found(path, doing)
        return None if found is None else _remote_file(path, found)

    def listed(self, folder: str) -> Iterator[RemoteFile]:
        """See the role."""
        prefix = f"{folder}/" if folder else ""
        for name, found in self._entries(folder, f"cannot list {self._shown(folder)}"):
            # A name with a slash can only come from a hostile server.
            if name not in (".", "..", "") and "/" not in name:
                yield _remote_file(prefix + name, found)

    def make_folders(self, path: str) -> None:
        """See the role. What stands in the way and is no folder is removed; a link is not followed."""
        with _asking(f"cannot make the folder {self._shown(path)}") as doing:
            self._make_folders(path, doing)

    def place(self, path: str, body: Body) -> None:
        """See the role."""
        part = part_path(path, body)
        doing = f"cannot write {self._shown(path)}"
        try:
            with _asking(doing):
                self._place(path, part, body, doing)
        except Unreachable as exc:
            self._raise_if_full(exc, body.size, doing)
            raise

    def place_many(self, bodies: Iterable[tuple[str, Body]]) -> None:
        """See transport.remote.PlacesMany."""
        files = SmallFiles(self._session, self._name)
        try:
            files.put(self._small(path, body) for path, body in bodies)
        except Unreachable as exc:
            self._raise_if_full(exc, BLOCK, files.doing)
            raise

    def read(self, path: str, offset: int = 0) -> Iterator[bytes]:
        """See the role."""
        with _asking(f"cannot read {self._shown(path)}") as doing:
            found = self._found(path, doing)
            if found is None:
                raise RefusedError(Code.NO_SUCH_FILE, "")
            if not found.is_file:
                raise AccessDenied(f"{self._shown(path)} is not a regular file; links are not followed")
            handle = self._open(path, READ, doing)
            try:
                kind, answer = self._session.call(Kind.FSTAT, text(handle), doing)
                if kind is not Kind.ATTRS:
                    raise refusal(kind, answer) or MalformedError
                yield from self._session.read(handle, offset, answer.attributes().size or 0, doing)
            finally:
                self._let_go(handle, doing)

    def digests(self, path: str, algorithms: tuple[str, ...]) -> Mapping[str, str]:  # noqa: ARG002
        """None: OpenSSH's SFTP server computes no checksums."""
        return {}

    def rename(self, old: str, new: str) -> None:
        """See the role."""
        with _asking(f"cannot rename {self._shown(old)} to {shown(new)}") as doing:
            self._rename(old, new, doing)

    def remove(self, path: str) -> None:
        """See the role."""
        found = self.look(path)
        if found is None:
            return
        if found.folder:
            for inner in list(self.listed(path)):
                self.remove(inner.path)
        with _asking(f"cannot remove {self._shown(path)}") as doing:
            if found.folder:
                self._session.done(Kind.RMDIR, self._named(path), doing)
            else:
                self._remove(path, doing)

    def free_bytes(self) -> int | None:
        """See the role."""
        with _asking(f"cannot ask {self._name} for its free space") as doing:
            return free_bytes(self._session, self._absolute(""), doing)

    def close(self) -> None:
        """See the role."""
        self._session.close()

    # -- writing -----------------------------------------------------------------------------------------------------

    def _place(self, path: str, part: str, body: Body, doing: str) -> None:
        handle, offset = self._opened_part(part, body, doing)
        try:
            self._session.write(handle, body.blocks(offset), offset, doing)
            if self._fsync and FSYNC in self._session.features:
                self._session.done(Kind.EXTENDED, text(FSYNC) + text(handle), doing)
            made = attributes(mode=self._file_mode, mtime=body.mtime)
            self._session.done(Kind.FSETSTAT, text(handle) + made, doing)
        except BaseException:
            self._let_go(handle, doing)
            raise
        self._session.done(Kind.CLOSE, text(handle), doing)
        self._rename(part, path, doing)

    def _opened_part(self, part: str, body: Body, doing: str) -> tuple[bytes, int]:
        """The part to go on with, and from where."""
        there = self.look(part)
        if there is not None and 0 < there.size <= body.size and not there.folder:
            handle = self._open(part, READ_AND_WRITE, doing)
            try:
                return handle, self._continued(handle, there.size, body, doing)
            except BaseException:
                self._let_go(handle, doing)
                raise
        if there is not None:
            self.remove(part)
        # Nothing may be there: a link that somebody puts there meanwhile is not followed.
        return self._open(part, WRITE_NEW, doing), 0

    def _continued(self, handle: bytes, size: int, body: Body, doing: str) -> int:
        """Where to go on writing: behind what is proven, by its name and its last block, to be there."""
        start = max(0, size - _COMPARED)
        stored = b"".join(self._session.read(handle, start, size, doing))
        if stored == b"".join(body.blocks(start, size - start)):
            return size
        self._session.done(Kind.FSETSTAT, text(handle) + attributes(size=0), doing)
        return 0

    def _small(self, path: str, body: Body) -> Small:
        return Small(
            self._absolute(path),
            self._absolute(part_path(path, body)),
            b"".join(body.blocks()),
            body.mtime,
            self._file_mode,
            f"cannot write {self._shown(path)}",
            fsync=self._fsync,
        )

    def _raise_if_full(self, exc: Unreachable, size: int, doing: str) -> None:
        """OpenSSH has no code for a full disk: it says "Failure", as for everything else."""
        refused = exc.__cause__
        if self._session.is_closed or not isinstance(refused, RefusedError) or refused.code != Code.FAILURE:
            return
        try:
            free = self.free_bytes()
        except LadingError:
            return
        if free is not None and free < max(size, BLOCK):
            raise OutOfSpace(
                f"{doing}: the disk of the inbox is full; {size:,} bytes are needed, {free:,} are free",
                safe="what arrived is kept for the next attempt",
                next_command="lading inbox list",
            ) from exc

    # -- asking ------------------------------------------------------------------------------------------------------

    def _found(self, path: str, doing: str) -> Attributes | None:
        kind, answer = self._session.call(Kind.LSTAT, self._named(path), doing)
        if kind is Kind.ATTRS:
            return answer.attributes()
        refused = refusal(kind, answer) or MalformedError()
        if isinstance(refused, RefusedError) and refused.nothing_there:
            return None
        raise refused

    def _entries(self, folder: str, doing: str) -> Iterator[tuple[str, Attributes]]:
        with _asking(doing):
            try:
                handle = self._session.handle(Kind.OPENDIR, self._named(folder), doing)
            except RefusedError as exc:
                if exc.nothing_there:
                    return
                raise
            try:
                while True:
                    kind, answer = self._session.call(Kind.READDIR, text(handle), doing)
                    if kind is not Kind.NAME:
                        break
                    for name, found in answer.names():
                        yield name.decode("utf-8", "surrogateescape"), found
                refused = refusal(kind, answer)
                if refused is None or refused.code != Code.EOF:
                    raise refused or MalformedError
            finally:
                self._let_go(handle, doing)

    def _open(self, path: str, how: int, doing: str) -> bytes:
        mode = self._file_mode if how == WRITE_NEW else None
        rest = self._named(path) + how.to_bytes(4, "big") + attributes(mode=mode)
        return self._session.handle(Kind.OPEN, rest, doing)

    def _let_go(self, handle: bytes, doing: str) -> None:
        """Close a handle; how that ends no longer matters."""
        if not self._session.is_closed:
            with suppress(LadingError):
                self._session.call(Kind.CLOSE, text(handle), doing)

    def _make_folders(self, path: str, doing: str) -> None:
        try:
            self._make_folder(path, doing)
        except RefusedError as exc:
            parent = path.rpartition("/")[0]
            if exc.nothing_there and parent:
                self._make_folders(parent, doing)
                self._make_folders(path, doing)
                return
            found = self._found(path, doing) if exc.something_there else None
            if found is None:
                raise
            if found.is_folder:
                return
            self._remove(path, doing)
            self._make_folder(path, doing)

    def _make_folder(self, path: str, doing: str) -> None:
        self._session.done(Kind.MKDIR, self._named(path) + attributes(), doing)
        if self._folder_mode is not None:
            self._session.done(Kind.SETSTAT, self._named(path) + attributes(mode=self._folder_mode), doing)

    def _rename(self, old: str, new: str, doing: str) -> None:
        names = self._named(old) + self._named(new)
        if RENAME_OVER in self._session.features:
            self._session.done(Kind.EXTENDED, text(RENAME_OVER) + names, doing)
            return
        # The protocol's own rename replaces nothing. Between the two there is no file: better than a wrong one.
        self._remove(new, doing)
        self._session.done(Kind.RENAME, names, doing)

    def _remove(self, path: str, doing: str) -> None:
        try:
            self._session.done(Kind.REMOVE, self._named(path), doing)
        except RefusedError as exc:
            if not exc.nothing_there:
                raise

    # -- names -------------------------------------------------------------------------------------------------------

    def _absolute(self, path: str) -> bytes:
        whole = f"{self._root}/{path}" if path else self._root or "/"
        return whole.encode("utf-8", "surrogateescape")

    def _named(self, path: str) -> bytes:
        return text(self._absolute(path))

    def _shown(self, path: str) -> str:
        return f"{shown(path) or 'the folder'} of {self._name}"


@contextmanager
def _asking(doing: str) -> Iterator[str]:
    """Turns the server's refusals into errors of ours; gives `doing` back."""
    try:
        yield doing
    except (RefusedError, MalformedError) as exc:
        raise exc.error(doing) from exc


def _remote_file(path: str, found: Attributes) -> RemoteFile:
    size = 0 if found.is_folder else (found.size or 0) if found.is_file else -1
    return RemoteFile(path, size, None if found.mtime is None else float(found.mtime), found.is_folder)


def _mode(value: str, key: str) -> int | None:
    if not value:
        return None
    if not re.fullmatch(r"[0-7]{3,4}", value):
        raise ConfigError(f"transport.{key} = {value!r} is not an octal mode like 0660")
    return stat.S_IMODE(int(value, 8))


def _is_remote_files(files: SftpFiles) -> RemoteFiles:
    """For the type checker: the role is filled."""
    return files
