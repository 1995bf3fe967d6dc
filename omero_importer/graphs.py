"""Removes things from OMERO together with what hangs on them, as OMERO's own clients do: by `Delete2`."""

import time
from collections.abc import Sequence

from lading.errors import TargetMissing, TargetUnavailable
from omero_importer.ice import cmd
from omero_importer.session import Connection

_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _GROWTH = 0.01, 1.0, 1.5
_PATIENCE_S = 600.0


def delete(connection: Connection, kind: str, ids: Sequence[int], *, doing: str) -> None:
    """Remove the objects, if they are still there. Raises TargetUnavailable, TargetMissing when we may not; and as Ice does."""
    request = cmd.Delete2(targetObjects={kind: list(ids)})
    handle = connection.factory.submit(request)
    try:
        answer = response(handle, _PATIENCE_S, doing)
    finally:
        handle.close()
    if not isinstance(answer, cmd.ERR):
        return
    if "permission" in f"{answer.category} {answer.name}".lower() or "security" in f"{answer.name}".lower():
        raise TargetMissing(
            f"{doing} at {connection.server}: our account {connection.user!r} may not remove {kind} {ids[0]}",
            next_command="remove it in OMERO, then: lading retry",
        )
    raise TargetUnavailable(f"{doing} at {connection.server}: {answer.name}", next_command="lading retry")


def response(handle: "cmd.HandlePrx", patience: float, doing: str) -> "cmd.Response":
    """What the server says in the end. Raises TargetUnavailable after `patience` seconds."""
    until, pause = time.monotonic() + patience, _FIRST_PAUSE_S
    while (answer := handle.getResponse()) is None:
        if time.monotonic() > until:
            raise TargetUnavailable(f"{doing}: no end in sight after {patience:.0f} s", next_command="lading retry")
        time.sleep(pause)
        pause = min(pause * _GROWTH, _LONGEST_PAUSE_S)
    return answer
