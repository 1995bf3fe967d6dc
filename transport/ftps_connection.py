"""One FTP session inside TLS: the log-in, data connections that continue its TLS session, and the table from replies to errors."""

import ftplib
import re
import socket
import ssl
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import attrs

from lading.errors import AccessDenied, LadingError, OutOfSpace, UnexpectedFault, Unreachable
from transport.foreign import shown
from transport.https import certificate_refused, tls_context, untrusted

_KEPT = "what arrived is kept for the next attempt"
_DOCTOR = "lading doctor"
_SAID = 200  # characters of a reply that are shown
_WORD_S = 5.0  # how long a server may take to say why it cut a data connection
_KEEPALIVE_S = 30
_SESSION_S = 10.0  # for how long a TLS session is used again without asking for a newer one
_PORT_TRIES, _PORT_WAIT_S = 10, 0.2
_LOGIN = frozenset({"430", "530", "331", "332", "532"})
_REFUSED = frozenset({"550", "553", "521", "522", "533", "534", "536"})
_UNSAYABLE = re.compile(r"[\x00-\x1f\x7f]")
_FULL = re.compile(
    r"no space|disk.{0,6}full|full disk|quota|failure writing to local file|insufficient storage|exceeded",
    re.IGNORECASE,
)
_BUSY = re.compile(r"too many|maximum|try again|busy|limit", re.IGNORECASE)
_MISSING = re.compile(r"no such|not found|does not exist|cannot find|can't find", re.IGNORECASE)
_RIGHTS = re.compile(r"permission|denied|not allowed|read-only|prohibited|forbidden", re.IGNORECASE)


@attrs.frozen(kw_only=True)
class Login:
    """How to get in. `connect_s`: for every address of the host, and for the log-in. `silence_s`: before a line counts as lost."""

    name: str
    host: str
    port: int
    user: str
    password: str = attrs.field(repr=False)
    ca: Path | None
    connect_s: float
    silence_s: float


class Session(ftplib.FTP_TLS):
    """An FTP session whose data connections continue the TLS session of the control connection, as strict servers demand.

    Names that are not UTF-8 travel as the bytes they are. What would end a command line is never sent.
    """

    def __init__(self, login: Login) -> None:
        super().__init__(context=tls_context(login.ca), timeout=login.connect_s, encoding="utf-8")
        self.features: dict[str, str] = {}
        self._data: socket.socket | None = None
        self._session: ssl.SSLSession | None = None
        self._session_until = 0.0

    def begin(self, login: Login) -> None:
        """Connect, log in, and learn what the server can do. Raises what ftplib raises."""
        self.host, self.port = login.host, login.port
        self.sock = connected(login.host, login.port, login.connect_s)
        self.af = self.sock.family
        self._listen()
        self.welcome = self.getresp()
        try:
            self.auth()
        except ftplib.error_perm as exc:
            raise NoTlsError(str(exc)) from exc
        self._listen()
        self.login(login.user, login.password)
        self.prot_p()
        self.features = self._features()
        if "UTF8" in self.features:
            with suppress(ftplib.error_perm):  # announced is enough for some
                self.sendcmd("OPTS UTF8 ON")
        self.voidcmd("TYPE I")
        self.timeout = login.silence_s
        self.control.settimeout(login.silence_s)

    @property
    def control(self) -> socket.socket:
        """The control connection. Raises OSError when there is none."""
        if self.sock is None:
            raise OSError("not connected")
        return self.sock

    def putline(self, line: str) -> None:
        """See ftplib; bytes that are not UTF-8 are kept."""
        refuse_unsayable(line)
        self.control.sendall(line.encode("utf-8", "surrogateescape") + b"\r\n")

    def ntransfercmd(self, cmd: str, rest: int | str | None = None) -> tuple[socket.socket, int | None]:
        """A data connection inside the TLS session of this one."""
        plain, size = ftplib.FTP.ntransfercmd(self, cmd, rest)  # noqa: S321 - inside TLS: see __init__
        try:
            self._data = plain
            # Else the end of a file waits until the server acknowledges what came before: 40 ms, for most small files.
            plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            data = self.context.wrap_socket(plain, server_hostname=self.host, session=self._tls_session())
        except BaseException:
            plain.close()
            raise
        if not data.session_reused:
            self._session_until = 0.0
        self._data = data
        return data, size

    def _tls_session(self) -> ssl.SSLSession | None:
        """That of the control connection. Asking is dear (a copy with all certificates), and the server may renew it."""
        now = time.monotonic()
        if now >= self._session_until:
            self._session, self._session_until = getattr(self.control, "session", None), now + _SESSION_S
        return self._session

    def makepasv(self) -> tuple[str, int]:
        """See ftplib. A server whose ports are all taken just now has one again soon."""
        for _ in range(_PORT_TRIES - 1):
            try:
                return super().makepasv()
            except ftplib.error_temp as exc:
                if not str(exc).startswith("425"):
                    raise
            time.sleep(_PORT_WAIT_S)
        return super().makepasv()

    def hang_up(self) -> None:
        """End both connections now, from any thread; whoever waits for them is woken."""
        for one in (self._data, self.sock):
            if one is not None:
                with suppress(OSError):
                    # Not the TLS one's own shutdown: that would let the other thread go on in the clear.
                    socket.socket.shutdown(one, socket.SHUT_RDWR)

    def _listen(self) -> None:
        self.file = self.control.makefile("r", encoding="utf-8", errors="surrogateescape", newline="\n")

    def _features(self) -> dict[str, str]:
        try:
            lines = self.sendcmd("FEAT").splitlines()[1:-1]
        except ftplib.error_perm:
            return {}
        words = (line.strip().partition(" ") for line in lines)
        return {name.upper(): rest for name, _, rest in words}


