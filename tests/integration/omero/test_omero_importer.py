"""What only the OMERO importer does, against the stand-in: checksums, what goes wrong on the way, sparing the server."""

import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("omero", reason="omero-py is not installed: make omero")

from lading.delivery import Outcome, Parcel
from lading.errors import AccessDenied, Corrupted, Refused, TargetUnavailable
from lading.testing.importer_suite import MemoryJournal, all_verified, bring_home, by_path, carry_out
from lading.testing.omero_world import USERS, OmeroWorld
from omero_importer.hashes import ALGORITHMS
from omero_importer.importer import OmeroImporter


def filesets(world: OmeroWorld, parcel: Parcel) -> list[list[object]]:
    """The Filesets of a parcel, one row each: id, number of images."""
    rows = world.ask(
        "select distinct e.fileset.id from FilesetEntry e where e.clientPath like :p", p=f"{parcel.delivery.labels}/%"
    )
    return [[row[0], len(world.ask(f"select i.id from Image i where i.fileset.id = {row[0]}"))] for row in rows]


def at_home(world: OmeroWorld, importer: OmeroImporter, parcel: Parcel) -> None:
    """The parcel arrives although something goes wrong, nothing is doubled, and no Fileset is without an image."""
    outcomes = bring_home(importer, parcel)

    assert all_verified(outcomes, parcel), {path: outcome.how for path, outcome in outcomes.items()}
    images = sum(entry.path.endswith(".tif") for entry in parcel.manifest)
    assert [row[1] for row in filesets(world, parcel)] == [1] * images
    assert world.sessions() == 1


# -- checksums ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(ALGORITHMS))
def test_every_checksum_is_computed_as_the_server_does(world: OmeroWorld, name: str) -> None:
    parcel = world.parcel(images=2)
    importer = world.importer(checksum=name, reread=False)

    outcomes = by_path(importer.verify(parcel, carry_out(importer, parcel)))

    expected = Outcome.UNVERIFIED if name == "File-Size-64" else Outcome.VERIFIED
    assert {outcome.outcome for outcome in outcomes.values()} == {expected}
    hashers = world.ask(
        "select distinct h.value from FilesetEntry e join e.originalFile o join o.hasher h where e.clientPath like :p",
        p=f"{parcel.delivery.labels}/%",
    )
    assert hashers == [[name]]


def test_without_a_checksum_the_files_can_be_downloaded_and_compared(world: OmeroWorld) -> None:
    parcel = world.parcel(images=1, companions=["a.txt"])
    importer = world.importer(blank_digest="download", reread=False)
    world.show_no_digests()

    outcomes = by_path(importer.verify(parcel, carry_out(importer, parcel)))

    assert all_verified(outcomes, parcel)


def test_a_file_that_was_stored_damaged_is_sent_again_alone(world: OmeroWorld) -> None:
    parcel = world.parcel(images=3, companions=["a.txt"])
    world.sandbox.faults(damaged_uploads=1)
    before = world.sandbox.count("ManagedRepository.importFileset")

    at_home(world, world.importer(), parcel)

    assert world.sandbox.count("ManagedRepository.importFileset") - before == 3


def test_a_server_that_cannot_store_a_file_is_not_believed(world: OmeroWorld) -> None:
    parcel = world.parcel(images=1)
    world.sandbox.faults(wrong_hashes=-1)
    importer, journal = world.importer(), MemoryJournal()

    with pytest.raises(TargetUnavailable, match="other bytes"):
        carry_out(importer, parcel, journal)

    world.sandbox.faults()
    at_home(world, importer, parcel)


@pytest.mark.parametrize("checksum", ["", "CRC-32"])
def test_a_parcel_that_changed_in_the_inbox_is_not_imported_and_the_server_is_not_blamed(
    world: OmeroWorld, checksum: str
) -> None:
    parcel = world.parcel(images=1)
    importer = world.importer(checksum=checksum)
    (entry,) = parcel.manifest
    spoil(parcel, entry.path)

    with pytest.raises(Corrupted, match="not what its manifest says") as raised:
        carry_out(importer, parcel)

    assert raised.value.paths == (entry.path,)
    assert [row[1] for row in filesets(world, parcel)] in ([], [0])


def test_an_attachment_that_changed_in_the_inbox_is_not_taken_for_the_servers_fault(world: OmeroWorld) -> None:
    parcel = world.parcel(images=1, companions=["a.txt"])
    importer = world.importer()
    spoil(parcel, "a.txt")
    outcomes = by_path(importer.verify(parcel, carry_out(importer, parcel)))

    with pytest.raises(Corrupted, match=r"a\.txt"):
        carry_out(importer, parcel)

    assert outcomes["a.txt"].outcome is Outcome.MISMATCH


