"""Acquisitions that are pushed while they go on: list, close, reopen."""

from collections.abc import Iterator
from contextlib import contextmanager

import click
from rich.text import Text

from lading.agent.live_view import LiveView, ask_to_close, meant, reopen, views_at
from lading.agent.outbox import OUTBOX_NAME, Outbox
from lading.cli import output
from lading.cli.context import App, Group, json_option, pass_app
from lading.errors import ConfigError

_LINK_STYLES = {"up": "green", "down": "bold red", "full": "bold yellow", "stopped": "bold yellow"}


@click.group(cls=Group)
def live() -> None:
    """Acquisitions that are pushed into a deposit folder while they go on."""


@live.command("list")
@json_option
@pass_app
def list_(app: App, as_json: bool) -> None:
    """The open acquisitions of this machine, and those closed within a day."""
    found = views_at(app.config.home)
    if as_json:
        output.answer({"live": [view.as_dict() for view in found]})
        return
    if not found:
        output.say("no acquisition is pushed live")
    for view in found:
        _show(view)
        if view.live.why and view.state == "acquiring":
            output.say(f"  {output.printable(view.live.why)}", style="dim")


@live.command()
@click.argument("acquisition")
@json_option
@pass_app
def close(app: App, acquisition: str, as_json: bool) -> None:
    """Close ACQUISITION (an id, or its folder) as soon as all of it is carried: nothing more is to come."""
    with _outbox(app) as outbox:
        delivery = meant(outbox, acquisition)
        ask_to_close(outbox, delivery)
    _done(app, delivery, "closes when the last file came to rest and is carried", as_json=as_json)


@live.command("reopen")
@click.argument("acquisition")
@json_option
@pass_app
def reopen_(app: App, acquisition: str, as_json: bool) -> None:
    """Go on with a closed ACQUISITION: what came late is carried, and it is closed once more."""
    with _outbox(app) as outbox:
        delivery = meant(outbox, acquisition)
        reopen(outbox, delivery)
    _done(app, delivery, "is open again", as_json=as_json)


def show_live(app: App) -> None:
    """A line per acquisition, for `lading status`."""
    for view in views_at(app.config.home):
        if view.state != "closed":
            _show(view)


def live_as_dicts(app: App) -> list[output.Json]:
    """The acquisitions for `lading status --json`."""
    return [view.as_dict() for view in views_at(app.config.home)]


def _show(view: LiveView) -> None:
    figures, link = view.figures, str(view.live.link)
    waiting = f", {figures.waiting} wait, lag {figures.lag_s:.0f} s" if figures.waiting else ""
    rate = f", {figures.files_per_s:.1f}/s" if figures.files_per_s else ""
    output.out.print(
        Text.assemble(
            ("live  ", "dim"),
            (f"{view.item.delivery.labels}  ", "bold"),
            f"{view.state}: {figures.files} files, {output.size(figures.bytes)}{rate}{waiting}  ",
            (f"link {link}" if link != "unknown" else "", _LINK_STYLES.get(link, "dim")),
            (f"  {view.item.id}", "dim"),
        ),
        soft_wrap=True,
    )


def _done(app: App, delivery: str, what: str, *, as_json: bool) -> None:
    if as_json:
        output.answer({"delivery": delivery})
        return
    output.say(f"{delivery} {what}")
    output.say_next(f"{app.program} live list")


@contextmanager
def _outbox(app: App) -> Iterator[Outbox]:
    if not (app.config.home / OUTBOX_NAME).is_file():
        raise ConfigError("this machine has no outbox: no agent ever ran here", next_command="lading agent run")
    outbox = Outbox(app.config.home)
    try:
        yield outbox
    finally:
        outbox.close()