class NoTlsError(Exception):
    """The server would have our password in the clear."""


class UnsayableError(Exception):
    """A name that would end a command, and begin another."""


def refuse_unsayable(text: str) -> None:
    """Raises UnsayableError when `text` cannot be part of a command."""
    if _UNSAYABLE.search(text):
        raise UnsayableError(text)


def connected(host: str, port: int, seconds: float) -> socket.socket:
    """A connection to `host`: IPv6 is tried before IPv4, each address for `seconds`. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    last: OSError | None = None
    for family, kind, protocol, _, address in sorted(found, key=lambda one: one[0] != socket.AF_INET6):
        try:
            one = socket.socket(family, kind, protocol)
        except OSError as exc:
            last = exc
            continue
        try:
            one.settimeout(seconds)
            one.connect(address)
            _keep_alive(one)
        except OSError as exc:
            one.close()
            last = exc
            continue
        return one
    raise last or OSError(f"{host} has no address")


@contextmanager
def translating(doing: str, login: Login) -> Iterator[None]:
    """Turns what ftplib, sockets and TLS raise in the block into an error of ours."""
    try:
        yield
    except ftplib.Error as exc:
        raise meaning(str(exc), doing) from exc
    except NoTlsError as exc:
        raise AccessDenied(
            f"{doing}: the server offers no TLS: it said {shown(str(exc))[:_SAID]}",
            safe="neither a password nor data was sent",
            next_command="ask the server's administrator for FTP over TLS, or use sftp",
        ) from exc
    except UnsayableError as exc:
        raise AccessDenied(
            f"{doing}: the name holds a line break or another control character, which FTP cannot say",
            safe="nothing was sent",
            next_command="remove or rename it on the server itself",
        ) from exc
    except (OSError, EOFError, ValueError) as exc:
        if certificate_refused(exc):
            raise untrusted(login.name, login.ca) from exc
        raise Unreachable(
            f"{doing}: the connection broke: {type(exc).__name__} {shown(str(exc))}".rstrip(), safe=_KEPT
        ) from exc


@contextmanager
def together(data: socket.socket) -> Iterator[None]:
    """What is sent in the block leaves in packets as large as they may be: TLS gives the kernel 16 KiB at a time.

    Else each of these wakes the other side, where the network takes larger packets.
    """
    cork = getattr(socket, "TCP_CORK", None)  # of Linux
    if cork is None:
        yield
        return
    data.setsockopt(socket.IPPROTO_TCP, cork, 1)
    yield  # without a finally: a connection that failed is closed
    data.setsockopt(socket.IPPROTO_TCP, cork, 0)


def is_missing(exc: ftplib.Error) -> bool:
    """Whether a reply means that there is no such file. 550 says many things; rights are the ones that must not be mixed up."""
    said = str(exc)
    return said[:3] in {"550", "450"} and (bool(_MISSING.search(said)) or not _RIGHTS.search(said))


def meaning(said: str, doing: str) -> LadingError:
    """The error for a reply of the server."""
    code = said[:3]
    message = f"{doing}: the server said {shown(said)[:_SAID]}"
    if code in {"452", "552"} or (code in {"426", "450", "451", "550", "553"} and _FULL.search(said)):
        return OutOfSpace(message, safe=_KEPT, next_command="lading inbox list")
    if code in _LOGIN and not _BUSY.search(said):
        return AccessDenied(f"{doing}: the user or the password is wrong (reply {code})", next_command=_DOCTOR)
    if code in {"522", "425"} and "session" in said.lower():
        return AccessDenied(f"{message}: it does not accept our TLS session on data connections", next_command=_DOCTOR)
    if code in _REFUSED and not (code == "550" and _MISSING.search(said)):
        return AccessDenied(message, safe=_KEPT, next_command=_DOCTOR)
    if code[:1] == "5" and code not in _LOGIN | _REFUSED:
        return UnexpectedFault(message, safe=_KEPT, next_command=_DOCTOR)
    # Passing trouble, a file that is no longer there, a log-in that has to wait, and replies that do not belong here.
    return Unreachable(message, safe=_KEPT)


def last_word(session: Session) -> str:
    """What the server says about a data connection that broke, or "": the disk may be full."""
    try:
        control, usual = session.control, session.control.gettimeout()
        control.settimeout(_WORD_S)
        said = session.getmultiline()
        control.settimeout(usual)
    except (OSError, EOFError, ValueError, ftplib.Error):
        return ""
    return said if said[:1] in {"4", "5"} else ""


def patience(size: int, silence_s: float) -> float:
    """How long a server may compute the checksum of `size` bytes: as slowly as 10 MB/s."""
    return silence_s + size / 10e6


def _keep_alive(one: socket.socket) -> None:
    """Nothing is said on the control connection while a huge file is on its way: firewalls must not forget it."""
    one.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    for name, value in (("TCP_KEEPIDLE", _KEEPALIVE_S), ("TCP_KEEPINTVL", _KEEPALIVE_S)):
        if hasattr(socket, name):
            one.setsockopt(socket.IPPROTO_TCP, getattr(socket, name), value)
    one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
