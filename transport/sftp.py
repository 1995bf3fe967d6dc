"""Carries a delivery over SFTP: the half of it that speaks the protocol. `transport.placing` does the rest.

Writes and reads are many at a time on every connection, small files too, so that a long line is kept full. A file grows under
a temporary name; the server handles the writes in their order, so what a lost connection left is a beginning without holes.
"""

import concurrent.futures
import re
import stat
from collections import deque
from collections.abc import AsyncIterator, Coroutine, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Self, TypeVar

import asyncssh
import attrs

from lading.config import structure
from lading.errors import AccessDenied, ConfigError, Corrupted, LadingError, OutOfSpace, Unreachable
from lading.manifest import NameLimits
from lading.ports import Settings
from transport.foreign import shown
from transport.logins import password
from transport.placing import PlacingTransport
from transport.remote import BLOCK, Body, RemoteFile, RemoteFiles, RemoteTraits, part_path
from transport.sftp_stream import SftpStream, Small
from transport.ssh_connection import Login, SshConnection, is_file, is_folder

T = TypeVar("T")

_TARGET = re.compile(
    r"(?:(?P<user>[A-Za-z0-9_][A-Za-z0-9_.$@-]*)@)?(?P<host>[A-Za-z0-9_][A-Za-z0-9_.-]*|\[[0-9A-Fa-f:.%]+\]):(?P<path>/.*)"
)
_NAMES = {"posix": NameLimits.POSIX, "windows": NameLimits.WINDOWS, "smb": NameLimits.SMB}
_AHEAD = 8  # blocks of 1 MiB on their way: 80 MB/s over a line of 100 ms
_LISTED_AT_ONCE = 1000
_COMPARED = BLOCK  # of the end of a part: what the server may not have written whole
_LATEST = (1 << 32) - 1  # seconds since the epoch that the protocol's version 3 can say


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
        self._host, self._user = match["host"].strip("[]"), match["user"]
        self._root = match["path"].rstrip("/")
        self._key: asyncssh.SSHKey | None = None
        self._modes = _mode(config.folder_mode, "folder_mode"), _mode(config.file_mode, "file_mode")

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
        return RemoteTraits(names=_NAMES[self._config.names], stall_s=self._config.timeout)

    @property
    def streams(self) -> int:
        """As configured."""
        return self._config.streams

    def connect(self) -> "SftpFiles":
        """See the role."""
        config = self._config
        login = Login(
            host=self._host,
            port=config.port,
            user=self._user,
            key=self._private_key(),
            password=password(config.password, config.target) if config.password else None,
            known_hosts=_known_hosts(config),
            connect_s=config.connect_timeout,
            silence_s=config.timeout,
        )
        return SftpFiles(SshConnection(login), self._root, self.name, modes=self._modes, fsync=config.fsync)

    def _private_key(self) -> asyncssh.SSHKey | None:
        """Read once: a passphrase is made slow to try."""
        if self._key is None and self._config.identity:
            self._key = _private_key(self._config)
        return self._key


class SftpTransport(PlacingTransport):
    """SFTP: several connections, parts continued inside a file."""

    place_type = SftpPlace


