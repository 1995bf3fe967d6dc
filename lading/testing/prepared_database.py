"""The database of a server, ready before its first start: made once in each process of a test run, and copied from then on.

For tests of what happens later. That a server makes its database by itself is the matter of tests of their own.
"""

import functools
import subprocess
from pathlib import Path

from lading.engine import database
from lading.engine.postgres import Cluster
from lading.testing.guardian import shared_folder


def prepare_database(folder: Path) -> None:
    """Put the data of an embedded database at `folder` (`home/postgres`), its schema up to date; one that is there stays."""
    if (folder / "data").exists():
        return
    folder.parent.mkdir(mode=0o700, parents=True, exist_ok=True)  # as the server makes it
    folder.mkdir(exist_ok=True)
    fresh = folder / "data.copy"
    # With the owner: PostgreSQL starts on nobody else's data.
    subprocess.run(["cp", "-a", str(_template()), str(fresh)], check=True, stdin=subprocess.DEVNULL)
    fresh.rename(folder / "data")


@functools.cache
def _template() -> Path:
    cluster = Cluster(shared_folder() / "database")
    with cluster.used() as dsn:
        database.migrate(dsn)
    return cluster.data
