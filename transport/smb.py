"""Carries a delivery to an SMB share (Windows, Samba, a NAS) without mounting it; `transport.placing` does the rest.

Each connection is a worker process (`transport.smb_worker`) that is ended when it stalls. The connection is encrypted, or at least
signed, always. A share that is mounted is a folder: it is reached with `local`.
"""

import importlib.util
import re
import subprocess
import sys
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import IO, Self

import attrs

from lading.config import structure
from lading.errors import (
    AccessDenied,
    ConfigError,
    Corrupted,
    LadingError,
    OutOfSpace,
    TransportError,
    UnexpectedFault,
    Unreachable,
)
from lading.manifest import NameLimits
from lading.ports import Settings
from transport.foreign import shown
from transport.frames import DATA, WINDOW, FrameError, parsed, read_frame, write_frame, write_message
from transport.logins import password
from transport.placing import PlacingTransport
from transport.remote import BLOCK, Body, RemoteFile, RemoteFiles, RemoteTraits, part_path

if sys.platform == "linux":
    import fcntl

_SHARE = re.compile(
    r"[\\/]{2}(?P<host>[^\\/:?*\"<>|\s]+)[\\/](?P<share>[^\\/:?*\"<>|]+)(?P<path>(?:[\\/][^\\/:?*\"<>|]+)*)[\\/]?"
)
_AUTH = ("negotiate", "ntlm", "kerberos")
_ON_THEIR_WAY = WINDOW * BLOCK  # bytes; the worker has fewer blocks than that between itself and the server
_SMALL_AHEAD = 1 << 20  # bytes of small files that the worker may have in hand
_START_S = 60.0  # for the worker to start, on a machine that is busy
_KEPT = "what arrived is kept for the next attempt"
_KINDS: dict[str, type[LadingError]] = {
    "unreachable": Unreachable,
    "denied": AccessDenied,
    "full": OutOfSpace,
    "corrupted": Corrupted,
    "unexpected": UnexpectedFault,
}
_NEXT: dict[type[LadingError], str] = {
    AccessDenied: "lading doctor",
    OutOfSpace: "lading inbox list",
    UnexpectedFault: "lading doctor",
}


@attrs.frozen(kw_only=True)
class SmbConfig:
    r"""`share`: the inbox, as `//server/share/folder` (or with backslashes).

    Logs in as `user` (`DOMAIN\user`, `user@domain`) with `password`, given as "env:NAME", "file:PATH" (mode 0600) or
    "keyring:SERVICE/USER"; with `auth = "kerberos"` the account's ticket is enough. `auth`: "negotiate", "ntlm" or "kerberos";
    no Active Directory is needed. `encrypt`: the connection must be encrypted (SMB 3); without it, it is still signed.
    `timeout`: seconds without progress before a connection counts as lost. `connect_timeout`: for the connection and the login.
    `streams`: connections at a time.

    A client cannot see that Samba follows symbolic links: give the share `follow symlinks = no`.
    """

    share: str
    user: str = ""
    password: str = ""
    port: int = 445
    auth: str = "negotiate"
    encrypt: bool = True
    timeout: float = 60.0
    connect_timeout: float = 10.0
    streams: int = 3


