"""What a test may do to the stand-in from another process: JSON lines over TCP. No OMERO has this.

Each line is `{"token": …, "do": "faults", …}`; each answer `{"ok": …}` or `{"error": "…"}`. The token is in the ready
file, which only our own account can read.
"""

import dataclasses
import hmac
import json
import secrets
import socketserver
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import cast

from lading.sandbox.omero.sessions import End
from lading.sandbox.omero.site import Site
from lading.sandbox.omero.wire import HOST

_MAX_LINE = 1 << 20
Arguments = Mapping[str, object]


def _faults(site: Site, given: Arguments) -> object:
    """Set the knobs that are given; `reset` puts all of them back first. Gives all of them."""
    if given.get("reset"):
        site.faults.reset()
    knobs = given.get("knobs", {})
    site.faults.update(cast("Mapping[str, object]", knobs))
    return site.faults.as_dict()


def _counts(site: Site, given: Arguments) -> object:
    """How often each operation was called."""
    return dict(site.counts)


def _queries(site: Site, given: Arguments) -> object:
    """The distinct texts of HQL seen, and how often."""
    return dict(site.queries)


def _use(site: Site, given: Arguments) -> object:
    """How busy slots and connections are."""
    return {name: dataclasses.asdict(use) for name, use in site.background.use().items()}


def _records(site: Site, given: Arguments) -> object:
    """How many records of a class there are."""
    return site.store.count(str(given["cls"]))


def _sessions(site: Site, given: Arguments) -> object:
    """The open sessions: user → how many."""
    users: dict[str, int] = {}
    for session in site.sessions.all():
        users[session.user_name] = users.get(session.user_name, 0) + 1
    return users


def _end_sessions(site: Site, given: Arguments) -> object:
    """Close every session (of one user), as an administrator or a time-out (`idle`) would."""
    chosen = [each for each in site.sessions.all() if given.get("user") in (None, each.user_name)]
    for session in chosen:
        site.sessions.end(session, End.IDLE if given.get("idle") else End.CLOSED)
    return len(chosen)


def _log(site: Site, given: Arguments) -> object:
    """What only the server knows."""
    return list(site.log)


COMMANDS: dict[str, Callable[[Site, Arguments], object]] = {
    "counts": _counts,
    "end-sessions": _end_sessions,
    "faults": _faults,
    "log": _log,
    "queries": _queries,
    "records": _records,
    "sessions": _sessions,
    "use": _use,
}


@contextmanager
def listening(site: Site) -> Iterator[tuple[int, str]]:
    """Obey commands meanwhile; gives the port and the token."""
    token = secrets.token_hex(16)

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            while line := self.rfile.readline(_MAX_LINE):
                self.wfile.write(json.dumps(_obeyed(site, token, line)).encode("utf-8") + b"\n")

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with Server((HOST, 0), Handler) as server:
        threading.Thread(target=server.serve_forever, args=(0.1,), daemon=True).start()
        try:
            yield server.server_address[1], token
        finally:
            server.shutdown()


def _obeyed(site: Site, token: str, line: bytes) -> dict[str, object]:
    try:
        given = json.loads(line)
        if not hmac.compare_digest(str(given.pop("token", "")), token):
            return {"error": "wrong token"}
        return {"ok": COMMANDS[str(given.pop("do", ""))](site, given)}
    except Exception as error:  # noqa: BLE001 - the edge: a test that asks wrongly shall read why
        return {"error": f"{type(error).__name__}: {error}"}
