"""Puts the parts together from the settings. The only place that knows everyone."""

import json
import os
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, cast

import structlog

from lading.agent.outbox import OUTBOX_NAME, Outbox
from lading.config import Config, InboxConfig, LiveConfig, RouteConfig, Settings, WatchConfig, relative_to
from lading.delivery import DeliveryId
from lading.deposit import Deposit, deposit_of
from lading.desk import Desk
from lading.errors import ConfigError, LadingError
from lading.filters import FileRules
from lading.inbox import Inbox, InboxLimits
from lading.listing.digests import available
from lading.memories import AgentMemory
from lading.ports import Check, Importer, Source, Transport
from lading.registry import names, part
from lading.reporters.office import Notice

if TYPE_CHECKING:
    from lading.agent.parts import AgentParts
    from lading.engine.parts import Parts

log = structlog.get_logger()

GB = 1_000_000_000
SERVER_HEARTBEAT = "server.json"
DEFAULT_CHECKS = ("layout", "dicom")
"""Checks that run on every route unless its settings say `NAME = false`."""


# -- parts -------------------------------------------------------------------------------------------------------------


def make_transport(config: Config, route: str) -> Transport:
    """The transport of `route`, wrapped as its tables `throttle` and `retry` ask, and logged. Raises ConfigError."""
    where = f"routes.{route}.transport"
    settings = dict(config.route(route).transport)
    kind, throttle, retry = (settings.pop(key, None) for key in ("kind", "throttle", "retry"))
    if not isinstance(kind, str):
        raise ConfigError(f"{where} has no kind; there are: {', '.join(names('lading.transports'))}")
    factory = part("lading.transports", kind, where=where)
    with relative_to(config.folder):
        made = cast("Transport", factory.from_settings(settings, state=config.home))  # type: ignore[attr-defined]  # the role of a part's class
    if throttle is not None:
        from transport.throttled import Throttled  # noqa: PLC0415 - only where it is asked for

        made = Throttled.from_settings(made, _wrapper_table(throttle, f"{where}.throttle"))
    from transport.logged import Logged  # noqa: PLC0415 - as its neighbours

    made = Logged(made, route=route)
    if retry is not None:
        from transport.retrying import Retrying  # noqa: PLC0415

        made = Retrying.from_settings(made, _wrapper_table(retry, f"{where}.retry"))
    return made


def _wrapper_table(value: object, where: str) -> Settings:
    if not isinstance(value, dict):
        raise ConfigError(f"{where} must be a table, such as {{ mb_per_s = 20 }} or {{ attempts = 3 }}")
    return value


def make_checks(name: str, route: RouteConfig) -> tuple[Check, ...]:
    """The checks of a route: the default ones and those configured, minus those set to false. Raises ConfigError."""
    wanted: dict[str, Settings] = {check: {} for check in DEFAULT_CHECKS}
    for check, settings in route.checks.items():
        where = f"routes.{name}.checks.{check}"
        if settings is False:
            wanted.pop(check, None)
        elif isinstance(settings, dict):
            wanted[check] = settings
        elif settings is True:
            wanted[check] = {}
        else:
            raise ConfigError(f"{where} must be a table, or false to switch the check off")
    made = []
    for check, settings in wanted.items():
        where = f"routes.{name}.checks.{check}"
        made.append(part("lading.checks", check, where=where).from_settings(settings, where=where))  # type: ignore[attr-defined]  # the role of a part's class
    return tuple(made)


def importer_for(config: Config, repository: str, *, route: str = "", inbox: Path | None = None) -> Importer:
    """The importer of a repository, as one route uses it (or with the importer's defaults). Raises ConfigError."""
    repo = config.repositories[repository]
    settings = config.routes[route].importer if route else {}
    factory = part("lading.importers", repo.kind, where=f"repositories.{repository}.kind")
    root = inbox or next((i.path for i in config.inboxes.values()), config.home)
    with relative_to(config.folder):
        try:
            return cast("Importer", factory.from_settings(repo.settings, settings, inbox_root=root, state=config.home))  # type: ignore[attr-defined]  # the role of a part's class
        except ConfigError as exc:  # the part does not know whose table it reads
            message = exc.message.replace("routes.X.", f"routes.{route}.") if route else exc.message
            raise ConfigError(message, safe=exc.safe, next_command=exc.next_command) from exc


