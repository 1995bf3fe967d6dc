"""The stand-in's knobs: each does what it says to an unmodified client, and no more."""

import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("omero")

import Glacier2
import Ice
import omero
import omero.callbacks
import omero.clients
import omero.model

from lading.sandbox.omero import SandboxOmero
from lading.sandbox.omero.faults import Faults
from lading.testing.omero_import import Importing, log_in, path_of, rows, sha1, stored

PATIENCE_S = 120.0


@pytest.fixture(scope="module")
def running(tmp_path_factory) -> Iterator[SandboxOmero]:
    limits = {"database_timeout": 0.2, "background_slots": 2}
    with SandboxOmero(tmp_path_factory.mktemp("omero"), tls=False, java=False, limits=limits) as box:
        yield box


@pytest.fixture
def box(running: SandboxOmero) -> Iterator[SandboxOmero]:
    if not running.alive:
        running.start()
    running.faults()
    yield running
    if running.alive:
        running.faults()


@pytest.fixture
def client(box: SandboxOmero) -> Iterator[omero.client]:
    made = connect(box)
    yield made
    made.__del__()  # omero-py's way to let go of a client whose server may be gone


def connect(box: SandboxOmero) -> omero.client:
    return log_in(box.host, box.tcp_port, "alice", box.password("alice"))


def one(client: omero.client, data: bytes = b"abc", **settings: object) -> Importing:
    return Importing(client, {"in/a.fake": data}, settings=settings)


def images(client: omero.client, fileset: int) -> int:
    ((number,),) = rows(client, "select count(i) from Image i where i.fileset.id = :id", fileset)
    return int(str(number))


def filesets(box: SandboxOmero) -> int:
    return box.records("Fileset")


def ended(box: SandboxOmero) -> None:
    """Wait until the process is gone."""
    deadline = time.monotonic() + PATIENCE_S
    while box.alive:
        assert time.monotonic() < deadline, "the server did not die"
        time.sleep(0.02)


def test_the_connection_breaks_in_the_middle_of_an_upload(box, client) -> None:
    importing = one(client, bytes(3 << 20)).announce()
    box.faults(cut_upload_at=2 << 20)

    with pytest.raises(Ice.ConnectionLostException):
        importing.upload(0)

    other = connect(box)
    (fileset,) = newest(other)
    assert path_of(other, fileset).stat().st_size == 2 << 20
    assert stored(other, fileset)[0][1] == "None"
    assert one(other, bytes(3 << 20)).carry_out().error == ""
    other.closeSession()


def newest(client: omero.client) -> list[int]:
    found = client.sf.getQueryService().projection("select max(f.id) from Fileset f", None, {"omero.group": "-1"})
    return [found[0][0].val]


@pytest.mark.parametrize("knob", ["wrong_hashes", "damaged_uploads"])
def test_a_file_that_arrives_wrong_is_refused_once(box, client, knob: str) -> None:
    importing = one(client).announce()
    box.faults(**{knob: 1})
    importing.upload(0)

    with pytest.raises(omero.ChecksumValidationException) as caught:
        importing.verify()
    assert list(caught.value.failingChecksums) == [0]
    importing.upload(0)

    assert importing.verify().wait().error == ""
    assert stored(client, newest(client)[0]) == [("in/a.fake", sha1(b"abc"), "SHA1-160")]


@pytest.mark.parametrize("knobs", [{"disk_full": 1}, {"disk_full_at": 2}])
def test_a_full_disk_is_a_resource_error(box, client, knobs: dict[str, int]) -> None:
    importing = one(client).announce()
    box.faults(**knobs)
    store = importing.process.getUploader(0)

    with pytest.raises(omero.ResourceError):
        store.write(b"abc", 0, 3)
    box.faults()
    store.write(b"abc", 0, 3)
    store.close()

    assert importing.verify().wait().error == ""


def test_free_space_is_what_a_knob_says(box, client) -> None:
    info = client.sf.getRepositoryInfoService()
    assert info.getFreeSpaceInKilobytes() > 0

    box.faults(free_kib=1234)

    assert info.getFreeSpaceInKilobytes() == 1234


