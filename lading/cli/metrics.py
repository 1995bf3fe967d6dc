"""Figures for monitoring, once: to the screen, as JSON, or into a file that a collector picks up."""

import sys
from contextlib import closing
from pathlib import Path

import click

from lading.cli import output
from lading.cli.context import App, json_option, pass_app
from lading.disk import write_whole
from lading.errors import ConfigError
from lading.metrics.collecting import Collector, programs_here
from lading.metrics.text import exposition


@click.command()
@click.option(
    "--out",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Write them to this file instead, whole or not at all: for node_exporter's textfile collector (NAME.prom).",
)
@json_option
@pass_app
def metrics(app: App, out: Path | None, as_json: bool) -> None:
    """The figures of this machine's programs, for monitoring. Needs no program to run; starts none, and no database."""
    programs = programs_here(app.config)
    if not programs:
        raise ConfigError(
            "the settings name neither an inbox nor a watched folder: there is nothing to measure",
            next_command="lading init",
        )
    with closing(Collector(app.config, programs)) as collector:
        figures = collector.figures()
    if as_json:
        output.answer({"figures": [figure.as_dict() for figure in figures]})
        return
    text, _ = exposition(figures)
    if out is None:
        sys.stdout.write(text.decode("utf-8"))
        return
    try:
        write_whole(out, text, mode=0o644)
    except OSError as exc:
        raise ConfigError(f"cannot write the figures to {out}: {exc.strerror}") from exc
