"""Globus: a person's log-in, by a link that may be opened on any computer and a code that is pasted here."""

from typing import TYPE_CHECKING

import click

from lading.cli import output
from lading.cli.context import App, pass_app
from lading.config import Config, relative_to
from lading.errors import ConfigError

if TYPE_CHECKING:
    from transport.globus import GlobusTransport

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
    transport = _transport(app.config, route)
    transport.login(_pasted, consent=consent)
    transport.probe()
    output.say("logged in; the inbox is there")


def _transport(config: Config, route: str) -> "GlobusTransport":
    settings = dict(config.route(route).transport)
    if settings.get("kind") != "globus":
        raise ConfigError(f"routes.{route}.transport is not of the kind globus: there is nobody to log in")
    try:
        from transport.globus import GlobusTransport  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise ConfigError("globus needs the extra: pip install 'lading[globus]'") from exc
    with relative_to(config.folder):
        return GlobusTransport.from_settings(
            {key: value for key, value in settings.items() if key not in _NOT_OURS}, state=config.home
        )


def _pasted(link: str) -> str:
    output.say("Open this link in a browser, on any computer, and log in:\n")
    click.echo(link)
    answer: str = click.prompt("\nPaste the code here", type=str)
    return answer
