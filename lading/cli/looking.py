"""Looking: status, list, show, receipt."""

import time
from collections.abc import Mapping
from datetime import datetime

import click
from rich.text import Text

from lading.assembly import inbox_holding
from lading.cli import output
from lading.cli.context import App, json_option, pass_app
from lading.cli.fetching import show_standings, standings_as_dicts
from lading.cli.live import live_as_dicts, show_live
from lading.cli.output import Json
from lading.delivery import Outcome, Receipt, Stage
from lading.desk import Account
from lading.doctor import Diagnosis, pulse
from lading.errors import LadingError
from lading.valves import OPEN, told


@click.command()
@click.option(
    "--hours", type=click.FloatRange(min=0), default=24, show_default=True, help="How far back 'done' counts."
)
@json_option
@pass_app
def status(app: App, hours: float, as_json: bool) -> None:
    """Done, moving, waiting, needs you: the morning's question in one screen."""
    with app.desk() as desk:
        morning = desk.morning(hours=hours)
        beats = pulse(app.config)
    valves = told(app.config.home, time.time())
    if as_json:
        output.answer(
            {
                "done": morning.done,
                "moving": morning.moving,
                "waiting": morning.waiting,
                "aside": morning.aside,
                "needs_you": [summary(a, app.program) for a in morning.needs_you],
                "under_way": [summary(a, app.program) for a in morning.under_way],
                "programs": [b.as_dict() for b in beats],
                "fetch": standings_as_dicts(app),
                "live": live_as_dicts(app),
                "valves": valves,
            }
        )
        return
    _print_pulse(beats)
    output.table(
        ("", "deliveries", ""),
        (
            (Text("done", "green"), str(morning.done), f"in the last {hours:g} h"),
            (Text("moving", "cyan"), str(morning.moving), output.size(morning.moving_bytes) if morning.moving else ""),
            (Text("waiting"), str(morning.waiting), ""),
            (Text("set aside", "dim"), str(morning.aside), "paused or cancelled" if morning.aside else ""),
            (Text("needs you", "bold red" if morning.needs_you else ""), str(len(morning.needs_you)), ""),
        ),
        right=("deliveries",),
    )
    show_standings(app)
    show_live(app)
    for valve in valves:
        if valve["position"] != OPEN:
            left = max(0.0, float(valve["until"]) - time.time())
            how = f"left alone for {left:.0f} s" if left else "recovering, one import at a time"
            output.say(f"{valve['repository']}: {how}, because {output.printable(str(valve['reason']))}")
    now = datetime.now()  # noqa: DTZ005 - hours are those of the clock on the wall
    for name, repository in app.config.repositories.items():
        if not repository.is_open(now):
            output.say(f"{name}: begins imports at {' and '.join(repository.hours)} only; what came is safe and waits")
    for account in morning.under_way[:8]:
        output.out.print(_one_line(account))
    for account in morning.needs_you[:20]:
        output.say()
        output.out.print(_one_line(account))
        output.say(f"  {output.printable(account.error or _first_problem(account))}")
        output.say_next(account.command(app.program), " ")
    if len(morning.needs_you) > 20:
        output.say_next(f"{app.program} list --stage REJECTED --stage HELD", f"and {len(morning.needs_you) - 20} more ")


@click.command("list")
@click.option("--stage", "stages", multiple=True, type=click.Choice([s.value for s in Stage], case_sensitive=False))
@click.option("--limit", type=click.IntRange(1, 100_000), default=40, show_default=True)
@json_option
@pass_app
def list_(app: App, stages: tuple[str, ...], limit: int, as_json: bool) -> None:
    """The latest deliveries, newest first."""
    with app.desk() as desk:
        accounts = desk.recent(stages=tuple(Stage(s) for s in stages), limit=limit)
    if as_json:
        output.answer({"deliveries": [summary(a, app.program) for a in accounts]})
        return
    if not accounts:
        output.say("no deliveries" + (" at that stage" if stages else " yet"))
        return
    output.table(
        ("delivery", "stage", "labels", "files", "size", "changed"),
        (
            (
                str(a.delivery.id),
                output.stage_text(a.stage),
                str(a.delivery.labels),
                str(a.delivery.files or ""),
                output.size(a.delivery.bytes) if a.delivery.bytes else "",
                output.ago(a.changed_at),
            )
            for a in accounts
        ),
        right=("files", "size", "changed"),
        whole=("delivery", "stage"),
    )


