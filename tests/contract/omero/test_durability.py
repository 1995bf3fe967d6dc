"""kill -9, and what the stand-in knows afterwards."""

import threading
from collections.abc import Iterator
from pathlib import Path

import Glacier2
import Ice
import omero
import omero.clients
import pytest

from lading.sandbox.omero import SandboxOmero
from lading.testing.omero_server import Login, OmeroServer


@pytest.fixture
def box(tmp_path: Path) -> Iterator[SandboxOmero]:
    with SandboxOmero(tmp_path, java=False, tls=False) as made:
        yield made


def log_in(box: SandboxOmero, user: str = "alice") -> Login:
    return OmeroServer(f"tcp://{box.host}", box.tcp_port, user, box.password(user), box).login()


def test_what_was_answered_survives_a_kill(box: SandboxOmero):
    with log_in(box) as login:
        project, dataset = login.save("Project", name="p"), login.save("Dataset", name="d")
        link = login.link("ProjectDatasetLink", ("Project", project), ("Dataset", dataset))
        uuid = login.factory.getConfigService().getDatabaseUuid()

        box.kill()
        box.start()

    with log_in(box) as login:
        assert login.rows("select l.id, l.parent.name, l.child.name from ProjectDatasetLink l") == [[link, "p", "d"]]
        assert login.factory.getConfigService().getDatabaseUuid() == uuid


def test_a_number_is_never_given_twice(box: SandboxOmero):
    with log_in(box) as login:
        first = login.save("Dataset", name="d")
        login.factory.getUpdateService().deleteObject(omero.model.DatasetI(first, False))

        box.kill()
        box.start()

    with log_in(box) as login:
        assert login.save("Dataset", name="d") > first


def test_killed_while_it_writes_it_keeps_exactly_what_it_answered(box: SandboxOmero):
    """Each call saves a project with a dataset; the kill comes while several clients are at it."""
    answered: list[int] = []
    enough = threading.Event()

    def write(login: Login) -> None:
        try:
            while True:
                project, dataset = omero.model.ProjectI(), omero.model.DatasetI()
                project.name = dataset.name = omero.rtypes.rstring("x")
                project.linkDataset(dataset)
                answered.append(login.factory.getUpdateService().saveAndReturnObject(project).id.val)
                if len(answered) > 50:
                    enough.set()
        except Ice.Exception:
            return

    logins = [log_in(box, user) for user in ("alice", "bob", "carol")]
    writers = [threading.Thread(target=write, args=(login,)) for login in logins]
    for writer in writers:
        writer.start()
    assert enough.wait(120)
    box.kill()
    for writer in writers:
        writer.join(60)
    box.start()

    with log_in(box, "root") as root:
        rows = root.rows(
            "select p.id, count(d.id) from Project p join p.datasetLinks l join l.child d group by p.id", -1
        )
    for login in logins:
        login.client.__del__()
    assert set(answered) <= {number for number, _ in rows}
    # Never half a graph; and at most the one that each client had under way is there unanswered.
    assert {count for _, count in rows} == {1}
    assert box.records("Project") == len(rows) <= len(answered) + len(logins)


def test_sessions_do_not_survive(box: SandboxOmero):
    login = log_in(box)
    identity = login.client.getSessionId()
    box.kill()
    box.start()

    with pytest.raises(Ice.Exception):
        login.factory.keepAlive(None)
    login.client.__del__()
    client = omero.client(f"tcp://{box.host}", box.tcp_port)
    with pytest.raises(Glacier2.PermissionDeniedException):
        client.joinSession(identity)
    client.__del__()


def test_users_made_at_run_time_stay_with_their_passwords(box: SandboxOmero):
    with log_in(box, "root") as root:
        person = omero.model.ExperimenterI()
        person.omeName, person.firstName, person.lastName = (omero.rtypes.rstring(text) for text in ("eve", "E", "V"))
        lab = omero.model.ExperimenterGroupI(root.group("lab"), False)
        root.factory.getAdminService().createExperimenterWithPassword(
            person, omero.rtypes.rstring("eve's own"), lab, []
        )

    box.stop()
    box.start()

    with Login(OmeroServer(f"tcp://{box.host}", box.tcp_port, "eve", "eve's own", None), "eve", "eve's own") as eve:
        assert eve.factory.getAdminService().getEventContext().groupName == "lab"


def test_passwords_are_in_no_file_that_others_can_read(box: SandboxOmero):
    secret = box.password("alice").encode()

    tellers = [path for path in box.root.rglob("*") if path.is_file() and secret in path.read_bytes()]

    assert tellers == [box.root / "accounts.json"]
    assert tellers[0].stat().st_mode & 0o077 == 0


def test_control_needs_the_token(box: SandboxOmero):
    stranger = SandboxOmero.__new__(SandboxOmero)
    stranger.__dict__ = {**box.__dict__, "_token": "guessed", "_process": None}

    with pytest.raises(RuntimeError, match="wrong token"):
        stranger.do("faults", reset=True)


def test_a_taken_port_is_said(box: SandboxOmero, tmp_path: Path):
    other = SandboxOmero(tmp_path / "other", java=False, tls=False, port=box.tcp_port)

    with pytest.raises(RuntimeError, match="cannot listen"):
        other.start()
