"""The XNAT importer against each way in which an XNAT, or a proxy, has been seen to fail: anonymisation and resources."""

import threading
from pathlib import Path

import httpx
import pytest

from lading.delivery import Outcome
from lading.errors import Refused
from lading.testing.dicom import new_study, write_series
from lading.testing.importer_suite import MemoryJournal, all_verified, bring_home, by_path, carry_out
from lading.testing.parcels import read_files
from lading.testing.xnat_world import USERS, XnatWorld, put_by_hand


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


@pytest.mark.parametrize("proof", ["pixels", "uid"])
def test_one_stored_object_proves_no_two_files_of_one_identifier(world: XnatWorld, proof: str, tmp_path: Path) -> None:
    world.sandbox.faults.site_anon = True
    write_series(tmp_path / "made", 2)
    content = read_files(tmp_path / "made")
    other = bytearray(content["0001.dcm"])
    other[-1] ^= 0xFF
    files = {"a/1.dcm": content["0001.dcm"], "b/1.dcm": bytes(other), "c/1.dcm": content["0001.dcm"]}
    parcel = world.parcel(images=0, files={**files, "2.dcm": content["0002.dcm"]})
    importer = world.importer(anonymised=proof)

    outcomes = by_path(importer.verify(parcel, carry_out(importer, parcel)))

    assert outcomes["2.dcm"].outcome is Outcome.VERIFIED
    assert {outcomes["a/1.dcm"].outcome, outcomes["b/1.dcm"].outcome} != {Outcome.VERIFIED}
    assert outcomes["a/1.dcm"].outcome is outcomes["c/1.dcm"].outcome  # the same bytes twice are one object


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
