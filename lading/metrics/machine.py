"""What is known of a program without its memory: signs of life, from files of this machine."""

import shutil
from collections.abc import Iterator
from contextlib import suppress

from lading import __version__
from lading.assembly import program_heartbeats
from lading.config import Config
from lading.metrics import catalogue
from lading.metrics.figures import Figure
from lading.reporters.office import complaint_file

_SILENT_S = 60.0


def program(config: Config, name: str) -> Iterator[Figure]:
    """The program `name` ("server", "agent"): whether it lives, its version, its room, its reports."""
    yield catalogue.INFO.of(1, name, __version__)
    for found, age, _ in program_heartbeats(config):
        if found == name:
            yield catalogue.RUNNING.of(age is not None and age < _SILENT_S, name)
            if name == "server" and age is not None:
                yield catalogue.SERVER_HEARTBEAT.of(age)
    with suppress(OSError):  # no home: nothing has ever run here
        yield catalogue.HOME_FREE.of(shutil.disk_usage(config.home).free, name)
    yield catalogue.REPORTS_KEPT_BACK.of(complaint_file(config.home, name).exists(), name)
