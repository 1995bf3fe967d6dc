"""The XNAT importer against each way in which an XNAT, or the proxy before it, has been seen to fail."""

import random
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lading.delivery import Outcome, Parcel
from lading.errors import LadingError, Refused, TargetMissing, TargetUnavailable
from lading.sandbox.xnat import SandboxXnat
from lading.testing.dicom import new_study
from lading.testing.importer_suite import MemoryJournal, all_verified, bring_home, by_path, carry_out, digests
from lading.testing.xnat_world import AUTO, MANUAL, USERS, XnatWorld, running_sandbox


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxXnat]:
    with running_sandbox(tmp_path_factory.mktemp("xnat")) as running:
        yield running


@pytest.fixture(params=[AUTO, MANUAL], ids=["auto", "manual"])
def world(request: pytest.FixtureRequest, sandbox: SandboxXnat, tmp_path: Path) -> Iterator[XnatWorld]:
    made = XnatWorld(sandbox, tmp_path, code=request.param)
    yield made
    made.close()


@pytest.fixture
def manual(sandbox: SandboxXnat, tmp_path: Path) -> Iterator[XnatWorld]:
    made = XnatWorld(sandbox, tmp_path, code=MANUAL)
    yield made
    made.close()


def put_by_hand(world: XnatWorld, parcel: Parcel, path: str, content: bytes = b"", **query: str) -> None:
    """Somebody else's work in XNAT, by plain HTTP."""
    labels = parcel.delivery.labels
    url = f"{world.sandbox.url}/data/projects/{labels.project}/subjects/{labels.participant}"
    httpx.put(url, auth=("carol", USERS["carol"]))
    answer = httpx.put(url + path, params=query, content=content, auth=("carol", USERS["carol"]))
    assert answer.status_code in (200, 201), answer.text


def arrived_once(world: XnatWorld, parcel: Parcel) -> bool:
    """One session, every file in it, none of ours twice."""
    held = world.held(parcel)
    return world.sessions() == 1 and {digest: held[digest] for digest in digests(parcel)} == dict(digests(parcel))


# Inbox


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


# Prearchive and archive


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


# Anonymisation


@pytest.mark.parametrize("script", ["site_anon", "project_anon"])
@pytest.mark.parametrize("proof", ["pixels", "uid"])
def test_rewritten_headers_are_verified_by_identifier(world: XnatWorld, script: str, proof: str) -> None:
    setattr(world.sandbox.faults, script, True)
    parcel = world.parcel(companions=["a.txt"])
    importer = world.importer(anonymised=proof)

    plan = importer.plan(parcel)
    outcomes = by_path(importer.verify(parcel, importer.run(parcel, plan, MemoryJournal())))

    assert {finding.code for finding in plan.findings} >= {"xnat-anonymises", "companions-not-anonymised"}
    assert all_verified(outcomes, parcel)
    assert outcomes["0001.dcm"].how.startswith("sop-instance-uid")
    assert outcomes["a.txt"].how == "md5"


def test_replaced_identifiers_are_verified_by_pixels(world: XnatWorld) -> None:
    world.sandbox.faults.site_anon = world.sandbox.faults.anon_changes_uids = True
    parcel = world.parcel()
    importer = world.importer()

    outcomes = by_path(importer.verify(parcel, carry_out(importer, parcel)))

    assert all_verified(outcomes, parcel)
    assert "pixel data" in outcomes["0001.dcm"].how


def test_a_lost_image_is_noticed_behind_replaced_identifiers(world: XnatWorld) -> None:
    world.sandbox.faults.site_anon = world.sandbox.faults.anon_changes_uids = True
    parcel = world.parcel(images=4)
    world.lose(1)
    importer = world.importer()

    outcomes = by_path(importer.verify(parcel, carry_out(importer, parcel)))

    assert not all_verified(outcomes, parcel)


# Resources


def test_companions_go_where_the_rules_say(world: XnatWorld) -> None:
    parcel = world.parcel(companions=["physio.log", "report.pdf", "rest.bin"])
    rules = [{"match": "*.log", "resource": "PHYSIO", "scan": "1"}, {"match": "*.pdf", "resource": "DOCS"}]
    importer = world.importer(resources=rules)

    outcomes = by_path(importer.verify(parcel, carry_out(importer, parcel)))

    assert all_verified(outcomes, parcel)
    assert "/scans/1/" in outcomes["physio.log"].where
    assert "/scans/" not in outcomes["report.pdf"].where


def test_many_companions_travel_as_one_archive(world: XnatWorld) -> None:
    parcel = world.parcel(images=1, companions=[f"logs/{n:03}/a #{n}.txt" for n in range(60)] + ["empty.txt"])
    importer = world.importer()
    importer.plan(parcel)
    before = importer.requests

    outcomes = by_path(importer.verify(parcel, carry_out(importer, parcel)))

    assert all_verified(outcomes, parcel)
    assert importer.requests - before < 30


