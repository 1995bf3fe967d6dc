"""The stand-in for Globus inside a test's own process, so that the test can reach into its world."""

import contextlib
import threading
import time
import uuid
from collections.abc import Iterator
from pathlib import Path

from lading.sandbox.globus.server import Server
from lading.sandbox.globus.world import Collection, World

CLIENT = "5f1c2d9e-0000-4000-8000-00000000abcd"
SECRET = "a-secret-of-the-globus-stand-in"  # noqa: S105 - of a server on loopback that lives for one test


@contextlib.contextmanager
def globus(instrument: Path, staging: Path) -> Iterator[Server]:
    """Two collections, "Microscope" (personal) and "Inbox"; the service account CLIENT with SECRET may use both."""
    collections = [
        Collection(str(uuid.uuid4()), "Microscope", instrument, personal=True),
        Collection(str(uuid.uuid4()), "Inbox", staging),
    ]
    server = Server(("127.0.0.1", 0), World(collections), {CLIENT: SECRET})
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        for task in list(server.world.tasks.values()):
            task.cancelled.set()
        server.shutdown()
        server.server_close()


def until_well(server: Server, seconds: float = 60) -> None:
    """Until no task is in trouble any more, once what troubled it is cured. Raises AssertionError."""
    deadline = time.monotonic() + seconds
    while any(task.active and task.facts["nice_status"] != "OK" for task in list(server.world.tasks.values())):
        assert time.monotonic() < deadline, [task.facts for task in server.world.tasks.values()]
        time.sleep(0.02)


def collection(server: Server, name: str) -> Collection:
    """The collection called `name`."""
    return next(one for one in server.world.collections.values() if one.name == name)


def settings_for(server: Server, top: Path, inbox: Path) -> dict[str, object]:
    """A route's transport table for the inbox at `inbox`, where both collections show `top`."""
    return {
        "account": _account(server, top),
        "source": {"collection": "Microscope", "root": str(top), "spool": str(top / "globus spool")},
        "inbox": {"collection": collection(server, "Inbox").id, "path": f"/{inbox.relative_to(top).as_posix()}"},
        "patience": 5,
    }


def fetch_settings_for(server: Server, top: Path) -> dict[str, object]:
    """A route's fetch table, without its template: from the collection APS:DM:32ID, where "Inbox" shows `top`."""
    return {
        "account": _account(server, top),
        "source": {"collection": "APS:DM:32ID"},
        "inbox": {"collection": collection(server, "Inbox").id, "root": str(top)},
        "patience": 5,
    }


def _account(server: Server, top: Path) -> dict[str, object]:
    secret = top / "globus-secret"
    if not secret.exists():
        secret.touch(mode=0o600)
        secret.write_text(f"{SECRET}\n")
    urls = {"auth_url": server.url, "transfer_url": server.url}
    return {"client": CLIENT, "secret": f"file:{secret}", **urls, "timeout": 20}