def test_the_server_dies_after_a_fileset_was_stored_and_still_has_it(box) -> None:
    client, before = connect(box), filesets(box)
    box.faults(crash_after_fileset=1)

    with pytest.raises(Ice.ConnectionLostException):
        one(client).announce()
    client.__del__()
    ended(box)
    box.start()

    assert filesets(box) == before + 1
    other = connect(box)
    (fileset,) = newest(other)
    assert [path for path, _, _ in stored(other, fileset)] == ["in/a.fake"]
    assert images(other, fileset) == 0
    other.closeSession()


@pytest.mark.parametrize(("step", "made"), [("1", 0), ("2", 1)])
def test_the_server_dies_in_an_import_which_is_all_or_nothing(box, step: str, made: int) -> None:
    client = connect(box)
    importing = Importing(client, {"in/t&series=1.fake": b""}).announce().upload_all()
    box.faults(crash_in_step=[step])

    with pytest.raises(Ice.LocalException):  # the answer of verifyUpload, or of the first poll
        importing.verify().wait()
    client.__del__()
    ended(box)
    box.start()

    other = connect(box)
    assert images(other, newest(other)[0]) == made
    other.closeSession()


@pytest.mark.parametrize(
    "name",
    [
        "import-unknown-format",
        "import-file-exception",
        "import-missing-library",
        "import-request-failure",
        "error-on-init",
    ],
)
def test_an_import_ends_with_the_error_it_was_told(box, client, name: str) -> None:
    box.faults(import_errors=[name])

    first, second = one(client).carry_out(), one(client).carry_out()

    assert (first.error, first.response.category) == (name, "::omero::grid::ImportRequest")
    assert images(client, first.fileset) == 0
    assert second.error == ""


def test_the_finished_callback_gets_lost_and_polling_still_works(box, client) -> None:
    importing = one(client).announce().upload_all()
    box.faults(lost_finished=1, hold_at=["2"])
    importing.verify()
    callback = omero.callbacks.CmdCallbackI(client, importing.handle)  # which polls once
    box.faults(hold_at=[])

    answered(importing)

    assert not callback.block(300)
    callback.close(False)
    assert importing.wait().error == ""


def answered(importing: Importing) -> None:
    """Wait for the response."""
    deadline = time.monotonic() + PATIENCE_S
    while importing.handle.getResponse() is None:
        assert time.monotonic() < deadline, "the import did not end"
        time.sleep(0.02)


def test_the_step_callbacks_get_lost_and_the_end_is_told(box, client) -> None:
    importing = one(client).announce().upload_all()
    seen: list[int] = []
    box.faults(lost_steps=1, hold_at=["2"])
    importing.verify()
    callback = omero.callbacks.CmdCallbackI(client, importing.handle)
    callback.step = lambda number, total, current=None: seen.append(number)
    box.faults(hold_at=[])

    callback.loop(600, 100)

    assert seen == []
    callback.close(True)


def test_steps_are_slow(box, client) -> None:
    importing = one(client).announce().upload_all()
    box.faults(step_delay_s=0.1)
    began = time.monotonic()

    assert importing.verify().wait().error == ""

    assert time.monotonic() - began >= 0.6


def test_an_import_is_held_until_it_is_let_go(box, client) -> None:
    importing = one(client).announce().upload_all()
    box.faults(hold_at=["1"])
    importing.verify()
    time.sleep(0.2)
    assert importing.handle.getResponse() is None
    assert images(client, newest(client)[0]) == 0

    box.faults(hold_at=[])

    assert importing.wait().error == ""


def test_the_reply_of_import_fileset_gets_lost_but_the_fileset_is_there(box) -> None:
    client, before = connect(box), filesets(box)
    box.faults(lost_replies=["importFileset"])

    with pytest.raises(Ice.ConnectionLostException):
        one(client).announce()
    client.__del__()

    assert filesets(box) == before + 1


def test_a_call_that_is_cut_off_was_not_carried_out(box) -> None:
    client, before = connect(box), filesets(box)
    box.faults(cut_calls=["importFileset"])

    with pytest.raises(Ice.ConnectionLostException):
        one(client).announce()
    client.__del__()

    assert filesets(box) == before


