"""What the agent is made of. `lading.assembly.agent_parts` makes the real ones; the agent itself knows no protocol."""

import importlib
from collections.abc import Callable, Sequence
from typing import Protocol, cast, runtime_checkable

from lading.config import Config, LiveConfig, WatchConfig
from lading.deposit import Deposit
from lading.errors import ConfigError
from lading.filters import FileRules
from lading.ports import Source, Transport

DEFAULT_FACTORY = "lading.assembly:agent_parts"


class AgentParts(Protocol):
    """The parts behind every route and watched folder. Called from several threads at a time."""

    def transport(self, route: str) -> Transport:
        """The transport of `route`, wrapped as its settings ask. Raises ConfigError for an unknown route or bad settings."""

    def rules(self, route: str) -> FileRules:
        """Which files belong to a delivery on `route`."""

    def algorithms(self, route: str) -> tuple[str, ...]:
        """The digests besides SHA-256 that the route's repository compares by."""

    def sources(self) -> Sequence[tuple[WatchConfig, Source]]:
        """Every watched folder with a new source that judges it. Asked once per run: sources remember what they saw."""


@runtime_checkable
class LiveParts(AgentParts, Protocol):
    """Parts that can also push files while an acquisition goes on."""

    def live(self, route: str) -> LiveConfig | None:
        """How `route` is pushed live, or None: then its deliveries are carried when they are complete."""

    def deposit(self, route: str, folder: str) -> Deposit:
        """The folder at the target of `route` (relative POSIX). Raises ConfigError when its transport cannot do that."""


PartsFactory = Callable[[Config], AgentParts]


def factory(path: str) -> PartsFactory:
    """The function at `module:name` that makes the parts. Raises ConfigError when there is none.

    By name, because the agent must not know who assembles it.
    """
    module, _, name = path.partition(":")
    try:
        return cast("PartsFactory", getattr(importlib.import_module(module), name))
    except (ImportError, AttributeError) as exc:
        raise ConfigError(f"no parts at {path!r}: {exc}") from exc
