"""Each knob of the stand-in XNAT does what its row in docs/reference/sandbox-xnat.md says: prearchive, archive, and labels."""

import io
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pydicom
from pydicom.uid import generate_uid

from lading.sandbox.xnat import SandboxXnat
from lading.testing.dicom import write_dicom, write_session
from lading.testing.xnat_calls import (
    JSON,
    P,
    archive,
    archived_objects,
    import_zip,
    md5,
    post_inbox,
    prearchived,
    rows,
    settled,
    until,
    waiting,
    zipped,
)


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
