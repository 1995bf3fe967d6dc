"""Each knob of the stand-in XNAT does what its row in docs/reference/sandbox-xnat.md says."""

import hashlib
import io
import time
import zipfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

import httpx
import pydicom
import pytest
from pydicom.uid import generate_uid

from lading.sandbox.xnat import SandboxXnat
from lading.testing.dicom import write_dicom, write_session

JSON = {"format": "json"}
T = TypeVar("T")
P = "P"


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[SandboxXnat]:
    with SandboxXnat(tmp_path / "xnat") as running:
        running.faults.inbox_delay_s = 0.0
        running.add_project(P, members={"alice": "member", "bob": "collaborator"})
        running.add_project("AUTO", prearchive_code=4, members={"alice": "member"})
        yield running


@pytest.fixture
def http(sandbox: SandboxXnat) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=sandbox.url, auth=("alice", "alice"), timeout=120) as client:
        yield client


def rows(answer: httpx.Response) -> list[dict[str, str]]:
    answer.raise_for_status()
    return answer.json()["ResultSet"]["Result"]


def until(look: Callable[[], T], patience: float = 120.0) -> T:
    deadline = time.monotonic() + patience
    while not (found := look()):
        assert time.monotonic() < deadline, f"still {found!r}"
        time.sleep(0.02)
    return found


def put_file(http: httpx.Client, name: str = "a.txt", content: bytes = b"first", **query: str) -> httpx.Response:
    uri = f"/data/projects/{P}/resources/LOG/files/{name}"
    return http.put(uri, params=query, files={"file": (name, content)})


def listed(http: httpx.Client) -> dict[str, str]:
    files = rows(http.get(f"/data/projects/{P}/resources/LOG/files", params=JSON))
    return {row["Name"]: row["digest"] for row in files}


def md5(content: bytes) -> str:
    return hashlib.md5(content).hexdigest()


def refresh(http: httpx.Client, options: str = "checksum") -> None:
    query = {"resource": f"/archive/projects/{P}/resources/LOG", "options": options}
    http.post("/data/services/refresh/catalog", params=query).raise_for_status()


def post_inbox(http: httpx.Client, folder: Path, project: str = P, **parameters: str) -> str:
    query = {"import-handler": "inbox", "path": str(folder), "PROJECT_ID": project, "cleanupAfterImport": "false"}
    answer = http.post("/data/services/import", params={**query, **parameters})
    answer.raise_for_status()
    return answer.text.strip()


def state_of(http: httpx.Client, request: str) -> str:
    return http.get(request).json()["status"]


def settled(http: httpx.Client, request: str, *states: str) -> str:
    return until(lambda: state if (state := state_of(http, request)) in states else "")


def waiting(http: httpx.Client, project: str = P) -> list[dict[str, str]]:
    return rows(http.get(f"/data/prearchive/projects/{project}", params=JSON))


def prearchived(http: httpx.Client, sandbox: SandboxXnat, images: int = 2, label: str = "E_01") -> dict[str, str]:
    """A session that waits in the prearchive, READY."""
    folder = sandbox.inbox / P / label
    write_session(folder, images)
    settled(http, post_inbox(http, folder, SUBJECT_ID="S_01", EXPT_LABEL=label), "Processed")
    return until(lambda: next((row for row in waiting(http) if row["name"] == label and row["status"] == "READY"), {}))


def archive(http: httpx.Client, row: dict[str, str], **parameters: str) -> httpx.Response:
    return http.post("/data/services/archive", data={"src": f"/data{row['url']}", **parameters})


def archived_objects(http: httpx.Client, label: str = "E_01", project: str = P) -> list[dict[str, str]]:
    uri = f"/data/projects/{project}/experiments/{label}/scans/1/resources/DICOM/files"
    answer = http.get(uri, params=JSON)
    return rows(answer) if answer.is_success else []


