"""What a client that lost its connection finds of its import: OMERO ties that to the session, and opening files to the client."""

from collections.abc import Iterator
from contextlib import contextmanager

import omero
import omero.clients
import pytest

from lading.testing.omero_import import Importing
from lading.testing.omero_server import OmeroServer

CLIENT_ID = "omero.client.uuid"
FILES = {"in/a.fake": b"a" * 3000, "in/b.fake": b"b" * 2000}


@contextmanager
def joined(server: OmeroServer, session: str, client_id: str = "") -> Iterator["omero.clients.BaseClient"]:
    """A client of the session, under an identity of its own or under that one."""
    client = omero.client(server.address, server.port)
    try:
        if client_id:
            client.getImplicitContext().put(CLIENT_ID, client_id)
        client.joinSession(session).detachOnDestroy()
        yield client
    finally:
        client.closeSession()


def left_behind(server: OmeroServer) -> tuple[str, str, Importing]:
    """An import of which half a file is there, when its client loses its connection: session, client, import."""
    with server.login() as login:
        login.factory.detachOnDestroy()
        importing = Importing(login.client, FILES).announce()
        importing.process.getUploader(0).write(FILES["in/a.fake"][:1000], 0, 1000)
        return login.client.getSessionId(), login.client.getImplicitContext().get(CLIENT_ID), importing


def taken_up(client: "omero.clients.BaseClient", importing: Importing) -> Importing:
    proxy = client.getCommunicator().stringToProxy(str(importing.process))
    importing.process = omero.grid.ImportProcessPrx.uncheckedCast(proxy)
    return importing


def test_a_client_is_connected_to_a_session_once(any_omero: OmeroServer) -> None:
    with any_omero.login() as login:
        ours = login.client.getImplicitContext().get(CLIENT_ID)

        with (
            pytest.raises(omero.WrappedCreateSessionException),
            joined(any_omero, login.client.getSessionId(), client_id=ours),
        ):
            pass

        assert login.factory.keepAlive(None)


def test_an_import_goes_on_for_the_client_that_began_it(any_omero: OmeroServer) -> None:
    session, client_id, importing = left_behind(any_omero)
    with joined(any_omero, session, client_id) as client:
        process = taken_up(client, importing).process

        assert process.getUploadOffset(0) == 1000
        store = process.getUploader(0)
        assert store.size() == 1000
        store.write(FILES["in/a.fake"][1000:], 1000, 2000)
        store.close()
        importing.upload(1)
        assert importing.verify().wait().error == ""
        client.getSession().closeOnDestroy()


def test_another_client_finds_what_is_open_and_opens_nothing_else(any_omero: OmeroServer) -> None:
    session, _, importing = left_behind(any_omero)
    with joined(any_omero, session) as client:
        process = taken_up(client, importing).process

        assert process.getUploader(0).size() == 1000
        with pytest.raises(omero.InternalException):
            process.getUploader(1)
        process.close()
        client.getSession().closeOnDestroy()