class SmbPlace:
    """A folder of a share; see the role RemotePlace."""

    def __init__(self, config: SmbConfig) -> None:
        match = _SHARE.fullmatch(config.share)
        if not match or ".." in re.split(r"[\\/]", match["path"]):
            raise ConfigError(
                f"transport.share = {config.share!r} is not //server/share/folder", next_command="lading doctor"
            )
        if config.auth not in _AUTH:
            raise ConfigError(f"transport.auth = {config.auth!r} is none of {', '.join(_AUTH)}")
        if config.streams < 1:
            raise ConfigError(f"streams = {config.streams} leaves no connection to carry over")
        if config.auth != "kerberos" and not (config.user and config.password):
            raise ConfigError(
                "transport has no user and password; only auth = kerberos goes without", next_command="lading doctor"
            )
        if importlib.util.find_spec("smbprotocol") is None:
            raise ConfigError("SMB needs the extra lading[smb]", next_command="pip install 'lading[smb]'")
        self._config = config
        self._host = match["host"]
        parts = [match["share"], *(part for part in re.split(r"[\\/]", match["path"]) if part)]
        self._root = "\\\\" + "\\".join([self._host, *parts])
        self._name = "//" + "/".join([self._host, *parts])

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Made from the route's transport table. Raises ConfigError."""
        return cls(structure(settings, SmbConfig, where="transport"))

    @property
    def name(self) -> str:
        """The share and folder."""
        return self._name

    @property
    def traits(self) -> RemoteTraits:
        """Windows' rules for names; names that differ only by case are one."""
        return RemoteTraits(names=NameLimits.SMB, stall_s=self._config.timeout)

    @property
    def streams(self) -> int:
        """As configured."""
        return self._config.streams

    def connect(self) -> "SmbFiles":
        """See the role."""
        config = self._config
        secret = password(config.password, self._name) if config.password else ""
        files = SmbFiles(_Line(), self._name)
        files.log_in(
            {
                "host": self._host,
                "root": self._root,
                "port": config.port,
                "user": config.user,
                "password": secret,
                "encrypt": config.encrypt,
                "auth": config.auth,
            },
            config.connect_timeout,
        )
        return files


class SmbTransport(PlacingTransport):
    """SMB (CIFS): a Windows or Samba share that is not mounted."""

    place_type = SmbPlace


