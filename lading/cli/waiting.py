"""Waiting for deliveries with something to look at: stage, files, bytes, and what to do at the end."""

import sys
import time
from collections.abc import Sequence
from datetime import datetime

import click
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lading.cli import output
from lading.cli.context import App
from lading.delivery import DeliveryId, Stage
from lading.desk import DONE, Account

FINAL = DONE | {Stage.REJECTED, Stage.HELD, Stage.CANCELLED}
NOT_FINISHED = 7
IN_VAIN = 5
_READING_AGAIN = ("verify-again: ", "reread: ")
"""How the note of an event begins that tells of a second reading back that failed; the delivery itself stays what it was."""

# How far along the line each stage is, of nine steps: for the bar only.
_STEPS = (
    Stage.FOUND,
    Stage.READY,
    Stage.SENDING,
    Stage.ARRIVED,
    Stage.ACCEPTED,
    Stage.QUEUED,
    Stage.IMPORTING,
    Stage.IMPORTED,
    Stage.VERIFIED,
)


def wait_for(
    app: App, wanted: Sequence[DeliveryId], *, timeout: float, as_json: bool, since: datetime | None = None
) -> None:
    """Show progress until every delivery is at rest; exits with the code of the worst: 0, 4 rejected, 5 held, 7 not in time.

    `since`: only a receipt written after that moment counts (for a second reading back).
    """
    from lading.cli.looking import summary  # noqa: PLC0415 - looking imports nothing from here, but stays light for others

    accounts = watch(app, wanted, timeout=timeout, quiet=as_json, since=since)
    if as_json:
        output.answer({"deliveries": [summary(a, app.program) for a in accounts]})
    else:
        for account in accounts:
            if account.needs_you or _in_vain(account, since):
                output.say(f"{account.delivery.id}: {account.error or account.stage}", style="yellow")
                output.say_next(account.command(app.program))
    sys.exit(max((_code(a, since) for a in accounts), default=0))


def _code(account: Account, since: datetime | None) -> int:
    if _in_vain(account, since):
        return IN_VAIN
    return exit_code(account.stage) if _at_rest(account, since) else NOT_FINISHED


def exit_code(stage: Stage) -> int:
    """The documented exit code for a delivery that came to rest, or did not, at `stage`."""
    if stage in DONE:
        return 0
    return {Stage.REJECTED: 4, Stage.HELD: 5, Stage.CANCELLED: 1}.get(stage, NOT_FINISHED)


def _at_rest(account: Account, since: datetime | None) -> bool:
    if account.stage not in FINAL or since is None:
        return account.stage in FINAL
    # The receipt is written a moment before the stage: until both say the same, the answer is on its way.
    if _in_vain(account, since):
        return True
    found = account.receipt
    return found is not None and found.at > since and (found.stage is Stage.VERIFIED) == (account.stage in DONE)


def _in_vain(account: Account, since: datetime | None) -> bool:
    """Whether the repository could not be read again, and nobody tries that by himself: the login is wrong, say."""
    return (
        since is not None
        and account.given_up
        and any(event.at > since and event.note.startswith(_READING_AGAIN) for event in account.events)
    )


def watch(
    app: App, wanted: Sequence[DeliveryId], *, timeout: float, quiet: bool, since: datetime | None = None
) -> list[Account]:
    """Follow the deliveries until all are final or `timeout` seconds passed; returns their last accounts."""
    deadline = time.monotonic() + timeout
    show_live = not quiet and output.out.is_terminal
    last: dict[DeliveryId, Stage] = {}
    with (
        app.desk() as desk,
        Live(console=output.out, refresh_per_second=4, transient=False, auto_refresh=False) as live,
    ):
        while True:
            accounts = [desk.account(one) for one in wanted]
            if show_live:
                live.update(board(accounts), refresh=True)
            elif not quiet:
                for account in accounts:
                    if last.get(account.delivery.id) is not account.stage:
                        last[account.delivery.id] = account.stage
                        click.echo(f"{account.delivery.id}  {account.delivery.labels}  {account.stage}")
            if all(_at_rest(a, since) for a in accounts) or time.monotonic() > deadline:
                return accounts
            time.sleep(0.25)


def board(accounts: Sequence[Account]) -> Table:
    """A line per delivery: labels, stage, a bar along the line, files and bytes."""
    grid = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(4):
        grid.add_column(no_wrap=True)
    for account in accounts:
        about = account.delivery
        refused = account.stage in {Stage.REJECTED, Stage.HELD}
        done = _STEPS.index(account.stage) if account.stage in _STEPS else 3
        if account.stage in DONE:
            done = len(_STEPS) - 1
        sent = f"{output.size(account.sent_bytes)} of " if account.stage is Stage.SENDING else ""
        grid.add_row(
            Text(str(about.labels), "bold"),
            ProgressBar(
                total=len(_STEPS) - 1,
                completed=done,
                width=24,
                complete_style="red" if refused else "cyan",
                finished_style="green",
            ),
            output.stage_text(account.stage),
            Text(f"{about.files or '?'} files  {sent}{output.size(about.bytes)}", "dim"),
        )
    return grid
