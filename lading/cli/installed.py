"""What can be plugged in here: `lading transports`."""

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import click
from rich.text import Text

from lading.assembly import make_transport
from lading.cli import output
from lading.cli.context import App, json_option, pass_app
from lading.config import Config, relative_to
from lading.errors import ConfigError, LadingError
from lading.ports import Transport, TransportTraits
from lading.registry import names, part
from transport.examples import EXAMPLES

_GROUP = "lading.transports"
_WORDS = {
    "resumes": "continues inside a file",
    "keeps_mtime": "keeps times",
    "lists_on_the_way": "lists while it copies",
    "third_party": "bytes go from host to host",
}


@dataclass(frozen=True, slots=True)
class Kind:
    """An installed transport: its first line about itself, or what it `needs` before it can be used.

    `traits`: with the smallest settings there are; None for a plug-in that only its routes can tell of. `fetches`: a route can
    fetch by it, too.
    """

    name: str
    summary: str
    needs: str = ""
    traits: TransportTraits | None = None
    fetches: bool = False

    def as_dict(self) -> dict[str, output.Json]:
        """name, summary, needs, traits (name → true or false), fetches."""
        told: dict[str, output.Json] = {"name": self.name, "summary": self.summary, "needs": self.needs}
        return told | {"traits": _flags(self.traits), "fetches": self.fetches}

    def words(self) -> str:
        """For people."""
        return ", ".join([*_words(self.traits), *(["can be fetched from"] if self.fetches else [])])


@dataclass(frozen=True, slots=True)
class OfRoute:
    """What the transport of a route, as configured, can do; or the `error` in its settings."""

    route: str
    kind: str
    traits: TransportTraits | None
    error: str = ""

    def as_dict(self) -> dict[str, output.Json]:
        """route, kind, traits (name → true or false), error."""
        return {"route": self.route, "kind": self.kind, "traits": _flags(self.traits), "error": self.error}

    def words(self) -> str:
        """For people."""
        return ", ".join(_words(self.traits)) or self.error


@click.command()
@json_option
@pass_app
def transports(app: App, as_json: bool) -> None:
    """The transports that are installed and what they can do, and what those of your routes can do as configured."""
    kinds = [_kind(name) for name in names(_GROUP)]
    routes = _routes(app)
    if as_json:
        output.answer(
            {"transports": [kind.as_dict() for kind in kinds], "routes": [route.as_dict() for route in routes]}
        )
        return
    ready = Text("ready", style="green")
    output.table(
        ["transport", "carries", "can", ""],
        [[kind.name, kind.summary, kind.words(), kind.needs or ready] for kind in kinds],
        whole=["transport"],
    )
    if routes:
        output.say()
        output.table(["route", "transport", "can"], [[route.route, route.kind, route.words()] for route in routes])


def _kind(name: str) -> Kind:
    summary = ""
    try:
        found = part(_GROUP, name, where=f"transport {name}")
        summary = (found.__doc__ or "").strip().partition("\n")[0]
        traits = _traits(name, found)  # some look for their library only now
    except ConfigError as exc:
        return Kind(name, summary, exc.next_command or exc.message)
    return Kind(name, summary, "", traits, "place_type" in vars(found))  # inherited, it is another kind's


def _traits(name: str, found: object) -> TransportTraits | None:
    if name not in EXAMPLES:
        return None
    with relative_to(Path.cwd()):
        made = cast("Transport", found.from_settings(EXAMPLES[name], state=Path.cwd()))  # type: ignore[attr-defined]  # the role of a part's class
    return made.traits


def _flags(traits: TransportTraits | None) -> dict[str, output.Json]:
    told = dataclasses.asdict(traits) if traits else {}
    return {name: value for name, value in told.items() if isinstance(value, bool)}


def _words(traits: TransportTraits | None) -> list[str]:
    return [word for name, word in _WORDS.items() if getattr(traits, name, False)]


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