def test_a_session_that_is_killed_takes_its_import_along(box, client) -> None:
    importing = one(client).announce()
    box.faults(session_killed=["getUploader"])

    with pytest.raises((omero.RemovedSessionException, Ice.ObjectNotExistException)):
        importing.upload(0)
    with pytest.raises((omero.RemovedSessionException, Ice.ObjectNotExistException)):
        importing.process.getHandle()


@pytest.mark.parametrize(
    ("operation", "name", "raised"),
    [
        ("importFileset", "TryAgain", omero.TryAgain),
        ("importFileset", "LockTimeout", omero.LockTimeout),
        ("verifyUpload", "InternalException", omero.InternalException),
        ("write", "ResourceError", omero.ResourceError),
        ("getUploader", "OverUsageException", omero.OverUsageException),
    ],
)
def test_any_call_can_be_refused(box, client, operation: str, name: str, raised: type[Exception]) -> None:
    box.faults(errors=[f"{operation}={name}"])

    with pytest.raises(raised) as caught:
        one(client).carry_out()

    assert getattr(caught.value, "backOff", 1) > 0
    assert one(client).carry_out().error == ""


def test_a_login_can_be_refused_for_a_while(box) -> None:
    box.faults(errors=["createSession=PermissionDeniedException"])

    with pytest.raises(Glacier2.PermissionDeniedException):
        connect(box)

    connect(box).closeSession()


def test_the_database_is_busy_and_says_when_to_come_back(box, client) -> None:
    query = client.sf.getQueryService()
    box.faults(database_busy=1)

    with pytest.raises(omero.DatabaseBusyException) as caught:
        query.get("Experimenter", 0)

    assert caught.value.backOff > 0
    assert query.get("Experimenter", 0).omeName.val == "root"


@pytest.mark.parametrize(
    ("slow", "quick"), [("getDatabaseTime", "getServerTime"), ("getServerTime", "getDatabaseTime")]
)
def test_a_call_can_be_slow_and_the_others_not(box, client, slow: str, quick: str) -> None:
    config = client.sf.getConfigService()
    box.faults(slow=[f"{slow}=0.5"])

    def took(operation: str) -> float:
        began = time.monotonic()
        getattr(config, operation)()
        return time.monotonic() - began

    assert took(slow) >= 0.5
    assert min(took(quick) for _ in range(10)) < 0.5


def test_the_repository_is_not_up_yet(box, client) -> None:
    box.faults(no_repository=1)

    first, second = (client.sf.sharedResources().repositories() for _ in range(2))

    assert first.proxies == [None]
    assert second.proxies[0] is not None


def test_an_import_ends_well_and_made_nothing(box, client) -> None:
    box.faults(no_images=1)

    result = one(client).carry_out()

    assert (result.error, result.images) == ("", [])
    assert images(client, result.fileset) == 0


def test_checksums_are_forgotten_and_files_vanish_behind_the_servers_back(box, client) -> None:
    box.faults(blank_checksums=1, vanishing_files=1)

    result = one(client).carry_out()

    assert stored(client, result.fileset)[0][1] == "None"
    assert not path_of(client, result.fileset).exists()


@pytest.mark.parametrize("knob", ["write_delay_s", "hash_delay_s"])
def test_the_disk_is_slow(box, client, knob: str) -> None:
    importing = one(client).announce()
    box.faults(**{knob: 0.3})
    began = time.monotonic()

    importing.upload(0)

    assert time.monotonic() - began >= 0.3


def test_every_knob_has_its_row_in_the_documentation() -> None:
    page = (Path(__file__).parents[3] / "docs/reference/sandbox-omero.md").read_text(encoding="utf-8")
    rows_of_knobs = {line.split("`")[1] for line in page.splitlines() if line.startswith("| `")}

    assert set(Faults().as_dict()) <= rows_of_knobs


def test_a_server_that_was_killed_keeps_its_files_and_forgets_its_sessions(box) -> None:
    client = connect(box)
    result = one(client).carry_out()
    box.kill()
    client.__del__()
    box.start()

    other = connect(box)
    assert path_of(other, result.fileset).read_bytes() == b"abc"
    assert images(other, result.fileset) == 1
    other.closeSession()
