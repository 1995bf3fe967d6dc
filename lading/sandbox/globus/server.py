"""Auth and Transfer on one port, as HTTP."""

import json
import socket
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import parse_qsl, urlsplit

from lading.sandbox.globus import transfer
from lading.sandbox.globus.tokens import TRANSFER, Tokens
from lading.sandbox.globus.world import ApiError, Document, World

_VERSION = "/v0.10"


class Server(ThreadingHTTPServer):
    """Serves one world. `services`: client id → secret, for accounts without a person."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], world: World, services: dict[str, str] | None = None) -> None:
        super().__init__(address, Handler)
        self.world, self.tokens = world, Tokens(world, services or {})

    @property
    def url(self) -> str:
        """Where it listens."""
        return f"http://{self.server_address[0]!s}:{self.server_address[1]}/"


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout: ClassVar[float] = 60.0

    def setup(self) -> None:
        """Answers are small: none may wait for another."""
        super().setup()
        self.connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def do(self) -> None:
        """Answer any request."""
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        parts = urlsplit(self.path)
        query = dict(parse_qsl(parts.query))
        self.server.world.requests.append(f"{self.command} {parts.path}")
        try:
            self._inject(parts.path)
            status, answer = self._answer(parts.path, query, body)
        except ApiError as exc:
            status, answer = exc.status, {"code": exc.code, "message": exc.message, "request_id": uuid.uuid4().hex[:9]}
            answer |= {"resource": parts.path, **exc.more}
        kind = "text/html" if isinstance(answer, str) else "application/json"
        content = answer.encode() if isinstance(answer, str) else json.dumps(answer).encode()
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    do_GET = do_POST = do_PUT = do_DELETE = do  # noqa: N815 - the names are http.server's

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        """Tests read `World.requests`."""

    def _inject(self, path: str) -> None:
        for prefix, (status, left) in self.server.world.faults.http.items():
            if path.startswith(prefix) and left > 0:
                self.server.world.faults.http[prefix][1] -= 1
                raise ApiError(status, "ServiceUnavailable" if status >= 500 else "ExternalError", "injected")

    def _answer(self, path: str, query: dict[str, str], body: bytes) -> tuple[int, Document | str]:
        header = self.headers.get("Authorization", "")
        if path.startswith(_VERSION + "/"):
            self.server.tokens.demand(header, TRANSFER)
            asked = json.loads(body) if body else {}
            return transfer.answer(self.server.world, self.command, path[len(_VERSION) :], query, asked)
        return self._auth(path, query, body, header)

    def _auth(  # noqa: PLR0911 - one path, one answer
        self, path: str, query: dict[str, str], body: bytes, header: str
    ) -> tuple[int, Document | str]:
        tokens, person = self.server.tokens, self.server.world.identity
        match path:
            case "/.well-known/openid-configuration":
                return 200, tokens.discovery(f"http://{self.headers['Host']}")
            case "/jwk.json":
                return 200, tokens.keys()
            case "/v2/oauth2/authorize":
                return 200, tokens.page(query)
            case "/v2/oauth2/token":
                return 200, tokens.grant(dict(parse_qsl(body.decode())), header)
            case "/v2/oauth2/token/revoke":
                return 200, {"active": False}
            case "/v2/oauth2/token/validate" | "/v2/oauth2/token/introspect":
                return 200, {
                    "active": True,
                    "sub": person,
                    "username": "lab@example.org",
                    "client_id": "x",
                    "scope": "",
                }
            case "/v2/oauth2/userinfo":
                tokens.demand(header, "auth.globus.org")
                return 200, {"sub": person, "preferred_username": "lab@example.org", "name": "Lab"}
            case "/v2/api/clients":
                return 201, tokens.new_client()
        if path.startswith("/v2/api/identities/") and path.endswith("/consents"):
            return 200, tokens.consents()
        raise ApiError(404, "NotFound", path)
