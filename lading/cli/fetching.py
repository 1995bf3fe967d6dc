"""Fetching: brings what others hold ready, by command; the server does the same on a schedule."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime

import click
from rich.text import Text

from lading.cli import output
from lading.cli.context import App, json_option, lines_option, pass_app
from lading.cli.fetch_display import FetchDisplay
from lading.cli.output import Json
from lading.errors import Rejected
from lading.pulling import make_fetcher, standings
from transport.fetch_ledger import Progressing, Remembered
from transport.fetching import Fetcher, Standing

NOT_FINISHED = 7
_STYLES = {Progressing.FETCHED: "green", Progressing.HELD: "bold yellow", Progressing.CHANGED: "yellow"}
_LONGEST_PAUSE_S = 30.0


@click.command()
@click.argument("route")
@click.argument("path", default="")
@click.option("--wait", is_flag=True, help="Stay until everything that is there now was fetched, or needs you.")
@click.option("--timeout", type=float, default=3600, show_default=True, help="Seconds to --wait.")
@click.option("--dry-run", is_flag=True, help="Show what is there and what would stay behind; fetch and note nothing.")
@click.option(
    "--create", is_flag=True, help="Make the place a waypoint: the folders and a sentinel, where agents carry to."
)
@json_option
@lines_option
@pass_app
def fetch(
    app: App,
    route: str,
    path: str,
    wait: bool,
    timeout: float,
    dry_run: bool,
    create: bool,
    as_json: bool,
    as_lines: bool,
) -> None:
    """Fetch what lies ready for ROUTE (or only the session folder PATH) into its inbox.

    A folder is fetched when two looks, `quiet` seconds apart, saw no change. The source is only read. Exit code 4: something is
    held, look at its findings, then name it as PATH; 7: something still waits, run it again, or with --wait.
    """
    if as_lines and (dry_run or create or as_json or not wait):
        raise click.UsageError("--json-lines tells what happens during --wait; for one answer there is --json")
    fetcher = make_fetcher(app.config, route)
    if create:
        made = fetcher.make_waypoint()
        output.answer({"waypoint": made}) if as_json else output.say(f"it is a waypoint now, with the id {made}")
        return
    if dry_run:
        _show_preview(fetcher, path, as_json=as_json)
        return
    with FetchDisplay(fetcher, as_lines=as_lines, quiet=as_json) as display:
        found = _rounds(fetcher, path, display, timeout=timeout if wait else 0)
    if path and not found:
        raise Rejected(
            f"nothing that is ready is called {path!r} at the place of route {route}: it is not there, or not sealed yet",
            safe="nothing was fetched",
            next_command=f"{app.program} fetch {route}",
        )
    code = _code(found)
    if as_json or as_lines:
        document: dict[str, Json] = {"route": route, "folders": [_as_dict(folder) for folder in found]}
        output.line("end", {**document, "exit_code": code}) if as_lines else output.answer(document)
    else:
        _show(app, route, found)
    if code:
        raise SystemExit(code)


def _rounds(fetcher: Fetcher, path: str, display: FetchDisplay, *, timeout: float) -> list[Remembered]:
    """One round, and more until nothing waits any more or `timeout` seconds have passed. What was looked at last."""
    deadline = time.monotonic() + timeout
    while True:
        found = fetcher.round(only=path, progress=display.meter)
        if not _waiting(found) or time.monotonic() >= deadline:
            return found
        time.sleep(min(_LONGEST_PAUSE_S, max(0.2, fetcher.quiet / 4), max(0.0, deadline - time.monotonic())))


def _waiting(found: Sequence[Remembered]) -> bool:
    return any(folder.state in (Progressing.WAITING, Progressing.FETCHING) for folder in found)


def _code(found: Sequence[Remembered]) -> int:
    if any(folder.state is Progressing.HELD for folder in found):
        return Rejected.exit_code
    return NOT_FINISHED if _waiting(found) else 0


def show_standings(app: App) -> None:
    """For `status`: what was fetched and what needs somebody. Nothing where nothing is fetched."""
    found = standings(app.config)
    if not found:
        return
    missing = [(route, one) for route, one in found if one.folder.state is not Progressing.FETCHED]
    output.say(f"\nfetched {len(found) - len(missing)} of {len(found)} remote folders")
    for route, one in sorted(found, key=lambda pair: (not pair[1].urgent, pair[1].folder.path)):
        if one.urgent or one.folder.findings or one.folder.state in (Progressing.HELD, Progressing.CHANGED):
            output.out.print(_standing_line(route, one), soft_wrap=True)


def standings_as_dicts(app: App) -> list[Json]:
    """The same for machines."""
    return [
        {
            "route": route,
            **_as_dict(one.folder),
            "due": _moment(one.due),
            "safe": one.safe,
            "urgent": one.urgent,
        }
        for route, one in standings(app.config)
    ]


def _show(app: App, route: str, found: Sequence[Remembered]) -> None:
    if not found:
        output.say(f"nothing lies ready for {route}")
        return
    output.table(
        ("folder", "state", "delivery", "files", "size"),
        (
            (
                folder.path,
                Text(str(folder.state), style=_STYLES.get(folder.state, "cyan")),
                folder.delivery,
                str(folder.files),
                output.size(folder.bytes),
            )
            for folder in found
        ),
        right=("files", "size"),
        whole=("delivery",),
    )
    for folder in found:
        if folder.note and folder.note not in {finding.message for finding in folder.findings}:
            output.out.print(
                Text.assemble((output.printable(folder.path), "bold"), f": {output.printable(folder.note)}"),
                soft_wrap=True,
            )
        for finding in folder.findings:
            output.out.print(output.finding_line(finding), soft_wrap=True)
    if any(folder.state is Progressing.FETCHED for folder in found):
        output.say_next(f"{app.program} list", "follow them: ")


def _show_preview(fetcher: Fetcher, path: str, *, as_json: bool) -> None:
    previews = fetcher.preview(only=path)
    if as_json:
        output.answer(
            {
                "folders": [
                    {
                        "path": found,
                        "files": look.files,
                        "bytes": look.bytes,
                        "unfinished": look.unfinished,
                        "findings": [finding.as_dict() for finding in look.findings],
                    }
                    for found, look in previews
                ]
            }
        )
        return
    output.say("dry run: nothing is fetched", style="bold")
    output.table(
        ("folder", "files", "size", "unfinished"),
        ((found, str(look.files), output.size(look.bytes), look.unfinished) for found, look in previews),
        right=("files", "size"),
    )
    for _, look in previews:
        for finding in look.findings:
            output.out.print(output.finding_line(finding), soft_wrap=True)


def _standing_line(route: str, one: Standing) -> Text:
    text = Text("  ")
    text.append(output.printable(one.folder.path), style="bold")
    text.append(f" ({route}) {one.folder.state}", style=_STYLES.get(one.folder.state, "cyan"))
    if one.urgent and one.due is not None:
        left = one.due - time.time()
        when = f"the source keeps it {left / 86400:.1f} days more" if left > 0 else "the source may have removed it"
        text.append(f" {when}", style="bold red")
    if one.folder.findings:
        codes = sorted({finding.code for finding in one.folder.findings})
        text.append(f" {', '.join(codes)}", style="yellow")
    return text


def _as_dict(folder: Remembered) -> dict[str, Json]:
    return {
        "path": folder.path,
        "state": str(folder.state),
        "delivery": folder.delivery,
        "files": folder.files,
        "bytes": folder.bytes,
        "note": folder.note,
        "findings": [finding.as_dict() for finding in folder.findings],
    }


def _moment(seconds: float | None) -> str | None:
    return None if seconds is None else datetime.fromtimestamp(seconds, UTC).isoformat(timespec="seconds")
