"""Logging in, joining, ending; what belongs to a session, and what becomes of it."""

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import Glacier2
import Ice
import omero
import omero.clients
import omero.cmd
import pytest
from omero.rtypes import rlong, unwrap

from lading.sandbox.omero import SandboxOmero
from lading.sandbox.omero.certificates import identity
from lading.testing.omero_server import Login, OmeroServer

PATIENCE_S = 120.0
GONE = (
    omero.RemovedSessionException,
    omero.SessionTimeoutException,
    Ice.ObjectNotExistException,
    Ice.ConnectionLostException,
)


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "it did not come true"
        time.sleep(0.05)


def test_who_one_is(any_omero: OmeroServer, login: Login):
    context = login.factory.getAdminService().getEventContext()

    assert context.userName == any_omero.user
    assert context.groupId in context.memberOfGroups
    assert context.sessionUuid == login.client.getSessionId()


@pytest.mark.parametrize("user", ["", "nobody-of-that-name"])
def test_a_wrong_password_is_refused(any_omero: OmeroServer, user: str):
    client = omero.client(any_omero.address, any_omero.port)
    try:
        with pytest.raises(Glacier2.PermissionDeniedException):
            client.createSession(user or any_omero.user, "wrong-" + any_omero.password)
    finally:
        client.__del__()


def test_a_session_can_be_joined_by_its_uuid(any_omero: OmeroServer, login: Login):
    other = omero.client(any_omero.address, any_omero.port)
    try:
        factory = other.joinSession(login.client.getSessionId())

        assert factory.getAdminService().getEventContext().sessionUuid == login.client.getSessionId()
    finally:
        other.closeSession()
    assert login.factory.keepAlive(None)  # the other's leaving is not our end


def test_the_uuid_of_no_session_opens_nothing(any_omero: OmeroServer):
    client = omero.client(any_omero.address, any_omero.port)
    try:
        with pytest.raises(Glacier2.PermissionDeniedException):
            client.joinSession("00000000-0000-0000-0000-000000000000")
    finally:
        client.__del__()


def test_a_closed_session_cannot_be_joined(any_omero: OmeroServer):
    with any_omero.login() as login:
        identity = login.client.getSessionId()

    client = omero.client(any_omero.address, any_omero.port)
    try:
        with pytest.raises(Glacier2.PermissionDeniedException):
            client.joinSession(identity)
    finally:
        client.__del__()


def test_a_detached_session_outlives_its_client(any_omero: OmeroServer):
    with any_omero.login() as login:
        identity = login.client.getSessionId()
        login.factory.detachOnDestroy()

    client = omero.client(any_omero.address, any_omero.port)
    try:
        factory = client.joinSession(identity)
        factory.closeOnDestroy()
        assert factory.keepAlive(None)
    finally:
        client.closeSession()


# A real router leaves this to its configuration.
@pytest.mark.parametrize("omero_kind", ["ssl", "tcp"], indirect=True)
def test_another_connection_cannot_use_ones_services(any_omero: OmeroServer, login: Login):
    """What Glacier2 is for: a proxy is worth nothing to who has not logged in to its session."""
    query = login.factory.getQueryService()
    query.find("Project", 1)
    with any_omero.login() as stranger:
        stolen = stranger.client.ic.stringToProxy(str(query))
        stolen = omero.api.IQueryPrx.uncheckedCast(stolen.ice_router(stranger.client.ic.getDefaultRouter()))

        with pytest.raises(Ice.ObjectNotExistException):
            stolen.find("Project", 1)


def test_the_group_of_a_session_can_be_changed(stand_in: OmeroServer, login: Login):
    shared = login.group("shared")

    login.factory.setSecurityContext(omero.model.ExperimenterGroupI(shared, False))

    assert login.factory.getAdminService().getEventContext().groupId == shared


def test_nobody_works_in_a_group_of_others(stand_in: OmeroServer, login: Login):
    with pytest.raises(omero.SecurityViolation):
        login.factory.setSecurityContext(omero.model.ExperimenterGroupI(0, False))
    with pytest.raises(omero.SecurityViolation):
        login.save("Dataset", group=0, name="x")


def test_an_administrator_opens_a_session_for_somebody_else(stand_in: OmeroServer):
    with stand_in.login("root") as root:
        who = omero.sys.Principal()
        who.name, who.group, who.eventType = "bob", "lab", "User"
        session = root.factory.getSessionService().createSessionWithTimeouts(who, 0, 60_000)
        client = omero.client(stand_in.address, stand_in.port)
        try:
            factory = client.joinSession(unwrap(session.uuid))
            context = factory.getAdminService().getEventContext()
            dataset = omero.model.DatasetI()
            dataset.name = omero.rtypes.rstring("Bob's")
            saved = factory.getUpdateService().saveAndReturnObject(dataset)
        finally:
            client.closeSession()

    assert (context.userName, context.isAdmin) == ("bob", False)
    assert saved.details.owner.id.val == context.userId


def test_ordinary_users_open_sessions_for_nobody(stand_in: OmeroServer, login: Login):
    who = omero.sys.Principal()
    who.name, who.group, who.eventType = "bob", "lab", "User"

    with pytest.raises(omero.SecurityViolation):
        login.factory.getSessionService().createSessionWithTimeouts(who, 0, 60_000)


