"""Serves the figures over HTTP: to this machine alone, or over TLS to whoever has the token."""

import contextlib
import hmac
import os
import socket
import socketserver
import ssl
import stat
import threading
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from wsgiref.simple_server import WSGIRequestHandler, WSGIServer
from wsgiref.types import StartResponse, WSGIEnvironment

import structlog

from lading.config import Config, MetricsConfig
from lading.errors import ConfigError
from lading.metrics.collecting import Collector, Program
from lading.metrics.text import exposition
from transport.https import is_loopback
from transport.logins import password

PATH = "/metrics"
_PATIENCE_S = 10.0
_AT_ONCE = 8
"""Requests; a further one is turned away after a moment. One scraper asks for one thing at a time."""
_MOMENT_S = 0.1
_LEAST_TOKEN = 16
_NEW_TOKEN = "python3 -c 'import secrets; print(secrets.token_urlsafe(32))'"  # noqa: S105 - how to make one
_log = structlog.get_logger("lading.metrics")


@dataclass(frozen=True, slots=True)
class Listening:
    """Where, and how, figures are served: checked, with whatever secret and certificate it needs at hand."""

    host: str
    port: int
    tls: ssl.SSLContext | None = None
    token: str = field(default="", repr=False)

    @property
    def url(self) -> str:
        """What a scraper asks."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"{'https' if self.tls else 'http'}://{host}:{self.port}{PATH}"


def listening(config: Config, program: Program) -> Listening | None:
    """What the settings say about serving the figures of `program`; None when they are not served.

    Raises ConfigError for an address that is none, for one beyond this machine without TLS (or a declared proxy) and token, and
    for a certificate that cannot be used; AccessDenied for a token that is not there, or that others can read.
    """
    table, where = (config.server, "server") if program == "server" else (config.agent, "agent")
    if not table.metrics:
        return None
    host, port = _address(table.metrics, where)
    metrics = config.metrics
    if not is_loopback(host):
        if not metrics.certificate and not metrics.behind_proxy:
            raise ConfigError(
                f"{where}.metrics = {table.metrics!r} is open to the network, and would be read in the clear",
                safe="nothing was started",
                next_command="set certificate and key in [metrics], or behind_proxy = true, or listen on 127.0.0.1",
            )
        if not metrics.token:
            raise ConfigError(
                f"{where}.metrics = {table.metrics!r} is open to the network, and would be read by anybody",
                safe="nothing was started",
                next_command='set token = "file:PATH" in [metrics]',
            )
    return Listening(host, port, _tls(metrics), _token(metrics))


def _address(text: str, where: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdecimal() or not 0 < int(port) < 65536:
        raise ConfigError(
            f'{where}.metrics = {text!r} is not an address such as "127.0.0.1:9464"', next_command="lading doctor"
        )
    return host, int(port)


def _token(metrics: MetricsConfig) -> str:
    if not metrics.token:
        return ""
    found = password(metrics.token, "who reads the metrics (metrics.token)")
    if len(found) < _LEAST_TOKEN or not found.isascii() or not found.isprintable():
        raise ConfigError(
            f"the token of [metrics] must be at least {_LEAST_TOKEN} plain characters", next_command=_NEW_TOKEN
        )
    return found


def _tls(metrics: MetricsConfig) -> ssl.SSLContext | None:
    if metrics.certificate is None or metrics.key is None:
        if metrics.certificate or metrics.key:
            raise ConfigError("[metrics] needs both certificate and key", next_command="lading doctor")
        return None
    _demand_private(metrics.key)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    try:
        context.load_cert_chain(metrics.certificate, metrics.key, password=lambda: "")
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(
            f"[metrics]: {metrics.certificate} and {metrics.key} are no certificate with its key (PEM, no passphrase): {exc}",
            next_command="lading doctor",
        ) from exc
    return context


def _demand_private(key: Path) -> None:
    # Windows keeps rights in lists that the mode does not show.
    with contextlib.suppress(OSError):
        if os.name == "posix" and key.stat().st_mode & (stat.S_IRWXG | stat.S_IRWXO):
            raise ConfigError(f"metrics.key = {key} can be read by others", next_command=f"chmod 600 {key}")


@contextlib.contextmanager
def served(config: Config, program: Program) -> Iterator[None]:
    """While the block runs, the figures of `program` are served, if the settings ask for it.

    Raises ConfigError, AccessDenied before the block begins; whatever happens to a request later disturbs nobody else.
    """
    where = listening(config, program)
    if where is None:
        yield
        return
    collector = Collector(config, (program,))
    exposition(())  # now, rather than at the first request: is the library there?
    server = _serve(where, collector, program)
    thread = threading.Thread(target=server.serve_forever, name="lading metrics", daemon=True)
    thread.start()
    _log.info("figures served", program=program, url=where.url)
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        collector.close()


def _serve(where: Listening, collector: Collector, program: Program) -> "_Server":
    try:
        family, *_, address = socket.getaddrinfo(where.host, where.port, type=socket.SOCK_STREAM)[0]
        server = _Server(family, (str(address[0]), where.port), where.tls)
    except OSError as exc:
        raise ConfigError(
            f"{program}.metrics: cannot listen on {where.host}:{where.port}: {exc.strerror or exc} (another {program}?)",
            safe="nothing was started",
            next_command="lading status",
        ) from exc
    server.set_app(application(collector, where.token))
    return server


def application(collector: Collector, token: str = "") -> Callable[[WSGIEnvironment, StartResponse], Iterable[bytes]]:
    """The WSGI application: GET /metrics, with `Authorization: Bearer TOKEN` where there is a token."""

    def answer(environ: WSGIEnvironment, start_response: StartResponse) -> Iterable[bytes]:
        status, headers, body = _answer(environ, collector, token)
        start_response(status, [*headers, ("Content-Length", str(len(body))), ("Cache-Control", "no-store")])
        return [] if environ["REQUEST_METHOD"] == "HEAD" else [body]

    return answer


_Answer = tuple[str, list[tuple[str, str]], bytes]


def _answer(environ: WSGIEnvironment, collector: Collector, token: str) -> _Answer:
    plain = ("Content-Type", "text/plain; charset=utf-8")
    if environ["REQUEST_METHOD"] not in ("GET", "HEAD"):
        return "405 Method Not Allowed", [plain, ("Allow", "GET, HEAD")], b"only GET\n"
    if token and not _knows(environ, token):
        return "401 Unauthorized", [plain, ("WWW-Authenticate", "Bearer")], b"a token is needed\n"
    if environ.get("PATH_INFO") != PATH:
        return "404 Not Found", [plain], f"the figures are at {PATH}\n".encode()
    body, content_type = exposition(collector.figures(), str(environ.get("HTTP_ACCEPT", "")))
    return "200 OK", [("Content-Type", content_type)], body


def _knows(environ: WSGIEnvironment, token: str) -> bool:
    scheme, _, given = str(environ.get("HTTP_AUTHORIZATION", "")).partition(" ")
    # Headers are latin-1 to WSGI; compare_digest wants bytes where they are not ASCII.
    return scheme.lower() == "bearer" and hmac.compare_digest(given.strip().encode("utf-8"), token.encode())


class _Server(socketserver.ThreadingMixIn, WSGIServer):
    """A thread for each request, and few of them; a peer that says nothing is left after a while."""

    daemon_threads = True
    request_queue_size = 32

    def __init__(self, family: int, address: tuple[str, int], tls: ssl.SSLContext | None) -> None:
        self.address_family = family
        self._tls = tls
        self._room = threading.BoundedSemaphore(_AT_ONCE)
        super().__init__(address, _Handler)

    def server_bind(self) -> None:
        """Without asking the name service who we are, as the library would."""
        socketserver.TCPServer.server_bind(self)
        self.server_name, self.server_port = str(self.server_address[0]), int(self.server_address[1])
        self.setup_environ()

    def process_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]  # typeshed: Any
        """In a thread, if there is room for one."""
        if not self._room.acquire(timeout=_MOMENT_S):
            self.shutdown_request(request)
            return
        try:
            super().process_request(request, client_address)
        except BaseException:  # no thread to be had
            self._room.release()
            raise

    def process_request_thread(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        """The library's, and one more may come."""
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._room.release()

    def finish_request(self, request: socket.socket, client_address: object) -> None:  # type: ignore[override]
        """With TLS where it is asked for. Here, not when accepting: a peer that never shakes hands holds up only its thread."""
        request.settimeout(_PATIENCE_S)
        if self._tls is None:
            super().finish_request(request, client_address)
            return
        with self._tls.wrap_socket(request, server_side=True) as secured:
            super().finish_request(secured, client_address)

    def handle_error(self, request: object, client_address: object) -> None:  # noqa: ARG002 - the library's signature
        """A scanner, or a scraper that left: nobody's concern."""
        _log.debug("a request for figures was cut off", peer=str(client_address))


class _Handler(WSGIRequestHandler):
    timeout = _PATIENCE_S

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's signature
        """Every fifteen seconds somebody asks; that is no news."""
