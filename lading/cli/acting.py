"""Acting on deliveries: verify, retry, fix, release, pause, resume, cancel, clean."""

import sys
from dataclasses import replace
from datetime import UTC, datetime

import click

from lading.cleaning import Cleaned, cleaning
from lading.cli import output
from lading.cli.context import App, Misused, json_option, pass_app
from lading.cli.output import Json
from lading.cli.waiting import wait_for
from lading.delivery import DeliveryId, Labels
from lading.errors import LadingError, NotVerified


@click.command()
@click.argument("delivery")
@click.option("--wait/--no-wait", default=True, show_default=True, help="Wait for the answer.")
@click.option("--timeout", type=float, default=600, show_default=True, help="Seconds to wait.")
@click.option("--re-read", is_flag=True, help="Let OMERO read its disk again, instead of its database only.")
@json_option
@pass_app
def verify(app: App, delivery: str, wait: bool, timeout: float, re_read: bool, as_json: bool) -> None:
    """Read a delivery back from the repository again, file by file.

    As `omero transport verify`, with your own OMERO session: what you may see of it. Else the server reads, and signs anew.
    """
    asked = datetime.now(UTC)
    with app.desk() as desk:
        account = desk.account(delivery)
        found = account.delivery.id
        # What makes a server read its whole disk again is for the server's account to ask.
        own = None if re_read else app.in_person(account.delivery.route)
        if own is None:
            desk.verify(found, reread=re_read)
    if own is not None:
        from lading.cli.in_person import verify_in_person  # noqa: PLC0415 - only where somebody has a session

        whole = verify_in_person(own, account, app.sender(account.delivery.route), as_json=as_json)
        sys.exit(0 if whole else NotVerified.exit_code)
    if wait:
        wait_for(app, [found], timeout=timeout, as_json=as_json, since=asked)
    else:
        _done(found, "will be read back", as_json=as_json)


@click.command()
@click.argument("deliveries", nargs=-1, required=True)
@json_option
@pass_app
def retry(app: App, deliveries: tuple[str, ...], as_json: bool) -> None:
    """Try again what is held or waiting for its next attempt.

    Of several, one that cannot be tried again keeps none of the others; the exit code is that of the first such one.
    """
    done, failed = "is tried again", dict[DeliveryId, LadingError]()
    with app.desk() as desk:
        wanted = list(
            dict.fromkeys(desk.find(typed) for typed in deliveries)
        )  # before the first: a slip of the pen does nothing
        for found in wanted:
            try:
                desk.retry(found)
            except LadingError as exc:
                if len(wanted) == 1:
                    raise
                failed[found] = exc
                if not as_json:
                    output.fail(exc, as_json=False)
            else:
                if len(wanted) == 1 or not as_json:
                    _done(found, done, as_json=as_json)
    if as_json and len(wanted) > 1:
        rows: list[Json] = [
            {"id": found, "error": failed[found].as_dict()} if found in failed else {"id": found, "done": done}
            for found in wanted
        ]
        output.answer({"deliveries": rows})
    if failed:
        sys.exit(next(iter(failed.values())).exit_code)


@click.command()
@click.argument("delivery")
@click.option("--project", help="The right project.")
@click.option("--participant", help="The right participant.")
@click.option("--session", help="The right session.")
@click.option("--rename", metavar="PROJECT/PARTICIPANT/SESSION", help="All three at once.")
@json_option
@pass_app
def fix(
    app: App,
    delivery: str,
    project: str | None,
    participant: str | None,
    session: str | None,
    rename: str | None,
    as_json: bool,
) -> None:
    """Correct the labels of a refused delivery and send it on its way again."""
    with app.desk() as desk:
        account = desk.account(delivery)
        labels = _labels(rename) if rename else account.delivery.labels
        changes = {"project": project, "participant": participant, "session": session}
        labels = replace(labels, **{key: value for key, value in changes.items() if value})
        if labels == account.delivery.labels:
            raise click.UsageError("nothing to change: give --project, --participant, --session or --rename")
        desk.fix(account.delivery.id, labels)
    _done(account.delivery.id, f"released as {labels}", as_json=as_json)


@click.command()
@click.argument("delivery")
@json_option
@pass_app
def release(app: App, delivery: str, as_json: bool) -> None:
    """Take a refused delivery out of quarantine as it is, to be checked again (after the rule or the project was mended)."""
    with app.desk() as desk:
        found = desk.find(delivery)
        desk.release(found)
    _done(found, "released", as_json=as_json)