class SmbFiles:
    """One connection, held by a worker; see the role RemoteFiles."""

    def __init__(self, line: "_Line", name: str) -> None:
        self._line, self._name = line, name

    def log_in(self, login: Mapping[str, object], seconds: float) -> None:
        """Connect. Raises Unreachable when that takes longer than `seconds`, AccessDenied."""
        doing = f"cannot log in to {self._name}"
        try:
            with self._line.ended_after(_START_S, f"{doing}: its process did not start"):
                self._answer(doing)
            with self._line.ended_after(seconds, f"{doing}: no answer within {seconds:g} seconds"):
                self._ask(doing, "connect", **login, timeout=max(1, round(seconds)))
        except BaseException:
            self.close()
            raise

    def look(self, path: str) -> RemoteFile | None:
        """See the role."""
        found = self._ask(f"cannot look at {self._shown(path)}", "look", path=path)
        if not isinstance(found, list):
            return None
        size, mtime, folder = found
        return RemoteFile(path, int(size), float(mtime), bool(folder))

    def listed(self, folder: str) -> Iterator[RemoteFile]:
        """See the role."""
        doing = f"cannot list {self._shown(folder)}"
        prefix = f"{folder}/" if folder else ""
        for page in self._streamed(doing, "list", path=folder):
            for name, size, mtime, is_folder in page if isinstance(page, list) else ():
                # Such names can only come from a hostile server.
                if name not in {".", "..", ""} and not set(name) & {"/", "\\", "\0"}:
                    yield RemoteFile(prefix + name, int(size), float(mtime), bool(is_folder))

    def make_folders(self, path: str) -> None:
        """See the role. What stands in the way and is no folder is removed."""
        if path:
            self._ask(f"cannot make the folder {self._shown(path)}", "mkdir", path=path)

    def place(self, path: str, body: Body) -> None:
        """See the role."""
        doing = f"cannot write {self._shown(path)}"
        part = part_path(path, body)
        # A part of so little is written anew: asking costs as much.
        offset = self._continued(part, body) if body.size > BLOCK else 0
        request = {"path": path, "part": part, "offset": offset, "mtime_ns": round(body.mtime * 1e9)}
        self._ask(doing, "write", **request)
        under_way = 0
        blocks = body.blocks(offset)
        while block := self._next_block(blocks, under_way, doing):
            self._line.send_block(block, doing)
            under_way += 1
            if under_way >= WINDOW:
                self._answer(doing)
                under_way -= 1
        # The worker acknowledges the last blocks when it knows that they are the last.
        self._line.send_block(b"", doing)
        for _ in range(under_way + 1):
            self._answer(doing)

    def place_many(self, bodies: Iterable[tuple[str, Body]]) -> None:
        """See transport.remote.PlacesMany: the worker has the next files while it waits for the server."""
        under_way: deque[tuple[str, int]] = deque()
        try:
            for path, body in bodies:
                content = b"".join(body.blocks())
                while under_way and sum(size for _, size in under_way) + len(content) > _SMALL_AHEAD:
                    self._answer(under_way.popleft()[0])
                doing = f"cannot write {self._shown(path)}"
                request = {"path": path, "part": part_path(path, body), "mtime_ns": round(body.mtime * 1e9)}
                self._line.send_message({"do": "put", **request}, doing)
                self._line.send_block(content, doing)
                under_way.append((doing, len(content)))
            while under_way:
                self._answer(under_way.popleft()[0])
        except BaseException:
            # Every answer must be taken, lest the next question gets one of them.
            for doing, _ in under_way:
                with suppress(LadingError):
                    self._answer(doing)
            raise

    def read(self, path: str, offset: int = 0) -> Iterator[bytes]:
        """See the role."""
        for block in self._streamed(f"cannot read {self._shown(path)}", "read", path=path, offset=offset):
            if isinstance(block, bytes):
                yield block

    def digests(self, path: str, algorithms: tuple[str, ...]) -> Mapping[str, str]:  # noqa: ARG002
        """None: SMB knows no checksums of contents."""
        return {}

    def rename(self, old: str, new: str) -> None:
        """See the role."""
        self._ask(f"cannot rename {self._shown(old)} to {shown(new)}", "rename", old=old, new=new)

    def remove(self, path: str) -> None:
        """See the role."""
        found = self.look(path)
        if found is None:
            return
        if found.folder:
            for inner in list(self.listed(path)):
                self.remove(inner.path)
        self._ask(f"cannot remove {self._shown(path)}", "remove", path=path)

    def free_bytes(self) -> int | None:
        """See the role."""
        free = self._ask(f"cannot ask {self._name} for its free space", "free")
        return free if isinstance(free, int) else None

    def close(self) -> None:
        """See the role."""
        self._line.end()

    def _continued(self, part: str, body: Body) -> int:
        """Where to go on writing: behind what is proven, by the part's name and its last blocks, to be there; else 0.

        A server writes the blocks that are on their way together in any order. When the line is cut, one may be missing
        before another that is there: it reads as zeros. So as many are compared as can be on their way at a time.
        """
        there = self.look(part)
        if there is None:
            return 0
        if there.folder or not 0 < there.size <= body.size:
            self.remove(part)
            return 0
        start = max(0, there.size - _ON_THEIR_WAY)
        stored = b"".join(self.read(part, start))
        wanted = b"".join(body.blocks(start, there.size - start))
        if stored == wanted:
            return there.size
        differing = (at for at in range(0, len(wanted), BLOCK) if stored[at : at + BLOCK] != wanted[at : at + BLOCK])
        first = next(differing, 0)
        # The first of so many was acknowledged long ago. If not even that is there, nothing is proven.
        return start + first if first else 0

    def _next_block(self, blocks: Iterator[bytes], under_way: int, doing: str) -> bytes | None:
        """The next block; when the source fails, the worker lets go of the part.

        An error of its own is the last that it says of the blocks; to giving up it has an answer always.
        """
        try:
            return next(blocks, None)
        except BaseException:
            with suppress(LadingError):
                self._line.send_message({"do": "give up"}, doing)
                with suppress(*_KINDS.values()):
                    for _ in range(under_way):
                        self._answer(doing)
                self._answer(doing)
            raise

    def _streamed(self, doing: str, do: str, **request: object) -> Iterator[object]:
        number = self._ask(doing, do, **request)
        whole = False
        try:
            while part := self._ask(doing, "more", id=number):
                yield part
            whole = True
        finally:
            if not whole:
                with suppress(LadingError):
                    self._ask(doing, "drop", id=number)

    def _ask(self, doing: str, do: str, **request: object) -> object:
        self._line.send_message({"do": do, **request}, doing)
        return self._answer(doing)

    def _answer(self, doing: str) -> object:
        """What the worker answers: content, or what JSON holds. Raises its error as one of ours."""
        kind, payload = self._line.receive(doing)
        if kind == DATA:
            return payload
        answer = parsed(payload)
        if "error" not in answer:
            return answer.get("ok")
        kind_of = _KINDS.get(str(answer["error"]), UnexpectedFault)
        message = f"{doing}: {shown(str(answer.get('said', '')))}"
        safe = _KEPT if issubclass(kind_of, TransportError) else ""
        raise kind_of(message, safe=safe, next_command=_NEXT.get(kind_of, ""))

    def _shown(self, path: str) -> str:
        return f"{shown(path) or 'the folder'} of {self._name}"


