"""omero.cmd.Handle: long work in steps, with a response at the end that clients poll or are called back with."""

import threading
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

import Ice
import omero
import omero.cmd

from lading.sandbox.omero.services.base import Service
from lading.sandbox.omero.sessions import Session
from lading.sandbox.omero.wire import LOG, servant

if TYPE_CHECKING:
    from lading.sandbox.omero.site import Site

Step = Callable[[], omero.cmd.Response | None]
"""One step; the last one's result is the response. What it raises ends the work with an ERR."""


class StepFailed(Exception):
    """Raised by a step that knows the ERR it wants: its name ("import-unknown-format") and parameters."""

    def __init__(self, name: str, parameters: dict[str, str]) -> None:
        super().__init__(name)
        self.name, self.parameters = name, parameters


@servant
class Handle(Service, omero.cmd.Handle):
    """Made by `begin`; belongs to its session."""

    def __init__(self, site: "Site", session: Session, request: omero.cmd.Request, steps: Sequence[Step]) -> None:
        super().__init__(site, session)
        self._request, self._steps = request, steps
        self._lock = threading.Lock()
        self._callbacks: dict[str, Ice.ObjectPrx] = {}
        self._response: omero.cmd.Response | None = None
        self._result: omero.cmd.Response = omero.cmd.OK()
        self._cancelled = threading.Event()
        self._status = omero.cmd.Status()
        self._status.flags, self._status.steps, self._status.currentStep = [], len(steps), 0
        self.tell_finished = True
        """False loses the `finished` callbacks, which a network may do: clients must poll as well."""

    # -- what Slice asks for ----------------------------------------------------------------------------------------

    def addCallback(self, callback: Ice.ObjectPrx, current: Ice.Current) -> None:
        proxy = omero.cmd.CmdCallbackPrx.uncheckedCast(self.site.callback(callback, current))
        with self._lock:
            self._callbacks[_name(callback)] = proxy
            response = self._response
        if response is not None and self.tell_finished:
            self._tell(proxy, "finished", response, self._status)

    def removeCallback(self, callback: Ice.ObjectPrx, current: Ice.Current) -> None:
        with self._lock:
            self._callbacks.pop(_name(callback), None)

    def getRequest(self, current: Ice.Current) -> omero.cmd.Request:
        return self._request

    def getResponse(self, current: Ice.Current) -> omero.cmd.Response | None:
        return self._response

    def getStatus(self, current: Ice.Current) -> omero.cmd.Status:
        return self._status

    def cancel(self, current: Ice.Current) -> bool:
        """Between two steps only; false when it is too late."""
        self._cancelled.set()
        return self._response is None

    def close(self, current: Ice.Current) -> None:
        """Closing a running handle cancels it."""
        self.site.remove_stateful(current.id)
        self._cancelled.set()

    # -- the work ---------------------------------------------------------------------------------------------------

    def closed(self) -> None:
        """The session is over: stop before the next step."""
        self._cancelled.set()

    def run(self) -> None:
        """Carry out all steps, in the thread that calls this. Nobody hears of the end before `tell`."""
        response: omero.cmd.Response | None = None
        for number, step in enumerate(self._steps):
            if self._cancelled.is_set():
                response = self._failure("cancelled", {"message": "the work was cancelled"})
                self._status.flags = [omero.cmd.State.CANCELLED]
                break
            self._status.currentStep = number
            try:
                response = step()
            except Exception as error:  # noqa: BLE001 - whatever a step raises is the client's response
                response = self._failed(error)
                break
            self._tell_all("step", number + 1, len(self._steps))
        else:
            self._status.currentStep = len(self._steps)
        self._result = response or omero.cmd.OK()

    def tell(self) -> None:
        """The work has ended, and what it needed is free again: now everybody may know."""
        with self._lock:
            self._response = self._result
        if self.tell_finished:
            self._tell_all("finished", self._response, self._status)

    def _failed(self, error: Exception) -> omero.cmd.ERR:
        if isinstance(error, StepFailed):
            return self._failure(error.name, error.parameters)
        if isinstance(error, omero.ServerError):
            return self._failure(type(error).__name__, {"message": error.message})
        LOG.error("a step of %s failed", self._request.ice_id(), exc_info=error)
        return self._failure(type(error).__name__, {"message": str(error)})

    def _failure(self, name: str, parameters: dict[str, str]) -> omero.cmd.ERR:
        self._status.flags = [omero.cmd.State.FAILURE]
        return omero.cmd.ERR(self._request.ice_id(), name, parameters)

    def _tell_all(self, what: str, *arguments: object) -> None:
        with self._lock:
            callbacks = list(self._callbacks.values())
        for callback in callbacks:
            self._tell(callback, what, *arguments)

    def _tell(self, callback: Ice.ObjectPrx, what: str, *arguments: object) -> None:
        try:
            getattr(callback, f"begin_{what}")(*arguments)
        except Ice.Exception as error:
            LOG.debug("a client cannot be called back: %s", error)


def begin(
    site: "Site", session: Session, request: omero.cmd.Request, steps: Sequence[Step], *, slot: bool
) -> Ice.ObjectPrx:
    """Start the steps in the background and give the handle. With `slot` they take a background slot: this may block."""
    handle = Handle(site, session, request, steps)
    proxy = omero.cmd.HandlePrx.uncheckedCast(site.add_stateful(handle))
    try:
        (site.background.submit if slot else site.background.run)(handle.run, handle.tell)
    except BaseException:
        site.remove_stateful(proxy.ice_getIdentity())
        raise
    return proxy


def _name(callback: Ice.ObjectPrx) -> str:
    return str(callback.ice_getIdentity().name)
