"""What a node has of a delivery, and how that is proven: a real Orthanc behind a relay, which loses what a test wants."""

import shutil
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import UID
from pynetdicom import AE

from dicom_importer.commitment import Reports
from dicom_importer.importer import DicomImporter
from lading.delivery import Labels, Outcome, Parcel
from lading.errors import LadingError, Refused, TargetUnavailable
from lading.testing.dicom import new_study, write_dicom
from lading.testing.dicom_nodes import dataset, missing_for_dicom
from lading.testing.dicom_world import DicomWorld, Relay, other_pixels
from lading.testing.importer_suite import MemoryJournal, all_verified, bring_home, by_path, carry_out
from lading.testing.orthanc_node import Orthanc, missing_for_orthanc
from lading.testing.parcels import publish, read_files
from lading.testing.servers import free_port

MISSING = missing_for_dicom() or missing_for_orthanc()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)
CT = "1.2.840.10008.5.1.4.1.1.2"


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with Orthanc(tmp_path_factory.mktemp("orthanc")).running() as running:
        yield running


@pytest.fixture
def world(orthanc: Orthanc, tmp_path: Path) -> Iterator[DicomWorld]:
    with Relay(orthanc.port) as relay:
        made = DicomWorld(orthanc, relay, tmp_path)
        yield made
        made.close()


def ours(parcel: Parcel) -> dict[str, bytes]:
    return dict(dataset(parcel.root / entry.path) for entry in parcel.manifest)


# -- what is sent ------------------------------------------------------------------------------------------------------


def test_files_that_are_no_dicom_are_named_and_hold_the_delivery_unless_they_may_be_left(world: DicomWorld) -> None:
    images = read_files(world.parcel("MR0").root)
    broken = next(iter(images.values()))[:200]
    parcel = publish(
        world.inbox, Labels(world.project, "sub-001", "MR1"), {**images, "notes.txt": b"x", "e": b"", "b.dcm": broken}
    )
    importer = world.importer()

    plan = importer.plan(parcel)
    held = by_path(importer.verify(parcel, importer.run(parcel, plan, MemoryJournal())))
    lenient = world.importer(others="leave")
    left = by_path(lenient.verify(parcel, carry_out(lenient, parcel)))
    skipping = importer.plan(parcel, {"notes.txt": "a check says so"})
    skipped = by_path(importer.verify(parcel, importer.run(parcel, skipping, MemoryJournal())))

    assert {finding.path: finding.code for finding in plan.findings} == {
        "notes.txt": "not-dicom",
        "e": "not-dicom",
        "b.dcm": "dicom-not-sendable",
    }
    assert {held[name].outcome for name in ("notes.txt", "e", "b.dcm")} == {Outcome.MISSING}
    assert {held[name].outcome for name in images} == {Outcome.VERIFIED}
    assert {left[name].outcome for name in ("notes.txt", "e")} == {Outcome.FILTERED}
    assert left["b.dcm"].outcome is Outcome.MISSING
    assert skipped["notes.txt"].outcome is Outcome.FILTERED
    assert skipped["notes.txt"].how == "a check says so"


def test_two_files_with_one_identity_are_one_image_at_the_node(world: DicomWorld) -> None:
    images = read_files(world.parcel("MR0").root)
    first = images["0001.dcm"]
    other = bytearray(first)
    other[first.rindex(b"\xe0\x7f\x10\x00") + 16] ^= 0xFF
    parcel = publish(
        world.inbox, Labels(world.project, "sub-001", "MR1"), {**images, "copy.dcm": first, "other.dcm": bytes(other)}
    )
    importer = world.importer()

    outcomes = by_path(importer.verify(parcel, carry_out(importer, parcel)))

    judged = {name: outcomes[name].outcome for name in ("0001.dcm", "copy.dcm", "other.dcm")}
    assert judged == {"0001.dcm": Outcome.VERIFIED, "copy.dcm": Outcome.VERIFIED, "other.dcm": Outcome.MISSING}