def zipped(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        for path in sorted(folder.rglob("*")):
            out.write(path, path.relative_to(folder).as_posix())
    return buffer.getvalue()


def import_zip(http: httpx.Client, content: bytes, **parameters: str) -> httpx.Response:
    query = {"import-handler": "DICOM-zip", "inbody": "true", **parameters}
    return http.post(
        "/data/services/import", params=query, content=content, headers={"Content-Type": "application/zip"}
    )


# Catalog and files


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


# Prearchive


def test_rebuilder_delay_is_how_long_a_quiet_session_stays_receiving(
    sandbox: SandboxXnat, http: httpx.Client, tmp_path: Path
):
    write_session(tmp_path / "dicom", 1)
    import_zip(http, zipped(tmp_path / "dicom"), PROJECT_ID=P).raise_for_status()
    time.sleep(0.5)
    assert [row["status"] for row in waiting(http)] == ["RECEIVING"]

    sandbox.faults.rebuilder_delay = 0.0

    until(lambda: [row["status"] for row in waiting(http)] == ["READY"])


def test_prearc_stuck_keeps_a_session_receiving(sandbox: SandboxXnat, http: httpx.Client):
    sandbox.faults.prearc_stuck = ["RECEIVING"]
    sandbox.faults.rebuilder_delay = 0.0
    write_session(sandbox.inbox / P / "job", 1)

    settled(http, post_inbox(http, sandbox.inbox / P / "job"), "Processed")
    time.sleep(0.6)

    (row,) = waiting(http)
    assert row["status"] == "RECEIVING"
    http.post(f"/data{row['url']}", params={"action": "reset-status"}).raise_for_status()
    assert waiting(http)[0]["status"] == "READY"


def test_prearc_stuck_leaves_the_lock_of_an_archive_that_never_ends(sandbox: SandboxXnat, http: httpx.Client):
    row = prearchived(http, sandbox)
    sandbox.faults.prearc_stuck = ["_ARCHIVING"]

    assert archive(http, row).status_code == 500
    assert waiting(http)[0]["status"] == "_ARCHIVING"
    assert archive(http, row).status_code == 403
    locked = http.post(f"/data{row['url']}", params={"action": "build"})
    assert (locked.status_code, "session document locked" in locked.text) == (409, True)
    http.post(f"/data{row['url']}", params={"action": "reset-status"}).raise_for_status()
    assert archive(http, row).status_code == 200


def test_site_anon_changes_bytes_and_keeps_uids(sandbox: SandboxXnat, http: httpx.Client):
    sandbox.faults.site_anon = True
    assert http.get("/xapi/anonymize/site/enabled").json() is True
    folder = sandbox.inbox / P / "E_01"

    archive(http, prearchived(http, sandbox, 1)).raise_for_status()

    (row,) = archived_objects(http)
    stored = http.get(row["URI"]).content
    sent = pydicom.dcmread(folder / "0001.dcm")
    kept = pydicom.dcmread(io.BytesIO(stored))
    assert md5(stored) == row["digest"] != md5((folder / "0001.dcm").read_bytes())
    assert (kept.SOPInstanceUID, kept.PatientName, kept.PatientID) == (sent.SOPInstanceUID, "S_01", "E_01")
    assert kept.PixelData == sent.PixelData


def test_anon_changes_uids_replaces_them(sandbox: SandboxXnat, http: httpx.Client):
    sandbox.faults.site_anon = sandbox.faults.anon_changes_uids = True

    archive(http, prearchived(http, sandbox, 1)).raise_for_status()

    kept = pydicom.dcmread(io.BytesIO(http.get(archived_objects(http)[0]["URI"]).content))
    sent = pydicom.dcmread(sandbox.inbox / P / "E_01" / "0001.dcm")
    assert kept.SOPInstanceUID != sent.SOPInstanceUID
    assert kept.StudyInstanceUID == sent.StudyInstanceUID


def test_project_anon_changes_bytes_at_archive(sandbox: SandboxXnat, http: httpx.Client):
    row = prearchived(http, sandbox, 1)
    sandbox.faults.project_anon = True
    assert http.get(f"/xapi/anonymize/projects/{P}/enabled").json() is True
    sent = md5((sandbox.inbox / P / "E_01" / "0001.dcm").read_bytes())
    assert md5(http.get(f"/data{row['url']}/scans/1/resources/DICOM/files/0001.dcm").content) == sent

    archive(http, row).raise_for_status()

    assert archived_objects(http)[0]["digest"] != sent


def test_a_project_turns_its_own_anonymisation_on(sandbox: SandboxXnat, http: httpx.Client):
    with httpx.Client(base_url=sandbox.url, auth=("admin", "admin")) as admin:
        admin.put(f"/xapi/anonymize/projects/{P}/enabled", params={"enable": "true"}).raise_for_status()
    row = prearchived(http, sandbox, 1)

    archive(http, row).raise_for_status()

    assert archived_objects(http)[0]["digest"] != md5((sandbox.inbox / P / "E_01" / "0001.dcm").read_bytes())


def test_series_filter_drops_without_a_word(sandbox: SandboxXnat, http: httpx.Client, tmp_path: Path):
    study = generate_uid()
    for number, text in enumerate(("T1w", "localizer"), 1):
        header = {"SeriesDescription": text}
        write_dicom(
            tmp_path / "dicom" / f"{number}.dcm",
            study=study,
            series=generate_uid(),
            series_number=number,
            header=header,
        )
    sandbox.faults.series_filter = ["local*"]

    answer = import_zip(http, zipped(tmp_path / "dicom"), dest=f"/prearchive/projects/{P}")

    assert answer.status_code == 200
    assert sandbox.counts()["objects_received"] == 1


def test_anon_reject_drops_without_a_word_even_everything(sandbox: SandboxXnat, http: httpx.Client):
    folder = sandbox.inbox / P / "job"
    write_session(folder, 2)
    sandbox.faults.anon_reject = 2

    request = post_inbox(http, folder, cleanupAfterImport="true")

    assert settled(http, request, "Processed", "Failed") == "Processed"
    until(lambda: not folder.exists())
    assert waiting(http) == []


def test_lenient_zip_answers_200_to_a_partial_import(sandbox: SandboxXnat, http: httpx.Client, tmp_path: Path):
    write_session(tmp_path / "dicom", 1)
    (tmp_path / "dicom" / "broken.dcm").write_bytes(b"broken")
    asked = {"dest": f"/prearchive/projects/{P}", "Ignore-Unparsable": "false"}
    assert import_zip(http, zipped(tmp_path / "dicom"), **asked).status_code == 400

    sandbox.faults.lenient_zip = True

    assert import_zip(http, zipped(tmp_path / "dicom"), **asked).status_code == 200


def test_unassigned_puts_objects_where_the_header_says(sandbox: SandboxXnat, http: httpx.Client):
    folder = sandbox.inbox / P / "job"
    write_session(folder, 1)
    write_session(folder / "routed", 1, header={"StudyDescription": "AUTO"})
    sandbox.faults.unassigned = 2

    settled(http, post_inbox(http, folder), "Processed", "Completed", "Failed")

    assert waiting(http) == []
    with httpx.Client(base_url=sandbox.url, auth=("admin", "admin")) as admin:
        found = until(lambda: rows(admin.get("/data/prearchive/projects/Unassigned", params=JSON)))
        assert [row["project"] for row in found] == ["Unassigned"]
        assert admin.post("/data/services/archive", data={"src": f"/data{found[0]['url']}"}).status_code == 400


# Archive


def test_archive_500_fails_so_many_requests_and_leaves_the_session(sandbox: SandboxXnat, http: httpx.Client):
    row = prearchived(http, sandbox)
    sandbox.faults.archive_500 = 1

    failed = archive(http, row)

    assert failed.status_code == 500
    assert "FAILED: Unable to archive" in failed.text
    assert waiting(http)[0]["status"] == "ERROR"
    assert "NullPointerException" in http.get(f"/data{row['url']}/logs/last").text
    assert archive(http, row).status_code == 200


def test_archive_timeout_answers_500_and_succeeds_later(sandbox: SandboxXnat, http: httpx.Client):
    row = prearchived(http, sandbox)
    sandbox.faults.archive_timeout = 0.2

    answer = archive(http, row)

    assert answer.status_code == 500
    assert "did not complete within the configured timeout interval" in answer.text
    assert waiting(http)[0]["status"] == "ARCHIVING"
    assert archived_objects(http) == []
    assert len(until(lambda: archived_objects(http))) == 2
    assert sandbox.counts()["imports_per_label"] == {f"{P}/S_01/E_01": 1}


def test_archive_timeout_next_limits_it(sandbox: SandboxXnat, http: httpx.Client):
    sandbox.faults.archive_timeout, sandbox.faults.archive_timeout_next = 0.1, 1
    one, two = prearchived(http, sandbox, label="E_01"), prearchived(http, sandbox, label="E_02")

    assert [archive(http, row).status_code for row in (one, two)] == [500, 200]


def test_archive_delay_keeps_a_second_archive_of_it_out(sandbox: SandboxXnat, http: httpx.Client):
    row = prearchived(http, sandbox)
    sandbox.faults.archive_delay_s = 0.4

    with ThreadPoolExecutor(2) as both:
        answers = list(both.map(lambda _: archive(http, row).status_code, range(2)))

    assert sorted(answers) == [200, 403]
    assert sandbox.counts()["imports_per_label"] == {f"{P}/S_01/E_01": 1}


def test_disk_full_fails_mid_archive_and_leaves_nothing_there(sandbox: SandboxXnat, http: httpx.Client):
    row = prearchived(http, sandbox)
    sandbox.faults.disk_full = 1

    failed = archive(http, row)

    assert failed.status_code == 500
    assert "No space left on device" in failed.text
    assert archived_objects(http) == []
    assert not [path for path in (sandbox.root / "archive").rglob("*") if path.is_file()]
    assert archive(http, row).status_code == 200


# Labels


def test_two_texts_that_clean_to_one_label_become_one_participant(sandbox: SandboxXnat, http: httpx.Client):
    for label, subject in (("E_01", "A.1"), ("E_02", "A 1")):
        archive(http, prearchived(http, sandbox, 1, label), subject=subject).raise_for_status()

    assert [row["label"] for row in rows(http.get(f"/data/projects/{P}/subjects", params=JSON))] == ["A_1"]


# Access


@pytest.fixture
def by_cookie(sandbox: SandboxXnat) -> Iterator[httpx.Client]:
    """A client that logged in once and has nothing but its cookie since."""
    with httpx.Client(base_url=sandbox.url) as client:
        client.put("/data/services/auth", data={"username": "alice", "password": "alice"}).raise_for_status()
        yield client


def test_session_expiry_ends_a_login_session(sandbox: SandboxXnat, by_cookie: httpx.Client):
    sandbox.faults.session_expiry = 1

    assert by_cookie.get("/data/projects", params=JSON).status_code == 401
    assert by_cookie.get("/data/projects", params=JSON).status_code == 401
    by_cookie.put("/data/services/auth", data={"username": "alice", "password": "alice"})
    assert by_cookie.get("/data/projects", params=JSON).status_code == 200


def test_session_timeout_is_the_life_of_an_idle_session(sandbox: SandboxXnat, by_cookie: httpx.Client):
    sandbox.faults.session_timeout = 0.05
    time.sleep(0.1)

    assert by_cookie.get("/data/projects", params=JSON).status_code == 401


def test_login_page_200_answers_a_page_instead_of_401(sandbox: SandboxXnat, by_cookie: httpx.Client):
    sandbox.faults.session_expiry, sandbox.faults.login_page_200 = 1, True

    answer = by_cookie.get("/data/projects", params=JSON)

    assert (answer.status_code, answer.text.startswith("<!DOCTYPE html>")) == (200, True)


def test_guest_404_answers_404_instead_of_401(sandbox: SandboxXnat, by_cookie: httpx.Client):
    sandbox.faults.session_expiry, sandbox.faults.guest_404 = 1, True

    assert by_cookie.get(f"/data/projects/{P}", params=JSON).status_code == 404


def test_twenty_wrong_passwords_lock_an_account(sandbox: SandboxXnat):
    for _ in range(20):
        assert httpx.get(f"{sandbox.url}/data/projects", auth=("alice", "wrong")).status_code == 401

    assert httpx.get(f"{sandbox.url}/data/projects", auth=("alice", "alice")).status_code == 401


def test_whoever_looks_like_a_browser_needs_a_token(sandbox: SandboxXnat, by_cookie: httpx.Client):
    answer = by_cookie.put(f"/data/projects/{P}/subjects/S", headers={"User-Agent": "Mozilla/5.0"})

    assert answer.status_code == 403


# Proxy and network


def test_proxy_413_refuses_large_bodies(sandbox: SandboxXnat, http: httpx.Client):
    sandbox.faults.proxy_413 = 1000

    assert put_file(http, content=bytes(5000)).status_code == 413
    assert put_file(http, content=bytes(10)).status_code == 200


def test_proxy_504_hides_what_was_done(sandbox: SandboxXnat, http: httpx.Client):
    sandbox.faults.proxy_504 = 1

    assert put_file(http).status_code == 504
    assert listed(http) == {"a.txt": md5(b"first")}
    assert put_file(http, "b.txt").status_code == 200


def test_proxy_match_says_which_requests_are_hit(sandbox: SandboxXnat, http: httpx.Client):
    sandbox.faults.proxy_504, sandbox.faults.proxy_match = 1, "/data/services/import"
    assert put_file(http).status_code == 200
    write_session(sandbox.inbox / P / "job", 1)

    with pytest.raises(httpx.HTTPStatusError, match="504"):
        post_inbox(http, sandbox.inbox / P / "job")

    until(lambda: waiting(http))


def test_conn_reset_after_commit_hides_what_was_done(sandbox: SandboxXnat, http: httpx.Client):
    sandbox.faults.conn_reset_after_commit = 1

    with pytest.raises(httpx.TransportError):
        put_file(http)

    assert listed(http) == {"a.txt": md5(b"first")}


def test_down_stops_everything_but_the_remote_control(sandbox: SandboxXnat, http: httpx.Client):
    sandbox.faults.down = "502"
    assert http.get("/data/projects").status_code == 502
    http.put("/_sandbox/faults", json={"down": "reset"}).raise_for_status()
    with pytest.raises(httpx.TransportError):
        http.get("/data/projects")

    http.put("/_sandbox/faults", json={"down": False}).raise_for_status()

    assert http.get("/data/projects", params=JSON).status_code == 200


# The remote control and the life of the server


def test_knobs_are_turned_from_another_process(sandbox: SandboxXnat, http: httpx.Client):
    changed = http.put("/_sandbox/faults", json={"site_anon": True, "proxy_504": 2, "inbox_drop_files": ["*.x"]})

    assert changed.json()["site_anon"] is True
    assert (sandbox.faults.proxy_504, sandbox.faults.inbox_drop_files) == (2, ["*.x"])
    assert http.put("/_sandbox/faults", json={"no_such_knob": 1}).status_code == 400
    assert http.put("/_sandbox/faults", json={"archive_500": "many"}).status_code == 400
    http.delete("/_sandbox/faults").raise_for_status()
    assert sandbox.faults.site_anon is False


def test_a_misspelt_knob_is_an_error(sandbox: SandboxXnat):
    with pytest.raises(AttributeError):
        sandbox.faults.archive_50 = 1  # type: ignore[attr-defined]  # that is the point


def test_projects_are_made_from_another_process(sandbox: SandboxXnat, http: httpx.Client):
    wanted = {"id": "NEW", "prearchive_code": 4, "members": {"alice": "member"}}

    assert http.post("/_sandbox/projects", json=wanted).status_code == 201

    assert http.get("/data/projects/NEW/prearchive_code").text == "4"
    assert (sandbox.inbox / "NEW").is_dir()


def test_objects_that_came_twice_are_counted(sandbox: SandboxXnat, http: httpx.Client, tmp_path: Path):
    write_session(tmp_path / "dicom", 2)
    content = zipped(tmp_path / "dicom")
    for _ in range(2):
        import_zip(http, content, dest=f"/prearchive/projects/{P}").raise_for_status()

    counts = http.get("/_sandbox/counts").json()

    assert (counts["objects_received"], counts["duplicate_objects"], counts["archived_duplicates"]) == (4, 2, 0)


def test_what_was_known_survives_stop_and_start_but_no_login_does(
    sandbox: SandboxXnat, http: httpx.Client, by_cookie: httpx.Client
):
    put_file(http).raise_for_status()
    row, url = prearchived(http, sandbox), sandbox.url

    sandbox.stop()
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/data/projects")
    sandbox.start()

    assert sandbox.url == url
    assert by_cookie.get("/data/projects", params=JSON).status_code == 401
    assert listed(http) == {"a.txt": md5(b"first")}
    assert [found["url"] for found in waiting(http)] == [row["url"]]
    assert archive(http, row).status_code == 200


def test_an_archive_cut_off_by_the_end_of_the_server_is_an_error_afterwards(sandbox: SandboxXnat, http: httpx.Client):
    row = prearchived(http, sandbox)
    http.post(f"/data{row['url']}", params={"action": "set-status", "status": "ARCHIVING"}).raise_for_status()

    sandbox.stop()
    sandbox.start()

    assert [found["status"] for found in waiting(http)] == ["ERROR"]
    assert archive(http, row).status_code == 200


def test_files_that_were_on_their_way_into_the_archive_are_put_back(sandbox: SandboxXnat, http: httpx.Client):
    row = prearchived(http, sandbox)
    waiting_there = sandbox.root / "prearchive" / P / row["timestamp"] / "E_01"
    target = sandbox.root / "archive" / P / "arc001" / "E_01"
    target.parent.mkdir(parents=True)
    waiting_there.rename(target)
    state = sandbox._site.state
    session = state.prearchive.all()[0]
    state.prearchive.put(replace(session, status="ARCHIVING", moving_to=f"archive/{P}/arc001/E_01"))

    sandbox.stop()
    sandbox.start()

    assert [path.name for path in sorted(waiting_there.rglob("*.dcm"))] == ["0001.dcm", "0002.dcm"]
    assert not target.exists()
    assert archive(http, row).status_code == 200
    assert len(archived_objects(http)) == 2


def test_only_the_loopback_address_is_served(tmp_path: Path):
    with pytest.raises(ValueError, match="loopback"):
        SandboxXnat(tmp_path, host="0.0.0.0")
