"""What can be plugged in here: `lading transports`."""

import dataclasses
from dataclasses import asdict, dataclass

import click
from rich.text import Text

from lading.assembly import make_transport
from lading.cli import output
from lading.cli.context import App, json_option, pass_app
from lading.config import Config
from lading.errors import ConfigError, LadingError
from lading.ports import TransportTraits
from lading.registry import names, part

_GROUP = "lading.transports"
_WORDS = {
    "resumes": "continues inside a file",
    "keeps_mtime": "keeps times",
    "lists_on_the_way": "lists while it copies",
    "third_party": "bytes go from host to host",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """An installed transport: its first line about itself, or what it `needs` before it can be used."""

    name: str
    summary: str
    needs: str = ""


@dataclass(frozen=True, slots=True)
class OfRoute:
    """What the transport of a route, as configured, can do; or the `error` in its settings."""

    route: str
    kind: str
    traits: TransportTraits | None
    error: str = ""

    def as_dict(self) -> dict[str, output.Json]:
        """route, kind, traits (name → true or false), error."""
        told = dataclasses.asdict(self.traits) if self.traits else {}
        flags = {name: value for name, value in told.items() if isinstance(value, bool)}
        return {"route": self.route, "kind": self.kind, "traits": flags, "error": self.error}

    def words(self) -> str:
        """For people."""
        return ", ".join(word for name, word in _WORDS.items() if getattr(self.traits, name, False)) or self.error


@click.command()
@json_option
@pass_app
def transports(app: App, as_json: bool) -> None:
    """The transports that are installed, and what those of your routes can do."""
    kinds = [_kind(name) for name in names(_GROUP)]
    routes = _routes(app)
    if as_json:
        output.answer({"transports": [asdict(kind) for kind in kinds], "routes": [route.as_dict() for route in routes]})
        return
    ready = Text("ready", style="green")
    output.table(
        ["transport", "carries", ""],
        [[kind.name, kind.summary, kind.needs or ready] for kind in kinds],
        whole=["transport"],
    )
    if routes:
        output.say()
        output.table(["route", "transport", "can"], [[route.route, route.kind, route.words()] for route in routes])


def _kind(name: str) -> Kind:
    try:
        found = part(_GROUP, name, where=f"transport {name}")
    except ConfigError as exc:
        return Kind(name, "", exc.next_command or exc.message)
    return Kind(name, (found.__doc__ or "").strip().partition("\n")[0])


def _routes(app: App) -> list[OfRoute]:
    """Without settings there are none, and that is no error here."""
    try:
        config = app.config
    except ConfigError:
        return []
    return [_route(config, name) for name, route in config.routes.items() if route.transport]


def _route(config: Config, name: str) -> OfRoute:
    kind = str(config.routes[name].transport.get("kind", ""))
    try:
        return OfRoute(name, kind, make_transport(config, name).traits)
    except LadingError as exc:
        return OfRoute(name, kind, None, exc.message)
