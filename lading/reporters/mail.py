"""Hands reports to a mail server, by SMTP over TLS."""

import ipaddress
import smtplib
import socket
import ssl
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime

from lading.config import MailConfig, nearest
from lading.errors import ConfigError, NoSuchRecipient, ReporterAway, ReportError
from lading.ports import Report
from lading.reporters.login import find_login
from lading.reporters.people import demand_addresses

_PORTS = {"starttls": 587, "tls": 465, "plain": 25}
_DOCTOR = "lading doctor"
_SAFE = "the report is kept and sent later; deliveries go on without it"


class MailReporter:
    """Mail through one server. Each report is one message in one connection. Raises ConfigError for unusable settings."""

    def __init__(self, config: MailConfig) -> None:
        if config.security not in _PORTS:
            raise ConfigError(
                f"mail.security = {config.security!r}{nearest(config.security, list(_PORTS))}", next_command=_DOCTOR
            )
        if config.security == "plain" and not _is_here(config.server):
            raise ConfigError(
                f'mail.security = "plain" is for a server on this machine, and {config.server!r} is not',
                safe="nothing was sent",
                next_command='set security = "starttls" or "tls"',
            )
        demand_addresses((config.sender,), "mail.sender")
        demand_addresses(config.admin, "mail.admin")
        self._config = config
        self._port = config.port or _PORTS[config.security]

    def __repr__(self) -> str:
        return f"MailReporter({self._config.server}:{self._port})"

    def probe(self) -> None:
        """See `lading.ports.Reporter`: connects, checks the certificate, logs in, sends nothing."""
        with self._session() as session:
            session.noop()

    def send(self, report: Report) -> None:
        """See `lading.ports.Reporter`."""
        demand_addresses(report.to, f"report {report.id}")
        with self._session() as session:
            refused = session.send_message(self.message(report), self._config.sender, list(report.to))
        if refused:
            raise self._refused(refused, readers=tuple(refused))

    def message(self, report: Report) -> EmailMessage:
        """The mail. The same report gives the same mail, Message-ID included."""
        mail = EmailMessage(policy=SMTP)
        mail["From"] = self._config.sender
        mail["To"] = ", ".join(report.to)
        mail["Subject"] = one_line(report.subject)
        mail["Date"] = format_datetime(report.at)
        mail["Message-ID"] = f"<lading.{report.id}@{self._config.sender.partition('@')[2]}>"
        # So that holiday notices do not answer us.
        mail["Auto-Submitted"] = "auto-generated"
        mail.set_content(plain(report.text))
        return mail

    @contextmanager
    def _session(self) -> Iterator[smtplib.SMTP]:
        login = find_login(self._config.credentials, self._config.server)
        with self._translated():
            session = self._connect()
            try:
                session.ehlo_or_helo_if_needed()
                if self._config.security == "starttls":
                    session.starttls(context=self._trust())
                    session.ehlo_or_helo_if_needed()
                if login:
                    session.login(login.user, login.password)
                yield session
                # Once the server has said yes to a message, a quarrel over the good-bye must not send it again.
                with suppress(OSError):
                    session.quit()
            finally:
                session.close()

    def _connect(self) -> smtplib.SMTP:
        host, timeout = self._config.server, self._config.timeout
        if self._config.security == "tls":
            return smtplib.SMTP_SSL(host, self._port, timeout=timeout, context=self._trust())
        return smtplib.SMTP(host, self._port, timeout=timeout)

    def _trust(self) -> ssl.SSLContext:
        try:
            return ssl.create_default_context(cafile=self._config.ca_file)
        except OSError as exc:
            raise ConfigError(f"mail.ca_file {self._config.ca_file}: {exc}", next_command=_DOCTOR) from exc

    @contextmanager
    def _translated(self) -> Iterator[None]:
        """Everything that smtplib, ssl and the network raise, as one of ours. Most special first: nearly all are OSErrors."""
        where = f"mail server {self._config.server}:{self._port}"
        try:
            yield
        except ssl.SSLCertVerificationError as exc:
            raise ReportError(
                f"the certificate of {where} is not trusted: {exc.verify_message}",
                safe=_SAFE,
                next_command="set mail.ca_file to the certificate authority of your site, then: lading doctor",
            ) from exc
        except smtplib.SMTPAuthenticationError as exc:
            # Its text could quote what was sent.
            raise ReportError(
                f"{where} refused the login ({exc.smtp_code})", safe=_SAFE, next_command=_DOCTOR
            ) from None
        except smtplib.SMTPNotSupportedError as exc:
            raise ReportError(
                f"{where} does not offer what is needed: {exc}", safe=_SAFE, next_command=_DOCTOR
            ) from exc
        except smtplib.SMTPRecipientsRefused as exc:
            raise self._refused(exc.recipients) from exc
        except smtplib.SMTPDataError as exc:
            raise self._refused({"": (exc.smtp_code, exc.smtp_error)}) from exc
        except smtplib.SMTPResponseException as exc:
            raise _answer(where, exc.smtp_code, exc.smtp_error, ReportError) from exc
        except OSError as exc:
            raise ReporterAway(f"{where} does not answer: {exc}", safe=_SAFE, next_command=_DOCTOR) from exc

    def _refused(self, answers: Mapping[str, tuple[int, bytes | str]], *, readers: tuple[str, ...] = ()) -> ReportError:
        """What the server said about single readers or one message. "Later" too is about these only: a full mailbox is no reason
        to keep everybody else waiting. Only 421 is about the server, and the end of a conversation.
        """
        where = f"mail server {self._config.server}:{self._port}"
        code, said = next(iter(answers.values()))
        text = f"{where} said {code} {one_line(said if isinstance(said, str) else said.decode('utf-8', 'replace'))}"
        if not readers and any(code in (421, -1) for code, _ in answers.values()):
            return ReporterAway(text, safe=_SAFE, next_command=_DOCTOR)
        lasting = all(code >= 500 for code, _ in answers.values())
        return NoSuchRecipient(text, readers=readers, lasting=lasting, safe=_SAFE, next_command=_DOCTOR)


def one_line(text: str) -> str:
    """`text` without anything that could end a header line or hide in it."""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:200]


def plain(text: str) -> str:
    """`text` without control characters but line ends, and without what is no text at all."""
    clean = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return "".join(c if c == "\n" or c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in clean)


def _answer(where: str, code: int, said: bytes | str, lasting: type[ReportError]) -> ReportError:
    text = one_line(said.decode("utf-8", "replace") if isinstance(said, bytes) else said)
    kind = ReporterAway if 400 <= code < 500 or code == -1 else lasting
    return kind(f"{where} said {code} {text}", safe=_SAFE, next_command=_DOCTOR)


def _is_here(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        pass
    if host != "localhost":
        return False
    try:
        found = socket.getaddrinfo(host, None)
    except OSError:
        return False
    return all(ipaddress.ip_address(str(address[4][0])).is_loopback for address in found)
