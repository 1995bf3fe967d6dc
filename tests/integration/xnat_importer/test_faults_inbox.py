"""The XNAT importer against each way in which an XNAT, or a proxy, has been seen to fail: the inbox."""

import time

import pytest

from lading.delivery import Outcome
from lading.errors import Refused, TargetUnavailable
from lading.testing.dicom import new_study
from lading.testing.importer_suite import MemoryJournal, all_verified, bring_home, by_path, carry_out
from lading.testing.xnat_world import XnatWorld, arrived_once


def test_the_inbox_keeps_its_files(world: XnatWorld) -> None:
    parcel = world.parcel(companions=["a.txt"])

    carry_out(world.importer(), parcel)

    assert sorted(p.name for p in parcel.root.rglob("*") if p.is_file()) == sorted(e.path for e in parcel.manifest)
    assert not [line for line in world.sandbox.log() if "import-handler=inbox" in line and "cleanup" not in line]


def test_a_request_that_stays_queued_is_left_for_later_and_then_followed_not_repeated(world: XnatWorld) -> None:
    parcel = world.parcel()
    importer, journal = world.importer(), MemoryJournal()
    world.sandbox.faults.inbox_stuck = ["Queued"]

    for _ in range(2):
        with pytest.raises(TargetUnavailable, match="Queued"):
            carry_out(importer, parcel, journal)

    assert world.count("inbox_requests_per_label", parcel) == 1


def test_a_request_that_was_lost_in_a_restart_is_made_again(world: XnatWorld) -> None:
    parcel = world.parcel()
    importer, journal = world.importer(), MemoryJournal()
    world.sandbox.faults.inbox_stuck = ["Importing"]
    with pytest.raises(TargetUnavailable, match="Importing"):
        carry_out(importer, parcel, journal)
    time.sleep(2.5)  # clocks are shown to the second
    world.go_down()
    world.come_back()

    record = carry_out(importer, parcel, journal)

    assert all_verified(by_path(importer.verify(parcel, record)), parcel)
    assert arrived_once(world, parcel)
    assert world.count("imports_per_label", parcel) == 1


def test_a_request_that_stays_processed_is_finished_by_us(world: XnatWorld) -> None:
    parcel = world.parcel()
    world.sandbox.faults.inbox_stuck = ["Processed"]
    importer = world.importer()

    outcomes = bring_home(importer, parcel)

    assert all_verified(outcomes, parcel)
    assert arrived_once(world, parcel)


def test_two_studies_in_one_session_are_refused_and_both_named(world: XnatWorld) -> None:
    first, second = new_study(), new_study()
    other = world.parcel("OTHER", study=second)
    stray = {"stray.dcm": (other.root / "0001.dcm").read_bytes()}
    parcel = world.parcel("MIXED", study=first, files=stray)

    with pytest.raises(Refused) as caught:
        world.importer().plan(parcel)

    assert first in caught.value.message
    assert second in caught.value.message
    assert world.sessions() == 0


def test_a_request_whose_answer_was_lost_is_found_and_not_repeated(world: XnatWorld) -> None:
    parcel = world.parcel()
    importer = world.importer()
    plan = importer.plan(parcel)
    world.sandbox.faults.proxy_match = "/data/services/import"
    world.sandbox.faults.proxy_504 = 1

    journal = MemoryJournal()
    for _ in range(3):
        try:
            record = importer.run(parcel, plan, journal)
            break
        except TargetUnavailable:
            continue

    assert all_verified(by_path(importer.verify(parcel, record)), parcel)
    assert world.count("inbox_requests_per_label", parcel) == 1


def test_what_every_filter_drops_is_not_called_imported(world: XnatWorld) -> None:
    parcel = world.parcel()
    world.sandbox.faults.series_filter = ["*"]

    with pytest.raises(Refused, match="holds none"):
        carry_out(world.importer(), parcel)

    assert not world.held(parcel)


def test_an_object_that_a_script_rejects_is_named_as_missing(world: XnatWorld) -> None:
    parcel = world.parcel(images=4)
    world.sandbox.faults.anon_reject = 1
    importer = world.importer()

    outcomes = by_path(importer.verify(parcel, carry_out(importer, parcel)))

    assert [outcome.outcome for outcome in outcomes.values()].count(Outcome.MISSING) == 1
