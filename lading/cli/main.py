"""The click tree: `lading`, and the same tree as `omero transport`.

Commands live beside this file by what a person wants: set up, send, serve, look, act.
"""

import logging
import sys
from pathlib import Path

import click

from lading import __version__, log
from lading.cli import (
    acting,
    dicom,
    disks,
    fetching,
    globus,
    installed,
    live,
    looking,
    metrics,
    sending,
    serving,
    setting_up,
)
from lading.cli.context import App, Group

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


for command in (
    setting_up.init,
    setting_up.doctor,
    sending.send,
    sending.agent,
    fetching.fetch,
    disks.disk,
    globus.globus,
    dicom.dicom,
    installed.transports,
    serving.inbox,
    serving.server,
    serving.sandbox,
    looking.status,
    looking.list_,
    looking.show,
    looking.receipt,
    live.live,
    metrics.metrics,
    acting.verify,
    acting.retry,
    acting.fix,
    acting.release,
    acting.pause,
    acting.resume,
    acting.cancel,
    acting.clean,
):
    lading.add_command(command)


if __name__ == "__main__":
    sys.exit(lading())