class SftpFiles:
    """One SFTP session; see the role RemoteFiles. `modes`: of new folders and files (None: the server's choice)."""

    def __init__(
        self, connection: SshConnection, root: str, name: str, *, modes: tuple[int | None, int | None], fsync: bool
    ) -> None:
        self._ssh, self._sftp, self._root, self._name = connection, connection.sftp, root, name
        self._folder_mode, self._file_mode = modes
        self._fsync = fsync
        self._stream: SftpStream | None = None
        self._only_one = False

    def look(self, path: str) -> RemoteFile | None:
        """See the role."""
        found = self._run(_found(self._sftp, self._absolute(path)), f"cannot look at {self._shown(path)}")
        return None if found is None else _remote_file(path, found)

    def listed(self, folder: str) -> Iterator[RemoteFile]:
        """See the role."""
        doing = f"cannot list {self._shown(folder)}"
        entries = self._sftp.scandir(self._absolute(folder))
        prefix = f"{folder}/" if folder else ""
        while batch := self._run(_next_entries(entries), doing):
            for entry in batch:
                name = _decoded(entry.filename)
                # A name with a slash can only come from a hostile server.
                if name not in (".", "..", "") and "/" not in name:
                    yield _remote_file(prefix + name, entry.attrs)

    def make_folders(self, path: str) -> None:
        """See the role. What stands in the way and is no folder is removed; a link is not followed."""
        self._run(self._made(path), f"cannot make the folder {self._shown(path)}")

    def place(self, path: str, body: Body) -> None:
        """See the role."""
        doing = f"cannot write {self._shown(path)}"
        part = part_path(path, body)
        try:
            file, offset = self._opened_part(part, body, doing)
            try:
                self._write(file, body, offset, doing)
            except BaseException:
                if not self._ssh.is_closed:
                    self._run(file.close(), doing)
                raise
            self._run(self._finish(file, part, path, body), doing)
        except Unreachable as exc:
            self._raise_if_full(exc, body.size, doing)
            raise

    def place_many(self, bodies: Iterable[tuple[str, Body]]) -> None:
        """See transport.remote.PlacesMany."""
        stream = self._stream or self._second_session()
        if stream is None:
            for path, body in bodies:
                self.place(path, body)
            return
        try:
            stream.put(self._small(path, body) for path, body in bodies)
        except BaseException as exc:
            self._stream = None
            stream.close()
            if isinstance(exc, Unreachable):
                self._raise_if_full(exc, BLOCK, stream.doing)
            raise

    def read(self, path: str, offset: int = 0) -> Iterator[bytes]:
        """See the role."""
        doing = f"cannot read {self._shown(path)}"
        file = self._run(self._opened(path), doing)
        try:
            size = self._run(file.stat(), doing).size or 0
            yield from self._blocks(file, offset, size, doing)
        finally:
            if not self._ssh.is_closed:
                self._run(file.close(), doing)

    def digests(self, path: str, algorithms: tuple[str, ...]) -> Mapping[str, str]:  # noqa: ARG002
        """None: OpenSSH's SFTP server computes no checksums."""
        return {}

    def rename(self, old: str, new: str) -> None:
        """See the role."""
        self._run(self._renamed(old, new), f"cannot rename {self._shown(old)} to {shown(new)}")

    def remove(self, path: str) -> None:
        """See the role."""
        found = self.look(path)
        if found is None:
            return
        doing = f"cannot remove {self._shown(path)}"
        if not found.folder:
            self._run(_removed(self._sftp, self._absolute(path)), doing)
            return
        for inner in list(self.listed(path)):
            self.remove(inner.path)
        self._run(self._sftp.rmdir(self._absolute(path)), doing)

    def free_bytes(self) -> int | None:
        """See the role."""
        return self._run(_free(self._sftp, self._absolute("")), f"cannot ask {self._name} for its free space")

    def close(self) -> None:
        """See the role."""
        self._ssh.close()

    # -- writing -----------------------------------------------------------------------------------------------------

    def _opened_part(self, part: str, body: Body, doing: str) -> tuple[asyncssh.SFTPClientFile, int]:
        """The part to go on with, and from where."""
        there = self.look(part)
        if there is not None and there.size > 0 and not there.folder and there.size <= body.size:
            file = self._run(self._open(self._absolute(part), "r+b"), doing)
            offset = self._continued(file, there.size, body, doing)
            return file, offset
        if there is not None:
            self.remove(part)
        # "x": a link that somebody puts there meanwhile is not followed.
        return self._run(self._open(self._absolute(part), "xb"), doing), 0

    def _continued(self, file: asyncssh.SFTPClientFile, size: int, body: Body, doing: str) -> int:
        """Where to go on writing: behind what is proven, by its name and its last block, to be there."""
        start = max(0, size - _COMPARED)
        stored = b"".join(self._blocks(file, start, size, doing))
        ours = b"".join(body.blocks(start, size - start))
        if stored == ours:
            return size
        self._run(file.truncate(0), doing)
        return 0

    def _write(self, file: asyncssh.SFTPClientFile, body: Body, offset: int, doing: str) -> None:
        under_way: deque[concurrent.futures.Future[int]] = deque()
        for block in body.blocks(offset):
            under_way.append(self._ssh.start(file.write(block, offset), doing))
            offset += len(block)
            if len(under_way) >= _AHEAD:
                self._ssh.wait(under_way.popleft(), doing)
        while under_way:
            self._ssh.wait(under_way.popleft(), doing)

    async def _finish(self, file: asyncssh.SFTPClientFile, part: str, path: str, body: Body) -> None:
        if self._fsync:
            await _synced(file)
        await file.setstat(self._attributes(body.mtime))
        await file.close()
        await self._renamed(part, path)

    def _second_session(self) -> SftpStream | None:
        """For small files; None where the server allows one session only."""
        if self._only_one:
            return None
        try:
            self._stream = SftpStream(self._ssh, self._name, write_bytes=self._sftp.limits.max_write_len)
        except AccessDenied:
            self._only_one = True
        return self._stream

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

    def _attributes(self, mtime: float) -> asyncssh.SFTPAttrs:
        made = asyncssh.SFTPAttrs()
        if self._file_mode is not None:
            made.permissions = self._file_mode
        if 0 <= mtime <= _LATEST:
            made.atime = made.mtime = int(mtime)
        return made

    def _raise_if_full(self, exc: Unreachable, size: int, doing: str) -> None:
        """OpenSSH has no code for a full disk: it says "Failure", as for everything else."""
        if self._ssh.is_closed or not isinstance(exc.__cause__, asyncssh.SFTPFailure):
            return
        try:
            free = self.free_bytes()
        except LadingError:
            return
        if free is not None and free < max(size, BLOCK):
            raise OutOfSpace(
                f"{doing}: the disk of the inbox is full; {size:,} bytes are needed, {free:,} are free",
                safe="what arrived is kept for the next attempt",
                next_command="lading inbox",
            ) from exc

    # -- reading -----------------------------------------------------------------------------------------------------

    def _blocks(self, file: asyncssh.SFTPClientFile, offset: int, end: int, doing: str) -> Iterator[bytes]:
        under_way: deque[tuple[int, concurrent.futures.Future[bytes]]] = deque()
        try:
            while offset < end or under_way:
                while offset < end and len(under_way) < _AHEAD:
                    count = min(BLOCK, end - offset)
                    under_way.append((count, self._ssh.start(_read(file, count, offset), doing)))
                    offset += count
                count, future = under_way.popleft()
                data = self._ssh.wait(future, doing)
                if len(data) < count:
                    raise Corrupted(f"{doing}: it ended early")
                yield data
        finally:
            for _, future in under_way:
                future.cancel()

    async def _open(self, name: bytes, how: str) -> asyncssh.SFTPClientFile:
        new = asyncssh.SFTPAttrs()
        if "x" in how and self._file_mode is not None:
            new.permissions = self._file_mode
        return await self._sftp.open(name, how, new)

    async def _opened(self, path: str) -> asyncssh.SFTPClientFile:
        name = self._absolute(path)
        found = await self._sftp.lstat(name)
        if not is_file(found):
            raise AccessDenied(f"{self._shown(path)} is not a regular file; links are not followed")
        return await self._sftp.open(name, "rb")

    # -- names -------------------------------------------------------------------------------------------------------

    async def _made(self, path: str) -> None:
        name = self._absolute(path)
        try:
            await self._sftp.mkdir(name)
        except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
            parent = path.rpartition("/")[0]
            if not parent:
                raise
            await self._made(parent)
            await self._made(path)
            return
        except (asyncssh.SFTPFailure, asyncssh.SFTPFileAlreadyExists):
            found = await self._sftp.lstat(name)
            if is_folder(found):
                return
            await self._sftp.remove(name)
            await self._sftp.mkdir(name)
        if self._folder_mode is not None:
            await self._sftp.setstat(name, asyncssh.SFTPAttrs(permissions=self._folder_mode))

    async def _renamed(self, old: str, new: str) -> None:
        try:
            await self._sftp.posix_rename(self._absolute(old), self._absolute(new))
        except asyncssh.SFTPOpUnsupported:
            # The protocol's own rename replaces nothing. Between the two there is no file: better than a wrong one.
            await _removed(self._sftp, self._absolute(new))
            await self._sftp.rename(self._absolute(old), self._absolute(new))

    def _absolute(self, path: str) -> bytes:
        whole = f"{self._root}/{path}" if path else self._root or "/"
        return whole.encode("utf-8", "surrogateescape")

    def _shown(self, path: str) -> str:
        return f"{shown(path) or 'the folder'} of {self._name}"

    def _run(self, coroutine: Coroutine[object, object, T], doing: str) -> T:
        return self._ssh.run(coroutine, doing)