def test_an_association_that_breaks_in_the_middle_costs_only_what_was_in_flight(world: DicomWorld) -> None:
    parcel = world.parcel(images=40)
    world.relay.cut_after = 15

    record = carry_out(world.importer(), parcel)

    importer = world.importer()
    assert all_verified(by_path(importer.verify(parcel, record)), parcel)
    # The one that was cut on its way, and one on each other association.
    assert world.relay.stores <= 40 + 4


# -- proofs ------------------------------------------------------------------------------------------------------------


def committing(world: DicomWorld, **more: object) -> DicomImporter:
    table = world.repository(proof="commitment", commitment_host="127.0.0.1", commitment_port=world.orthanc.reports,
                             report_wait=60.0, **more)  # fmt: skip
    made = DicomImporter.from_settings(table, {}, inbox_root=world.inbox.root, state=world.folder / "state")
    world._importers.append(made)
    return made


def test_the_nodes_own_report_is_a_proof_and_its_transaction_was_noted_first(world: DicomWorld) -> None:
    parcel, journal = world.parcel(images=10), MemoryJournal()
    importer = committing(world)

    record = carry_out(importer, parcel, journal)
    outcomes = by_path(importer.verify(parcel, record))

    assert journal.notes["commitment"] == record.target["commitment"]
    assert all_verified(outcomes, parcel)
    assert {outcome.how for outcome in outcomes.values()} == {"storage-commitment"}


@pytest.mark.parametrize("proof", ["read-back", "commitment"])
def test_an_image_that_was_replaced_before_it_was_sent_is_not_called_verified(world: DicomWorld, proof: str) -> None:
    """As long, and readable: the node has what lay there then, which is not what was accepted."""
    parcel = world.parcel(images=3)
    replaced = parcel.root / "0002.dcm"
    replaced.write_bytes(other_pixels(replaced.read_bytes()))
    importer = committing(world) if proof == "commitment" else world.importer()

    outcomes = by_path(importer.verify(parcel, carry_out(importer, parcel)))

    assert Counter(str(outcome.outcome) for outcome in outcomes.values()) == {"verified": 2, "unverified": 1}
    assert "manifest" in outcomes["0002.dcm"].how


@pytest.mark.parametrize("where", ["file", "folder"])
def test_an_image_that_was_swapped_for_a_link_is_not_followed(world: DicomWorld, tmp_path: Path, where: str) -> None:
    """A sender could have had images of others, that we may read and he may not, sent to a node of his own."""
    others = tmp_path / "others"
    write_dicom(others / "0001.dcm", study=new_study(), series=new_study(), instance=1)
    image = (others / "0001.dcm").read_bytes()
    labels = Labels(world.project, "sub-001", "MR1")
    parcel = publish(world.inbox, labels, {"series/0001.dcm": other_pixels(image)})
    (parcel.root / "series" / "0001.dcm").unlink()
    if where == "file":
        (parcel.root / "series" / "0001.dcm").symlink_to(others / "0001.dcm")
    else:
        (parcel.root / "series").rmdir()
        (parcel.root / "series").symlink_to(others)

    with pytest.raises(LadingError, match=r"series/0001\.dcm"):
        carry_out(world.importer(), parcel)

    assert world.relay.stores == 0


def test_what_was_withdrawn_from_the_inbox_is_said_to_be(world: DicomWorld) -> None:
    """It was tried again for a day, as a file that is gone."""
    parcel = world.parcel(images=1)
    record = carry_out(world.importer(), parcel)
    shutil.rmtree(parcel.root)

    for step in (lambda: list(world.importer().verify(parcel, record)), lambda: world.importer().plan(parcel)):
        with pytest.raises(Refused, match="withdrawn") as caught:
            step()
        assert caught.value.next_command


def test_a_report_proves_once_and_then_the_node_is_asked_again(world: DicomWorld) -> None:
    parcel = world.parcel(images=3)
    importer = committing(world)
    record = carry_out(importer, parcel)
    assert all_verified(by_path(importer.verify(parcel, record)), parcel)
    world.orthanc.forget(next(iter(ours(parcel))))

    later = by_path(importer.verify(parcel, record))

    assert Counter(str(outcome.outcome) for outcome in later.values()) == {"verified": 2, "missing": 1}


