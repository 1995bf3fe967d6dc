"""The words of a report: what became of deliveries, what is wrong, what is well again. Plain text, decided here alone."""

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from lading.delivery import Stage
from lading.desk import Account
from lading.findings import Finding, Severity

SHOWN = 40
"""Deliveries of one kind described in one mail; of the others there is the number, and the command that lists them."""
_FINDINGS = 5
_PROGRAM = "lading"
_TOLD_CODES = frozenset({"addendum"})
"""Notes that people should hear of although they need do nothing."""
RETURNED = "[lading] a report could not be delivered"


@dataclass(frozen=True, slots=True)
class Story:
    """A delivery that came to an end: `figures` of its reading back, `link` to its session in the repository, or ""."""

    account: Account
    figures: str = ""
    link: str = ""

    @property
    def stage(self) -> Stage:
        """Where it ended."""
        return self.account.delivery.stage


def summary(
    stories: Sequence[Story], counts: dict[Stage, int], *, labels: bool, to_admin: bool = False
) -> tuple[str, str]:
    """Subject and text about deliveries that ended. `counts` by stage may exceed the `stories` that are told."""
    parts = [text for stage, text in _counted(counts) if counts.get(stage)]
    subject = f"[lading] {', '.join(parts)}"
    lines: list[str] = []
    for stage, title in _TITLES[to_admin].items():
        told = [story for story in stories if story.stage is stage][:SHOWN]
        number = counts.get(stage, 0)
        if not number:
            continue
        lines += [f"{title} ({number})", ""]
        for story in told:
            lines += [*_described(story, labels=labels, to_admin=to_admin), ""]
        if number > len(told):
            lines += [f"  … and {number - len(told)} more: {_PROGRAM} list --stage {stage}", ""]
    return subject, "\n".join([*lines, *_foot()])


def alarm(what: str, since: float, detail: str, *, safe: str, next_command: str) -> tuple[str, str]:
    """Subject and text: `what` (a sentence without its full stop) has been so since `since` (seconds since the epoch)."""
    lines = [f"{what} since {_moment(since)}.", detail, "", safe, "", f"Next: {next_command}", "", *_foot()]
    return f"[lading] alarm: {what}", "\n".join(lines)


def recovery(what: str, since: float, until: float) -> tuple[str, str]:
    """Subject and text: `what` is over."""
    lines = [
        f"It is well again: “{what}” lasted from {_moment(since)} to {_moment(until)}.",
        "What waited for it goes on by itself.",
        "",
        *_foot(),
    ]
    return f"[lading] well again: {what}", "\n".join(lines)


def notice(lines: Sequence[str], next_command: str) -> tuple[str, str]:
    """Subject and text about things that nobody needs to act on at once, one line each."""
    described = [f"  {' '.join(line.split())}" for line in lines[:SHOWN]]
    if len(lines) > SHOWN:
        described.append(f"  … and {len(lines) - SHOWN} more")
    text = [
        "Time is running out for:",
        "",
        *described,
        "",
        "Nothing is lost yet.",
        "",
        f"Next: {next_command}",
        "",
        *_foot(),
    ]
    return f"[lading] time is running out for {plural(len(lines), 'remote folder')}", "\n".join(text)


def returned(subject: str, why: str) -> tuple[str, str]:
    """Subject and text: a report that its reader's mail server would not take."""
    lines = [
        f"A report could not be delivered: {why}.",
        f"Its subject was: {subject}",
        "",
        "The deliveries are not touched by this.",
        "",
        "Next: mend [people] in the settings, then look at: lading status",
        "",
        *_foot(),
    ]
    return RETURNED, "\n".join(lines)


def plural(number: int, noun: str) -> str:
    """Such as "1 delivery", "3 deliveries"."""
    if number == 1:
        return f"1 {noun}"
    return f"{number} {noun.removesuffix('y') + 'ies' if noun.endswith('y') else noun + 's'}"


_TITLES = {
    False: {
        Stage.REJECTED: "NEEDS YOU: refused until somebody mends it",
        Stage.HELD: "HELD: the operators must act, and were told; you need not",
        Stage.CANCELLED: "CANCELLED: given up at the server; nothing was deleted",
        Stage.VERIFIED: "ARRIVED: every file read back from the repository",
    },
    True: {
        Stage.HELD: "NEEDS YOU: held until an operator acts",
        Stage.REJECTED: "REFUSED: the sender must act, and no address is known",
    },
}


def _counted(counts: dict[Stage, int]) -> list[tuple[Stage, str]]:
    return [
        (Stage.REJECTED, f"{plural(counts.get(Stage.REJECTED, 0), 'session')} refused"),
        (Stage.HELD, f"{plural(counts.get(Stage.HELD, 0), 'session')} held"),
        (Stage.CANCELLED, f"{plural(counts.get(Stage.CANCELLED, 0), 'session')} cancelled"),
        (Stage.VERIFIED, f"{plural(counts.get(Stage.VERIFIED, 0), 'session')} arrived"),
    ]


def _described(story: Story, *, labels: bool, to_admin: bool) -> list[str]:
    about = story.account.delivery
    lines = [f"  {about.labels if labels else about.id}"]
    size = f"{plural(about.files, 'file')}, {_size(about.bytes)}" if about.files else ""
    if story.stage is Stage.VERIFIED:
        lines.append(f"    {size}: {story.figures}" if story.figures else f"    {size}")
        lines += [f"    {story.link}"] if story.link else []
    elif size:
        lines.append(f"    {size}; nothing was deleted")
    lines += [f"    {line}" for line in _problems(story, labels=labels)]
    if story.stage is Stage.REJECTED or (story.stage is Stage.HELD and to_admin):
        command = story.account.command(_PROGRAM) if labels else f"{_PROGRAM} show {about.id}"
        lines.append(f"    next: {command}")
    return [*lines, f"    delivery {about.id}"] if labels else lines


def _problems(story: Story, *, labels: bool) -> list[str]:
    """The findings, most of them quoting labels or names of files: without `labels` only their codes."""
    told = [f for f in story.account.findings if f.severity is not Severity.NOTE or f.code in _TOLD_CODES]
    if not labels:
        codes = sorted({f.code for f in told})
        return [f"findings: {', '.join(codes)}"] if codes else []
    lines = [story.account.error] if story.account.error and story.stage is not Stage.VERIFIED else []
    lines += [_sentence(finding) for finding in told[:_FINDINGS]]
    if len(told) > _FINDINGS:
        lines.append(f"… and {len(told) - _FINDINGS} more findings: {_PROGRAM} show {story.account.delivery.id}")
    return [" ".join(line.split()) for line in lines]


def _sentence(finding: Finding) -> str:
    where = f"{finding.path}: " if finding.path else ""
    hint = f" ({finding.hint})" if finding.hint else ""
    return f"{where}{finding.message}{hint}"


def _size(number: int) -> str:
    value = float(number)
    for unit in ("bytes", "kB", "MB", "GB"):
        if value < 1000:
            return f"{value:.0f} {unit}" if unit == "bytes" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} TB"


def _moment(at: float) -> str:
    return f"{datetime.fromtimestamp(at, UTC):%Y-%m-%d %H:%M} UTC"


def _foot() -> list[str]:
    return ["-- ", f"Lading on {platform.node()}. Written by a program; nobody reads answers."]
