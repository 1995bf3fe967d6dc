"""What is shown while deliveries are waited for: to people, to a log, to machines."""

import time
from collections.abc import Mapping, Sequence
from typing import Self

import click
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from lading.cli import output
from lading.cli.gauge import Gauge, Reached
from lading.cli.output import Json
from lading.delivery import DeliveryId, Stage
from lading.desk import DONE, Account

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


def how_far(accounts: Sequence[Account], gauges: Mapping[DeliveryId, Gauge]) -> dict[DeliveryId, Reached]:
    """What of each has left the sender. `gauges` makes one for whoever is new (a defaultdict)."""
    return {account.delivery.id: _reached(account, gauges[account.delivery.id]) for account in accounts}


def _reached(account: Account, gauge: Gauge) -> Reached:
    """How much of it has left the sender: all of it as soon as it is not on its way any more."""
    about = account.delivery
    if account.stage is Stage.SENDING:
        return gauge.reached(account.sent_files, account.sent_bytes, about.files, about.bytes)
    if account.stage in (Stage.FOUND, Stage.READY):
        return Reached(account.sent_files, account.sent_bytes, about.files, about.bytes)
    return Reached(about.files, about.bytes, about.files, about.bytes)


class Display:
    """What is shown while deliveries are waited for. Entered and left around the looks."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to put away."""

    def look(self, accounts: Sequence[Account], far: Mapping[DeliveryId, Reached]) -> None:
        """They stand like this now; called several times a second."""


class Silent(Display):
    """One JSON document comes at the end."""


class Stages(Display):
    """For a log: a line for each stage."""

    def __init__(self) -> None:
        self._last: dict[DeliveryId, Stage] = {}

    def look(self, accounts: Sequence[Account], far: Mapping[DeliveryId, Reached]) -> None:  # noqa: ARG002 - stages only
        """Say what stage was reached."""
        for account in accounts:
            if self._last.get(account.delivery.id) is not account.stage:
                self._last[account.delivery.id] = account.stage
                click.echo(f"{account.delivery.id}  {account.delivery.labels}  {account.stage}")


class Lines(Display):
    """For machines: a line of JSON whenever a stage was reached, and at most once a second when more was sent."""

    def __init__(self) -> None:
        self._last: dict[DeliveryId, tuple[float, Stage, int]] = {}

    def look(self, accounts: Sequence[Account], far: Mapping[DeliveryId, Reached]) -> None:
        """Say what is new."""
        now = time.monotonic()
        for account in accounts:
            id_ = account.delivery.id
            said, stage, sent = self._last.get(id_, (0.0, None, -1))
            if stage is account.stage and (sent == far[id_].bytes or now - said < 1):
                continue
            self._last[id_] = (now, account.stage, far[id_].bytes)
            about: dict[str, Json] = {
                "id": id_,
                "labels": account.delivery.labels.as_dict(),
                "stage": str(account.stage),
            }
            output.line("progress", {**about, **far[id_].as_dict()})


class Board(Display):
    """For a terminal: lines that are drawn anew."""

    def __init__(self) -> None:
        self._live = Live(console=output.out, transient=False, auto_refresh=False)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()

    def look(self, accounts: Sequence[Account], far: Mapping[DeliveryId, Reached]) -> None:
        """Draw them."""
        self._live.update(board(accounts, far), refresh=True)


def board(accounts: Sequence[Account], far: Mapping[DeliveryId, Reached]) -> Table:
    """A line per delivery: labels, stage, a bar along the line, and how far it has come."""
    grid = Table(box=None, pad_edge=False, show_header=False)
    for _ in range(4):
        grid.add_column(no_wrap=True)
    for account in accounts:
        about = account.delivery
        refused = account.stage in {Stage.REJECTED, Stage.HELD}
        done = _STEPS.index(account.stage) if account.stage in _STEPS else 3
        if account.stage in DONE:
            done = len(_STEPS) - 1
        sending = account.stage is Stage.SENDING
        come = far[about.id].words() if sending else f"{about.files or '?'} files  {output.size(about.bytes)}"
        grid.add_row(
            Text(str(about.labels), "bold"),
            ProgressBar(
                total=len(_STEPS) - 1,
                completed=done,
                width=16,
                complete_style="red" if refused else "cyan",
                finished_style="green",
            ),
            output.stage_text(account.stage),
            Text(come, "dim"),
        )
    return grid
