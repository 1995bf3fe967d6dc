"""The XNAT importer against each way in which an XNAT, or a proxy, has been seen to fail: upload, proxy, access, and labels."""

import random
import threading

import pytest

from lading.delivery import Outcome
from lading.errors import LadingError, Refused, TargetMissing, TargetUnavailable
from lading.testing.importer_suite import MemoryJournal, all_verified, bring_home, by_path, carry_out
from lading.testing.xnat_world import XnatWorld, arrived_once


def test_a_proxy_that_takes_no_large_bodies_gets_small_ones(manual: XnatWorld) -> None:
    parcel = manual.parcel(images=6, companions=[f"{n}.txt" for n in range(30)])
    manual.sandbox.faults.proxy_413 = 12_000
    importer = manual.importer(route="upload")

    outcomes = bring_home(importer, parcel)

    assert all_verified(outcomes, parcel)
    assert arrived_once(manual, parcel)


def test_a_file_that_no_proxy_lets_through_is_named(manual: XnatWorld) -> None:
    parcel = manual.parcel(images=2)
    manual.sandbox.faults.proxy_413 = 5_000

    with pytest.raises(Refused, match=r"0001\.dcm.*413"):
        carry_out(manual.importer(route="upload"), parcel)


def test_data_that_xnat_files_elsewhere_is_noticed(manual: XnatWorld) -> None:
    parcel = manual.parcel()
    manual.sandbox.faults.unassigned = -1

    with pytest.raises(TargetMissing, match="Unassigned"):
        carry_out(manual.importer(route="upload"), parcel)


def test_an_upload_that_was_cut_off_is_completed_before_it_is_archived(manual: XnatWorld) -> None:
    parcel = manual.parcel(images=6)
    importer, journal = manual.importer(route="upload"), MemoryJournal()
    manual.sandbox.faults.proxy_match = "/data/services/import"
    manual.sandbox.faults.conn_reset_after_commit = 1
    plan = importer.plan(parcel)
    with pytest.raises(TargetUnavailable):
        importer.run(parcel, plan, journal)

    record = importer.run(parcel, plan, journal)

    assert all_verified(by_path(importer.verify(parcel, record)), parcel)
    assert arrived_once(manual, parcel)
    assert manual.count("imports_per_label", parcel) == 1


@pytest.mark.parametrize("knob", ["login_page_200", "guest_404"])
@pytest.mark.parametrize("every", [5, 7, 10])
def test_a_login_lost_without_saying_so_changes_nothing(world: XnatWorld, knob: str, every: int) -> None:
    """Lost by the count of requests, not by the clock: a slow machine must not lose each one again and again. At random,
    lest the same request of every attempt is met.
    """
    parcel = world.parcel(companions=["a.txt"])
    setattr(world.sandbox.faults, knob, True)
    importer, journal = world.importer(), MemoryJournal()
    importer.probe()
    stop = threading.Event()

    def expire() -> None:
        dice = random.Random(every)
        due = importer.requests + every
        while not stop.wait(0.001):
            if importer.requests >= due:
                world.sandbox.faults.session_expiry = 1
                due = importer.requests + dice.randint(every, 3 * every)

    thief = threading.Thread(target=expire)
    thief.start()
    try:
        outcomes = bring_home(importer, parcel, journal, attempts=40)
    finally:
        stop.set()
        thief.join()
        world.sandbox.faults.session_expiry = 0

    assert all_verified(outcomes, parcel)
    assert arrived_once(world, parcel)


@pytest.mark.parametrize("knob", ["proxy_504", "conn_reset_after_commit"])
@pytest.mark.parametrize("route", ["inbox", "upload"])
def test_every_answer_may_be_lost_once(world: XnatWorld, knob: str, route: str) -> None:
    parcel = world.parcel(companions=["a.txt", "b.txt"])
    importer = world.importer(route=route)
    importer.probe()
    setattr(world.sandbox.faults, knob, 6)

    outcomes = bring_home(importer, parcel, attempts=12)

    assert all_verified(outcomes, parcel)
    assert arrived_once(world, parcel)


def test_a_proxy_that_gives_up_on_a_long_refresh_is_asked_in_parts(world: XnatWorld) -> None:
    parcel = world.parcel(companions=["a.txt"])
    importer = world.importer()
    record = carry_out(importer, parcel)
    world.damage(parcel, "a.txt")
    world.sandbox.faults.proxy_match = "/data/services/refresh/*"
    world.sandbox.faults.proxy_504 = 1

    outcomes = by_path(importer.verify(parcel, record))

    assert outcomes["a.txt"].outcome is Outcome.MISMATCH


def test_a_server_behind_a_failing_proxy_is_unavailable(world: XnatWorld) -> None:
    parcel = world.parcel()
    importer = world.importer()
    plan = importer.plan(parcel)

    for down in ("502", "reset"):
        world.sandbox.faults.down = down
        for step in (importer.probe, lambda: importer.run(parcel, plan, MemoryJournal())):
            with pytest.raises(TargetUnavailable):
                step()


# Labels


def test_a_participant_that_differs_by_case_only_is_refused(world: XnatWorld) -> None:
    importer = world.importer()
    carry_out(importer, world.parcel("MR1", participant="Sub-001"))
    parcel = world.parcel("MR2", participant="sub-001")

    with pytest.raises(Refused, match="Sub-001"):
        carry_out(world.importer(), parcel)

    assert world.sessions() == 1


@pytest.mark.parametrize("session", ["MR.1", "MR 1", "MR#1", "ä", "x" * 65])
def test_a_label_that_xnat_would_change_is_refused(world: XnatWorld, session: str) -> None:
    parcel = world.parcel(session)

    with pytest.raises(Refused, match="label"):
        world.importer().plan(parcel)


def test_errors_say_what_to_do_next(world: XnatWorld) -> None:
    world.sandbox.faults.archive_500 = -1

    with pytest.raises(LadingError) as caught:
        carry_out(world.importer(), world.parcel())

    assert caught.value.next_command
    assert caught.value.safe
    assert world.project in caught.value.message
