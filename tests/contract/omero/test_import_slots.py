"""Why OMERO falls over, in the stand-in: `verifyUpload` waits for a background slot, and imports hold connections."""

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

import pytest

pytest.importorskip("omero")

import omero
import omero.clients
import omero.cmd
from omero.rtypes import rlong

from lading.sandbox.omero import SandboxOmero
from lading.testing.omero_import import Importing, log_in, path_of

PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[SandboxOmero]:
    limits = {"background_slots": 2, "database_connections": 3, "database_timeout": 0.3}
    with SandboxOmero(tmp_path_factory.mktemp("omero"), tls=False, java=False, limits=limits) as box:
        yield box


@pytest.fixture
def box(running: SandboxOmero) -> Iterator[SandboxOmero]:
    yield running
    running.faults()
    until(lambda: use(running, "background")["busy"] == 0)


@pytest.fixture
def client(box: SandboxOmero) -> Iterator[omero.client]:
    made = log_in(box.host, box.tcp_port, "alice", box.password("alice"))
    yield made
    made.closeSession()


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(8) as pool:
        yield pool


def use(box: SandboxOmero, name: str) -> dict[str, int]:
    found = box.do("use")
    assert isinstance(found, dict)
    return found[name]


def until(true: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, "it never came"
        time.sleep(0.02)


def uploaded(client: omero.client, number: int) -> Importing:
    return Importing(client, {f"in/{number}.fake": b"x%d" % number}).announce().upload_all()


def test_verify_upload_waits_for_a_slot_and_everybody_else_goes_on(box, client, threads) -> None:
    ready = [uploaded(client, number) for number in range(4)]
    box.faults(hold_at=["1"])

    waiting: list[Future[Importing]] = [threads.submit(each.verify) for each in ready]
    until(lambda: use(box, "background")["waiting"] == 2)
    client.sf.keepAlive(None)
    assert client.sf.getQueryService().get("Experimenter", 0).omeName.val == "root"
    assert use(box, "background")["busy"] == 2
    box.faults(hold_at=[])

    assert all(future.result(PATIENCE_S).wait().error == "" for future in waiting)
    figures = use(box, "background")
    assert (figures["peak"], figures["refused"]) == (2, 0)


def test_a_deletion_takes_the_same_slots(box, client, threads) -> None:
    victim = uploaded(client, 9).verify().wait().fileset
    path = path_of(client, victim)
    ready = [uploaded(client, number) for number in range(2)]
    box.faults(hold_at=["1"])
    busy = [threads.submit(each.verify) for each in ready]
    until(lambda: use(box, "background")["busy"] == 2)

    deletion = threads.submit(client.sf.submit, omero.cmd.Delete2({"Fileset": [victim]}))
    until(lambda: use(box, "background")["waiting"] == 1)
    assert path.exists()
    box.faults(hold_at=[])

    handle = deletion.result(PATIENCE_S)
    until(lambda: handle.getResponse() is not None)
    assert not path.exists()
    assert all(future.result(PATIENCE_S).wait().error == "" for future in busy)
    handle.close()


def test_when_imports_hold_the_connections_queries_are_refused_with_a_time_to_come_back(tmp_path) -> None:
    limits = {"background_slots": 2, "database_connections": 1, "database_timeout": 0.1}
    with SandboxOmero(tmp_path, tls=False, java=False, limits=limits) as box:
        client = log_in(box.host, box.tcp_port, "alice", box.password("alice"))
        importing, query = uploaded(client, 1), client.sf.getQueryService()
        box.faults(hold_at=["1"])
        importing.verify()
        until(lambda: use(box, "database")["busy"] == 1)

        with pytest.raises(omero.DatabaseBusyException) as caught:
            query.get("Experimenter", 0)
        client.sf.keepAlive(None)  # which needs no database
        box.faults(hold_at=[])

        assert caught.value.backOff == 1000
        assert importing.wait().error == ""
        client.closeSession()


def test_nobody_waits_for_ever_for_a_slot(tmp_path) -> None:
    with SandboxOmero(
        tmp_path, tls=False, java=False, limits={"background_slots": 1, "background_timeout": 0.2}
    ) as box:
        client = log_in(box.host, box.tcp_port, "alice", box.password("alice"))
        first, second = uploaded(client, 1), uploaded(client, 2)
        box.faults(hold_at=["1"])
        first.verify()

        with pytest.raises(omero.InternalException, match="slot"):
            second.verify()
        box.faults(hold_at=[])

        assert first.wait().error == ""
        assert second.verify().wait().error == ""
        client.closeSession()


@pytest.mark.slow
def test_a_running_import_keeps_its_session_alive(tmp_path) -> None:
    with SandboxOmero(tmp_path, tls=False, java=False) as box:
        client = log_in(box.host, box.tcp_port, "alice", box.password("alice"))
        importing = uploaded(client, 1)
        box.faults(hold_at=["1"])
        importing.verify()
        client.sf.submit(omero.cmd.UpdateSessionTimeoutRequest(client.getSessionId(), None, rlong(5000)))
        time.sleep(8)
        assert box.do("sessions") == {"alice": 1}

        box.faults(hold_at=[])

        until(lambda: box.do("sessions") == {})
        assert box.records("Image") == 1
        client.__del__()


def test_a_storm_of_imports_never_takes_more_slots_than_there_are(box, client) -> None:
    wrong: list[str] = []

    def work(first: int) -> None:
        own = log_in(box.host, box.tcp_port, "bob", box.password("bob"))
        try:
            wrong.extend(error for n in range(5) if (error := uploaded(own, first + n).verify().wait().error))
        finally:
            own.closeSession()

    workers = [threading.Thread(target=work, args=(100 * number,)) for number in range(6)]
    for each in workers:
        each.start()
    for each in workers:
        each.join(PATIENCE_S)

    assert not any(each.is_alive() for each in workers)
    assert wrong == []
    assert use(box, "background")["peak"] == 2