def test_an_image_that_the_node_does_not_vouch_for_is_missing_and_sent_again(world: DicomWorld) -> None:
    parcel, journal = world.parcel(images=5), MemoryJournal()
    importer = committing(world)
    world.lose(2)

    record = carry_out(importer, parcel, journal)
    first = by_path(importer.verify(parcel, record))
    again = carry_out(importer, parcel, journal)

    assert Counter(str(outcome.outcome) for outcome in first.values()) == {"verified": 3, "missing": 2}
    assert all_verified(by_path(importer.verify(parcel, again)), parcel)
    assert world.held(parcel).total() == 5


def test_a_report_that_has_not_come_is_waited_for_and_may_come_later(world: DicomWorld) -> None:
    parcel = world.parcel()
    elsewhere = free_port()
    table = world.repository(
        proof="commitment", commitment_host="127.0.0.1", commitment_port=elsewhere, report_wait=0.3
    )
    state = world.folder / "state"
    importer = DicomImporter.from_settings(table, {}, inbox_root=world.inbox.root, state=state)
    record = carry_out(importer, parcel)

    with pytest.raises(TargetUnavailable, match=str(elsewhere)):
        list(importer.verify(parcel, record))
    answers = [report(elsewhere, record.target["commitment"], parcel), report(elsewhere, "2.25.1234", parcel)]
    outcomes = by_path(importer.verify(parcel, record))
    importer.close()

    assert answers == [0x0000, 0x0110], "a report that nobody asked for is not believed"
    assert all_verified(outcomes, parcel)
    assert Reports(state).of("2.25.1234") is None


def report(port: int, transaction: str, parcel: Parcel) -> int:
    """Bring a report as a node does, by pynetdicom; the status of our answer."""
    told = Dataset()
    told.TransactionUID = transaction
    told.ReferencedSOPSequence = Sequence()
    for sop in ours(parcel):
        item = Dataset()
        item.ReferencedSOPClassUID, item.ReferencedSOPInstanceUID = UID(CT), UID(sop)
        told.ReferencedSOPSequence.append(item)
    entity = AE("ORTHANC")
    entity.add_requested_context("1.2.840.10008.1.20.1")
    from pynetdicom import build_role

    line = entity.associate("127.0.0.1", port, ext_neg=[build_role("1.2.840.10008.1.20.1", scp_role=True)])
    assert line.is_established
    status, _ = line.send_n_event_report(told, 1, "1.2.840.10008.1.20.1", "1.2.840.10008.1.20.1.1")
    line.release()
    return int(status.Status)


def test_being_listed_is_no_proof(world: DicomWorld) -> None:
    parcel = world.parcel(images=4)
    importer = DicomImporter.from_settings(
        world.repository(proof="presence"), {}, inbox_root=world.inbox.root, state=world.folder / "state"
    )
    world.lose(1)

    outcomes = by_path(importer.verify(parcel, carry_out(importer, parcel)))

    assert Counter(str(outcome.outcome) for outcome in outcomes.values()) == {"unverified": 3, "missing": 1}


def test_two_processes_share_the_port_for_reports(world: DicomWorld) -> None:
    parcel, other = world.parcel("MR1"), world.parcel("MR2")
    first, second = committing(world), committing(world)
    records = [carry_out(first, parcel), carry_out(second, other)]

    assert all_verified(by_path(first.verify(parcel, records[0])), parcel)
    assert all_verified(by_path(second.verify(other, records[1])), other)
    first.close()
    third = world.parcel("MR3")
    assert all_verified(bring_home(second, third), third)


def test_no_file_of_the_world_below_state_is_left_when_all_is_proven(world: DicomWorld) -> None:
    parcel = world.parcel()
    importer = world.importer()

    assert all_verified(bring_home(importer, parcel), parcel)

    assert [path for path in (world.folder / "state").rglob("*") if path.is_file()] == []