@click.command()
@click.argument("delivery")
@json_option
@pass_app
def show(app: App, delivery: str, as_json: bool) -> None:
    """One delivery: where it is, what was found, what happened, what to do."""
    with app.desk() as desk:
        account = desk.account(delivery)
    if as_json:
        output.answer(
            summary(account, app.program)
            | {
                "findings": [f.as_dict() for f in account.findings],
                "events": [e.as_dict() for e in account.events],
                "receipt": receipt_document(account.receipt) if account.receipt else None,
            }
        )
        return
    about = account.delivery
    output.out.print(Text.assemble((str(about.id), "bold"), "  ", output.stage_text(account.stage)))
    output.say(f"{about.labels}   route {about.route}   {about.files} files, {output.size(about.bytes)}")
    if account.source:
        output.say(f"from {account.source}", style="dim")
    if account.findings:
        output.say("\nfindings", style="bold")
        for finding in account.findings:
            output.out.print(output.finding_line(finding), soft_wrap=True)
    output.say("\nevents", style="bold")
    output.table(
        ("at", "stage", ""),
        ((f"{e.at.astimezone():%d %b %H:%M:%S}", output.stage_text(e.stage), e.note) for e in account.events),
        whole=("at", "stage"),
    )
    if account.error:
        output.say(f"\n{account.error}", style="yellow")
    if account.receipt:
        output.say(f"\nreceipt: {_counts(account.receipt.counts)}  {account.receipt.repository.get('uri', '')}")
    if command := account.command(app.program):
        output.say()
        output.say_next(command)


@click.command()
@click.argument("delivery")
@click.option("--files", "with_files", is_flag=True, help="List every file, not only those that are not verified.")
@json_option
@pass_app
def receipt(app: App, delivery: str, with_files: bool, as_json: bool) -> None:
    """What the repository holds of a delivery, per file, signed."""
    with app.desk() as desk:
        account = desk.account(delivery)
    found = account.receipt
    if found is None:
        raise LadingError(
            f"{account.delivery.id} has no receipt yet; it is {account.stage}",
            safe="the source is never cleaned without a receipt",
            next_command=f"{app.program} show {account.delivery.id}",
        )
    inbox = inbox_holding(app.config, found.delivery)
    outcomes = inbox.read_outcomes(found.delivery) if inbox else iter(())
    if as_json:
        files: list[Json] = [
            {
                "path": o.path,
                "size": o.size,
                "sha256": o.sha256,
                "outcome": str(o.outcome),
                "how": o.how,
                "where": o.where,
            }
            for o in outcomes
        ]
        output.answer(receipt_document(found) | {"per_file": files})
        return
    output.say(f"RECEIPT  {found.delivery}  {found.stage}", style="bold")
    output.say(f"labels      {found.labels}   route {found.route}")
    target = found.repository
    output.say(f"repository  {target.get('kind', '')}  {target.get('uri') or target.get('url', '')}")
    output.say(f"content     {found.files} files, {output.size(found.bytes)}, digest {found.digest[:16]}…")
    output.say(f"proof       {_counts(found.counts)}")
    output.say(f"signed      {found.at.astimezone():%d %b %Y %H:%M:%S}  {found.signature[:16]}…")
    for finding in found.findings:
        output.out.print(output.finding_line(finding), soft_wrap=True)
    rows = (
        (o.path, str(o.outcome), output.size(o.size), o.how)
        for o in outcomes
        if with_files or o.outcome is not Outcome.VERIFIED
    )
    output.table(("file", "outcome", "size", "how"), rows, right=("size",))
    if not with_files:
        output.say_next(f"{app.program} receipt {found.delivery} --files", "every file: ")


def summary(account: Account, program: str) -> dict[str, Json]:
    """A delivery for machines; `show` adds findings, events and the receipt."""
    about = account.delivery
    return {
        "id": about.id,
        "route": about.route,
        "stage": str(account.stage),
        "labels": about.labels.as_dict(),
        "files": about.files,
        "bytes": about.bytes,
        "sent_files": account.sent_files,
        "sent_bytes": account.sent_bytes,
        "digest": about.digest,
        "sender": about.sender,
        "priority": about.priority,
        "source": account.source,
        "known_to": list(account.known_to),
        "attempt": account.attempt,
        "not_before": _iso(account.not_before),
        "changed_at": _iso(account.changed_at),
        "error": account.error,
        "next": account.command(program),
    }


def receipt_document(found: Receipt) -> dict[str, Json]:
    """A receipt for machines, without the per-file list."""
    return {
        "delivery": found.delivery,
        "route": found.route,
        "labels": found.labels.as_dict(),
        "stage": str(found.stage),
        "digest": found.digest,
        "files": found.files,
        "bytes": found.bytes,
        "counts": dict(found.counts),
        "repository": dict(found.repository),
        "findings": [f.as_dict() for f in found.findings],
        "files_digest": found.files_digest,
        "at": found.at.isoformat(),
        "signature": found.signature,
        "proves_all": found.proves_all,
    }


def _iso(moment: datetime | None) -> str | None:
    return moment.isoformat() if moment else None


def _counts(counts: Mapping[str, int]) -> str:
    return ", ".join(f"{number} {outcome}" for outcome, number in counts.items() if number) or "nothing"


def _first_problem(account: Account) -> str:
    return next((f.message for f in account.findings), "")


def _one_line(account: Account) -> Text:
    about = account.delivery
    return Text.assemble(
        (f"{about.id}  ", "dim"),
        (f"{about.labels}  ", "bold"),
        output.stage_text(account.stage),
        f"  {output.ago(account.changed_at)}",
    )


def _print_pulse(beats: list[Diagnosis]) -> None:
    for beat in beats:
        mark, style = {"ok": ("●", "green"), "warn": ("●", "yellow"), "fail": ("●", "red")}[beat.level]
        output.out.print(Text.assemble((f"{mark} ", style), f"{beat.area}: {beat.text}"))
