"""How much an import of many small files asks of the server: requests are counted, not seconds."""

import threading
from collections.abc import Generator

import pytest

pytest.importorskip("omero", reason="omero-py is not installed: make omero")

from lading.errors import TargetUnavailable
from lading.sandbox.omero import SandboxOmero
from lading.testing.importer_suite import all_verified, bring_home, carry_out
from lading.testing.omero_world import OmeroWorld
from omero_importer import uploads

COMPANIONS = 40


def test_a_small_file_costs_three_requests(world: OmeroWorld) -> None:
    """To open, to write, to close: the router hears of many files at once, and nothing is asked that was told already."""
    parcel = world.parcel(images=1, companions=[f"plain/plane-{number:02}.dat" for number in range(COMPANIONS)])
    rules = {"filesets": [{"pattern": "plain/*.tif", "companions": ["*"]}]}
    importer = world.importer(files=rules)
    importer.plan(parcel)  # the login is not what is counted
    before = counts(world.sandbox)

    outcomes = bring_home(importer, parcel)

    assert all_verified(outcomes, parcel)
    used = {name: count - before.get(name, 0) for name, count in counts(world.sandbox).items()}
    files = COMPANIONS + 1
    assert used["ImportProcess.getUploader"] == used["RawFileStore.write"] == files
    assert used["Router.addProxies"] < files / 2
    assert used.get("Handle.getRequest", 0) == 0


def test_what_was_opened_for_files_that_cannot_be_sent_is_closed(world: OmeroWorld) -> None:
    """A session may hold so many things open, and a delivery is tried again for as long as it takes."""
    parcel = world.parcel(images=1, companions=[f"plain/plane-{number:02}.dat" for number in range(12)])
    importer = world.importer(files={"filesets": [{"pattern": "plain/*.tif", "companions": ["*"]}]})
    before = counts(world.sandbox)
    world.sandbox.faults(
        errors=["write=ResourceError"] * 4
    )  # of all files that are begun: nothing is there to go on with

    with pytest.raises(TargetUnavailable):
        carry_out(importer, parcel)

    used = {name: count - before.get(name, 0) for name, count in counts(world.sandbox).items()}
    assert used["ImportProcess.getUploader"] == 13
    assert used["StatefulServiceInterface.close"] == 13 + 1  # and the import itself


def counts(sandbox: SandboxOmero) -> dict[str, int]:
    found = sandbox.do("counts")
    assert isinstance(found, dict)
    return found


# -- several files from one thread ------------------------------------------------------------------------------------


def file(name: str, turns: int, heard: list[str]) -> Generator[None, None, str]:
    """A file on its way that only says when it is its turn."""
    try:
        for _ in range(turns):
            heard.append(name)
            yield
    except GeneratorExit:
        heard.append(f"{name} given up")
        raise
    return name.upper()


def test_files_take_turns_and_no_more_are_begun_than_there_is_room_for() -> None:
    heard: list[str] = []
    room = threading.Semaphore(2)

    sums = uploads.send_files([file(name, 2, heard) for name in "abc"], room)

    assert sums == ["A", "B", "C"]
    assert heard[:4] == ["a", "b", "a", "b"]
    assert "c" not in heard[:4]
    assert room.acquire(blocking=False)
    assert room.acquire(blocking=False)
    assert not room.acquire(blocking=False)


def test_after_an_error_the_others_are_given_up_and_the_room_is_free() -> None:
    heard: list[str] = []
    room = threading.Semaphore(2)

    def broken() -> Generator[None, None, str]:
        yield
        raise OSError("gone")

    with pytest.raises(OSError, match="gone"):
        uploads.send_files([file("a", 5, heard), broken()], room)

    assert heard[-1] == "a given up"
    assert room.acquire(blocking=False)
    assert room.acquire(blocking=False)