def spoil(parcel: Parcel, name: str) -> None:
    """As a disk does that forgets: another bit, nothing else."""
    path = parcel.root / name
    path.chmod(0o644)
    content = path.read_bytes()
    path.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))


# -- what goes wrong on the way -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "knobs",
    [
        {"lost_replies": ["importFileset"]},
        {"lost_replies": ["verifyUpload"]},
        {"lost_replies": ["saveAndReturnObject", "saveAndReturnObject", "saveArray"]},
        {"cut_calls": ["importFileset"]},
        {"cut_calls": ["write"]},
        {"cut_calls": ["getResponse"]},
        {"session_killed": ["write"]},
        {"session_killed": ["verifyUpload"]},
        {"session_killed": ["saveAndReturnObject"]},
        {"errors": ["importFileset=TryAgain", "write=DatabaseBusyException", "verifyUpload=LockTimeout"]},
        {"errors": ["createSession=WrappedCreateSessionException"]},
        {"errors": ["importFileset=OverUsageException"]},
        {"errors": ["write=ResourceError"]},
        {"errors": ["close=InternalException"]},
        {"disk_full": 1},
        {"cut_upload_at": 100},
        {"lost_finished": -1, "lost_steps": -1},
        {"import_errors": ["import-request-failure", "update-log-file-size", "error-on-init"]},
        {"database_busy": 3},
        {"no_repository": 1},
        {"no_images": 0, "step_delay_s": 0.05},
    ],
    ids=lambda knobs: "+".join(f"{key}:{value}" for key, value in knobs.items())[:60],
)
def test_it_arrives_all_the_same(world: OmeroWorld, knobs: Mapping[str, object]) -> None:
    parcel = world.parcel(images=3, companions=["a.txt"])
    importer = world.importer()
    world.sandbox.faults(**knobs)

    at_home(world, importer, parcel)


@pytest.mark.parametrize("name", ["import-unknown-format", "import-file-exception", "import-missing-library"])
def test_what_omero_cannot_read_is_refused_and_leaves_nothing_behind(world: OmeroWorld, name: str) -> None:
    parcel = world.parcel(images=3)
    world.sandbox.faults(import_errors=[name])

    with pytest.raises(Refused, match=name):
        carry_out(world.importer(), parcel)

    assert [row[1] for row in filesets(world, parcel)] == [1, 1]
    at_home(world, world.importer(), parcel)


def test_a_file_of_an_unknown_format_is_refused(world: OmeroWorld) -> None:
    parcel = world.parcel(images=1, files={"fake.tif": b"this is no image"})
    importer = world.importer(files={"filesets": [{"pattern": "*.tif"}]})

    with pytest.raises(Refused, match=r"fake\.tif"):
        carry_out(importer, parcel)

    assert [row[1] for row in filesets(world, parcel)] == [1]


def test_an_import_that_makes_no_image_is_refused_and_leaves_nothing_behind(world: OmeroWorld) -> None:
    parcel = world.parcel(images=1)
    world.sandbox.faults(no_images=1)

    with pytest.raises(Refused, match="no image"):
        carry_out(world.importer(), parcel)

    assert not filesets(world, parcel)


def test_a_server_that_dies_after_storing_the_fileset_gets_it_once(world: OmeroWorld) -> None:
    parcel = world.parcel(images=2)
    importer, journal = world.importer(), MemoryJournal()
    world.sandbox.faults(crash_after_fileset=1)

    with pytest.raises(TargetUnavailable):
        carry_out(importer, parcel, journal)
    world.sandbox.stop()
    world.sandbox.start()

    at_home(world, importer, parcel)


def test_a_server_that_dies_in_the_middle_of_an_import(world: OmeroWorld) -> None:
    parcel = world.parcel(images=2)
    importer, journal = world.importer(), MemoryJournal()
    world.sandbox.faults(crash_in_step=["2"])

    with pytest.raises(TargetUnavailable):
        carry_out(importer, parcel, journal)
    world.sandbox.stop()
    world.sandbox.start()

    at_home(world, importer, parcel)


# -- sparing the server -------------------------------------------------------------------------------------------------


def test_a_slow_database_closes_the_valve_for_everybody(world: OmeroWorld) -> None:
    world.valve["first_pause"] = world.valve["longest_pause"] = 600.0
    world.valve["database_wait"] = 2.0
    parcel = world.parcel(images=1)
    importer, other = world.importer(), world.importer()
    world.sandbox.faults(slow=["getDatabaseTime=2.2"])

    carry_out(importer, parcel)  # one slow answer may be chance
    with pytest.raises(TargetUnavailable, match="database"):
        carry_out(importer, parcel)

    with pytest.raises(TargetUnavailable, match="leave the server alone"):
        other.probe()
    with pytest.raises(TargetUnavailable, match="leave the server alone"):
        other.plan(parcel)


