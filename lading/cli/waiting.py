"""Waiting for deliveries with something to look at: stage, files, bytes, how fast, how long yet, and what to do at the end."""

import sys
import time
from collections import defaultdict
from collections.abc import Sequence
from datetime import datetime

from lading.cli import output
from lading.cli.context import App
from lading.cli.display import Board, Display, Lines, Silent, Stages, how_far
from lading.cli.gauge import Gauge
from lading.delivery import DeliveryId, Stage
from lading.desk import DONE, Account

FINAL = DONE | {Stage.REJECTED, Stage.HELD, Stage.CANCELLED}
NOT_FINISHED = 7
IN_VAIN = 5
_READING_AGAIN = ("verify-again: ", "reread: ")
"""How the note of an event begins that tells of a second reading back that failed; the delivery itself stays what it was."""


def wait_for(
    app: App,
    wanted: Sequence[DeliveryId],
    *,
    timeout: float,
    as_json: bool,
    as_lines: bool = False,
    since: datetime | None = None,
) -> None:
    """Show progress until every delivery is at rest; exits with the code of the worst: 0, 4 rejected, 5 held, 7 not in time.

    `as_lines`: a line of JSON for each step, "progress" and at last "end". `since`: only a receipt written after that moment
    counts (for a second reading back).
    """
    from lading.cli.looking import summary  # noqa: PLC0415 - looking imports nothing from here, but stays light for others

    with _display(as_json=as_json, as_lines=as_lines) as show:
        accounts = watch(app, wanted, timeout=timeout, show=show, since=since)
    code = max((_code(a, since) for a in accounts), default=0)
    if as_json or as_lines:
        document = {"deliveries": [summary(a, app.program) for a in accounts]}
        output.line("end", {**document, "exit_code": code}) if as_lines else output.answer(document)
    else:
        for account in accounts:
            if account.needs_you or _in_vain(account, since):
                output.say(f"{account.delivery.id}: {account.error or account.stage}", style="yellow")
                output.say_next(account.command(app.program))
    sys.exit(code)


def _display(*, as_json: bool, as_lines: bool) -> Display:
    if as_json:
        return Silent()
    if as_lines:
        return Lines()
    return Board() if output.out.is_terminal else Stages()


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
    app: App, wanted: Sequence[DeliveryId], *, timeout: float, show: Display, since: datetime | None = None
) -> list[Account]:
    """Follow the deliveries until all are final or `timeout` seconds passed; returns their last accounts."""
    deadline = time.monotonic() + timeout
    gauges: defaultdict[DeliveryId, Gauge] = defaultdict(Gauge)
    with app.desk() as desk:
        while True:
            accounts = [desk.account(one) for one in wanted]
            show.look(accounts, how_far(accounts, gauges))
            if all(_at_rest(a, since) for a in accounts) or time.monotonic() > deadline:
                return accounts
            time.sleep(0.25)