async def _found(sftp: asyncssh.SFTPClient, name: bytes) -> asyncssh.SFTPAttrs | None:
    try:
        return await sftp.lstat(name)
    except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
        return None


async def _next_entries(entries: AsyncIterator[asyncssh.SFTPName]) -> list[asyncssh.SFTPName]:
    batch: list[asyncssh.SFTPName] = []
    try:
        async for entry in entries:
            batch.append(entry)
            if len(batch) >= _LISTED_AT_ONCE:
                break
    except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
        return batch
    return batch


async def _removed(sftp: asyncssh.SFTPClient, name: bytes) -> None:
    try:
        await sftp.remove(name)
    except (asyncssh.SFTPNoSuchFile, asyncssh.SFTPNoSuchPath):
        return


async def _free(sftp: asyncssh.SFTPClient, name: bytes) -> int | None:
    try:
        room = await sftp.statvfs(name)
    except asyncssh.SFTPOpUnsupported:
        return None
    return (room.bavail or 0) * (room.frsize or 0)


async def _synced(file: asyncssh.SFTPClientFile) -> None:
    try:
        await file.fsync()
    except asyncssh.SFTPOpUnsupported:
        return


async def _read(file: asyncssh.SFTPClientFile, count: int, offset: int) -> bytes:
    data = await file.read(count, offset)
    return data.encode() if isinstance(data, str) else data