@click.command()
@click.argument("target", required=False)
@json_option
@pass_app
def pause(app: App, target: str | None, as_json: bool) -> None:
    """Stop starting work on a delivery, a route, a repository, or everything (`all`). What is running finishes its stage.

    What comes later waits too, and the agent cleans nothing of it, until `resume`.
    """
    if target is None:
        raise _nothing_named(app, "pause")
    with app.desk() as desk:
        desk.pause(target)
    _done(target, "paused", as_json=as_json)


@click.command()
@click.argument("target", required=False)
@json_option
@pass_app
def resume(app: App, target: str | None, as_json: bool) -> None:
    """Go on with what was paused: a delivery, a route, a repository, or everything (`all`)."""
    if target is None:
        raise _nothing_named(app, "resume")
    with app.desk() as desk:
        desk.resume(target)
    _done(target, "resumed", as_json=as_json)


@click.command()
@click.argument("delivery")
@click.option("--yes", is_flag=True, help="Do not ask.")
@json_option
@pass_app
def cancel(app: App, delivery: str, yes: bool, as_json: bool) -> None:
    """Give a delivery up. Its files stay at the source, and in quarantine; nothing is deleted anywhere."""
    with app.desk() as desk:
        account = desk.account(delivery)
        if not (yes or as_json):
            click.confirm(f"Give up {account.delivery.id} ({account.delivery.labels})?", abort=True)
        desk.cancel(account.delivery.id)
    _done(account.delivery.id, "cancelled; its files stay where they are", as_json=as_json)


@click.command()
@click.argument("deliveries", nargs=-1)
@click.option("--dry-run", is_flag=True, help="List what would go; remove nothing.")
@click.option(
    "--now", is_flag=True, help="Do not wait for the grace period (a receipt for every file is still required)."
)
@json_option
@pass_app
def clean(app: App, deliveries: tuple[str, ...], dry_run: bool, now: bool, as_json: bool) -> None:
    """Remove sources, and published copies in inboxes, that the repository provably holds.

    Only where cleaning is configured, after the grace period, against a receipt for every file, and after reading the
    source again. What was removed is kept as a list beside the receipt.
    """
    with app.desk() as desk:
        wanted = {account.delivery.id: account.stage for account in map(desk.account, deliveries)}
    lines: list[Cleaned] = []
    failure: LadingError | None = None
    try:
        lines.extend(cleaning(app.config, list(wanted), dry_run=dry_run, ignore_grace=now))
    except LadingError as exc:  # what was removed until then is told all the same
        failure = exc
    else:
        told = {line.delivery for line in lines}
        lines += [
            Cleaned(one, "nothing to clean", 0, 0, f"it is {stage}") for one, stage in wanted.items() if one not in told
        ]
    if as_json:
        rows: list[Json] = [line.as_dict() for line in lines]
        document: dict[str, Json] = {"dry_run": dry_run, "cleaned": rows}
        output.answer(document | {"error": failure.as_dict()} if failure else document)
        sys.exit(failure.exit_code if failure else 0)
    if lines:
        output.table(
            ("delivery", "what", "files", "size", "why"),
            ((line.delivery, line.what, str(line.files), output.size(line.bytes), line.why) for line in lines),
            right=("files", "size"),
        )
    elif not failure:
        output.say("nothing to clean")
    if dry_run:
        output.say("dry run: nothing was removed", style="bold")
    if failure:
        raise failure


def _nothing_named(app: App, verb: str) -> Misused:
    """Whoever forgets the name must not stop (or start) everything: that takes a word of its own."""
    routes, repositories = (", ".join(sorted(names)) for names in (app.config.routes, app.config.repositories))
    named = [f"{kind} ({names})" for kind, names in (("a route", routes), ("a repository", repositories)) if names]
    return Misused(
        f"{verb} what? Name {', '.join(['a delivery (its id)', *named])}; everything is: {app.program} {verb} all",
        safe=f"nothing was {verb}d",
        next_command=f"{app.program} {verb} --help",
    )


def _labels(text: str) -> Labels:
    parts = text.split("/")
    if len(parts) != 3 or not all(parts):
        raise click.BadParameter("give PROJECT/PARTICIPANT/SESSION", param_hint="--rename")
    return Labels(*parts)


def _done(what: str, text: str, *, as_json: bool) -> None:
    if as_json:
        output.answer({"id": what, "done": text})
    else:
        output.say(f"{what} {text}")
