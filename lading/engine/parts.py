"""What the engine needs from the outside: inboxes, and for each route its checks and its importer.

Every worker process makes its own, through `lading.assembly:server_parts(config)` or another factory.
"""

import importlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from lading.config import Config
from lading.errors import ConfigError
from lading.inbox import Inbox
from lading.ports import Check, Importer
from lading.reporters.office import Notice

FACTORY = "lading.assembly:server_parts"


@dataclass(frozen=True, slots=True)
class RouteParts:
    """The server's half of a route. `attempts`: how often a step that may be retried is tried before it is held."""

    inbox: str
    repository: str
    checks: tuple[Check, ...]
    importer: Importer
    attempts: int = 8
    priority: int = 0


@dataclass(frozen=True, slots=True)
class Bare:
    """When a folder dropped directly into an inbox is complete, and which route it takes ("" : none is taken)."""

    route: str = ""
    quiet: float = 60.0
    marker: str = ""


class Parts(Protocol):
    """The parts of one server. `limits` maps a repository to its concurrent imports; `receipt_key` signs receipts."""

    @property
    def inboxes(self) -> Mapping[str, Inbox]:
        """The inboxes of this server, by name. An inbox that is not mounted is left out, with an event in the log."""

    @property
    def bare(self) -> Mapping[str, Bare]:
        """The rule for bare deliveries, by inbox name."""

    @property
    def limits(self) -> Mapping[str, int]:
        """Concurrent imports over all workers that are allowed now, by repository name; 0 is "not at this hour"."""

    @property
    def receipt_key(self) -> bytes:
        """The secret that signs receipts."""

    def silent(self) -> Sequence[str]:
        """Programs of this machine, besides the server, that its settings call for and that do not run: "agent"."""

    def notices(self) -> Sequence[Notice]:
        """What people should hear of in time: remote folders that their source will not keep much longer."""

    def route(self, name: str) -> RouteParts:
        """The route called `name`. May be made on first use. Raises ConfigError."""


Factory = Callable[[Config], Parts]


def factory(path: str) -> Factory:
    """The callable that `path` ("package.module:function") names. Raises ConfigError."""
    module_name, _, name = path.partition(":")
    try:
        made: Factory = getattr(importlib.import_module(module_name), name)
    except (ImportError, AttributeError) as exc:
        raise ConfigError(f"no parts factory {path!r}: {exc}") from exc
    return made
