"""An SSH connection with one SFTP session on it, as bytes in both directions; made by asyncssh, in an event loop of its own."""

import asyncio
import contextlib
import queue
import threading
from collections.abc import Sequence
from pathlib import Path

import asyncssh
import attrs
from asyncssh.constants import MSG_IGNORE
from asyncssh.packet import SSHPacketLogger

from lading.errors import AccessDenied, ConfigError, LadingError, UnexpectedFault, Unreachable
from transport.logins import password
from transport.ssh_line import LineError, Piece

# What the library raises, and what it means for us; the first that fits.
ERRORS: tuple[tuple[type[BaseException], type[LadingError], str], ...] = (
    (asyncssh.HostKeyNotVerifiable, AccessDenied, "the host key is not the one we trust"),
    (asyncssh.PermissionDenied, AccessDenied, "the server refused our login"),
    (asyncssh.KeyImportError, AccessDenied, "the private key cannot be used"),
    (asyncssh.KeyEncryptionError, AccessDenied, "the private key cannot be decrypted"),
    (asyncssh.KeyExchangeFailed, ConfigError, "the server and we know no common algorithm"),
    (asyncssh.ServiceNotAvailable, Unreachable, "the server does not offer this service"),
    (asyncssh.DisconnectError, Unreachable, "the connection was lost"),
    (asyncssh.ChannelOpenError, AccessDenied, "the server offers no SFTP to this account"),
    (asyncssh.Error, Unreachable, "the connection was lost"),
    (TimeoutError, Unreachable, "no answer in time"),
    (asyncio.CancelledError, Unreachable, "the connection was closed"),
    (OSError, Unreachable, "no connection"),
)


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


class LibraryLine:
    """Logged in when this returns; see transport.ssh_line.Line. Raises Unreachable, AccessDenied, ConfigError."""

    def __init__(self, login: Login, doing: str) -> None:
        self._loop = asyncio.new_event_loop()
        self._closed = threading.Event()
        self._heard: queue.SimpleQueue[bytes | LineError] = queue.SimpleQueue()
        self._connection: asyncssh.SSHClientConnection | None = None
        self._thread = threading.Thread(target=self._main, name=f"lading-ssh-{login.host}", daemon=True)
        self._thread.start()
        try:
            self._channel = asyncio.run_coroutine_threadsafe(self._open(login), self._loop).result()
        except BaseException as exc:
            self.close()
            if isinstance(exc, Exception):
                raise _meaning(exc).error(doing) from exc
            raise

    @property
    def is_closed(self) -> bool:
        """See Line."""
        return self._closed.is_set() or not self._thread.is_alive()

    def send(self, pieces: Sequence[Piece]) -> None:
        """See Line. Never waits: whoever asks must keep to a bound."""
        if self.is_closed:
            raise LineError(Unreachable, "the connection was closed")
        with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
            self._loop.call_soon_threadsafe(self._write, b"".join(pieces))

    def receive(self) -> bytes:
        """See Line."""
        while True:
            try:
                heard = self._heard.get(timeout=1.0)
            except queue.Empty:
                if self.is_closed:
                    raise LineError(Unreachable, "the connection was closed") from None
                continue
            if isinstance(heard, bytes):
                return heard
            self._heard.put(heard)  # whoever asks again is told again
            raise heard

    def close(self) -> None:
        """See Line."""
        if self._closed.is_set():
            return
        self._closed.set()
        with contextlib.suppress(RuntimeError):
            self._loop.call_soon_threadsafe(self._end)

    async def _open(self, login: Login) -> asyncssh.SSHClientChannel[bytes]:
        connection = await asyncio.wait_for(
            asyncssh.connect(login.host, login.port, options=_options(login)), login.connect_s
        )
        self._connection = connection
        _send_no_fillers(connection)
        session = connection.create_session(lambda: _Session(self._heard), subsystem="sftp", encoding=None)
        channel, _ = await asyncio.wait_for(session, login.connect_s)
        return channel

    def _write(self, data: bytes) -> None:
        with contextlib.suppress(OSError):  # the session has ended, and says so itself
            self._channel.write(data)

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
        # Whoever waits hears of it in the loop's next rounds.
        self._loop.call_later(0.05, self._loop.stop)


class _Session(asyncssh.SSHClientSession[bytes]):
    """Hands what the server says to the thread that waits for it."""

    def __init__(self, heard: "queue.SimpleQueue[bytes | LineError]") -> None:
        self._heard = heard

    def data_received(self, data: bytes, datatype: int | None) -> None:
        if datatype is None and data:
            self._heard.put(data)

    def eof_received(self) -> bool:
        return False

    def connection_lost(self, exc: Exception | None) -> None:
        self._heard.put(_meaning(exc) if exc else LineError(Unreachable, "the connection was lost"))


def private_key(identity: Path, passphrase: str) -> asyncssh.SSHKey:
    """The key in the file `identity`; `passphrase` says where that is kept. Raises AccessDenied, ConfigError."""
    secret = password(passphrase, f"the key {identity}") if passphrase else None
    try:
        return asyncssh.read_private_key(str(identity.expanduser()), secret)
    except OSError as exc:
        raise AccessDenied(
            f"the private key {identity} cannot be read: {exc.strerror}", next_command="lading doctor"
        ) from exc
    except (asyncssh.KeyImportError, asyncssh.KeyEncryptionError) as exc:
        # The cause may quote the key.
        raise AccessDenied(
            f"the private key {identity} cannot be used: {type(exc).__name__}"
            f"{'' if passphrase else '; if it has a passphrase, say where that is kept'}",
            next_command="lading doctor",
        ) from None


def _meaning(exc: Exception) -> LineError:
    for foreign, ours, meaning in ERRORS:
        if isinstance(exc, foreign):
            detail = "".join(c if c.isprintable() else " " for c in str(exc)).strip()
            return LineError(ours, f"{meaning}{f' ({detail[:200]})' if detail else ''}")
    return LineError(UnexpectedFault, f"{type(exc).__name__}: {exc}")


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
