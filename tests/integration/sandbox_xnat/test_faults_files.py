"""Each knob of the stand-in XNAT does what its row in docs/reference/sandbox-xnat.md says: catalog, files, and the inbox."""

from concurrent.futures import ThreadPoolExecutor

import httpx
import pytest

from lading.sandbox.xnat import SandboxXnat
from lading.testing.dicom import write_session
from lading.testing.xnat_calls import (
    JSON,
    P,
    archived_objects,
    import_zip,
    listed,
    md5,
    post_inbox,
    put_file,
    refresh,
    settled,
    state_of,
    until,
    waiting,
    zipped,
)


def test_duplicate_200_can_be_turned_into_an_honest_answer(sandbox: SandboxXnat, http: httpx.Client):
    put_file(http).raise_for_status()
    assert put_file(http, content=b"second").json() == {"duplicates": ["a.txt"]}

    sandbox.faults.duplicate_200 = False

    assert put_file(http, content=b"second").status_code == 409
    assert listed(http) == {"a.txt": md5(b"first")}


def test_no_edit_200_stores_nothing_for_a_reader(sandbox: SandboxXnat, http: httpx.Client):
    with httpx.Client(base_url=sandbox.url, auth=("bob", "bob")) as reader:
        silent = put_file(reader)
        sandbox.faults.no_edit_200 = False
        honest = put_file(reader)
        honest_anyway = reader.put(f"/data/projects/{P}/subjects/S_01")

    assert (silent.status_code, silent.text) == (200, "")
    assert honest.status_code == 403
    assert honest_anyway.status_code == 403
    assert http.get(f"/data/projects/{P}/resources/LOG/files", params=JSON).status_code == 404


def test_catalog_race_leaves_a_file_that_the_catalog_does_not_know(sandbox: SandboxXnat, http: httpx.Client):
    http.put(f"/data/projects/{P}/resources/LOG").raise_for_status()
    sandbox.faults.catalog_race_window = 0.3

    with ThreadPoolExecutor(2) as both:
        answers = list(both.map(lambda name: put_file(http, name), ("a.txt", "b.txt")))

    assert sorted(answer.status_code for answer in answers) == [200, 500]
    assert len(listed(http)) == 1
    sandbox.faults.catalog_race_window = 0.0
    refresh(http, "append,checksum")
    assert listed(http) == {"a.txt": md5(b"first"), "b.txt": md5(b"first")}


def test_without_checksums_digests_are_blank_and_go_stale(sandbox: SandboxXnat, http: httpx.Client):
    put_file(http, "known.txt").raise_for_status()
    sandbox.faults.checksums = False

    put_file(http, "new.txt").raise_for_status()
    put_file(http, "known.txt", b"second", overwrite="true").raise_for_status()

    assert listed(http) == {"known.txt": md5(b"first"), "new.txt": ""}
    refresh(http)
    assert listed(http) == {"known.txt": md5(b"second"), "new.txt": md5(b"first")}


def test_blank_digests_stay_blank_after_a_refresh(sandbox: SandboxXnat, http: httpx.Client):
    put_file(http).raise_for_status()
    assert listed(http) == {"a.txt": md5(b"first")}

    sandbox.faults.blank_digests = True
    refresh(http)

    assert listed(http) == {"a.txt": ""}


def test_corrupt_after_write_is_only_seen_by_a_refresh(sandbox: SandboxXnat, http: httpx.Client):
    sandbox.faults.corrupt_after_write = 1

    put_file(http, "bad.txt").raise_for_status()
    put_file(http, "good.txt").raise_for_status()

    assert listed(http) == {"bad.txt": md5(b"first"), "good.txt": md5(b"first")}
    refresh(http)
    assert listed(http)["good.txt"] == md5(b"first")
    assert listed(http)["bad.txt"] != md5(b"first")


# Inbox


def test_inbox_drop_files_loses_files_silently_and_only_so_often(sandbox: SandboxXnat, http: httpx.Client):
    folder = sandbox.inbox / "AUTO" / "job"
    write_session(folder, 4)
    sandbox.faults.inbox_drop_files = ["0002.*", "0003.*"]

    first = post_inbox(http, folder, "AUTO", SUBJECT_ID="S_01", EXPT_LABEL="E_01")

    assert settled(http, first, "Completed", "Failed") == "Completed"
    assert [row["Name"] for row in archived_objects(http, project="AUTO")] == ["0001.dcm", "0004.dcm"]
    assert any("0002.dcm" in line and "WARN" in line for line in sandbox.log())
    repaired = import_zip(http, zipped(folder), dest="/prearchive/projects/AUTO", SUBJECT_ID="S_01", EXPT_LABEL="E_01")
    assert repaired.status_code == 200


def test_what_inbox_drop_files_dropped_vanishes_with_the_clean_up(sandbox: SandboxXnat, http: httpx.Client):
    folder = sandbox.inbox / P / "job"
    write_session(folder, 2)
    sandbox.faults.inbox_drop_files = ["0002.*"]

    settled(http, post_inbox(http, folder, cleanupAfterImport="true"), "Processed")

    until(lambda: not folder.exists())
    assert sandbox.counts()["objects_received"] == 1


@pytest.mark.parametrize("state", ["Queued", "Importing", "Processed"])
def test_inbox_stuck_holds_one_request_for_ever(sandbox: SandboxXnat, http: httpx.Client, state: str):
    sandbox.faults.inbox_stuck = [state]
    for name in ("one", "two"):
        write_session(sandbox.inbox / "AUTO" / name, 1)

    stuck = post_inbox(http, sandbox.inbox / "AUTO" / "one", "AUTO", SUBJECT_ID="S", EXPT_LABEL="E_01")
    settled(http, stuck, state)
    later = post_inbox(http, sandbox.inbox / "AUTO" / "two", "AUTO", SUBJECT_ID="S", EXPT_LABEL="E_02")

    assert settled(http, later, "Completed", "Failed") == "Completed"
    assert state_of(http, stuck) == state
    assert archived_objects(http, "E_01", "AUTO") == []


def test_of_two_studies_in_one_request_the_last_state_hides_the_other(sandbox: SandboxXnat, http: httpx.Client):
    folder = sandbox.inbox / "AUTO" / "mixed"
    write_session(folder / "a", 1)
    write_session(folder / "b", 1)

    request = post_inbox(http, folder, "AUTO", SUBJECT_ID="S_01", EXPT_LABEL="E_01")

    assert settled(http, request, "Failed") == "Failed"
    assert len(archived_objects(http, project="AUTO")) == 1
    (left,) = waiting(http, "AUTO")
    assert (left["name"], left["status"]) == ("E_01", "CONFLICT")


def test_inbox_delay_keeps_a_request_queued(sandbox: SandboxXnat, http: httpx.Client):
    sandbox.faults.inbox_delay_s = 0.4
    write_session(sandbox.inbox / P / "job", 1)

    request = post_inbox(http, sandbox.inbox / P / "job")

    assert state_of(http, request) == "Queued"
    assert settled(http, request, "Processed") == "Processed"
