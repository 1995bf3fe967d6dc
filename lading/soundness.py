"""What the settings name is made, as the programs would make it.

What they would refuse at their start, or with the first delivery, is said when the doctor is asked.
"""

import os
import shlex
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from lading.assembly import make_checks, make_source, make_transport
from lading.config import Config, WatchConfig, relative_to
from lading.errors import ConfigError, Unreachable
from lading.pulling import fetching_routes, make_fetcher, probe

Look = tuple[str, Callable[[], str]]
"""What is looked at, and what looks: it answers with a sentence, or raises what the program would raise, or OSError."""


def looks(config: Config) -> Iterator[Look]:
    """What to look at, in the order of the line. Only what is fetched from is reached over a network."""
    for watch in config.agent.watch:
        yield "watch", partial(_watched, config, watch)
    if config.dicom:
        yield "dicom", partial(_receiver, config)
    for route in fetching_routes(config):
        yield f"fetch {route}", partial(_fetched, config, route)
    for name, chosen in config.routes.items():
        if chosen.inbox and chosen.repository:
            yield f"checks {name}", partial(_checks, config, name)


def _watched(config: Config, watch: WatchConfig) -> str:
    make_source(config, watch)
    if not config.route(watch.route).transport:
        make_transport(config, watch.route)  # says what is missing; one that is there is looked at with its route
    for name, inbox in config.inboxes.items():
        if _lies_in(watch.path, inbox.path):
            raise ConfigError(
                f"agent.watch {watch.path} lies in the inbox {name}: what was delivered would be sent once more"
            )
    try:
        with os.scandir(watch.path) as entries:
            next(entries, None)
    except OSError as exc:
        raise Unreachable(
            f"{watch.path}: {exc.strerror}; is the share mounted?",
            next_command=f"ls -ld {shlex.quote(str(watch.path))}",
        ) from exc
    return str(watch.path)


def _lies_in(path: Path, folder: Path) -> bool:
    # By their names alone: a share that is away must not be asked.
    return Path(os.path.normpath(path)).is_relative_to(os.path.normpath(folder))


def _receiver(config: Config) -> str:
    from transport.dicom_settings import receive_config, tls  # noqa: PLC0415 - an extra that only this needs

    with relative_to(config.folder):
        chosen = receive_config(config.dicom)
    return f"may listen on {chosen.host}:{chosen.port}, {'over TLS' if tls(chosen) else 'in the open'}"


def _fetched(config: Config, route: str) -> str:
    make_fetcher(config, route)
    if config.route(route).fetch.get("kind") == "disk":
        return "comes on a disk, when it is plugged in"
    return f"{probe(config, route)} answers"


def _checks(config: Config, route: str) -> str:
    made = make_checks(route, config.routes[route])
    return f"{len(made)} can run"
