"""Registers `omero transport`: the commands of `lading`, inside OMERO's own command line."""

import contextlib

from omero.cli import BaseControl

HELP = """Carry imaging data to OMERO or XNAT, with proof (not `omero transfer`, which moves annotated data between servers)"""


class TransportControl(BaseControl):
    """Hands its arguments to the click tree of `lading`, which is only imported when the command runs."""

    def _configure(self, parser):
        parser.add_argument("args", nargs="...", help="a command of lading; see: omero transport --help")
        parser.set_defaults(func=self)

    def __call__(self, args):
        """Run `lading ARGS`."""
        from lading.cli.main import lading

        lading(args=list(args.args), prog_name="omero transport")


with contextlib.suppress(NameError):  # imported by anything else than omero's cli.py, it does nothing
    register("transport", TransportControl, HELP)
