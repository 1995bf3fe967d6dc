"""The XNAT importer against each way in which an XNAT, or a proxy, has been seen to fail: prearchive and archive."""

import pytest

from lading.errors import Refused, TargetUnavailable
from lading.testing.dicom import new_study
from lading.testing.importer_suite import MemoryJournal, all_verified, bring_home, by_path, carry_out
from lading.testing.xnat_world import XnatWorld, arrived_once, put_by_hand


@pytest.mark.parametrize("state", ["RECEIVING", "_ARCHIVING"])
def test_a_session_stuck_in_the_prearchive_is_left_for_later_and_named(manual: XnatWorld, state: str) -> None:
    parcel = manual.parcel()
    manual.sandbox.faults.prearc_stuck = [state]

    with pytest.raises(TargetUnavailable, match=state):
        carry_out(manual.importer(), parcel)

    assert manual.sessions() == 1


def test_archiving_that_fails_once_is_tried_once_more(world: XnatWorld) -> None:
    parcel = world.parcel()
    world.sandbox.faults.archive_500 = 1

    outcomes = bring_home(world.importer(), parcel)

    assert all_verified(outcomes, parcel)
    assert arrived_once(world, parcel)


def test_archiving_that_keeps_failing_is_refused_with_the_words_of_the_log(world: XnatWorld) -> None:
    parcel = world.parcel()
    world.sandbox.faults.archive_500 = -1
    importer, journal = world.importer(), MemoryJournal()

    with pytest.raises(Refused, match="unable to store session"):
        carry_out(importer, parcel, journal)

    world.sandbox.faults.archive_500 = 0
    assert all_verified(bring_home(importer, parcel, journal), parcel)
    assert arrived_once(world, parcel)


def test_a_full_disk_at_the_server_is_waited_for(world: XnatWorld) -> None:
    parcel = world.parcel()
    world.sandbox.faults.disk_full = -1
    importer, journal = world.importer(), MemoryJournal()

    with pytest.raises(TargetUnavailable, match="No space left"):
        carry_out(importer, parcel, journal)

    world.sandbox.faults.disk_full = 0
    assert all_verified(bring_home(importer, parcel, journal), parcel)
    assert arrived_once(world, parcel)


def test_archiving_that_outlasts_the_answer_is_waited_for_and_not_repeated(manual: XnatWorld) -> None:
    parcel = manual.parcel()
    manual.sandbox.faults.archive_timeout = 0.2
    importer = manual.importer()

    record = carry_out(importer, parcel)

    assert all_verified(by_path(importer.verify(parcel, record)), parcel)
    assert manual.count("imports_per_label", parcel) == 1


def test_what_an_earlier_attempt_left_in_the_prearchive_is_carried_on_with(manual: XnatWorld) -> None:
    parcel = manual.parcel()
    carry_out(manual.importer(archive="never"), parcel)
    assert not manual.held(parcel)

    importer = manual.importer()
    record = carry_out(importer, parcel)

    assert all_verified(by_path(importer.verify(parcel, record)), parcel)
    assert manual.count("inbox_requests_per_label", parcel) == 1


def test_a_session_that_a_person_archives_is_verified_in_the_prearchive(manual: XnatWorld) -> None:
    parcel = manual.parcel()
    importer = manual.importer(archive="never")

    record = carry_out(importer, parcel)
    outcomes = by_path(importer.verify(parcel, record))

    assert record.target["place"] == "prearchive"
    assert all_verified(outcomes, parcel)
    assert all("/prearchive/" in outcome.where for outcome in outcomes.values())


def test_a_label_taken_while_we_were_sending_is_refused(manual: XnatWorld) -> None:
    parcel = manual.parcel()
    importer, journal = manual.importer(), MemoryJournal()
    carry_out(manual.importer(archive="never"), parcel, journal)
    put_by_hand(manual, parcel, "/experiments/MR1", xsiType="xnat:mrSessionData", **{"xnat:mrSessionData/UID": "1.2.3"})

    with pytest.raises(Refused, match=r"1\.2\.3"):
        importer.run(parcel, importer.plan(parcel), MemoryJournal())

    assert not manual.held(parcel)


@pytest.mark.parametrize("route", ["inbox", "upload"])
def test_a_label_taken_between_plan_and_run_is_refused_and_left_alone(world: XnatWorld, route: str) -> None:
    parcel = world.parcel()
    importer, journal = world.importer(route=route), MemoryJournal()
    plan = importer.plan(parcel)
    put_by_hand(world, parcel, "/experiments/MR1", xsiType="xnat:mrSessionData", **{"xnat:mrSessionData/UID": "1.2.3"})

    for _ in range(2):
        with pytest.raises(Refused, match="MR1"):
            importer.run(parcel, plan, journal)

    assert not world.held(parcel)


def test_a_late_part_joins_its_session(world: XnatWorld) -> None:
    study = new_study()
    importer = world.importer()
    early = world.parcel(images=2, study=study)
    carry_out(importer, early)
    late = world.parcel(images=3, study=study)

    record = carry_out(importer, late)

    assert all_verified(by_path(importer.verify(late, record)), late)
    assert all_verified(by_path(importer.verify(early, record)), early)
    assert world.sessions() == 1


def test_a_session_prepared_by_hand_is_filled(world: XnatWorld) -> None:
    world.sandbox.faults.checksums = False
    parcel = world.parcel(companions=[f"f{n}.txt" for n in range(8)])
    put_by_hand(world, parcel, "/experiments/MR1", xsiType="xnat:mrSessionData")
    base = "/experiments/MR1/resources/COMPANIONS/files"
    for n in range(5):
        put_by_hand(world, parcel, f"{base}/f{n}.txt", f"f{n}.txt of MR1".encode(), inbody="true")
    importer = world.importer()

    outcomes = by_path(importer.verify(parcel, carry_out(importer, parcel)))

    assert all_verified(outcomes, parcel)
    assert arrived_once(world, parcel)


def test_a_session_prepared_for_another_subject_is_left_alone(world: XnatWorld) -> None:
    parcel = world.parcel()
    put_by_hand(world, world.parcel("MR9", participant="sub-009"), "/experiments/MR1", xsiType="xnat:mrSessionData")

    with pytest.raises(Refused, match="another subject"):
        carry_out(world.importer(), parcel)

    assert not world.held(parcel)


def test_other_data_of_a_session_joins_its_images(world: XnatWorld) -> None:
    images = world.parcel(images=2)
    importer = world.importer()
    record = carry_out(importer, images)
    others = world.parcel(images=0, companions=["eeg.vhdr", "eeg.eeg"])

    outcomes = by_path(importer.verify(others, carry_out(importer, others)))

    assert all_verified(outcomes, others)
    assert all_verified(by_path(importer.verify(images, record)), images)
    assert world.sessions() == 1


def test_a_late_part_is_refused_where_the_route_says_so(world: XnatWorld) -> None:
    study = new_study()
    carry_out(world.importer(), world.parcel(images=2, study=study))
    late = world.parcel(images=3, study=study)

    with pytest.raises(Refused, match="on_existing"):
        carry_out(world.importer(on_existing="refuse"), late)
