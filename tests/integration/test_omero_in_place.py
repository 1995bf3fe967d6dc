"""In-place imports against the stand-in: the bytes are on its disk and were never sent, and every reason to refuse."""

import os
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("omero")

from lading.delivery import Outcome
from lading.errors import ConfigError, Corrupted, LadingError, Refused
from lading.manifest import Entry
from lading.sandbox.omero import Accounts, SandboxOmero, User
from lading.testing import real_images
from lading.testing.importer_suite import carry_out
from lading.testing.omero_world import OmeroWorld, running_omero
from lading.testing.parcels import parcel_at
from omero_importer.ice import grid, model, rbool, rstring
from omero_importer.in_place import CLASSES, NS_TRANSFER, InPlace
from omero_importer.in_place_rules import InPlaceSettings, checked_in_place, why_not
from omero_importer.session import Connection, Sessions, Who
from omero_importer.settings import repository_settings

PASSWORD = "in-place-secret"


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxOmero]:
    people = Accounts({"root": User(PASSWORD, ("system",)), "carol": User(PASSWORD, ("lab",))}, {"lab": "rw----"})
    with SandboxOmero(tmp_path_factory.mktemp("omero"), people=people, java=False) as running:
        yield running


@pytest.fixture(scope="module")
def facility(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxOmero]:
    with running_omero(tmp_path_factory.mktemp("facility")) as running:
        yield running


@pytest.fixture
def connection(sandbox: SandboxOmero, monkeypatch: pytest.MonkeyPatch) -> Iterator[Connection]:
    monkeypatch.setenv("LADING_OMERO_USER", "carol")
    monkeypatch.setenv("LADING_OMERO_PASSWORD", PASSWORD)
    settings, _ = repository_settings({"host": sandbox.host, "port": sandbox.tcp_port, "plain": "loopback"})
    with Sessions(settings).fresh(Who(), "a test") as found:
        yield found


@pytest.fixture
def repository(connection: Connection) -> Path:
    root = connection.repository().root()
    return Path(root.path.val) / root.name.val


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "permanent" / "data"
    folder.mkdir(parents=True)
    return folder


def entries(data: Path) -> list[Entry]:
    return list(parcel_at(data, data.parent.parent / "papers").manifest)


def settings(how: str, repository: Path, data: Path) -> InPlaceSettings:
    return InPlaceSettings(transfer=how, repository=repository, permanent=(data.parent,))


def begin(connection: Connection, ours: InPlace, paths: list[str]) -> "grid.ImportProcessPrx":
    fileset = model.FilesetI()
    for path in paths:
        entry = model.FilesetEntryI()
        entry.clientPath = rstring(f"DEMO/sub-001/S1/{path}")
        fileset.addFilesetEntry(entry)
    fileset.linkJob(model.UploadJobI())
    ours.annotate(fileset)
    algorithm = model.ChecksumAlgorithmI()
    algorithm.value = rstring("SHA1-160")
    wanted = grid.ImportSettings(doThumbnails=rbool(False), noStatsInfo=rbool(True), checksumAlgorithm=algorithm)
    return connection.repository().importFileset(fileset, wanted)


def stored_path(process: "grid.ImportProcessPrx", connection: Connection, repository: Path) -> Path:
    store = process.getUploader(0, {"omero.fs.mode": "r"})
    file = connection.queries.get("OriginalFile", store.getFileId().val)
    store.close()
    return repository.joinpath(*f"{file.path.val}/{file.name.val}".strip("/").split("/"))


@pytest.mark.parametrize("how", sorted(CLASSES))
def test_files_are_on_the_servers_disk_and_become_an_image(
    connection: Connection, sandbox: SandboxOmero, repository: Path, data: Path, how: str
) -> None:
    (name,) = real_images.ome_tiff_pyramid(data)
    (entry,) = entries(data)
    ours = InPlace(settings(how, repository, data), connection, data)
    ours.demand(temporary=())
    process = begin(connection, ours, [name])

    checksum = ours.bring(process, 0, entry, "SHA1-160")
    stored = stored_path(process, connection, repository)
    handle = process.verifyUpload([checksum])
    deadline = time.monotonic() + 120
    while handle.getResponse() is None:
        assert time.monotonic() < deadline
        time.sleep(0.02)

    assert len(handle.getResponse().pixels) == 1
    fileset = handle.getRequest().activity.parent.id.val
    assert stored.read_bytes() == (data / name).read_bytes()
    assert stored.is_symlink() == (how == "ln_s")
    assert stored.samefile(data / name) == (how != "cp")
    notes = connection.queries.projection(
        f"select a.textValue from FilesetAnnotationLink l join l.child a where l.parent.id = {fileset} and a.ns = '{NS_TRANSFER}'",
        None,
    )
    assert [row[0].val for row in notes] == [CLASSES[how]]
    handle.close()
    process.close()


@pytest.mark.parametrize("size", [0, 32, 33])
def test_a_file_as_long_as_the_token_is_hashed_all_the_same(
    connection: Connection, repository: Path, data: Path, size: int
) -> None:
    (data / "x.tif").write_bytes(os.urandom(size))
    (entry,) = entries(data)
    ours = InPlace(settings("ln_s", repository, data), connection, data)
    process = begin(connection, ours, ["x.tif"])

    checksum = ours.bring(process, 0, entry, "SHA1-160")
    handle = process.verifyUpload([checksum])

    handle.close()
    process.close()


