"""One SSH connection with an SFTP session on it, in an event loop of its own, for callers that block."""

import asyncio
import concurrent.futures
import contextlib
import stat
import threading
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TypeVar

import asyncssh
import attrs
from asyncssh.constants import MSG_IGNORE
from asyncssh.packet import SSHPacketLogger

from lading.errors import (
    AccessDenied,
    ConfigError,
    Corrupted,
    LadingError,
    OutOfSpace,
    UnexpectedFault,
    Unreachable,
)

T = TypeVar("T")

# What the libraries raise, and what it means for us; the first that fits.
ERRORS: tuple[tuple[type[BaseException], type[LadingError], str], ...] = (
    (asyncssh.HostKeyNotVerifiable, AccessDenied, "the host key is not the one we trust"),
    (asyncssh.PermissionDenied, AccessDenied, "the server refused our login"),
    (asyncssh.KeyImportError, AccessDenied, "the private key cannot be used"),
    (asyncssh.KeyEncryptionError, AccessDenied, "the private key cannot be decrypted"),
    (asyncssh.KeyExchangeFailed, ConfigError, "the server and we know no common algorithm"),
    (asyncssh.ServiceNotAvailable, Unreachable, "the server does not offer this service"),
    (asyncssh.DisconnectError, Unreachable, "the connection was lost"),
    (asyncssh.ChannelOpenError, AccessDenied, "the server offers no SFTP to this account"),
    (asyncssh.SFTPNoSpaceOnFilesystem, OutOfSpace, "the disk is full"),
    (asyncssh.SFTPQuotaExceeded, OutOfSpace, "the quota is used up"),
    (asyncssh.SFTPPermissionDenied, AccessDenied, "the server refuses that"),
    (asyncssh.SFTPWriteProtect, AccessDenied, "the disk is write-protected"),
    (asyncssh.SFTPNoSuchFile, Unreachable, "it is not there; is the share mounted?"),
    (asyncssh.SFTPNoSuchPath, Unreachable, "it is not there; is the share mounted?"),
    (asyncssh.SFTPConnectionLost, Unreachable, "the connection was lost"),
    (asyncssh.SFTPNoConnection, Unreachable, "the connection was lost"),
    (asyncssh.SFTPFileCorrupt, Corrupted, "the server says that its file system is damaged"),
    (asyncssh.SFTPOpUnsupported, ConfigError, "the server cannot do that"),
    # OpenSSH answers so to anything without a code of its own: an I/O error, a quota, a read-only disk.
    (asyncssh.SFTPError, Unreachable, "the server reports a failure"),
    (asyncssh.Error, Unreachable, "the connection was lost"),
    (TimeoutError, Unreachable, "no answer in time"),
    (asyncio.IncompleteReadError, Unreachable, "the connection was lost"),
    (concurrent.futures.CancelledError, Unreachable, "the connection was closed"),
    (asyncio.CancelledError, Unreachable, "the connection was closed"),
    (OSError, Unreachable, "no connection"),
)


def translated(exc: BaseException, doing: str) -> LadingError:
    """The error of ours for `exc`; `doing` says what we were doing, to what."""
    if isinstance(exc, LadingError):
        return exc
    for foreign, ours, meaning in ERRORS:
        if isinstance(exc, foreign):
            detail = str(exc).strip().splitlines()
            message = f"{doing}: {meaning}{f' ({detail[0][:200]})' if detail else ''}"
            return ours(message, next_command="" if ours.retried else "lading doctor")
    return UnexpectedFault(f"{doing}: {type(exc).__name__}: {exc}", next_command="lading doctor")


@attrs.frozen(kw_only=True)
class Login:
    """Where, and as whom. `key`, `password`: what to log in with; both None: the agent and the keys of the account.

    `known_hosts`: the host keys we trust (None: those of the account). `silence_s`: without an answer to a sign of life for
    that long, the connection counts as lost.
    """

    host: str
    port: int
    user: str | None
    key: asyncssh.SSHKey | None = attrs.field(default=None, repr=False)
    password: str | None = attrs.field(default=None, repr=False)
    known_hosts: Path | None = None
    connect_s: float = 10.0
    silence_s: float = 60.0