class _Line:
    """The worker process and the pipes to it. `end` may be called from any thread."""

    def __init__(self) -> None:
        # Nothing about the login is in its arguments or environment: that goes through the pipe.
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "transport.smb_worker"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            creationflags=getattr(subprocess, "CREATE_NO_WINDOW", 0),
        )
        _widen(self._process.stdin)
        _widen(self._process.stdout)
        self._ending = threading.Lock()

    def send_message(self, message: Mapping[str, object], doing: str) -> None:
        """One request. Raises Unreachable when the worker is gone."""
        assert self._process.stdin  # noqa: S101 - a pipe
        try:
            write_message(self._process.stdin, message)  # type: ignore[arg-type]
        except (OSError, ValueError) as exc:
            raise self._lost(doing) from exc

    def send_block(self, block: bytes, doing: str) -> None:
        """Content. Raises Unreachable when the worker is gone."""
        assert self._process.stdin  # noqa: S101 - a pipe
        try:
            write_frame(self._process.stdin, DATA, block)  # type: ignore[arg-type]
        except (OSError, ValueError) as exc:
            raise self._lost(doing) from exc

    def receive(self, doing: str) -> tuple[bytes, bytes]:
        """The next answer. Raises Unreachable when the worker is gone."""
        assert self._process.stdout  # noqa: S101 - a pipe
        try:
            return read_frame(self._process.stdout)  # type: ignore[arg-type]
        except (FrameError, OSError, ValueError) as exc:
            raise self._lost(doing) from exc

    def end(self) -> None:
        """End the worker; a call that waits for it fails. The server notices, and closes what was open."""
        with self._ending:
            if self._process.poll() is None:
                self._process.kill()
                self._process.wait()
        # Whoever waited for the worker has been woken by its end.
        for pipe in (self._process.stdin, self._process.stdout):
            with suppress(OSError, ValueError):
                if pipe:
                    pipe.close()

    @contextmanager
    def ended_after(self, seconds: float, why: str) -> Iterator[None]:
        """End the worker unless the block is over within `seconds`. Raises Unreachable, with `why`, then."""
        late = threading.Event()

        def end() -> None:
            late.set()
            self.end()

        timer = threading.Timer(seconds, end)
        timer.daemon = True
        timer.start()
        try:
            yield
        except LadingError as exc:
            if late.is_set():
                raise Unreachable(why, safe=_KEPT) from exc
            raise
        finally:
            timer.cancel()

    def _lost(self, doing: str) -> Unreachable:
        return Unreachable(f"{doing}: the connection is closed", safe=_KEPT)


def _widen(pipe: IO[bytes] | None) -> None:
    """Room for a whole block, where the system lets us: else each one takes sixteen changes between the processes."""
    if pipe and sys.platform == "linux":
        with suppress(OSError):
            fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, BLOCK)


def _is_remote_files(files: SmbFiles) -> RemoteFiles:
    """For the type checker: the role is filled."""
    return files
