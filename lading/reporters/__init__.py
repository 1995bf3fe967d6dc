"""Telling people: who is told, in which words, and by which way. `office` decides when; read it first."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import cast

from lading.config import Config, relative_to
from lading.ports import Reporter
from lading.registry import part

MAIL = "mail"
"""The place that reaches single persons; every other one has readers of its own, and is told what the admins are told."""


@dataclass(frozen=True, slots=True)
class Place:
    """Where reports go. `admins`: their addresses, empty for a place with readers of its own. `labels`: may it hear them?"""

    reporter: Reporter
    admins: tuple[str, ...]
    labels: bool


def places(config: Config) -> Mapping[str, Place]:
    """Every place that the settings name; none of them is asked for anything yet. Raises ConfigError."""
    found: dict[str, Place] = {}
    with relative_to(config.folder):
        if config.mail.server:
            factory = part("lading.reporters", MAIL, where="mail")
            reporter = cast("Reporter", factory(config.mail))
            found[MAIL] = Place(reporter, config.mail.admin, config.mail.labels)
        for name, table in config.reporters.items():
            where = f"reporters.{name}"
            kind = part("lading.reporters", table.kind, where=f"{where}.kind")
            made = kind.from_settings(table.settings, where=where)  # type: ignore[attr-defined]  # the role of a part's class
            found[name] = Place(cast("Reporter", made), (), table.labels)
    return found
