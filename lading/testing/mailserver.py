"""A real mail server on loopback (aiosmtpd), with STARTTLS, TLS or neither, a login or none, and refusals on request."""

import asyncio
import contextlib
import email
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import cast

from aiosmtpd.smtp import SMTP, AuthResult, Envelope, LoginPassword, Session

USER, PASSWORD = "lading", "open-sesame"


@dataclass
class MailServer:
    """What it took is in `mails`, in order, and in `envelopes` for whom.

    `refusals` maps a recipient to the answer it gets, such as "550 no such user".
    """

    security: str = "plain"
    certificate: tuple[Path, Path] | None = None
    login: bool = False
    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    refusals: dict[str, str] = field(default_factory=dict)
    envelopes: list[list[str]] = field(default_factory=list)
    logins: list[str] = field(default_factory=list)
    connections: int = 0
    on_mail: Callable[[], None] = lambda: None
    _loop: asyncio.AbstractEventLoop | None = None
    _thread: threading.Thread | None = None

    def start(self) -> None:
        """It listens on return; at the same port as before `stop`."""
        started: threading.Event = threading.Event()
        self._thread = threading.Thread(target=self._serve, args=(started,), daemon=True)
        self._thread.start()
        assert started.wait(30)

    def stop(self) -> None:
        """Nobody answers any more."""
        if self._loop is not None and self._thread is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join(30)
            self._loop = None

    def wait_for(self, count: int, *, seconds: float = 120) -> list[EmailMessage]:
        """The mails once there are `count`. Raises AssertionError."""
        deadline = time.monotonic() + seconds
        while len(self.mails) < count:
            assert time.monotonic() < deadline, f"{len(self.mails)} of {count} mails: {self.subjects()}"
            time.sleep(0.05)
        return self.mails

    def subjects(self) -> list[str]:
        """Of all mails, in order."""
        return [str(mail["Subject"]) for mail in self.mails]

    def to(self, address: str) -> list[EmailMessage]:
        """The mails to `address`."""
        return [mail for mail in self.mails if address in str(mail["To"])]

    # -- aiosmtpd's hooks --------------------------------------------------------------------------------------------------

    async def handle_RCPT(  # noqa: N802 - its name for the command
        self, _server: SMTP, _session: Session, envelope: Envelope, address: str, _options: list[str]
    ) -> str:
        if address in self.refusals:
            return self.refusals[address]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, _server: SMTP, _session: Session, envelope: Envelope) -> str:  # noqa: N802
        content = cast("bytes", envelope.content)
        self.envelopes.append(list(envelope.rcpt_tos))
        self.mails.append(email.message_from_bytes(content, policy=default))
        self.on_mail()
        return "250 taken"

    def _authenticate(
        self, _server: SMTP, _session: Session, _envelope: Envelope, _how: str, data: object
    ) -> AuthResult:
        good = isinstance(data, LoginPassword) and (data.login, data.password) == (USER.encode(), PASSWORD.encode())
        self.logins.append("good" if good else "bad")
        return AuthResult(success=good, handled=False)

    def _serve(self, started: threading.Event) -> None:
        loop = self._loop = asyncio.new_event_loop()
        context = None
        if self.certificate:
            context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
            context.load_cert_chain(*map(str, self.certificate))

        def protocol() -> SMTP:
            self.connections += 1
            inside = self.security != "plain"
            return SMTP(
                self, hostname="127.0.0.1", loop=loop, tls_context=context if self.security == "starttls" else None,
                require_starttls=self.security == "starttls", auth_required=self.login, auth_require_tls=inside
                and self.security == "starttls", authenticator=self._authenticate if self.login else None,
            )  # fmt: skip

        wrapped = context if self.security == "tls" else None
        server = loop.run_until_complete(loop.create_server(protocol, "127.0.0.1", self.port, ssl=wrapped))
        self.port = server.sockets[0].getsockname()[1]
        loop.call_soon(started.set)
        try:
            loop.run_forever()
        finally:
            server.close()
            for task in asyncio.all_tasks(loop):
                task.cancel()
            loop.run_until_complete(asyncio.sleep(0.05))
            loop.close()


@contextlib.contextmanager
def mail_server(
    *, security: str = "plain", certificate: tuple[Path, Path] | None = None, login: bool = False
) -> Iterator[MailServer]:
    """One that runs until the context ends."""
    server = MailServer(security, certificate, login)
    server.start()
    try:
        yield server
    finally:
        server.stop()


def make_certificate(folder: Path, name: str = "localhost") -> tuple[Path, Path]:
    """A self-signed certificate for `name` and 127.0.0.1, which is its own authority, and its key."""
    folder.mkdir(parents=True, exist_ok=True)
    certificate, key = folder / "certificate.pem", folder / "key.pem"
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2",
         "-subj", f"/CN={name}", "-addext", f"subjectAltName=DNS:{name},IP:127.0.0.1", "-keyout", str(key), "-out",
         str(certificate)],
        check=True, capture_output=True,
    )  # fmt: skip
    return certificate, key
