"""The labels of a delivery are ones the repository accepts and the project expects."""

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Self

import attrs

from lading.checks.suggestions import suggest
from lading.config import Settings, structure
from lading.delivery import DeliveryId, Parcel
from lading.findings import Finding, error

XNAT_LABEL = "[A-Za-z0-9_-]+"
"""XNAT's own rule for IDs and labels (Patterns / XftStringUtils.REGEX_VALID_ID)."""


def _is_pattern(_: object, attribute: "attrs.Attribute[str]", value: str) -> None:
    try:
        re.compile(value)
    except re.error as exc:
        raise ValueError(f"{attribute.name} = {value!r} is not a regular expression: {exc}") from exc


@attrs.frozen(kw_only=True)
class ProjectRules:
    """What the labels of a project look like: regular expressions for the whole label, and lists of the known ones."""

    participant: str = attrs.field(default="", validator=_is_pattern)
    session: str = attrs.field(default="", validator=_is_pattern)
    participants: tuple[str, ...] = ()
    sessions: tuple[str, ...] = ()


@attrs.frozen(kw_only=True)
class LayoutConfig:
    """Settings of the check `layout`.

    `allowed` and `max_length` (characters; XNAT's database takes 64 everywhere) hold for all three labels. `project`,
    `participant`, `session` are regular expressions for the whole label; `projects`, `participants` list the known ones
    (empty: any). A table `per_project.NAME` replaces `participant`, `session`, `participants`, `sessions` where set.
    """

    allowed: str = attrs.field(default=XNAT_LABEL, validator=_is_pattern)
    max_length: int = 64
    project: str = attrs.field(default="", validator=_is_pattern)
    participant: str = attrs.field(default="", validator=_is_pattern)
    session: str = attrs.field(default="", validator=_is_pattern)
    projects: tuple[str, ...] = ()
    participants: tuple[str, ...] = ()
    per_project: Mapping[str, ProjectRules] = attrs.field(factory=dict)


class LayoutCheck:
    """Compares the three labels with the repository's rule, the project's patterns and the known labels.

    Findings: `label-invalid` (characters, length), `label-unexpected` (not the project's pattern), `project-unknown`,
    `participant-unknown`, `session-unknown`; each with the nearest good label and the command that corrects it.
    """

    def __init__(self, config: LayoutConfig) -> None:
        self.config = config

    @classmethod
    def from_settings(cls, settings: Settings, *, where: str = "checks.layout") -> Self:
        """Raises ConfigError."""
        return cls(structure(settings, LayoutConfig, where=where))

    def check(self, parcel: Parcel) -> Iterable[Finding]:
        """At most one finding per label."""
        delivery = parcel.delivery
        return list(self.judge(delivery.labels.as_dict(), delivery.id))

    def judge(self, labels: Mapping[str, str], delivery: DeliveryId | None = None) -> Iterator[Finding]:
        """The findings about labels alone (`project`, `participant`, `session`); `delivery` is named in the hints."""
        rules = self.config.per_project.get(labels["project"], ProjectRules())
        for level, pattern, known in (
            ("project", self.config.project, self.config.projects),
            (
                "participant",
                rules.participant or self.config.participant,
                rules.participants or self.config.participants,
            ),
            ("session", rules.session or self.config.session, rules.sessions),
        ):
            yield from self._judge_one(level, labels[level], pattern, known, delivery)

    def _judge_one(
        self, level: str, label: str, pattern: str, known: tuple[str, ...], delivery: DeliveryId | None
    ) -> Iterator[Finding]:
        config = self.config
        if not re.fullmatch(config.allowed, label):
            code, problem = "label-invalid", f"has characters that the repository does not take ({config.allowed})"
        elif len(label) > config.max_length:
            code, problem = "label-invalid", f"has {len(label)} characters, the repository takes {config.max_length}"
        elif pattern and not re.fullmatch(pattern, label):
            code, problem = "label-unexpected", f"does not match {pattern}"
        elif known and label not in known:
            code, problem = f"{level}-unknown", f"is not one of the {len(known):,} known {level}s"
        else:
            return
        near = suggest(label, pattern=pattern or config.allowed, known=known)
        if near and not (re.fullmatch(config.allowed, near) and len(near) <= config.max_length):
            near = None
        message = f"{level} {label[:120]!r} {problem}"
        if near:
            message += f"; did you mean {near!r}?"
        yield error(code, message, hint=f"lading fix {delivery or 'ID'} --{level} {near or level.upper()}")
