"""Waits for the end of an import that the server has begun: woken by the server's call, if it comes, and asking in any case."""

import threading
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Self
from uuid import uuid4

from lading.errors import TargetUnavailable
from omero_importer import graphs
from omero_importer.ice import Ice, cmd, omero
from omero_importer.session import Connection

_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _GROWTH = 0.05, 2.0, 1.5
"""Only for when the server's call that an import has ended gets lost."""


def end_of_import(connection: Connection, handle: "cmd.HandlePrx", patience: float, doing: str) -> "cmd.Response":
    """What came of it. Raises TargetUnavailable after `patience` seconds, and as Ice does."""
    until, pause = time.monotonic() + patience, _FIRST_PAUSE_S
    with _Callback(connection, handle) as finished:
        while (answer := finished.heard(pause) or handle.getResponse()) is None:
            if time.monotonic() > until:
                raise TargetUnavailable(
                    f"{doing} at {connection.server}: no end in sight after {patience:.0f} s",
                    safe="The files are in the inbox.",
                    next_command="lading retry",
                )
            pause = min(pause * _GROWTH, _LONGEST_PAUSE_S)
    return answer


def running_import(connection: Connection, fileset: int, patience: float) -> bool:
    """Whether the server was importing the Fileset, on behalf of somebody who is gone; waits for its end."""
    for process in connection.repository().listImports():
        with suppress(Ice.ObjectNotExistException, omero.ApiUsageException, omero.ResourceError):
            handle = process.getHandle()
            if handle is not None and handle.getRequest().activity.parent.id.val == fileset:
                graphs.response(handle, patience, f"waiting for the import of Fileset {fileset} that is under way")
                return True
    return False


class _Callback:
    """The server's call when an import has ended, with what came of it. It may be lost, or come twice."""

    def __init__(self, connection: Connection, handle: "cmd.HandlePrx") -> None:
        self._connection, self._handle = connection, handle
        self._event = threading.Event()
        self._response: cmd.Response | None = None
        self._identity = Ice.Identity(uuid4().hex, connection.callback_category)

    def __enter__(self) -> Self:
        adapter = self._connection.client.getAdapter()
        proxy = adapter.add(_Finished(self._tell), self._identity)
        # Not waited for: were it lost, asking is what is left, as when the call itself is lost.
        self._handle.begin_addCallback(cmd.CmdCallbackPrx.uncheckedCast(proxy))
        return self

    def heard(self, patience: float) -> "cmd.Response | None":
        """The response, once the call has come; None when it has not for so many seconds."""
        self._event.wait(patience)
        self._event.clear()
        return self._response

    def _tell(self, response: "cmd.Response | None") -> None:
        self._response = response
        self._event.set()

    def __exit__(self, *_: object) -> None:
        with suppress(Ice.Exception):
            self._connection.client.getAdapter().remove(self._identity)


class _Finished(cmd.CmdCallback):  # type: ignore[misc]  # generated code has no types
    """Hears from the server."""

    def __init__(self, tell: "Callable[[cmd.Response | None], None]") -> None:
        self._tell = tell

    def step(self, complete: int, total: int, current: object = None) -> None:
        """One of five steps is done."""

    def finished(self, response: "cmd.Response | None", status: object, current: object = None) -> None:  # noqa: ARG002 - Ice's signature
        """The import has ended."""
        self._tell(response)
