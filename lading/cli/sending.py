"""Sending: one delivery by hand or hook, and the agent that watches."""

import signal
import threading
from contextlib import nullcontext
from pathlib import Path
from typing import cast

import click
from rich.text import Text

from lading.agent import loop, sending
from lading.agent.outbox import UNSENT, Outbox
from lading.agent.sending import Rehearsal
from lading.assembly import agent_parts
from lading.cli import output
from lading.cli.context import App, json_option, lines_option, pass_app
from lading.cli.output import Json
from lading.cli.waiting import wait_for
from lading.delivery import Labels, Stage
from lading.errors import Rejected
from lading.findings import refuses


@click.command()
@click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))
@click.option("--route", "-r", required=True, help="The route to take (see lading doctor).")
@click.option("--project", "-p", help="Label; else taken from the path by the watch template of the route.")
@click.option("--participant", "-s", help="Label; XNAT calls it subject.")
@click.option("--session", "-l", help="Label of this visit.")
@click.option("--priority", type=click.IntRange(-1000, 1000), default=None, help="Higher goes first; else the route's.")
@click.option("--wait", is_flag=True, help="Stay until the repository holds it, provably.")
@click.option("--timeout", type=float, default=3600, show_default=True, help="Seconds to --wait.")
@click.option("--dry-run", is_flag=True, help="Show what would be sent and what would be filtered; send nothing.")
@json_option
@lines_option
@pass_app
def send(
    app: App,
    path: Path,
    route: str,
    project: str | None,
    participant: str | None,
    session: str | None,
    priority: int | None,
    wait: bool,
    timeout: float,
    dry_run: bool,
    as_json: bool,
    as_lines: bool,
) -> None:
    """Send one session folder: from a shell, a scanner's post-acquisition hook, or a cron job.

    Returns at once; the delivery is carried in the background, also over a restart. With --wait it stays until the end:
    exit code 0 verified, 4 rejected, 5 held for the operator, 7 not finished in time.
    """
    if as_lines and (dry_run or as_json or not wait):
        raise click.UsageError("--json-lines tells what happens during --wait; for one answer there is --json")
    labels = _labels(project, participant, session)
    config = app.config
    parts = agent_parts(config)
    if dry_run:
        _show_rehearsal(sending.dry_run(config, parts, path, route, labels), as_json=as_json)
        return
    sender = app.sender(route)
    outbox = Outbox(config.home)
    try:
        found = sending.enqueue(outbox, config, parts, path, route, labels, priority=priority, sender=sender)
        stage = outbox.get(found).stage
        if wait:
            sending.carry_now(outbox, config, parts, found)
        else:
            sending.ensure_carrier(config)
    finally:
        outbox.close()
    if wait:
        wait_for(app, [found], timeout=timeout, as_json=as_json, as_lines=as_lines)
    elif as_json:
        output.answer({"id": found, "stage": str(stage), "done": _taken(stage)})
    else:
        output.say(f"{found} {_taken(stage)}")
        output.say_next(f"{app.program} show {found}", "follow it: ")


@click.group()
def agent() -> None:
    """The program on the instrument: watches folders, carries sessions, waits for receipts, cleans up."""


@agent.command("run")
@click.option("--once", is_flag=True, help="One round over every watched folder, then stop.")
@pass_app
def run(app: App, once: bool) -> None:
    """Watch, carry, wait for receipts, clean up, until stopped."""
    config = app.config
    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    outbox = Outbox(config.home)
    try:
        from lading.metrics.endpoint import served  # noqa: PLC0415 - an HTTP server, for programs that run on

        with nullcontext() if once else served(config, "agent"):
            loop.run(config, agent_parts(config), outbox, stop=stop, once=once)
    finally:
        outbox.close()


def _taken(stage: Stage) -> str:
    """What `send` did: the same folder sent twice is one delivery, wherever that stands by now."""
    return "taken; it is carried in the background" if stage in UNSENT else f"was sent before; it is {stage}"


def _labels(project: str | None, participant: str | None, session: str | None) -> Labels | None:
    given = (project, participant, session)
    if not any(given):
        return None
    if project and participant and session:
        return Labels(project, participant, session)
    raise click.UsageError("give all of --project, --participant and --session, or none of them")


def _show_rehearsal(rehearsal: Rehearsal, *, as_json: bool) -> None:
    if as_json:
        output.answer(cast("Json", rehearsal.as_dict()))
        if refuses(rehearsal.findings):
            raise SystemExit(Rejected.exit_code)
        return
    output.say("dry run: nothing is sent", style="bold")
    output.say(
        f"would send {rehearsal.files} files, {output.size(rehearsal.bytes)} as {rehearsal.labels} by route {rehearsal.route}"
    )
    if rehearsal.plan and rehearsal.plan.told_by:
        plan = rehearsal.plan
        output.say(
            f"the plan of {plan.told_by}: {plan.files} files, {output.size(plan.bytes)} move from host to host, "
            f"{plan.files_already_there} are there already"
        )
    if rehearsal.filtered:
        output.say(f"\nwould leave {len(rehearsal.filtered)} files behind", style="bold")
        output.table(
            ("file", "why", "size"),
            ((f.path, f.reason, output.size(f.size)) for f in rehearsal.filtered),
            right=("size",),
        )
    for finding in rehearsal.findings:
        output.out.print(output.finding_line(finding), soft_wrap=True)
    if refuses(rehearsal.findings):
        output.out.print(Text("would be refused", "bold red"))
        raise SystemExit(Rejected.exit_code)
