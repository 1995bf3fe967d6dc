"""An upload that is cut off goes on where it stopped, in the same Fileset, while its session lives. Bytes are counted."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("omero", reason="omero-py is not installed: make omero")

import omero.clients
import tifffile

from lading.delivery import Parcel
from lading.errors import TargetUnavailable
from lading.sandbox.omero import SandboxOmero
from lading.sandbox.omero.glacier2 import missing as missing_glacier2
from lading.testing.faultproxy import FaultProxy, Faults
from lading.testing.importer_suite import all_verified, bring_home, carry_out
from lading.testing.instrument import wait_until
from lading.testing.omero_world import USERS, OmeroWorld, running_omero
from omero_importer.importer import OmeroImporter
from omero_importer.session import Connection, Sessions, Who
from omero_importer.settings import repository_settings

KINDS = (
    "tcp",
    "ssl",
    pytest.param("glacier2", marks=pytest.mark.skipif(bool(missing_glacier2()), reason=missing_glacier2())),
)
BLOCK = 64 << 10
SIZE = 4 << 20
AHEAD = 4 * BLOCK
"""What may be on its way, sent and not acknowledged, when the line is cut; and a little of everything else that is said."""
TALK = 400_000
RULES = {"filesets": [{"pattern": "plain/*.tif", "companions": ["*"]}]}


class Line:
    """The stand-in at the end of a line that can be cut."""

    def __init__(self, world: OmeroWorld, proxy: FaultProxy, *, tls: bool) -> None:
        self.world, self.proxy, self._tls = world, proxy, tls
        self._importers: list[OmeroImporter] = []

    def table(self) -> dict[str, object]:
        """`[repositories.NAME]` for who works over the line."""
        return {**self.world.repository(self.world.login("carol", USERS["carol"])), "port": self.proxy.port}

    def importer(self, *, patience: float = 0.0, **route: object) -> OmeroImporter:
        made = OmeroImporter.from_settings(
            {**self.table(), "patience": patience},
            {"create": "dataset", "block_kb": BLOCK >> 10, **route},
            inbox_root=self.world.inbox.root,
            state=self.world.folder / "state",
        )
        self._importers.append(made)
        return made

    def close(self) -> None:
        for importer in self._importers:
            importer.close()


only_once = pytest.mark.parametrize("kind", ["tcp"], indirect=True)
"""What does not depend on the line."""


@pytest.fixture(scope="module", params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def sandbox(kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxOmero]:
    with running_omero(tmp_path_factory.mktemp("omero"), glacier2=kind == "glacier2") as running:
        yield running


@pytest.fixture
def line(kind: str, sandbox: SandboxOmero, tmp_path: Path) -> Iterator[Line]:
    tls = kind != "tcp"
    world = OmeroWorld(sandbox, tmp_path, tls=tls)
    with FaultProxy((sandbox.host, sandbox.port if tls else sandbox.tcp_port)) as proxy:
        made = Line(world, proxy, tls=tls)
        yield made
        made.close()
    world.close()


def one_large_image(world: OmeroWorld) -> Parcel:
    made = world.folder / "large.tif"
    tifffile.imwrite(made, np.frombuffer(os.urandom(SIZE), np.uint8).reshape(2048, -1))
    return world.parcel(images=0, files={"large.tif": made.read_bytes()})


def many_files(world: OmeroWorld) -> Parcel:
    """One fileset of 41 files, 4 MiB together: more than are opened at once."""
    companions = {f"plain/plane-{number:02}.dat": os.urandom(SIZE // 40) for number in range(40)}
    return world.parcel(images=1, files=companions)


@contextmanager
def told(sandbox: SandboxOmero) -> Iterator[dict[str, int]]:
    """What is asked of the server meanwhile, known at the end."""
    names = ("ManagedRepository.importFileset", "ImportProcess.verifyUpload", "RawFileStore.write")
    before = {name: sandbox.count(name) for name in names}
    asked: dict[str, int] = {}
    yield asked
    asked |= {name.rpartition(".")[2]: sandbox.count(name) - before[name] for name in names}


def is_there_once(line: Line, parcel: Parcel) -> None:
    rows = line.world.ask(
        "select distinct e.fileset.id from FilesetEntry e where e.clientPath like :p", p=f"{parcel.delivery.labels}/%"
    )
    assert len(rows) == 1
    assert len(line.world.ask(f"select i.id from Image i where i.fileset.id = {rows[0][0]}")) == 1


def sessions_of(world: OmeroWorld, user: str) -> list[list[object]]:
    return world.ask("select s.uuid from Session s where s.closed is null and s.owner.omeName = :user", user=user)


# -- the line is cut ----------------------------------------------------------------------------------------------------


def test_a_large_file_goes_on_inside(line: Line) -> None:
    parcel, importer = one_large_image(line.world), line.importer()
    importer.plan(parcel)
    before = line.proxy.passed
    line.proxy.faults.cut_at = before + SIZE * 6 // 10

    with told(line.world.sandbox) as asked:
        outcomes = bring_home(importer, parcel)

    assert line.proxy.cuts == 1
    assert all_verified(outcomes, parcel)
    assert asked["importFileset"] == asked["verifyUpload"] == 1
    assert line.proxy.passed - before < SIZE + AHEAD + TALK
    is_there_once(line, parcel)


def test_files_that_are_there_are_not_sent_again_and_others_can_still_be_opened(line: Line) -> None:
    parcel, importer = many_files(line.world), line.importer(files=RULES)
    importer.plan(parcel)
    before = line.proxy.passed
    line.proxy.faults.cut_at = before + SIZE * 4 // 10

    with told(line.world.sandbox) as asked:
        outcomes = bring_home(importer, parcel)

    assert line.proxy.cuts == 1
    assert all_verified(outcomes, parcel)
    assert asked["importFileset"] == asked["verifyUpload"] == 1
    # Four files at a time are on their way.
    assert line.proxy.passed - before < SIZE + 4 * (SIZE // 40) + AHEAD + TALK
    is_there_once(line, parcel)


def test_several_filesets_go_on_each_in_its_own(line: Line) -> None:
    parts = {f"part-{number}.tif": (line.world.folder / f"{number}.tif") for number in range(4)}
    for made in parts.values():
        tifffile.imwrite(made, np.frombuffer(os.urandom(SIZE // 4), np.uint8).reshape(1024, -1))
    parcel = line.world.parcel(images=0, files={name: made.read_bytes() for name, made in parts.items()})
    importer = line.importer()
    importer.plan(parcel)
    line.proxy.faults.cut_at = line.proxy.passed + SIZE * 6 // 10

    with told(line.world.sandbox) as asked:
        outcomes = bring_home(importer, parcel)

    assert line.proxy.cuts == 1
    assert all_verified(outcomes, parcel)
    # One of which nothing was acknowledged yet is begun anew; all four, were they not remembered, would make eight.
    assert 4 <= asked["importFileset"] < 8
    assert line.world.sandbox.records("Fileset") == line.world.sandbox.records("Image")


def test_a_line_that_is_cut_again_and_again_brings_it_all_the_same(line: Line) -> None:
    parcel, importer = one_large_image(line.world), line.importer()
    importer.plan(parcel)
    before = line.proxy.passed
    cuts = [before + SIZE * part // 10 for part in (2, 4, 6, 8)]
    line.proxy.faults = ManyCuts(cuts)

    with told(line.world.sandbox) as asked:
        carry_out(importer, parcel)

    assert line.proxy.cuts == len(cuts)
    assert asked["importFileset"] == 1
    assert line.proxy.passed - before < SIZE + len(cuts) * (AHEAD + TALK)
    is_there_once(line, parcel)


class ManyCuts(Faults):
    """Cuts the line at each of these numbers of bytes."""

    def __init__(self, at: Sequence[int]) -> None:
        self._at: list[int] = []
        super().__init__()
        self._at = list(at)

    @property
    def cut_at(self) -> int | None:
        return self._at[0] if self._at else None

    @cut_at.setter
    def cut_at(self, _: int | None) -> None:
        self._at = self._at[1:]


@only_once
def test_a_router_that_restarts_is_waited_for_when_there_is_something_to_go_on_with(line: Line) -> None:
    parcel, importer = one_large_image(line.world), line.importer(patience=120.0)
    importer.plan(parcel)
    line.proxy.faults.refuse = True
    line.proxy.faults.cut_at = line.proxy.passed + SIZE * 6 // 10
    back = threading.Thread(target=comes_back, args=(line.proxy, 1))
    back.start()

    with told(line.world.sandbox) as asked:
        carry_out(importer, parcel)

    back.join()
    assert asked["importFileset"] == asked["verifyUpload"] == 1
    is_there_once(line, parcel)


def comes_back(proxy: FaultProxy, cuts: int) -> None:
    """Let connections pass again, some time after the line was cut."""
    wait_until(lambda: proxy.cuts == cuts, seconds=120)
    time.sleep(1.5)
    proxy.faults.refuse = False


def test_it_goes_on_when_the_router_has_been_away_for_longer(line: Line) -> None:
    parcel, importer = one_large_image(line.world), line.importer()
    before = cut_for_a_while(line, importer, parcel)

    with told(line.world.sandbox) as asked:
        outcomes = bring_home(importer, parcel)

    assert all_verified(outcomes, parcel)
    assert asked["importFileset"] == 0
    assert line.proxy.passed - before < SIZE + AHEAD + TALK
    is_there_once(line, parcel)


@only_once
def test_without_its_session_it_is_begun_anew_and_there_once(line: Line) -> None:
    parcel, importer = one_large_image(line.world), line.importer()
    cut_for_a_while(line, importer, parcel)
    line.world.sandbox.do("end-sessions", user="carol", idle=True)

    with told(line.world.sandbox) as asked:
        outcomes = bring_home(importer, parcel)

    assert all_verified(outcomes, parcel)
    assert asked["importFileset"] == 1
    is_there_once(line, parcel)


@only_once
def test_another_process_knows_nothing_of_it_and_begins_anew(line: Line) -> None:
    parcel = one_large_image(line.world)
    cut_for_a_while(line, line.importer(), parcel)

    with told(line.world.sandbox) as asked:
        outcomes = bring_home(line.importer(), parcel)

    assert all_verified(outcomes, parcel)
    assert asked["importFileset"] == 1
    is_there_once(line, parcel)


def cut_for_a_while(line: Line, importer: OmeroImporter, parcel: Parcel) -> int:
    """The import fails in the middle of its upload; how many bytes had passed before it."""
    importer.plan(parcel)
    before = line.proxy.passed
    line.proxy.faults.cut_at = before + SIZE * 6 // 10
    line.proxy.faults.refuse = True
    with pytest.raises(TargetUnavailable):
        carry_out(importer, parcel)
    line.proxy.faults.refuse = False
    return before


# -- the server has trouble ---------------------------------------------------------------------------------------------


@only_once
def test_a_disk_that_was_full_for_a_while(line: Line) -> None:
    parcel, importer = one_large_image(line.world), line.importer()
    importer.plan(parcel)
    before = line.proxy.passed
    line.world.sandbox.faults(disk_full_at=SIZE // 2)
    with told(line.world.sandbox) as asked, pytest.raises(TargetUnavailable):
        carry_out(importer, parcel)
    assert asked["importFileset"] == 1

    line.world.sandbox.faults()
    with told(line.world.sandbox) as asked:
        outcomes = bring_home(importer, parcel)

    assert all_verified(outcomes, parcel)
    assert asked["importFileset"] == 0
    assert line.proxy.passed - before < SIZE + AHEAD + TALK
    is_there_once(line, parcel)


@only_once
def test_what_comes_no_further_is_begun_anew(line: Line) -> None:
    line.world.valve["first_pause"] = line.world.valve["longest_pause"] = 0.0
    parcel, importer = one_large_image(line.world), line.importer()
    line.world.sandbox.faults(disk_full_at=SIZE // 2)
    begun = []
    for _ in range(3):
        with told(line.world.sandbox) as asked, pytest.raises(TargetUnavailable):
            carry_out(importer, parcel)
        begun.append(asked["importFileset"])
    line.world.sandbox.faults()

    assert begun == [1, 0, 1]
    assert all_verified(bring_home(importer, parcel), parcel)
    is_there_once(line, parcel)


@only_once
def test_nothing_is_sent_again_because_the_server_was_busy_when_all_was_there(line: Line) -> None:
    parcel, importer = one_large_image(line.world), line.importer()
    line.world.sandbox.faults(errors=["verifyUpload=LockTimeout"])

    with told(line.world.sandbox) as asked:
        assert all_verified(bring_home(importer, parcel), parcel)

    assert asked == {"importFileset": 1, "verifyUpload": 2, "write": -(-file_size(parcel) // BLOCK)}


@only_once
def test_a_checksum_that_the_manifest_has_not_is_one_of_the_whole_file(line: Line) -> None:
    parcel, importer = one_large_image(line.world), line.importer(checksum="CRC-32")
    importer.plan(parcel)
    line.proxy.faults.cut_at = line.proxy.passed + SIZE * 6 // 10

    with told(line.world.sandbox) as asked:
        assert all_verified(bring_home(importer, parcel), parcel)

    assert line.proxy.cuts == 1
    assert asked["importFileset"] == asked["verifyUpload"] == 1


@only_once
def test_a_damaged_file_is_sent_again_alone_after_the_line_was_cut(line: Line) -> None:
    parcel, importer = many_files(line.world), line.importer(files=RULES)
    importer.plan(parcel)
    before = line.proxy.passed
    line.proxy.faults.cut_at = before + SIZE * 4 // 10
    line.world.sandbox.faults(damaged_uploads=1)

    with told(line.world.sandbox) as asked:
        assert all_verified(bring_home(importer, parcel), parcel)

    assert asked["importFileset"] == 1
    assert asked["verifyUpload"] == 2
    assert line.proxy.passed - before < SIZE + 5 * (SIZE // 40) + AHEAD + TALK


def file_size(parcel: Parcel) -> int:
    (entry,) = parcel.manifest
    return entry.size


# -- sessions -----------------------------------------------------------------------------------------------------------


def test_nothing_stays_open(line: Line) -> None:
    line.world.sandbox.do("end-sessions", user="carol")
    parcel, importer = many_files(line.world), line.importer(files=RULES)
    importer.plan(parcel)
    line.proxy.faults.cut_at = line.proxy.passed + SIZE * 4 // 10
    carry_out(importer, parcel)

    with line.world.client("root") as client:
        assert not client.getManagedRepository().listImports()
    importer.close()
    assert not sessions_of(line.world, "carol")


@only_once
def test_who_still_seems_to_be_connected_joins_as_another_client(line: Line) -> None:
    """The server may not have noticed that a line is dead."""
    settings, _ = repository_settings(line.table())
    sessions = Sessions(settings)
    first = sessions.connection(Who())
    ghost = omero.client(f"tcp://{line.world.sandbox.host}", line.world.sandbox.tcp_port)
    line.proxy.cut()

    def haunts() -> bool:
        ghost.getImplicitContext().put("omero.client.uuid", first.client_id)
        try:
            ghost.joinSession(first.key).detachOnDestroy()
        except omero.WrappedCreateSessionException:
            return False
        return True

    try:
        wait_until(haunts)
        again = sessions.run(Who(), "looking", same)

        assert again.key == first.key
        assert again.client_id != first.client_id
    finally:
        sessions.close()
        ghost.closeSession()


def same(connection: Connection) -> Connection:
    """Proves that the connection works."""
    connection.time_database()
    return connection
