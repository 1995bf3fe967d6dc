"""What people and machines see: tables that fit a terminal, one JSON document on request, errors with a next command."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from lading.delivery import Stage
from lading.errors import LadingError
from lading.findings import Finding, Severity

out = Console(highlight=False)
err = Console(stderr=True, highlight=False)

Json = str | int | float | bool | None | Mapping[str, "Json"] | Sequence["Json"]

STAGE_STYLES: Mapping[Stage, str] = {
    Stage.VERIFIED: "green",
    Stage.CLEANABLE: "green",
    Stage.CLEANED: "green",
    Stage.REJECTED: "bold red",
    Stage.HELD: "bold yellow",
    Stage.PAUSED: "yellow",
    Stage.CANCELLED: "dim",
}
_FINDING_STYLES = {Severity.ERROR: "red", Severity.WARNING: "yellow", Severity.NOTE: "dim"}


def say(text: str = "", *, style: str = "") -> None:
    """One line for people; no markup is read from `text`."""
    out.print(Text(text, style=style), soft_wrap=True)


def say_next(command: str, why: str = "") -> None:
    """The command to type next, with the reason before it."""
    out.print(Text.assemble((f"{why}  " if why else "", ""), ("→ ", "dim"), (command, "bold cyan")), soft_wrap=True)


def answer(document: Json) -> None:
    """The one JSON document of a `--json` call."""
    sys.stdout.write(json.dumps(document, indent=2, ensure_ascii=True) + "\n")
    sys.stdout.flush()


def line(event: str, document: Mapping[str, Json]) -> None:
    """One line of a `--json-lines` call: an object that begins with its `event` and `at`, the moment (ISO 8601, UTC)."""
    moment = datetime.now(UTC).isoformat(timespec="milliseconds")
    sys.stdout.write(json.dumps({"event": event, "at": moment, **document}, ensure_ascii=True) + "\n")
    sys.stdout.flush()


def fail(error: LadingError, *, as_json: bool, as_lines: bool = False) -> None:
    """An error: what failed, what is safe, the next command. To stderr for people, to stdout as JSON for machines."""
    if as_json or as_lines:
        findings = [f.as_dict() for f in getattr(error, "findings", ())]
        document = {"error": error.as_dict() | ({"findings": findings} if findings else {})}
        line("error", document) if as_lines else answer(document)
        return
    err.print(Text.assemble(("error: ", "bold red"), error.message), soft_wrap=True)
    for finding in getattr(error, "findings", ()):
        err.print(finding_line(finding), soft_wrap=True)
    if error.safe:
        err.print(Text.assemble(("safe:  ", "green"), error.safe), soft_wrap=True)
    if error.next_command:
        err.print(Text.assemble(("next:  ", "cyan"), (error.next_command, "bold cyan")), soft_wrap=True)


def finding_line(finding: Finding) -> Text:
    """A finding on one line, its hint on the next."""
    text = Text("  ")
    text.append(f"{finding.code}", style=_FINDING_STYLES[finding.severity])
    if finding.path:
        text.append(f" {printable(finding.path)}", style="bold")
    text.append(f": {printable(finding.message)}")
    if finding.hint:
        text.append(f"\n    → {finding.hint}", style="cyan")
    return text


def table(
    columns: Sequence[str],
    rows: Iterable[Sequence[Text | str]],
    *,
    right: Sequence[str] = (),
    whole: Sequence[str] = (),
) -> None:
    """A plain table that folds rather than overflows. `right`: right-aligned columns; they and `whole` are never folded."""
    grid = Table(box=None, pad_edge=False, header_style="dim", show_edge=False)
    for column in columns:
        kept = column in right or column in whole
        grid.add_column(column, justify="right" if column in right else "left", overflow="fold", no_wrap=kept)
    for row in rows:
        grid.add_row(*(cell if isinstance(cell, Text) else Text(printable(cell)) for cell in row))
    out.print(grid)


def stage_text(stage: Stage) -> Text:
    """A stage in its colour."""
    return Text(str(stage), style=STAGE_STYLES.get(stage, "cyan"))


def printable(text: str) -> str:
    """`text` with control characters and undecodable bytes made visible: names in an inbox are hostile."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape", "backslashreplace").decode() for c in text)


def size(count: int) -> str:
    """Bytes for people: 0 B, 1.5 kB, 12 MB, 3.2 TB (powers of 1000, as disks are sold)."""
    value = float(count)
    for unit in ("B", "kB", "MB", "GB", "TB"):
        if value < 999.5:
            return f"{value:.0f} {unit}" if value >= 10 or unit == "B" else f"{value:.1f} {unit}"
        value /= 1000
    return f"{value:.1f} PB"


def span(seconds: float) -> str:
    """A length of time for people: 12 s, 5 min, 3 h, 4 d."""
    for limit, divisor, unit in ((90, 1, "s"), (5400, 60, "min"), (129_600, 3600, "h")):
        if seconds < limit:
            return f"{seconds / divisor:.0f} {unit}"
    return f"{seconds / 86_400:.0f} d"


def ago(moment: datetime, now: datetime | None = None) -> str:
    """How long since `moment`: 12 s, 5 min, 3 h, 4 d."""
    return span(max(0.0, ((now or datetime.now(UTC)) - moment).total_seconds()))


def plain(text: str) -> str:
    """`text` with rich's markup made harmless."""
    return escape(printable(text))