class SshConnection:
    """A connection that is open when this returns. `run` is for one thread; `close` for any. Raises Unreachable, AccessDenied."""

    def __init__(self, login: Login) -> None:
        self._name = f"{login.user + '@' if login.user else ''}{login.host}"
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, name=f"lading-ssh-{login.host}", daemon=True)
        self._closed = threading.Event()
        self._connection: asyncssh.SSHClientConnection | None = None
        self._thread.start()
        try:
            self.sftp = self.run(self._open(login), f"cannot log in to {self._name}:{login.port}")
        except BaseException:
            self.close()
            raise

    @property
    def is_closed(self) -> bool:
        """Whether nothing more can be asked."""
        return self._closed.is_set() or not self._thread.is_alive()

    def run(self, coroutine: Coroutine[object, object, T], doing: str) -> T:
        """What `coroutine` returns, run in the loop. Raises LadingErrors only."""
        return self.wait(self.start(coroutine, doing), doing)

    def start(self, coroutine: Coroutine[object, object, T], doing: str) -> "concurrent.futures.Future[T]":
        """Begin; `wait` for it later."""
        if self._closed.is_set():
            coroutine.close()
            raise Unreachable(f"{doing}: the connection was closed")
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop)

    def wait(self, future: "concurrent.futures.Future[T]", doing: str) -> T:
        """The result. Raises LadingErrors only."""
        try:
            while True:
                try:
                    return future.result(1.0)
                except concurrent.futures.TimeoutError:
                    # A time-out of the coroutine's own, or only our second is over?
                    if future.done():
                        raise
                    if not self._thread.is_alive():
                        raise Unreachable(f"{doing}: the connection was closed") from None
        except (KeyboardInterrupt, SystemExit):
            raise
        except BaseException as exc:
            error = translated(exc, doing)
            if error is exc:
                raise
            raise error from exc

    def close(self) -> None:
        """Cut the connection; whatever is under way ends with Unreachable. Never raises."""
        if self._closed.is_set():
            return
        self._closed.set()
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end)

    def post(self, call: Callable[..., object], *arguments: object) -> None:
        """Have `call` done in the loop, soon; nothing when the connection is closed."""
        if not self._closed.is_set():
            with contextlib.suppress(RuntimeError):
                self._loop.call_soon_threadsafe(call, *arguments)

    async def sftp_channel(
        self, session: Callable[[], asyncssh.SSHClientSession[bytes]]
    ) -> asyncssh.SSHClientChannel[bytes]:
        """One more SFTP session on this connection, as bare bytes. Raises asyncssh's errors."""
        if self._connection is None:
            raise asyncssh.ConnectionLost("not connected")
        channel, _ = await self._connection.create_session(session, subsystem="sftp", encoding=None)
        return channel

    async def _open(self, login: Login) -> asyncssh.SFTPClient:
        connection = await asyncio.wait_for(
            asyncssh.connect(login.host, login.port, options=_options(login)), login.connect_s
        )
        self._connection = connection
        _send_no_fillers(connection)
        return await asyncio.wait_for(connection.start_sftp_client(), login.connect_s)

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        # The library tells its logger about every lost connection; the caller is told by an error.
        self._loop.set_exception_handler(lambda _loop, _context: None)
        try:
            self._loop.run_forever()
        finally:
            with contextlib.suppress(Exception):
                pending = asyncio.all_tasks(self._loop)
                for task in pending:
                    task.cancel()
                self._loop.run_until_complete(asyncio.wait_for(asyncio.gather(*pending, return_exceptions=True), 2))
            self._loop.close()

    def _end(self) -> None:
        if self._connection is not None:
            self._connection.abort()
        # The requests that are under way hear of it in the loop's next rounds.
        self._loop.call_later(0.05, self._loop.stop)


def _send_no_fillers(connection: asyncssh.SSHClientConnection) -> None:
    """Keep the library from sending an empty packet ahead of every packet: half of all that it encrypts.

    They hide a weakness of the CBC ciphers (RFC 4253, 9.3.1), none of which we offer.
    """
    send = connection.send_packet

    def send_packet(pkttype: int, *args: bytes, handler: SSHPacketLogger | None = None) -> None:
        if pkttype != MSG_IGNORE:
            send(pkttype, *args, handler=handler)

    connection.send_packet = send_packet  # type: ignore[method-assign]  # the library has no switch for it


def _options(login: Login) -> asyncssh.SSHClientConnectionOptions:
    how: dict[str, object] = {}
    if login.key is not None:
        how = {"client_keys": [login.key], "agent_path": None, "preferred_auth": "publickey"}
    elif login.password is not None:
        how = {
            "client_keys": None,
            "agent_path": None,
            "password": login.password,
            "preferred_auth": "password,keyboard-interactive",
        }
    if login.known_hosts is not None:
        how["known_hosts"] = str(login.known_hosts)
    if login.user:
        how["username"] = login.user
    return asyncssh.SSHClientConnectionOptions(
        config=None,  # what ~/.ssh/config says must not change what the settings say
        connect_timeout=login.connect_s,
        login_timeout=login.connect_s,
        keepalive_interval=max(1.0, login.silence_s / 3),
        keepalive_count_max=3,
        compression_algs=None,
        # The processor's AES is several times as fast as ChaCha20 in software; those without AES have the latter.
        encryption_algs="aes128-gcm@openssh.com,aes256-gcm@openssh.com,chacha20-poly1305@openssh.com,aes256-ctr,aes128-ctr",
        **how,
    )


def is_folder(attributes: asyncssh.SFTPAttrs) -> bool:
    """Whether the attributes are a folder's (not a link's to one)."""
    if attributes.permissions is not None:
        return stat.S_ISDIR(attributes.permissions)
    return attributes.type == asyncssh.FILEXFER_TYPE_DIRECTORY


def is_file(attributes: asyncssh.SFTPAttrs) -> bool:
    """Whether the attributes are a regular file's."""
    if attributes.permissions is not None:
        return stat.S_ISREG(attributes.permissions)
    return attributes.type == asyncssh.FILEXFER_TYPE_REGULAR
