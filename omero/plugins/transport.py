"""Registers `omero transport`: the commands of `lading`, inside OMERO's own command line."""

import contextlib

from omero.cli import BaseControl

HELP = """Carry imaging data to OMERO or XNAT, with proof (not `omero transfer`, which moves annotated data between servers)"""


class TransportControl(BaseControl):
    """Takes the login options and hands the rest to the click tree of `lading`, which is imported when a command runs."""

    def _configure(self, parser):
        parser.add_login_arguments()
        parser.add_argument("--config", metavar="FILE", help="settings file, as for lading")
        parser.add_argument("--version", action="store_true", help="show the version of Lading")
        parser.add_argument("command", nargs="...", help="a command, its options and arguments (see below)")
        parser.set_defaults(func=self)
        start = parser.format_help

        def format_help():
            from lading.cli.person import commands

            return f"{start()}\n{commands()}\n"

        parser.format_help = format_help

    def __call__(self, args):
        """Run the command as the person whose OMERO session this is. Leaves with the command's exit code."""
        from lading.cli import main
        from omero_importer.cli_session import OmeroPerson

        wanted = [
            *(["--config", args.config] if args.config else []),
            *(["--version"] if args.version else []),
            *args.command,
        ]
        if not wanted:
            self.parser.print_help()
            return
        person = OmeroPerson(self.ctx, args)
        try:
            main(wanted, program="omero transport", person=person)
        except SystemExit as exc:
            if exc.code == 2 and person.misplaced(args.command):
                self.ctx.err("login options come before the command: omero transport -u NAME … COMMAND")
            raise


with contextlib.suppress(NameError):  # imported by anything else than omero's cli.py, it does nothing
    register("transport", TransportControl, HELP)
