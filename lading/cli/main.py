"""The click tree: `lading`, and the same tree as `omero transport`.

Commands live beside this file by what a person wants: set up, send, serve, look, act.
"""

import logging
import sys
from collections.abc import Iterator, Mapping, MutableMapping
from importlib import import_module
from pathlib import Path

import click

from lading import __version__, log
from lading.cli.context import App, Group

COMMANDS = {
    "init": "setting_up:init",
    "doctor": "setting_up:doctor",
    "send": "sending:send",
    "agent": "sending:agent",
    "fetch": "fetching:fetch",
    "disk": "disks:disk",
    "globus": "globus:globus",
    "dicom": "dicom:dicom",
    "transports": "installed:transports",
    "inbox": "serving:inbox",
    "server": "serving:server",
    "sandbox": "serving:sandbox",
    "status": "looking:status",
    "list": "looking:list_",
    "show": "looking:show",
    "receipt": "looking:receipt",
    "live": "live:live",
    "metrics": "metrics:metrics",
    "verify": "acting:verify",
    "retry": "acting:retry",
    "fix": "acting:fix",
    "release": "acting:release",
    "pause": "acting:pause",
    "resume": "acting:resume",
    "cancel": "acting:cancel",
    "clean": "acting:clean",
}
"""The commands in the order in which a newcomer meets them, and where each lies: MODULE:NAME below this package."""

EPILOG = """
Morning question: lading status. Something wrong: lading doctor. One delivery: lading show ID.
Exit codes: 0 done, 2 usage or settings, 3 transport, 4 rejected, 5 repository, 6 database, 7 not finished in time, 70 a bug.
"""


@click.group(cls=Group, epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"]})
@click.option(
    "--config",
    "config_file",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Settings file; else $LADING_CONFIG, ./lading.toml, then the user's and the site's.",
)
@click.version_option(__version__, prog_name="lading")
@click.pass_context
def lading(ctx: click.Context, config_file: Path | None) -> None:
    """Carry imaging data from the instrument to OMERO and XNAT, and prove that it arrived."""
    # Programs that run on their own tell what they do; a command that a person typed only speaks up.
    log.set_up(level=logging.INFO if ctx.invoked_subcommand in ("agent", "server", "dicom") else logging.WARNING)
    ctx.obj = App(config_file=config_file, program=ctx.info_name or "lading", person=ctx.obj)


class Lazily(MutableMapping[str, click.Command]):
    """The commands by name, each imported when it is asked for: a scanner's hook shall not wait for what it does not use."""

    def __init__(self, where: Mapping[str, str]) -> None:
        self._where = where
        self._there: dict[str, click.Command | None] = dict.fromkeys(where)

    def __getitem__(self, name: str) -> click.Command:
        found = self._there[name]
        if found is None:
            module, _, attribute = self._where[name].partition(":")
            found = self._there[name] = getattr(import_module(f"lading.cli.{module}"), attribute)
        return found

    def __setitem__(self, name: str, command: click.Command) -> None:
        self._there[name] = command

    def __delitem__(self, name: str) -> None:
        del self._there[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._there)

    def __len__(self) -> int:
        return len(self._there)


lading.commands = Lazily(COMMANDS)


if __name__ == "__main__":
    sys.exit(lading())
