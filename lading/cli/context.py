"""What every command shares: settings found late, both memories, and errors shown in one way."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import click

from lading.cli import output
from lading.cli.person import Person
from lading.config import Config, find_config, load
from lading.desk import Desk
from lading.errors import LadingError

F = TypeVar("F", bound=Callable[..., object])

JSON_KEY = "lading.json"
_LINES_KEY = "lading.json-lines"


class App:
    """One call of the program. Settings are read only when a command needs them, so that help always works."""

    def __init__(self, *, config_file: Path | None, program: str, person: Person | None = None) -> None:
        self._config_file = config_file
        self._person = person
        self.program = program

    @cached_property
    def config(self) -> Config:
        """The settings. Raises ConfigError; a person who said who they are is logged in, and may be refused."""
        config = load(find_config(self._config_file))
        if self._person and self._person.insists:
            self._person.settings(config)
        return config

    @cached_property
    def own_config(self) -> Config:
        """The settings for what is done in person: with the session of whoever types, where they have one. Raises as `config`."""
        return self._person.settings(self.config) if self._person else self.config

    def in_person(self, route: str) -> Config | None:
        """The settings with the session of whoever types, where it opens the repository of `route`. Raises as `config`."""
        return self._person.reads(self.config, route) if self._person else None

    def sender(self, route: str) -> str:
        """Who sends by `route`, where that is somebody in the repository; else "". Raises ConfigError, AccessDenied."""
        return self._person.sender(self.config, route) if self._person else ""

    @contextmanager
    def desk(self) -> Iterator[Desk]:
        """Both memories of this machine, the server's and the agent's, as one."""
        from lading.assembly import open_desk  # noqa: PLC0415 - brings everything along; not every command needs it

        with open_desk(self.config) as desk:
            yield desk


class Misused(LadingError):
    """The command line cannot be read: click's own errors, for who asked for JSON."""

    code = "usage"
    exit_code = click.UsageError.exit_code


class Group(click.Group):
    """A group whose errors leave as one message, with the exit code of their class. In the order they were added."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """As click does; whether somebody asked for JSON is noted before anything can be wrong."""
        ctx.meta.update({JSON_KEY: "--json" in args, _LINES_KEY: "--json-lines" in args})
        return super().parse_args(ctx, args)

    def list_commands(self, ctx: click.Context) -> list[str]:  # noqa: ARG002 - click's signature
        """As added: the order in which a newcomer meets them."""
        return list(self.commands)

    def invoke(self, ctx: click.Context) -> object:
        """Run, and translate our errors."""
        try:
            return super().invoke(ctx)
        except LadingError as exc:
            output.fail(exc, as_json=wants_json(ctx), as_lines=wants_lines(ctx))
            sys.exit(exc.exit_code)
        except click.UsageError as exc:
            if not (wants_json(ctx) or wants_lines(ctx)):
                raise
            ask = f"{exc.ctx.command_path if exc.ctx else ctx.command_path} --help"
            misused = Misused(exc.format_message(), safe="nothing was done", next_command=ask)
            output.fail(misused, as_json=wants_json(ctx), as_lines=wants_lines(ctx))
            sys.exit(misused.exit_code)


def wants_json(ctx: click.Context) -> bool:
    """Whether the command that ran was asked for JSON."""
    return bool(ctx.find_root().meta.get(JSON_KEY))


def json_option(function: F) -> F:
    """`--json`: one JSON document on stdout, errors included."""

    def remember(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
        ctx.find_root().meta[JSON_KEY] = value
        return value

    return click.option("--json", "as_json", is_flag=True, callback=remember, help="Answer as JSON, for machines.")(
        function
    )


def wants_lines(ctx: click.Context) -> bool:
    """Whether the command that ran was asked for a line of JSON per step."""
    return bool(ctx.find_root().meta.get(_LINES_KEY))


def lines_option(function: F) -> F:
    """`--json-lines`: one JSON object per line while it goes on, the answer in the last one; errors included."""

    def remember(ctx: click.Context, _: click.Parameter, value: bool) -> bool:
        ctx.find_root().meta[_LINES_KEY] = value
        return value

    return click.option(
        "--json-lines",
        "as_lines",
        is_flag=True,
        callback=remember,
        help="With --wait: one JSON object per line while it goes on; the last one is the answer.",
    )(function)


pass_app = click.make_pass_decorator(App)
