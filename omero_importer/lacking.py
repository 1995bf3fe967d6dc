"""What this machine lacks for a route to import as its settings ask, each with the command that mends it."""

import shutil
from collections.abc import Iterator
from pathlib import Path

from lading.findings import Finding, error, warning
from omero_importer.bioformats import install, missing_for_bioformats
from omero_importer.cli_command import missing_for_cli
from omero_importer.settings import RepositorySettings, RouteSettings

_JAVA = "apt-get install default-jre-headless"


def lacking(server: RepositorySettings, route: RouteSettings) -> Iterator[Finding]:
    """Errors: no import can be made. Warnings: some files are refused that would otherwise be taken."""
    if server.bioformats.use == "auto" and (missing := missing_for_bioformats(server.bioformats)):
        yield warning(
            "bioformats-missing",
            f"formats of several files, and those that only Bio-Formats knows, are refused: {missing.partition(':')[0]}",
            hint=install(missing),
        )
    if route.engine == "cli":
        yield from _cli(server)


def _cli(server: RepositorySettings) -> Iterator[Finding]:
    if missing := missing_for_cli(server.cli.command):
        yield error(
            "omero-cli-missing",
            f'import.engine = "cli" needs a program: {missing}',
            hint="pip install 'lading[omero]'" if shutil.which("java") else _JAVA,
        )
    jars = Path(server.cli.client_dir)
    if not server.cli.client_dir or not any(jars.rglob("*.jar")):
        yield error(
            "omero-java-missing",
            f'import.engine = "cli" needs the jars of OMERO.java; there are none in cli.client_dir = {server.cli.client_dir!r}',
            hint="unpack OMERO.java of your server's version, and name its folder in cli.client_dir",
        )
