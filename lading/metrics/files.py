"""What files on the staging host tell: chores, valves, inboxes, remote folders."""

import json
from collections import Counter
from collections.abc import Iterator
from functools import partial
from typing import Final

from lading.config import Config, InboxConfig
from lading.engine.chores import CHORES_NAME
from lading.inbox import Inbox
from lading.metrics import catalogue
from lading.metrics.beside import Beside, Take
from lading.metrics.figures import Figure
from lading.ports import Clock
from lading.pulling import fetching_routes, standings
from lading.valves import AJAR, CLOSED, OPEN, told

_GB = 1_000_000_000
_INBOX_EVERY_S = 5.0
_FETCH_EVERY_S = 60.0
"""Every receipt is looked at."""
_OMERO_PORT: Final = 4064


def chores(config: Config) -> Iterator[Figure]:
    """When they last went well."""
    try:
        noted = json.loads((config.home / CHORES_NAME).read_text(encoding="utf-8"))
        yield from [catalogue.CHORES.of(at, name) for name, at in sorted(noted.items())]
    except (OSError, ValueError, TypeError, AttributeError):
        return


def valves(config: Config, clock: Clock) -> Iterator[Figure]:
    """Every valve that somebody has touched, under the name that the settings have for its server."""
    now = clock()
    for valve in told(config.home, now):
        for name in _repositories(config, str(valve["repository"])):
            position = str(valve["position"])
            for each in (OPEN, AJAR, CLOSED):
                yield catalogue.VALVE.of(each == position, name, each)
            if position != OPEN:
                yield catalogue.VALVE_CAUSE.of(1, name, str(valve["cause"]) or "unknown")
            yield catalogue.VALVE_LEFT.of(max(0.0, float(valve["until"]) - now), name)
            yield catalogue.VALVE_PAUSE.of(float(valve["paused_s"]), name)
            yield catalogue.VALVE_TO_GO.of(float(valve["imports_to_go"]), name)
            yield catalogue.VALVE_UNDER_WAY.of(float(valve["imports_under_way"]), name)
            for family, key in _SIGNALS:
                measured = float(valve[key])
                # Below nought, nobody has measured; no time is nought either, while a disk may well have no room left.
                if measured > 0 or (measured == 0 and family is catalogue.VALVE_FREE):
                    yield family.of(measured, name)


_SIGNALS = (
    (catalogue.VALVE_DATABASE, "database_last_s"),
    (catalogue.VALVE_USUAL, "database_s"),
    (catalogue.VALVE_SLOT, "verify_s"),
    (catalogue.VALVE_FREE, "free_bytes"),
)


def _repositories(config: Config, server: str) -> list[str]:
    """The repositories of the settings at `server` (host:port), or else `server` itself."""
    found = [
        name
        for name, repository in config.repositories.items()
        if f"{repository.settings.get('host')}:{repository.settings.get('port', _OMERO_PORT)}" == server
    ]
    return found or [server]


def inboxes(config: Config) -> list[Take]:
    """For each inbox, what takes its figures: beside, as it may be a share that hangs."""

    def away(name: str) -> Iterator[Figure]:
        yield catalogue.INBOX_UP.of(0, name)

    return [
        Beside(partial(_inbox, name, inbox), every=_INBOX_EVERY_S, instead=partial(away, name))
        for name, inbox in config.inboxes.items()
    ]


def _inbox(name: str, config: InboxConfig) -> Iterator[Figure]:
    opened = Inbox.open(config.path)
    free, total = opened.room()
    yield catalogue.INBOX_UP.of(1, name)
    yield catalogue.INBOX_KEEP.of(config.keep_free_gb * _GB, name)
    if total:
        yield catalogue.INBOX_FREE.of(free, name)


def fetching(config: Config) -> list[Take]:
    """What takes the figures of the remote folders, where any are fetched."""
    return [Beside(partial(_fetching, config), every=_FETCH_EVERY_S)] if fetching_routes(config) else []


def _fetching(config: Config) -> Iterator[Figure]:
    states: Counter[tuple[str, str]] = Counter()
    urgent: Counter[str] = Counter()
    due: dict[str, float] = {}
    for route, one in standings(config):
        states[route, str(one.folder.state)] += 1
        urgent[route] += one.urgent
        if one.due is not None and not one.safe:
            due[route] = min(one.due, due.get(route, one.due))
    for route in fetching_routes(config):
        yield catalogue.FETCH_URGENT.of(urgent[route], route)
    for (route, state), number in sorted(states.items()):
        yield catalogue.FETCH.of(number, route, state)
    for route, when in due.items():
        yield catalogue.FETCH_DUE.of(when, route)
