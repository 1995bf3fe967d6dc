"""Globus: a person's log-in, by a link that may be opened on any computer and a code that is pasted here."""

from typing import TYPE_CHECKING, cast

import click

from lading.cli import output
from lading.cli.context import App, pass_app
from lading.config import Config, relative_to
from lading.errors import ConfigError
from lading.pulling import fetched_place

if TYPE_CHECKING:
    from transport.globus import GlobusTransport
    from transport.globus_fetch import GlobusSource

_NOT_OURS = ("kind", "throttle", "retry")


@click.group()
def globus() -> None:
    """Globus: log in."""


@globus.command("login")
@click.argument("route")
@click.option("--consent", is_flag=True, help="Also consent that we read and write in the route's two collections.")
@pass_app
def login(app: App, route: str, consent: bool) -> None:
    """Log in at Globus for ROUTE. What it leaves is kept in a file that only this account can read.

    No screen is needed: open the link on any computer, and paste the code here.
    """
    end = _end(app.config, route)
    end.login(_pasted, consent=consent)
    end.probe()
    output.say(
        "logged in; the inbox is there" if app.config.route(route).transport else "logged in; the folder is there"
    )


def _end(config: Config, route: str) -> "GlobusTransport | GlobusSource":
    """What the route has of Globus: its transport, or where it fetches from."""
    chosen = config.route(route)
    kinds = {name: dict(table) for name, table in (("transport", chosen.transport), ("fetch", chosen.fetch))}
    if not any(table.get("kind") == "globus" for table in kinds.values()):
        raise ConfigError(
            f"neither transport nor fetch of the route {route} is of the kind globus: there is nobody to log in",
            next_command=f"edit {config.file}",
        )
    try:
        from transport.globus import GlobusTransport  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise ConfigError("globus needs the extra: pip install 'lading[globus]'") from exc
    if kinds["transport"].get("kind") == "globus":
        settings = {key: value for key, value in kinds["transport"].items() if key not in _NOT_OURS}
        with relative_to(config.folder):
            return GlobusTransport.from_settings(settings, state=config.home)
    return cast("GlobusSource", fetched_place(config, route))


def _pasted(link: str) -> str:
    output.say("Open this link in a browser, on any computer, and log in:\n")
    click.echo(link)
    answer: str = click.prompt("\nPaste the code here", type=str)
    return answer