def test_another_disk_is_noticed_and_nothing_is_left_on_it(connection: Connection, data: Path, tmp_path: Path) -> None:
    real_images.png(data)
    other = tmp_path / "other" / "ManagedRepository"
    other.mkdir(parents=True)
    ours = InPlace(settings("cp", other, data), connection, data)
    process = begin(connection, ours, ["overview.png"])

    with pytest.raises(Refused, match="another disk"):
        ours.bring(process, 0, entries(data)[0], "SHA1-160")

    assert list(other.iterdir()) == []
    process.close()


def test_a_server_that_names_a_place_elsewhere_is_refused(connection: Connection, repository: Path, data: Path) -> None:
    real_images.png(data)
    ours = InPlace(settings("ln_s", repository, data), connection, data)
    process = begin(connection, ours, ["overview.png"])
    store = process.getUploader(0)
    file = connection.queries.get("OriginalFile", store.getFileId().val)
    file.path = rstring("../../../etc/")
    connection.updates.saveObject(file)

    with pytest.raises(Refused, match="outside its repository"):
        ours.bring(process, 0, entries(data)[0], "SHA1-160")

    process.close()


def test_a_file_that_changed_in_the_inbox_is_not_linked(connection: Connection, repository: Path, data: Path) -> None:
    real_images.png(data)
    (entry,) = entries(data)
    ours = InPlace(settings("ln_s", repository, data), connection, data)
    process = begin(connection, ours, ["overview.png"])
    (data / "overview.png").unlink()
    (data / "overview.png").symlink_to("/etc/passwd")

    with pytest.raises(Corrupted, match=r"overview\.png"):
        ours.bring(process, 0, entry, "SHA1-160")

    process.close()


class LeadsNowhere(InPlace):
    """As if the server had another folder under the same path: what we put there is nothing that it can open."""

    def _put(self, source: Path, target: Path) -> None:
        target.symlink_to(source.with_name("nowhere"))


@pytest.mark.parametrize("how", ["ln_s", "cp"])
def test_what_the_server_cannot_see_is_refused_and_undone(
    connection: Connection, repository: Path, data: Path, how: str
) -> None:
    real_images.png(data)
    (entry,) = entries(data)
    ours = LeadsNowhere(settings(how, repository, data), connection, data)
    process = begin(connection, ours, ["overview.png"])
    where = stored_path(process, connection, repository)

    with pytest.raises(Refused, match="the server"):
        ours.bring(process, 0, entry, "SHA1-160")

    assert not os.path.lexists(where)
    process.close()


def test_reasons_not_to_even_begin(tmp_path: Path, data: Path) -> None:
    repository = tmp_path / "ManagedRepository"
    repository.mkdir()
    good = settings("ln_s", repository, data)

    assert why_not(good, data, temporary=()) == ""
    assert why_not(InPlaceSettings(), data) == ""
    assert "is temporary storage" in why_not(good, data, temporary=(tmp_path,))
    assert "may be removed" in why_not(settings("ln_s", repository, tmp_path / "x" / "y"), data, temporary=())
    assert "mounted here" in why_not(settings("cp", tmp_path / "absent", data), data)


@pytest.mark.skipif(not Path("/dev/shm").is_dir(), reason="needs a second file system (/dev/shm)")
def test_hard_links_span_no_file_systems_and_memory_is_no_storage(data: Path, tmp_path: Path) -> None:
    with tempfile.TemporaryDirectory(dir="/dev/shm") as name:
        memory = Path(name)
        assert "different file systems" in why_not(settings("ln", memory, data), data)
        inside = InPlaceSettings(transfer="ln_s", repository=tmp_path, permanent=(memory,))
        assert "temporary storage" in why_not(inside, memory, temporary=())


@pytest.mark.parametrize(
    ("table", "says"),
    [
        (InPlaceSettings(transfer="move"), "transfer = 'move'"),
        (InPlaceSettings(transfer="cp"), "needs x.repository"),
        (InPlaceSettings(transfer="ln_s", repository=Path("/omero")), "needs x.permanent"),
    ],
)
def test_settings_that_cannot_work_are_refused_at_start_up(table: InPlaceSettings, says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        checked_in_place(table, "x")


def test_no_reason_is_a_foreign_exception(connection: Connection, repository: Path, data: Path) -> None:
    real_images.png(data)
    ours = InPlace(settings("ln", repository / "absent", data), connection, data)

    with pytest.raises(LadingError, match="mounted here"):
        ours.demand()


@pytest.mark.parametrize("how", ["cp", "ln"])
def test_the_importer_brings_a_parcel_in_place_and_proves_it(facility: SandboxOmero, tmp_path: Path, how: str) -> None:
    repository = facility.root / "data" / "ManagedRepository"
    world = OmeroWorld(facility, tmp_path, route={"in_place": {"transfer": how, "repository": str(repository)}})
    parcel, importer = world.parcel(images=3, companions=["notes.txt"]), world.importer()

    record = carry_out(importer, parcel)
    outcomes = list(importer.verify(parcel, record))

    assert {outcome.outcome for outcome in outcomes} == {Outcome.VERIFIED}
    assert len(outcomes) == 4
    stored = world.stored(parcel)
    linked = [stored[path].samefile(parcel.root / path) for path in stored if path.endswith(".tif")]
    assert linked == [how == "ln"] * 3
    world.close()