def inbox_limits(config: InboxConfig) -> InboxLimits:
    """The limits that an inbox's sentinel carries."""
    return InboxLimits(
        max_files=config.max_files, max_bytes=int(config.max_gb * GB), keep_free_bytes=int(config.keep_free_gb * GB)
    )


# -- the agent ---------------------------------------------------------------------------------------------------------


def make_source(config: Config, watch: WatchConfig) -> Source:
    """What tells when a session below `watch` is complete. Raises ConfigError."""
    kind = "live-folder" if config.route(watch.route).live else watch.source
    factory = part("lading.sources", kind, where="agent.watch.source")
    return cast("Source", factory(watch, _rules(config, watch.route)))


def _rules(config: Config, route: str) -> FileRules:
    chosen = config.route(route)
    return FileRules(include=chosen.include, exclude=chosen.exclude, junk=chosen.junk)


class _AgentParts:
    """The agent's parts; transports are made once per route."""

    def __init__(self, config: Config) -> None:
        self._config = config
        self._transports: dict[str, Transport] = {}
        self._lock = threading.Lock()

    def transport(self, route: str) -> Transport:
        with self._lock:
            if route not in self._transports:
                self._transports[route] = make_transport(self._config, route)
            return self._transports[route]

    def rules(self, route: str) -> FileRules:
        return _rules(self._config, route)

    def algorithms(self, route: str) -> tuple[str, ...]:
        return available(self._config.route(route).digests, f"routes.{route}.digests")

    def live(self, route: str) -> LiveConfig | None:
        return self._config.route(route).live

    def deposit(self, route: str, folder: str) -> Deposit:
        return deposit_of(self.transport(route), folder, where=f"routes.{route}.live")

    def sources(self) -> Sequence[tuple[WatchConfig, Source]]:
        return [(watch, make_source(self._config, watch)) for watch in self._config.agent.watch]


def agent_parts(config: Config) -> "AgentParts":
    """What the agent is made of."""
    return _AgentParts(config)


# -- the server --------------------------------------------------------------------------------------------------------


class _ServerParts:
    """The server's parts in one process. Routes are made on first use; an inbox that is not mounted is left out."""

    def __init__(self, config: Config) -> None:
        from lading.engine.parts import Bare  # noqa: PLC0415 - the agent's install has no server libraries

        self._config = config
        self._routes: dict[str, object] = {}
        self._lock = threading.Lock()
        self._opened: dict[str, Inbox] = {}
        self._left_out: dict[str, str] = {}
        self.bare: Mapping[str, Bare] = {
            name: Bare(inbox.bare_route, inbox.quiet, inbox.marker) for name, inbox in config.inboxes.items()
        }

    @property
    def inboxes(self) -> Mapping[str, Inbox]:
        for name, inbox in self._config.inboxes.items():
            try:
                self._opened[name] = self._opened.get(name) or Inbox.open(inbox.path)
                self._left_out.pop(name, None)
            except LadingError as exc:
                # Asked for at every scan: said once, until it says something else.
                if self._left_out.get(name) != exc.message:
                    log.warning("inbox left out", inbox=name, code=exc.code, error=exc.message)
                self._left_out[name] = exc.message
        # A copy: another thread may open one more, that was mounted just now, while the caller goes through them.
        return dict(self._opened)

    @property
    def limits(self) -> Mapping[str, int]:
        now = datetime.now()  # noqa: DTZ005 - hours are those of the clock on the wall
        return {name: repo.imports_at(now) for name, repo in self._config.repositories.items()}

    @cached_property
    def receipt_key(self) -> bytes:
        return receipt_key(self._config.home)

    def silent(self) -> Sequence[str]:
        return [name for name, age, _ in program_heartbeats(self._config) if age is None and name != "server"]

    def notices(self) -> Sequence[Notice]:
        if not any(route.fetch for route in self._config.routes.values()):
            return ()
        from lading.pulling import deadline_notices  # noqa: PLC0415 - only where something is fetched

        return deadline_notices(self._config)

    def route(self, name: str) -> object:
        from lading.engine.parts import RouteParts  # noqa: PLC0415

        with self._lock:
            if name not in self._routes:
                route = self._config.route(name)
                if not route.inbox or not route.repository:
                    raise ConfigError(f"routes.{name} needs an inbox and a repository to be served here")
                self._routes[name] = RouteParts(
                    inbox=route.inbox,
                    repository=route.repository,
                    checks=make_checks(name, route),
                    importer=importer_for(
                        self._config, route.repository, route=name, inbox=self._config.inboxes[route.inbox].path
                    ),
                    attempts=route.attempts,
                    priority=route.priority,
                )
            return self._routes[name]