def test_the_idle_time_can_be_raised_within_limits(login: Login):
    request = omero.cmd.UpdateSessionTimeoutRequest()
    request.session, request.timeToIdle = login.client.getSessionId(), rlong(1_200_000)

    login.client.submit(request)

    session = login.factory.getSessionService().getSession(login.client.getSessionId())
    assert session.timeToIdle.val == 1_200_000
    request.timeToIdle = rlong(100_000_000)
    with pytest.raises(omero.CmdError):
        login.client.submit(request)


def test_a_session_that_was_closed_by_somebody_is_over(stand_in: OmeroServer):
    client = omero.client(stand_in.address, stand_in.port)
    try:
        factory = client.createSession("carol", stand_in.inside.password("carol"))
        store = factory.createRawFileStore()
        query = factory.getQueryService()

        stand_in.inside.do("end-sessions", user="carol")

        for gone in (lambda: query.find("Project", 1), lambda: factory.keepAlive(None), store.size):
            with pytest.raises(GONE):
                gone()
    finally:
        client.__del__()


def test_unknown_requests_are_refused_at_once(stand_in: OmeroServer, login: Login):
    with pytest.raises(omero.CmdError, match="not in the stand-in"):
        login.client.submit(omero.cmd.ResetPasswordRequest("alice", "x"))


def test_a_login_without_a_clients_uuid_is_refused(stand_in: OmeroServer):
    client = omero.client(stand_in.address, stand_in.port)
    try:
        client.ic.getImplicitContext().remove("omero.client.uuid")
        router = Glacier2.RouterPrx.uncheckedCast(client.ic.getDefaultRouter())
        with pytest.raises(Glacier2.CannotCreateSessionException):
            router.createSession("alice", stand_in.password)
    finally:
        client.__del__()


@pytest.fixture(scope="module")
def impatient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxOmero]:
    """Three open services a session, and four seconds without a call: longer than a busy machine takes between two."""
    with SandboxOmero(tmp_path_factory.mktemp("omero"), java=False, tls=False, idle_ms=4000, servants=3) as box:
        yield box


def test_an_idle_session_ends_with_all_it_held(impatient: SandboxOmero):
    client = omero.client(f"tcp://{impatient.host}", impatient.tcp_port)
    try:
        factory = client.createSession("alice", impatient.password("alice"))
        store = factory.createRawFileStore()
        until(lambda: impatient.do("sessions") == {})

        with pytest.raises(omero.SessionTimeoutException):
            factory.getQueryService()
        with pytest.raises(GONE):
            store.size()
    finally:
        client.__del__()


def test_who_closes_nothing_is_stopped(impatient: SandboxOmero):
    client = omero.client(f"tcp://{impatient.host}", impatient.tcp_port)
    try:
        factory = client.createSession("alice", impatient.password("alice"))
        stores = [factory.createRawFileStore() for _ in range(3)]

        with pytest.raises(omero.OverUsageException):
            factory.createRawFileStore()

        stores[0].close()
        factory.createRawFileStore()
    finally:
        client.closeSession()


def test_a_session_that_is_used_stays(impatient: SandboxOmero):
    client = omero.client(f"tcp://{impatient.host}", impatient.tcp_port)
    try:
        factory = client.createSession("alice", impatient.password("alice"))
        started = time.monotonic()
        while time.monotonic() - started < 5.0:
            assert factory.keepAlive(None)
            time.sleep(0.1)
    finally:
        client.closeSession()


# A real router of version 3.7 ends the session with the connection.
@pytest.mark.parametrize("omero_kind", ["ssl", "tcp"], indirect=True)
def test_a_lost_connection_leaves_the_session_to_be_joined(stand_in: OmeroServer):
    client = omero.client(stand_in.address, stand_in.port)
    factory = client.createSession("carol", stand_in.inside.password("carol"))
    identity = client.getSessionId()
    factory.ice_getConnection().close(True)

    again = omero.client(stand_in.address, stand_in.port)
    try:
        assert again.joinSession(identity).keepAlive(None)
    finally:
        again.closeSession()
        client.__del__()


@pytest.mark.parametrize("omero_kind", ["ssl"], indirect=True)
@pytest.mark.parametrize("ours", [True, False])
def test_the_certificate_can_be_verified(stand_in: OmeroServer, ours: bool, tmp_path: Path):
    trusted = stand_in.inside.certificate if ours else identity(tmp_path).certificate
    client = omero.client(
        {
            "omero.host": "127.0.0.1",
            "omero.port": str(stand_in.port),
            "IceSSL.VerifyPeer": "1",
            "IceSSL.CheckCertName": "1",
            "IceSSL.CAs": str(trusted),
        }
    )
    try:
        if ours:
            client.createSession(stand_in.user, stand_in.password)
        else:
            with pytest.raises((Ice.ProtocolException, Ice.SecurityException, Ice.ConnectionLostException)):
                client.createSession(stand_in.user, stand_in.password)
    finally:
        client.__del__()