def test_a_full_disk_closes_the_valve(world: OmeroWorld) -> None:
    world.valve["first_pause"] = world.valve["longest_pause"] = 600.0
    importer, parcel = world.importer(), world.parcel(images=1)
    world.sandbox.faults(disk_full=-1)

    with pytest.raises(TargetUnavailable):
        carry_out(importer, parcel)

    with pytest.raises(TargetUnavailable, match="could not write to its disk"):
        importer.probe()


def test_an_import_that_waits_for_a_background_slot_closes_the_valve_and_goes_on(world: OmeroWorld) -> None:
    world.valve["first_pause"] = world.valve["longest_pause"] = 600.0
    world.valve["verify_wait"] = 0.3
    importer, other, parcel = world.importer(), world.importer(), world.parcel(images=1)
    world.sandbox.faults(slow=["verifyUpload=1.5"])

    record = carry_out(importer, parcel)

    with pytest.raises(TargetUnavailable, match=r"waited longer than 0\.3 s for one of its background slots"):
        other.probe()
    assert all_verified(by_path(importer.verify(parcel, record)), parcel)


def test_a_server_that_stays_busy_closes_the_valve(world: OmeroWorld) -> None:
    world.valve["first_pause"] = world.valve["longest_pause"] = 600.0
    parcel = world.parcel(images=1)
    importer = world.importer()
    importer.probe()
    world.sandbox.faults(errors=["importFileset=DatabaseBusyException"] * 10)

    with pytest.raises(TargetUnavailable):
        carry_out(importer, parcel)

    with pytest.raises(TargetUnavailable, match="stay away"):
        importer.probe()


def test_one_import_at_a_time_is_under_way(world: OmeroWorld) -> None:
    world.sandbox.stop()
    world.sandbox.start()  # which forgets how busy it has been
    parcel = world.parcel(images=8)
    importer = world.importer(uploads=8)
    world.sandbox.faults(step_delay_s=0.02)

    assert all_verified(bring_home(importer, parcel), parcel)

    use = world.sandbox.do("use")
    assert isinstance(use, dict)
    assert use["background"]["peak"] == 1


def test_a_delivery_is_uploaded_while_another_holds_the_only_slot(world: OmeroWorld) -> None:
    world.valve["slots"] = 1
    parcels = [world.parcel("MR1", images=1), world.parcel("MR2", images=1)]
    asked = world.sandbox.count("ImportProcess.verifyUpload")
    stored = world.sandbox.records("FilesetEntry") + len(parcels)
    world.sandbox.faults(hold_at=["1"])
    with ThreadPoolExecutor(len(parcels)) as several:
        outcomes = [several.submit(bring_home, world.importer(), parcel) for parcel in parcels]
        until = time.monotonic() + 60
        while (
            world.sandbox.records("FilesetEntry") < stored or world.sandbox.count("ImportProcess.verifyUpload") == asked
        ):
            assert time.monotonic() < until
            time.sleep(0.05)
        time.sleep(0.5)  # enough for the second to ask as well, if nothing kept it

        assert world.sandbox.count("ImportProcess.verifyUpload") == asked + 1
        world.sandbox.faults()
        for one, parcel in zip(outcomes, parcels, strict=True):
            assert all_verified(one.result(60), parcel)


def test_nothing_stays_open_on_the_server(world: OmeroWorld) -> None:
    parcel = world.parcel(images=5, companions=["a.txt"])
    importer = world.importer()
    carry_out(importer, parcel)

    with world.client("root") as client:
        assert not client.getManagedRepository().listImports()


# -- the certificate ----------------------------------------------------------------------------------------------------


def test_a_certificate_of_an_unknown_authority_is_refused(world: OmeroWorld) -> None:
    table = {**world.repository(world.login("carol", USERS["carol"])), "port": world.sandbox.port}
    del table["plain"]
    importer = OmeroImporter.from_settings(table, {}, inbox_root=world.inbox.root, state=world.folder / "tls")

    with pytest.raises(AccessDenied, match="certificate"):
        importer.probe()


def test_a_certificate_for_another_name_is_refused(world: OmeroWorld) -> None:
    table = {
        **world.repository(world.login("carol", USERS["carol"])),
        "host": "127.0.0.2",
        "port": world.sandbox.port,
        "ssl": {"ca": str(world.sandbox.certificate)},
    }
    del table["plain"]
    importer = OmeroImporter.from_settings(table, {}, inbox_root=world.inbox.root, state=world.folder / "tls")

    with pytest.raises((AccessDenied, TargetUnavailable)):
        importer.probe()
