"""Tells the operators in a chat, through Apprise, which knows a hundred of them."""

import os
from pathlib import Path
from typing import Self

import attrs

from lading.config import Settings, structure
from lading.errors import ConfigError, ReporterAway
from lading.ports import Report
from lading.reporters.login import private_table
from lading.reporters.mail import one_line, plain


@attrs.frozen(kw_only=True)
class ChatConfig:
    """`urls`: where Apprise's addresses are kept, which hold secrets: "env:NAME" (separated by blanks) or "file:PATH" (mode 0600,
    TOML with `urls = ["…"]`)."""

    urls: str


class AppriseReporter:
    """One report is one message in every chat of `urls`."""

    def __init__(self, config: ChatConfig, *, where: str = "reporters") -> None:
        kind, _, argument = config.urls.partition(":")
        if kind not in ("env", "file") or not argument:
            # Not quoted: it may be an address with its secret.
            raise ConfigError(f'{where}.urls must be "env:NAME" or "file:PATH"', next_command="lading doctor")
        self._kind, self._argument, self._where = kind, argument, where

    @classmethod
    def from_settings(cls, settings: Settings, *, where: str) -> Self:
        """Raises ConfigError."""
        return cls(structure(settings, ChatConfig, where=where), where=where)

    def probe(self) -> None:
        """See `lading.ports.Reporter`. A chat cannot be asked without being told something: only the addresses are looked at."""
        self._addresses()

    def send(self, report: Report) -> None:
        """See `lading.ports.Reporter`. When one of several chats fails, all are told again: better twice than never."""
        try:
            import apprise  # noqa: PLC0415 - an extra
        except ImportError as exc:
            raise ConfigError(f"{self._where} needs the extra: pip install 'lading[apprise]'") from exc
        chats = apprise.Apprise()
        for url in self._addresses():
            if not chats.add(url):
                raise ConfigError(f"{self._where}.urls holds an address that Apprise does not know")
        if not chats.notify(title=one_line(report.subject), body=plain(report.text)):
            raise ReporterAway(f"{self._where}: a chat did not take the report", next_command="lading doctor")

    def _addresses(self) -> list[str]:
        if self._kind == "env":
            found: object = os.environ.get(self._argument, "").split()
        else:
            found = private_table(Path(self._argument).expanduser()).get("urls")
        if not isinstance(found, list) or not found or not all(isinstance(url, str) for url in found):
            raise ConfigError(f"{self._where}: {self._kind}:{self._argument} gives no addresses")
        return [str(url) for url in found]
