"""Carries out the faults that may hit any call: they stand in the gate, before the call and after it."""

import os
from typing import TYPE_CHECKING, Final

import Glacier2
import omero

from lading.sandbox.omero.sessions import Session
from lading.sandbox.omero.wire import Call, NoAnswer

if TYPE_CHECKING:
    from lading.sandbox.omero.site import Site

CRASHED: Final = 137
"""The exit status of a server that a fault killed, as the shell shows a kill -9."""
_ASK_THE_DATABASE = frozenset({"createSession", "getDatabaseTime"})
"""Operations of services that do not, for the rest, need the database."""


class Spoiler:
    """A hook of the site."""

    def __init__(self, site: "Site") -> None:
        self._site = site

    def before(self, call: Call) -> None:
        """The call is slow, refused, cut off, made by a session that is over, or the last one ever."""
        faults, operation = self._site.faults, call.label.rpartition(".")[2]
        if faults.slow:
            faults.delay(operation)
        if faults.crash_at and faults.pop("crash_at", operation):
            crash()
        if faults.cut_calls and faults.pop("cut_calls", operation):
            raise NoAnswer
        if faults.session_killed and faults.pop("session_killed", operation):
            session = getattr(call.servant, "session", None)
            if isinstance(session, Session):
                self._site.sessions.end(session)
                session.check()
        if faults.errors and (refused := faults.pop("errors", operation)):
            raise _exception(refused.partition("=")[2], operation)
        if call.servant.uses_database or operation in _ASK_THE_DATABASE:
            self._await_database(operation)

    def _await_database(self, operation: str) -> None:
        """Raises what a caller gets while no connection is free. Whoever uses one for longer takes it in the gate."""
        background = self._site.background
        try:
            if self._site.faults.take("database_busy"):
                raise background.busy()
            if operation in _ASK_THE_DATABASE:
                with background.connection():
                    pass
        except omero.DatabaseBusyException as busy:
            if operation != "createSession":
                raise
            kind = "ome.conditions.DatabaseBusyException"
            raise omero.WrappedCreateSessionException(busy.message, True, busy.backOff, kind) from busy

    def after(self, call: Call) -> None:
        """It was carried out, but nobody hears of it."""
        faults = self._site.faults
        if faults.lost_replies and faults.pop("lost_replies", call.label.rpartition(".")[2]):
            raise NoAnswer


def crash() -> None:
    """Die as by kill -9: nothing is flushed, nobody is told."""
    os._exit(CRASHED)


def _exception(name: str, operation: str) -> Exception:
    message = f"{operation} was told to fail"
    made: Exception
    if name == "WrappedCreateSessionException":
        made = omero.WrappedCreateSessionException(message, True, 500, "ome.conditions.DatabaseBusyException")
    elif hasattr(Glacier2, name):
        made = getattr(Glacier2, name)(message)
    else:
        made = getattr(omero, name)("", f"ome.conditions.{name}", message)
    if isinstance(made, omero.ConcurrencyException):
        made.backOff = 500
    return made
