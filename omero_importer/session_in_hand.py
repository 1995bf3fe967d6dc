"""A session that a person opened with OMERO's own command line, lent to the importer for one run of `omero transport`.

The plug-in puts it into the repository's settings, in memory only, under the key `KEY`; `taken_from` gets it out again, and
whoever logs in uses it before any credentials that the settings name. It belongs to the person: it is joined, never closed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

KEY = "session_in_hand"
"""Where it lies in `[repositories.NAME]`. A TOML file cannot hold such a value, so nobody can write one by hand."""

DEFAULT_PORT = 4064


@dataclass(frozen=True, slots=True)
class SessionInHand:
    """Where, who, and the key that joins it. `group` is the session's group; `key` opens everything: it is never shown."""

    host: str
    user: str
    group: str
    key: str = field(repr=False)
    port: int = DEFAULT_PORT

    @property
    def sender(self) -> str:
        """user@host: who sends, when a person does it as somebody in OMERO."""
        return f"{self.user}@{self.host}"

    def opens(self, host: str, port: int | None = DEFAULT_PORT) -> bool:
        """Whether it is a session on that server; at any other it must not even be tried. `port` None: any of its ports."""
        return self.host.casefold() == host.casefold() and port in (None, self.port)


def taken_from(settings: Mapping[str, object]) -> tuple[SessionInHand | None, dict[str, object]]:
    """The session that was put into a repository's settings, or None, and the settings without it."""
    rest = dict(settings)
    found = rest.pop(KEY, None)
    return (found, rest) if isinstance(found, SessionInHand) else (None, dict(settings))