def test_a_resource_with_some_of_the_files_and_no_digests_is_completed(world: XnatWorld) -> None:
    world.sandbox.faults.checksums = False
    parcel = world.parcel(companions=[f"f{n}.txt" for n in range(8)])
    importer, journal = world.importer(), MemoryJournal()
    record = carry_out(importer, parcel, journal)
    auth = ("admin", USERS["admin"])
    base = f"{world.sandbox.url}/data/experiments/{record.target['experiment']}/resources/COMPANIONS/files"
    for name in ("f1.txt", "f4.txt", "f6.txt"):
        assert httpx.delete(f"{base}/{name}", auth=auth).status_code == 200
    incomplete = by_path(importer.verify(parcel, record))
    assert sorted(p for p, o in incomplete.items() if o.outcome is Outcome.MISSING) == ["f1.txt", "f4.txt", "f6.txt"]

    again = carry_out(importer, parcel, journal)

    assert all_verified(by_path(importer.verify(parcel, again)), parcel)


def test_a_file_that_was_damaged_on_the_way_to_the_disk_is_sent_again(world: XnatWorld) -> None:
    parcel = world.parcel(images=0, companions=["a.txt", "b.txt"])
    importer, journal = world.importer(), MemoryJournal()
    plan = importer.plan(parcel)
    record = importer.run(parcel, plan, journal)
    world.damage(parcel, "b.txt")
    assert by_path(importer.verify(parcel, record))["b.txt"].outcome is Outcome.MISMATCH

    record = importer.run(parcel, plan, journal)

    assert all_verified(by_path(importer.verify(parcel, record)), parcel)


def test_somebody_elses_file_is_not_replaced_unless_told_so(world: XnatWorld) -> None:
    study = new_study()
    importer = world.importer()
    carry_out(importer, world.parcel(images=2, study=study))
    parcel = world.parcel(images=2, study=study, companions=["notes.txt"])
    theirs = "/experiments/MR1/resources/COMPANIONS/files/notes.txt"
    put_by_hand(world, parcel, theirs, b"precious", inbody="true")

    with pytest.raises(Refused, match=r"notes\.txt"):
        carry_out(importer, parcel)
    assert b"precious" in [p.read_bytes() for p in world.sandbox.root.glob(f"archive/{world.project}/**/notes.txt")]

    outcomes = bring_home(world.importer(overwrite=True), parcel)
    assert all_verified(outcomes, parcel)


def test_another_writer_in_the_same_resource_is_survived(world: XnatWorld) -> None:
    parcel = world.parcel(companions=[f"{n}.txt" for n in range(12)])
    importer = world.importer()
    record = carry_out(importer, world.parcel("MR0"))
    assert record
    world.sandbox.faults.catalog_race_window = 0.02
    stop = threading.Event()

    def disturb() -> None:
        number = 0
        while not stop.wait(0.06):
            number += 1
            path = f"{world.sandbox.url}/data/projects/{world.project}/subjects/sub-001/experiments/MR1"
            httpx.put(
                f"{path}/resources/COMPANIONS/files/other{number}.txt",
                params={"inbody": "true"},
                content=b"other",
                auth=("carol", USERS["carol"]),
            )

    other = threading.Thread(target=disturb)
    other.start()
    try:
        outcomes = bring_home(importer, parcel, attempts=20)
    finally:
        stop.set()
        other.join()

    assert all_verified(outcomes, parcel)


def test_a_file_without_a_digest_can_be_downloaded_instead(world: XnatWorld) -> None:
    world.sandbox.faults.blank_digests = True
    parcel = world.parcel(companions=["a.txt"])
    importer = world.importer(blank_digest="download")

    outcomes = by_path(importer.verify(parcel, carry_out(importer, parcel)))

    assert all_verified(outcomes, parcel)
    assert outcomes["a.txt"].how == "sha256 of the download"


def test_a_page_among_the_files_is_not_taken_for_a_login_page(world: XnatWorld) -> None:
    world.sandbox.faults.blank_digests = True
    parcel = world.parcel(files={"report.html": b"<!DOCTYPE html>\n<html><body>Report</body></html>"})
    importer = world.importer(blank_digest="download")

    outcomes = by_path(importer.verify(parcel, carry_out(importer, parcel)))

    assert all_verified(outcomes, parcel)


def test_a_name_that_xnat_never_lists_is_refused_beforehand(world: XnatWorld) -> None:
    parcel = world.parcel(companions=["scan_catalog.xml"])

    with pytest.raises(Refused, match=r"scan_catalog\.xml"):
        world.importer().plan(parcel)


# Upload, proxy, access


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
