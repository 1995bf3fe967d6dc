"""Puts the fetcher of a route together from the settings: the other direction of `lading.assembly.make_transport`."""

import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import cast

import attrs

from lading.config import Config, relative_to, structure
from lading.errors import ConfigError, LadingError, Unreachable
from lading.filters import FileRules
from lading.inbox import Inbox
from lading.listing.digests import available
from lading.ports import Settings
from lading.registry import names, part
from lading.reporters.office import Notice
from transport.fetch_deadlines import Near, notices
from transport.fetching import FetchConfig, Fetcher, Fetching, Standing
from transport.pacing import Pace, Unpaced
from transport.remote import ConfiguredPlace, HandsOver, RemotePlace, StatefulPlace

_OWN = frozenset(field.name for field in attrs.fields(FetchConfig))


def fetching_routes(config: Config) -> tuple[str, ...]:
    """The routes that fetch."""
    return tuple(name for name, route in config.routes.items() if route.fetch)


def make_fetcher(config: Config, route: str) -> Fetcher:
    """The fetcher of `route`. Raises ConfigError, and Unreachable when its inbox is not there."""
    chosen = config.route(route)
    where = f"routes.{route}.fetch"
    settings = dict(chosen.fetch)
    if not settings:
        raise ConfigError(f"the route {route!r} has no table [{where}]", next_command=f"edit {config.file}")
    if not chosen.inbox:
        raise ConfigError(f"routes.{route} needs an inbox on this machine to fetch into")
    throttle = settings.get("throttle")
    own = structure({k: v for k, v in settings.items() if k in _OWN}, FetchConfig, where=where)
    place = fetched_place(config, route)
    if throttle is not None and isinstance(place, HandsOver):
        raise ConfigError(
            f"{where}.throttle: {place.name} is fetched from by its own service, which takes no throttle of ours"
        )
    return Fetcher(
        Fetching(
            route=route,
            place=place,
            config=own,
            inbox=Inbox.open(config.inboxes[chosen.inbox].path),
            state=config.home,
            rules=FileRules(include=chosen.include, exclude=chosen.exclude, junk=chosen.junk),
            algorithms=available(chosen.digests, f"routes.{route}.digests"),
            priority=chosen.priority,
            pace=_pace(throttle, f"{where}.throttle"),
        )
    )


def fetched_place(config: Config, route: str) -> RemotePlace:
    """Where `route` fetches from. Raises ConfigError."""
    where = f"routes.{route}.fetch"
    settings = dict(config.route(route).fetch)
    kind = settings.pop("kind", None)
    with relative_to(config.folder):
        return _place(
            kind, {k: v for k, v in settings.items() if k not in _OWN and k != "throttle"}, where, config.home
        )


def probe(config: Config, route: str) -> str:
    """What `route` fetches from answers and lets us in: its name. Nothing is fetched. Raises what a round would raise."""
    place = fetched_place(config, route)
    place.connect().close()
    return place.name


def schedule(config: Config) -> Mapping[str, tuple[Callable[[], Fetcher], float]]:
    """For the server: what makes the fetcher of each route that fetches, and every how many seconds it is due.

    Raises ConfigError now; an inbox that is not mounted yet is waited for.
    """
    for route in fetching_routes(config):
        with suppress(Unreachable):
            make_fetcher(config, route)
    return {route: (partial(make_fetcher, config, route), _every(config, route)) for route in fetching_routes(config)}


def standings(config: Config) -> list[tuple[str, Standing]]:
    """What is remembered of every remote folder: route and standing. Asks no server. Raises ConfigError, EngineError."""
    return [(route, found) for route in fetching_routes(config) for found in make_fetcher(config, route).standings()]


def near_deadlines(config: Config, *, early: bool = False) -> list[Near]:
    """Remote folders that their source will not keep much longer and no repository provably holds, the most urgent first.

    With `early` also the warnings that can wait for others. From memory and receipts: no server is asked. A route whose inbox is
    not there, or whose settings cannot be used, is left out: that is told elsewhere.
    """
    found: list[Near] = []
    for route in fetching_routes(config):
        if config.route(route).fetch.get("deadline_days"):
            with suppress(LadingError):
                found += make_fetcher(config, route).near()
    return sorted(
        (one for one in found if early or not one.early), key=lambda one: (one.due, one.route, one.folder, one.step)
    )


def deadline_notices(config: Config) -> list[Notice]:
    """The same as lines of a report."""
    return notices(near_deadlines(config, early=True), time.time())


def _place(kind: object, settings: Settings, where: str, home: Path) -> RemotePlace:
    if not isinstance(kind, str):
        raise ConfigError(f"{where} has no kind; there are: {', '.join(names('lading.transports'))}")
    factory = part("lading.transports", kind, where=where)
    place_type = getattr(factory, "place_type", None)
    if place_type is None:
        raise ConfigError(f"{where}: {kind!r} can carry, but not fetch", next_command="lading doctor")
    if getattr(place_type, "needs_state", False):
        return cast("type[StatefulPlace]", place_type).from_settings(settings, state=home)
    return cast("type[ConfiguredPlace]", place_type).from_settings(settings)


def _every(config: Config, route: str) -> float:
    value = config.route(route).fetch.get("every", FetchConfig().every)
    return float(value) if isinstance(value, int | float) else 0.0


def _pace(throttle: object, where: str) -> Pace:
    if throttle is None:
        return Unpaced()
    from transport.throttled import Schedule, ThrottleConfig  # noqa: PLC0415 - only where it is asked for

    if not isinstance(throttle, dict):
        raise ConfigError(f"{where} must be a table, such as {{ mb_per_s = 20 }}")
    return Schedule(structure(throttle, ThrottleConfig, where=where))