def _remote_file(path: str, found: asyncssh.SFTPAttrs) -> RemoteFile:
    folder = is_folder(found)
    size = 0 if folder else (found.size or 0) if is_file(found) else -1
    return RemoteFile(path, size, None if found.mtime is None else float(found.mtime), folder)


def _decoded(name: bytes | str) -> str:
    return name if isinstance(name, str) else name.decode("utf-8", "surrogateescape")


def _private_key(config: SftpConfig) -> asyncssh.SSHKey:
    assert config.identity is not None  # noqa: S101 - the caller looked
    secret = password(config.passphrase, f"the key {config.identity}") if config.passphrase else None
    try:
        return asyncssh.read_private_key(str(config.identity.expanduser()), secret)
    except OSError as exc:
        raise AccessDenied(
            f"the private key {config.identity} cannot be read: {exc.strerror}", next_command="lading doctor"
        ) from exc
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as exc:
        # The cause may quote the key.
        raise AccessDenied(
            f"the private key {config.identity} cannot be used: {type(exc).__name__}"
            f"{'' if config.passphrase else '; if it has a passphrase, say where that is kept'}",
            next_command="lading doctor",
        ) from None


def _known_hosts(config: SftpConfig) -> Path | None:
    if config.known_hosts is None:
        return None
    path = config.known_hosts.expanduser()
    if not path.is_file():
        raise AccessDenied(
            f"the host keys in {path} cannot be read", next_command=f"ssh-keyscan HOST > {path}   (compare them first)"
        )
    return path


def _mode(text: str, key: str) -> int | None:
    if not text:
        return None
    if not re.fullmatch(r"[0-7]{3,4}", text):
        raise ConfigError(f"transport.{key} = {text!r} is not an octal mode like 0660")
    return stat.S_IMODE(int(text, 8))


def _is_remote_files(files: SftpFiles) -> RemoteFiles:
    """For the type checker: the role is filled."""
    return files
