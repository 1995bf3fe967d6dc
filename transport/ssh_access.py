"""How an SSH server is reached, and who does the encrypting: OpenSSH's client, or a library in our own process.

The client is several times as fast. The library takes its place where no client is installed, on Windows, and where a password
or a passphrase has to be given: the client would take it from a terminal, or from yet another program.
"""

import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import attrs

from lading.errors import AccessDenied, ConfigError
from transport.logins import password
from transport.sftp_session import SftpSession
from transport.ssh_line import Line
from transport.ssh_sharing import fast_first

if TYPE_CHECKING:
    import asyncssh


@attrs.frozen(kw_only=True)
class Access:
    """Where, and as whom; `passphrase` and `password` say where those are kept.

    `identity`: the private key; without it and without a password, the agent and the keys of the account. `known_hosts`: the
    host keys we trust (None: those of the account). `silence_s`: without an answer to a sign of life for that long, the connection
    counts as lost. `program`: OpenSSH's client, "" for never.
    """

    host: str
    port: int
    user: str | None
    identity: Path | None
    passphrase: str = attrs.field(repr=False)  # somebody may have written the secret itself
    password: str = attrs.field(repr=False)
    known_hosts: Path | None
    connect_s: float
    silence_s: float
    program: str


class Gate:
    """Makes sessions. Safe to share between threads."""

    def __init__(self, access: Access) -> None:
        self._access = access
        self._key: asyncssh.SSHKey | None = None
        self._ciphers: list[str] | None = None

    def session(self, name: str) -> SftpSession:
        """A session that is logged in. `name`: of the server, for messages. Raises Unreachable, AccessDenied, ConfigError."""
        program = self._program()
        try:
            line = self._line_of(program) if program else self._line_of_the_library(name)
            # Once for the connection, once for the session.
            return SftpSession(line, name, patience_s=2 * self._access.connect_s)
        except AccessDenied:
            if program:
                self._look_at_the_key()
            raise

    def _program(self) -> str | None:
        """The client, where it can do it."""
        access = self._access
        if not access.program or sys.platform == "win32" or access.passphrase or access.password:
            return None
        from transport.ssh_program import can_be_told  # noqa: PLC0415 - not on Windows

        if not (can_be_told(access.identity) and can_be_told(access.known_hosts)):
            return None
        return shutil.which(access.program)

    def _line_of(self, program: str) -> Line:
        from transport.ssh_program import KeyLogin, ProgramLine, words  # noqa: PLC0415 - not on Windows

        access = self._access
        login = KeyLogin(
            host=access.host,
            port=access.port,
            user=access.user,
            identity=access.identity,
            known_hosts=self._known_hosts(),
            connect_s=access.connect_s,
            silence_s=access.silence_s,
        )
        if self._ciphers is None:
            self._ciphers = fast_first([program, "-F", "none"], access.host)
        return ProgramLine([*words(program, login), *self._ciphers], access.host)

    def _line_of_the_library(self, name: str) -> Line:
        try:
            from transport.ssh_library import LibraryLine, Login, private_key  # noqa: PLC0415 - an extra, slow to import
        except ImportError as exc:
            raise ConfigError(
                f"cannot log in to {name}: there is no ssh that would do here, nor the extra: pip install 'lading[sftp]'",
                next_command="lading doctor",
            ) from exc
        access = self._access
        if access.identity and self._key is None:
            self._key = private_key(access.identity, access.passphrase)
        login = Login(
            host=access.host,
            port=access.port,
            user=access.user,
            key=self._key,
            password=password(access.password, name) if access.password else None,
            known_hosts=self._known_hosts(),
            connect_s=access.connect_s,
            silence_s=access.silence_s,
        )
        return LibraryLine(login, f"cannot log in to {name}")

    def _look_at_the_key(self) -> None:
        """The client says no more than that it was refused: perhaps the key tells why. Raises AccessDenied."""
        if not self._access.identity:
            return
        try:
            from transport.ssh_library import private_key  # noqa: PLC0415 - an extra, slow to import
        except ImportError:
            return
        private_key(self._access.identity, "")

    def _known_hosts(self) -> Path | None:
        if self._access.known_hosts is None:
            return None
        path = self._access.known_hosts.expanduser()
        if not path.is_file():
            raise AccessDenied(
                f"the host keys in {path} cannot be read",
                next_command=f"ssh-keyscan HOST > {path}   (compare them first)",
            )
        return path
