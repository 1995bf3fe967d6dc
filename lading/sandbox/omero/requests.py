"""Requests of omero.cmd: what a client submits and gets a handle for."""

from collections.abc import Callable
from typing import TYPE_CHECKING

import Ice
import omero.cmd
import omero.cmd.graphs
from omero.rtypes import unwrap

from lading.sandbox.omero import graph, model, permissions
from lading.sandbox.omero.delete import CannotDelete, Choice, delete
from lading.sandbox.omero.handles import StepFailed, begin
from lading.sandbox.omero.permissions import Context
from lading.sandbox.omero.records import Record
from lading.sandbox.omero.services.base import event_context
from lading.sandbox.omero.sessions import MAX_IDLE_MS, Session

if TYPE_CHECKING:
    from lading.sandbox.omero.site import Site

Answer = Callable[["Site", Session, Context, omero.cmd.Request], omero.cmd.Response]


def submit(site: "Site", session: Session, context: Context, request: omero.cmd.Request) -> Ice.ObjectPrx:
    """Begin a request, and give its handle. Deletes and their like wait for a background slot, as in OMERO.

    A request that the stand-in does not know gets an ERR that says so.
    """
    parts = list(request.requests) if isinstance(request, omero.cmd.DoAll) else [request]
    steps = [_step(_answer(part), site, session, context, part) for part in parts]
    heavy = any(isinstance(part, omero.cmd.GraphQuery) for part in parts)
    if isinstance(request, omero.cmd.DoAll):
        return begin(site, session, request, [lambda: _all(steps)], slot=heavy)
    return begin(site, session, request, steps, slot=heavy)


def _step(
    answer: Answer, site: "Site", session: Session, context: Context, request: omero.cmd.Request
) -> Callable[[], omero.cmd.Response]:
    return lambda: answer(site, session, context, request)


def _all(steps: list[Callable[[], omero.cmd.Response]]) -> omero.cmd.Response:
    made = omero.cmd.DoAllRsp()
    made.responses = [step() for step in steps]
    made.status = [omero.cmd.Status() for _ in steps]
    return made


def _answer(request: omero.cmd.Request) -> Answer:
    for kind, answer in ANSWERS.items():
        if isinstance(request, kind):
            return answer
    # Nothing may be raised by `submit`: the refusal is the handle's response.
    return _refuse


def _refuse(site: "Site", session: Session, context: Context, request: omero.cmd.Request) -> omero.cmd.Response:
    raise StepFailed("unknown-request", {"message": f"request {request.ice_id()} is not in the stand-in"})


def _delete(site: "Site", session: Session, context: Context, request: omero.cmd.Delete2) -> omero.cmd.Response:
    targets = _targets(site, context, request)
    try:
        gone = delete(site.store, context, targets, _choice(request), dry_run=bool(request.dryRun))
    except CannotDelete as error:
        raise StepFailed("graph-fail", {"message": str(error)}) from error
    if not request.dryRun:
        for told in site.on_deleted:
            told(gone)
    made = omero.cmd.Delete2Response()
    made.deletedObjects = {}
    for record in gone:
        made.deletedObjects.setdefault(model.model_class(record.cls).java_name, []).append(record.id)
    return made


def _targets(site: "Site", context: Context, request: omero.cmd.Delete2) -> list[Record]:
    found = []
    for cls, numbers in (request.targetObjects or {}).items():
        for number in numbers:
            record = site.store.get(model.short(cls), number)
            if record is None or not permissions.can_read(site.store, context, record):
                raise StepFailed("graph-fail", {"message": f"cannot read {cls}[{number}]"})
            found.append(record)
    return found


def _choice(request: omero.cmd.Delete2) -> Choice:
    options = request.childOptions or []
    if any(option.includeNs or option.excludeNs for option in options):
        raise StepFailed("graph-fail", {"message": "child options by namespace are not in the stand-in"})
    return Choice(
        tuple(model.short(cls) for option in options for cls in option.includeType or ()),
        tuple(model.short(cls) for option in options for cls in option.excludeType or ()),
    )


def _idle(site: "Site", session: Session, context: Context, request: omero.cmd.Request) -> omero.cmd.Response:
    wanted = site.sessions.get(request.session) if request.session else session
    if wanted is None or (wanted.user != session.user and not context.is_admin):
        raise StepFailed("cannot-update-session", {"message": f"no session {request.session} of yours"})
    if request.timeToIdle is not None:
        idle = unwrap(request.timeToIdle)
        if idle > MAX_IDLE_MS and not context.is_admin:
            raise StepFailed(
                "non-admin-increase", {"message": f"an idle time of {idle} ms is longer than {MAX_IDLE_MS}"}
            )
        site.sessions.set_idle(wanted, idle)
    return omero.cmd.OK()


def _current_sessions(
    site: "Site", session: Session, context: Context, request: omero.cmd.Request
) -> omero.cmd.Response:
    made = omero.cmd.CurrentSessionsResponse()
    shown = [each for each in site.sessions.all() if context.is_admin or each.user == session.user]
    records = [site.store.get("Session", each.number) for each in shown]
    made.sessions = [graph.build(site.store, record, context) for record in records if record is not None]
    made.contexts = [event_context(site, site.sessions.context(each, {})) for each in shown]
    made.data = [{} for _ in shown]
    return made


ANSWERS: dict[type, Answer] = {
    omero.cmd.Delete2: _delete,
    omero.cmd.UpdateSessionTimeoutRequest: _idle,
    omero.cmd.CurrentSessionsRequest: _current_sessions,
}
"""Which request is answered by what."""