def receipt_key(home: Path) -> bytes:
    """The secret that signs this server's receipts, made on first use (mode 0600)."""
    path = home / "receipt.key"
    try:
        return path.read_bytes()
    except FileNotFoundError:
        home.mkdir(parents=True, exist_ok=True, mode=0o700)
    fresh = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    with os.fdopen(os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "wb") as file:
        file.write(secrets.token_bytes(32))
        file.flush()
        os.fsync(file.fileno())
    try:
        os.link(fresh, path)  # refuses to replace the key of a process that was faster
    except FileExistsError:
        pass
    finally:
        fresh.unlink()
    return path.read_bytes()


@contextmanager
def open_desk(config: Config) -> Iterator[Desk]:
    """Both memories of this machine, as far as its settings and files say that it has them."""
    with ExitStack() as stack:
        agent = None
        if config.agent.watch or (config.home / OUTBOX_NAME).exists():
            outbox = Outbox(config.home)
            stack.callback(outbox.close)
            agent = AgentMemory(outbox)
        server = None
        if config.inboxes:
            from lading.engine.memory import ServerMemory, has_database, opened  # noqa: PLC0415 - the agent has no database

            if has_database(config):
                server = ServerMemory(stack.enter_context(opened(config)), config)
        yield Desk(server=server, agent=agent, targets=frozenset(config.routes) | frozenset(config.repositories))


def inbox_holding(config: Config, delivery: DeliveryId) -> Inbox | None:
    """The inbox on this machine that has a receipt for the delivery, or None (a pure agent has no inbox)."""
    for inbox in config.inboxes.values():
        try:
            opened = Inbox.open(inbox.path)
        except LadingError:
            continue
        if opened.read_receipt(delivery):
            return opened
    return None


def server_parts(config: Config) -> "Parts":
    """What the server is made of, in this process."""
    return cast("Parts", _ServerParts(config))


def serve(config: Config, *, stop: threading.Event) -> None:
    """Be the server until `stop` is set. Raises ConfigError when its libraries are not installed."""
    try:
        from lading.engine.server import serve as serve_engine  # noqa: PLC0415 - the agent's install has no server libraries
    except ImportError as exc:
        raise ConfigError(
            f"the server needs the Python package {exc.name!r}", next_command="pip install 'lading[server]'"
        ) from exc
    if not any(route.fetch for route in config.routes.values()):
        serve_engine(config, stop=stop)
        return
    from lading.pulling import schedule  # noqa: PLC0415 - only where something is fetched
    from transport.fetch_schedule import scheduled  # noqa: PLC0415

    with scheduled(schedule(config)):
        serve_engine(config, stop=stop)


def database_version(config: Config) -> str:
    """A sentence about the database, for the doctor. Raises EngineError, ConfigError."""
    from lading.engine.memory import database_version as version  # noqa: PLC0415 - the agent's install has no database

    return version(config)


def program_heartbeats(config: Config) -> list[tuple[str, float | None, str]]:
    """For each program this machine should run: its name, the age of its last sign of life in seconds, how to start it."""
    from lading.agent.loop import agent_lock  # noqa: PLC0415 - brings the whole agent along

    found: list[tuple[str, float | None, str]] = []
    if config.inboxes:
        found.append(("server", _age(config.home / SERVER_HEARTBEAT), "lading server run"))
    if config.agent.watch:
        found.append(("agent", 0.0 if agent_lock(config.home).holder() else None, "lading agent run"))
    return found


def inboxes_in_trouble(config: Config) -> Mapping[str, str]:
    """What the server that runs here says about inboxes that it leaves to another one, or where it can leave no notice."""
    try:
        said = json.loads((config.home / SERVER_HEARTBEAT).read_bytes()).get("inboxes", {})
        return {str(name): str(words) for name, words in said.items() if name in config.inboxes}
    except (OSError, ValueError, AttributeError):
        return {}


def _age(heartbeat: Path) -> float | None:
    try:
        return max(0.0, time.time() - heartbeat.stat().st_mtime)
    except OSError:
        return None
