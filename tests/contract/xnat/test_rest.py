"""What the importer relies on, asked of the server directly: answers, states, traps."""

import hashlib
import io
import tarfile
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote, unquote

import httpx
import pytest
from pydicom.uid import generate_uid

from lading.testing.dicom import CT_IMAGE, write_dicom, write_session
from lading.testing.instrument import wait_until
from lading.testing.xnat_calls import zipped

Rows = Callable[[httpx.Response], list[dict[str, str]]]
JSON = {"format": "json"}


def import_zip(http: httpx.Client, folder: Path, **parameters: str) -> httpx.Response:
    query = {"import-handler": "DICOM-zip", "inbody": "true", **parameters}
    return http.post(
        "/data/services/import", params=query, content=zipped(folder), headers={"Content-Type": "application/zip"}
    )


@pytest.fixture
def session_uri(http: httpx.Client, project: str) -> str:
    uri = f"/data/projects/{project}/subjects/S_01/experiments/E_01"
    http.put(f"/data/projects/{project}/subjects/S_01").raise_for_status()
    http.put(uri, params={"xsiType": "xnat:mrSessionData"}).raise_for_status()
    return uri


def test_nobody_is_sent_to_log_in(server):
    answer = httpx.get(f"{server.url}/data/projects", params=JSON)

    assert answer.status_code == 401
    assert "www-authenticate" in answer.headers
    assert httpx.get(f"{server.url}/xapi/siteConfig/buildInfo").status_code == 200


def test_a_session_cookie_is_enough(server):
    with httpx.Client(base_url=server.url) as client:
        form = {"username": server.user, "password": server.password}
        session = client.put("/data/services/auth", data=form).text
        assert client.get("/data/auth").text == f"User '{server.user}' is logged in"
        assert client.get("/data/JSESSION").text == session
        client.delete("/data/JSESSION")
        client.cookies.set("JSESSIONID", session)
        assert client.get("/data/projects", params=JSON).status_code == 401


def test_json_is_asked_for_in_the_query(http: httpx.Client, project: str):
    assert http.get(f"/data/projects/{project}", params=JSON).status_code == 200
    assert http.get("/data/version").status_code == 404
    assert http.get("/data/services/import").status_code == 405


def test_labels_that_are_none_are_refused(http: httpx.Client, project: str):
    assert http.put("/data/projects/not%20a%20label").status_code == 417
    assert http.put(f"/data/projects/{project}/subjects/S.01").status_code == 500


def test_a_session_label_is_unique_in_its_project(http: httpx.Client, project: str, session_uri: str):
    http.put(f"/data/projects/{project}/subjects/S_02").raise_for_status()

    answer = http.put(f"/data/projects/{project}/subjects/S_02/experiments/E_01")

    assert answer.status_code == 409


def test_a_deleted_project_id_is_not_given_again(http: httpx.Client, new_project: Callable[[int], str]):
    project = new_project(0)
    http.delete(f"/data/projects/{project}").raise_for_status()

    assert http.get(f"/data/projects/{project}", params=JSON).status_code == 404
    assert http.put(f"/data/projects/{project}").status_code == 403


def test_a_resource_is_created_once(http: httpx.Client, session_uri: str):
    assert http.put(f"{session_uri}/resources/LOG").status_code in (200, 201)
    assert http.put(f"{session_uri}/resources/LOG").status_code == 409


@pytest.mark.parametrize("name", ["plain.txt", "with space.txt", "sub/ünï.txt", "hash#1.txt", "50%.txt"])
def test_any_file_name_survives(http: httpx.Client, session_uri: str, rows: Rows, name: str):
    uri = f"{session_uri}/resources/ANY/files/{quote(name)}"
    http.put(uri, params={"inbody": "true"}, content=b"bytes").raise_for_status()

    (row,) = rows(http.get(f"{session_uri}/resources/ANY/files", params=JSON))

    assert unquote(row["URI"].partition("/files/")[2]) == name
    assert (row["Size"], row["digest"]) == ("5", hashlib.md5(b"bytes").hexdigest())
    assert http.get(uri).content == b"bytes"


def test_a_duplicate_is_answered_200_and_named(http: httpx.Client, session_uri: str):
    uri = f"{session_uri}/resources/LOG/files/a.txt"
    files = {"file": ("a.txt", b"first")}
    assert http.put(uri, files=files).status_code == 200

    again = http.put(uri, files={"file": ("a.txt", b"second")})

    assert (again.status_code, again.json()) == (200, {"duplicates": ["a.txt"]})
    assert http.get(uri).content == b"first"
    http.put(uri, params={"overwrite": "true"}, files={"file": ("a.txt", b"third")}).raise_for_status()
    assert http.get(uri).content == b"third"


def test_an_empty_file_needs_multipart(http: httpx.Client, session_uri: str, rows: Rows):
    uri = f"{session_uri}/resources/LOG/files/empty"
    raw = http.put(uri, params={"inbody": "true"}, content=b"", headers={"Content-Type": "application/octet-stream"})
    assert raw.status_code == 500

    http.put(uri, files={"file": ("empty", b"")}).raise_for_status()

    (row,) = rows(http.get(f"{session_uri}/resources/LOG/files", params=JSON))
    assert (row["Size"], row["digest"]) == ("0", hashlib.md5(b"").hexdigest())


def test_multipart_is_not_in_body(http: httpx.Client, session_uri: str):
    answer = http.put(
        f"{session_uri}/resources/LOG/files/a", params={"inbody": "true"}, files={"file": ("a", b"bytes")}
    )
    assert answer.status_code == 406


@pytest.mark.parametrize("suffix", ["zip", "tar", "tar.gz", "tgz"])
def test_an_archive_is_extracted(http: httpx.Client, session_uri: str, rows: Rows, suffix: str):
    buffer = io.BytesIO()
    if suffix == "zip":
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("sub/one.txt", b"one")
    else:
        with tarfile.open(fileobj=buffer, mode="w" if suffix == "tar" else "w:gz") as archive:
            member = tarfile.TarInfo("sub/one.txt")
            member.size = 3
            archive.addfile(member, io.BytesIO(b"one"))

    uri = f"{session_uri}/resources/TREE/files/all.{suffix}"
    http.put(uri, params={"extract": "true", "inbody": "true"}, content=buffer.getvalue()).raise_for_status()

    (row,) = rows(http.get(f"{session_uri}/resources/TREE/files", params=JSON))
    assert row["URI"].endswith("/files/sub/one.txt")
    assert row["digest"] == hashlib.md5(b"one").hexdigest()


def test_an_inbox_request_checks_in_order(http: httpx.Client, project: str, server, project_inbox):
    folder = project_inbox(project)
    folder.mkdir(parents=True)
    on_server = f"{server.inbox_path}/{folder.relative_to(server.inbox).as_posix()}"

    def ask(**parameters: str) -> tuple[int, str]:
        answer = http.post("/data/services/import", params={"import-handler": "inbox", **parameters})
        return answer.status_code, answer.text

    for path in ({}, {"path": "/etc"}, {"path": on_server + "/absent"}, {"path": server.inbox_path}):
        status, text = ask(**path, PROJECT_ID=project)
        assert status == 400
        assert "You must specify a valid path" in text
    status, text = ask(path=on_server, PROJECT_ID=project + "_absent")
    assert status == 400
    assert "You do not have permission to edit" in text
    status, text = ask(path=on_server, PROJECT_ID=project)
    assert status == 400
    assert "does not contain any files" in text
    status, text = ask()
    assert status == 400


def test_a_label_that_exists_is_refused_by_the_inbox(http, project, session_uri, server, project_inbox):
    folder = project_inbox(project)
    write_session(folder, 1)
    path = f"{server.inbox_path}/{folder.relative_to(server.inbox).as_posix()}"

    query = {"import-handler": "inbox", "path": path, "PROJECT_ID": project, "EXPT_LABEL": "E_01"}
    answer = http.post("/data/services/import", params=query)

    assert answer.status_code == 409
    assert "Experiment with that label already exists in that project." in answer.text


def test_an_auto_archiving_project_completes(http, auto_project, project_inbox, inbox_import, rows: Rows):
    folder = project_inbox(auto_project)
    write_session(folder, 2)

    request = inbox_import(
        folder, PROJECT_ID=auto_project, SUBJECT_ID="S_01", EXPT_LABEL="E_01", cleanupAfterImport="false"
    )

    assert request["status"] == "Completed", request["resolution"]
    assert str(request["resolution"]).endswith(f"/archive/projects/{auto_project}/subjects/S_01/experiments/E_01")
    assert len(list(folder.iterdir())) == 2
    files = rows(http.get(f"/data/projects/{auto_project}/experiments/E_01/scans/1/resources/DICOM/files", params=JSON))
    assert sorted(row["Name"] for row in files) == ["0001.dcm", "0002.dcm"]


def test_without_dicom_a_request_fails(project, project_inbox, inbox_import):
    folder = project_inbox(project)
    folder.mkdir(parents=True)
    (folder / "junk.dcm").write_text("this is not DICOM")

    request = inbox_import(folder, PROJECT_ID=project, cleanupAfterImport="false")

    assert request["status"] == "Failed"
    assert "No valid DICOM files found" in str(request["resolution"])


def test_cleaning_up_deletes_even_what_was_not_imported(project, project_inbox, inbox_import):
    folder = project_inbox(project)
    write_session(folder, 1)
    (folder / "physio.log").write_text("kept nowhere else")

    inbox_import(folder, ("Processed",), PROJECT_ID=project, SUBJECT_ID="S", EXPT_LABEL="E")

    wait_until(lambda: not folder.exists())  # the server says "Processed" first, and then deletes


def test_the_zip_importer_stops_at_what_it_cannot_read(http, project, tmp_path, rows: Rows):
    write_session(tmp_path, 1)
    (tmp_path / "zzz.txt").write_text("not DICOM")

    answer = import_zip(http, tmp_path, dest=f"/prearchive/projects/{project}", **{"Ignore-Unparsable": "false"})

    assert answer.status_code == 400
    assert "unable to read DICOM object" in answer.text
    assert len(rows(http.get(f"/data/prearchive/projects/{project}", params=JSON))) == 1


def test_the_zip_importer_can_be_told_to_ignore_it(http, project, tmp_path):
    write_session(tmp_path, 1)
    (tmp_path / "zzz.txt").write_text("not DICOM")

    answer = import_zip(http, tmp_path, dest=f"/prearchive/projects/{project}", **{"Ignore-Unparsable": "true"})

    assert answer.status_code == 200
    assert answer.text.startswith(f"/data/prearchive/projects/{project}/")


def test_importer_names_are_checked(http, project):
    answer = http.post(
        "/data/services/import",
        params={"import-handler": "none-such", "inbody": "true"},
        content=b"PK",
        headers={"Content-Type": "application/zip"},
    )
    assert answer.status_code == 404
    assert "Unknown importer implementation specified" in answer.text


def prearchived(http: httpx.Client, project: str, folder: Path, label: str, rows: Rows) -> dict[str, str]:
    """A session in the prearchive of a project, as its row."""
    answer = import_zip(
        http, folder, dest=f"/prearchive/projects/{project}", PROJECT_ID=project, SUBJECT_ID="S_01", EXPT_LABEL=label
    )
    answer.raise_for_status()
    return rows(http.get(answer.text.strip(), params=JSON))[0]


def test_the_prearchive_shows_no_digests(http, project, tmp_path, rows: Rows):
    write_session(tmp_path, 2)
    row = prearchived(http, project, tmp_path, "E_01", rows)

    uri = f"/data{row['url']}/scans/1/resources"

    assert rows(http.get(uri, params=JSON))[0]["file_count"] == "2"
    files = rows(http.get(f"{uri}/DICOM/files", params=JSON))
    assert {file["Name"] for file in files} == {"0001.dcm", "0002.dcm"}
    assert not any(file.get("digest") for file in files)


def test_an_unknown_action_is_400_and_an_unknown_session_404(http, project, tmp_path, rows: Rows):
    write_session(tmp_path, 1)
    row = prearchived(http, project, tmp_path, "E_01", rows)

    assert http.post(f"/data{row['url']}", params={"action": "dance"}).status_code == 400
    assert http.get(f"/data/prearchive/projects/{project}/20000101_000000000/NONE", params=JSON).status_code == 404


def test_a_session_moves_to_another_project(http, project, new_project, tmp_path, rows: Rows):
    other = new_project(0)
    write_session(tmp_path, 1)
    row = prearchived(http, project, tmp_path, "E_01", rows)

    answer = http.post(f"/data{row['url']}", params={"action": "move", "newProject": other})

    assert answer.status_code == 301
    assert rows(http.get(f"/data/prearchive/projects/{project}", params=JSON)) == []
    assert [found["name"] for found in rows(http.get(f"/data/prearchive/projects/{other}", params=JSON))] == ["E_01"]


def archive(http: httpx.Client, row: dict[str, str], **parameters: str) -> httpx.Response:
    return http.post("/data/services/archive", data={"src": f"/data{row['url']}", **parameters})


def test_archiving_answers_the_session(http, project, tmp_path, rows: Rows):
    write_session(tmp_path, 1)
    row = prearchived(http, project, tmp_path, "E_01", rows)

    answer = archive(http, row)

    assert answer.status_code == 200
    assert answer.text == f"/data/archive/projects/{project}/subjects/S_01/experiments/E_01\r\n"
    assert rows(http.get(f"/data/prearchive/projects/{project}", params=JSON)) == []
    assert archive(http, row).status_code == 404


def test_archiving_joins_a_session_of_the_same_study_without_being_asked(http, project, tmp_path, rows: Rows):
    study, series = generate_uid(), generate_uid()
    write_dicom(tmp_path / "one" / "1.dcm", study=study, series=series, instance=1)
    write_dicom(tmp_path / "two" / "2.dcm", study=study, series=series, instance=2)
    archive(http, prearchived(http, project, tmp_path / "one", "E_01", rows)).raise_for_status()

    answer = archive(http, prearchived(http, project, tmp_path / "two", "E_01", rows))

    assert answer.status_code == 200
    files = rows(http.get(f"/data/projects/{project}/experiments/E_01/scans/1/resources/DICOM/files", params=JSON))
    assert sorted(file["Name"] for file in files) == ["1.dcm", "2.dcm"]


def test_archiving_another_study_under_a_label_is_a_conflict(http, project, tmp_path, rows: Rows):
    write_session(tmp_path / "one", 1)
    write_session(tmp_path / "two", 1)
    archive(http, prearchived(http, project, tmp_path / "one", "E_01", rows)).raise_for_status()
    second = prearchived(http, project, tmp_path / "two", "E_01", rows)

    found = rows(http.post("/data/services/validate-archive", params={"src": f"/data{second['url']}", **JSON}))
    answer = archive(http, second)

    assert found
    assert answer.status_code == 500
    assert "Operation Failed" in answer.text
    (row,) = rows(http.get(f"/data/prearchive/projects/{project}", params=JSON))
    assert row["status"] in ("CONFLICT", "ERROR")
    assert http.get(f"/data{row['url']}/logs/last").text


def test_archiving_the_same_files_again_is_a_conflict_unless_overwriting(http, project, tmp_path, rows: Rows):
    write_session(tmp_path, 1)
    archive(http, prearchived(http, project, tmp_path, "E_01", rows)).raise_for_status()
    again = prearchived(http, project, tmp_path, "E_01", rows)

    assert archive(http, again).status_code == 500
    assert archive(http, again, overwrite="append").status_code == 200


def test_two_spellings_of_a_participant_become_one(http, project, tmp_path, rows: Rows):
    for number, spelling in enumerate(("sub-a", "SUB-A")):
        write_session(tmp_path / spelling, 1)
        row = prearchived(http, project, tmp_path / spelling, f"E_{number}", rows)
        archive(http, row, subject=spelling).raise_for_status()

    assert [row["label"] for row in rows(http.get(f"/data/projects/{project}/subjects", params=JSON))] == ["sub-a"]


def test_the_session_type_follows_the_images(http, project, tmp_path, rows: Rows):
    study = generate_uid()
    write_dicom(tmp_path / "1.dcm", study=study, series=generate_uid(), sop_class=CT_IMAGE, modality="CT")
    archive(http, prearchived(http, project, tmp_path, "E_01", rows)).raise_for_status()

    (row,) = rows(http.get(f"/data/projects/{project}/experiments", params=JSON))

    assert row["xsiType"] == "xnat:ctSessionData"


def test_tracking_tells_how_an_archive_ended(http, project, tmp_path, rows: Rows):
    write_session(tmp_path, 1)
    row = prearchived(http, project, tmp_path, "E_01", rows)
    key = f"lading-{generate_uid()}"

    answer = archive(http, row, **{"http-session-listener": key})
    deadline = time.monotonic() + 60
    while (tracked := http.get(f"/xapi/event_tracking/{key}").json())["succeeded"] is None:
        assert time.monotonic() < deadline
        time.sleep(0.05)

    assert answer.status_code in (200, 303)
    assert tracked["succeeded"] is True
    assert tracked["finalMessage"].startswith("Archive:")


def test_anonymisation_can_be_asked_about(http, project):
    assert http.get("/xapi/anonymize/site/enabled").json() in (True, False)
    assert http.get(f"/xapi/anonymize/projects/{project}/enabled").json() in (True, False)


def test_a_file_in_the_user_cache_can_be_imported_later(http, project, tmp_path, rows: Rows):
    write_session(tmp_path, 1)
    name = f"{generate_uid()}.zip"
    http.put(f"/data/user/cache/resources/lading/files/{name}", files={"file": (name, zipped(tmp_path))})

    answer = http.post(
        "/data/services/import",
        data={
            "src": f"/user/cache/resources/lading/files/{name}",
            "import-handler": "DICOM-zip",
            "dest": f"/prearchive/projects/{project}",
        },
    )

    assert answer.status_code == 200, answer.text
    assert len(rows(http.get(f"/data/prearchive/projects/{project}", params=JSON))) == 1


def test_a_single_object_is_imported_and_built_on_request(http, project, tmp_path, rows: Rows):
    write_session(tmp_path, 1)
    query = {"import-handler": "gradual-DICOM", "inbody": "true", "PROJECT_ID": project, "EXPT_LABEL": "E_01"}

    answer = http.post(
        "/data/services/import",
        params=query,
        content=(tmp_path / "0001.dcm").read_bytes(),
        headers={"Content-Type": "application/dicom"},
    )

    assert answer.status_code == 200
    (row,) = rows(http.get(f"/data/prearchive/projects/{project}", params=JSON))
    assert (row["name"], row["status"]) == ("E_01", "RECEIVING")
    http.post(f"/data{row['url']}", params={"action": "build"}).raise_for_status()
    assert rows(http.get(f"/data{row['url']}", params=JSON))[0]["status"] == "READY"


def test_the_header_decides_when_no_project_is_named(http, project, tmp_path, rows: Rows):
    write_session(tmp_path, 1, header={"PatientComments": f"Project:{project} Subject:S_09; Session:S_09_MR1"})

    import_zip(http, tmp_path, action="commit").raise_for_status()

    (row,) = rows(http.get(f"/data/prearchive/projects/{project}", params=JSON))
    assert (row["subject"], row["name"]) == ("S_09", "S_09_MR1")


def test_the_header_of_an_object_in_the_prearchive_is_dumped(http, project, tmp_path, rows: Rows):
    (uid,) = write_session(tmp_path, 1)
    row = prearchived(http, project, tmp_path, "E_01", rows)

    query = {"src": f"{row['url']}/scans/1", "field": "SOPInstanceUID", **JSON}
    (dumped,) = rows(http.get("/data/services/dicomdump", params=query))

    assert (dumped["tag1"], dumped["vr"], dumped["value"]) == ("(0008,0018)", "UI", uid)


def test_a_session_in_the_prearchive_is_downloaded(http, project, tmp_path, rows: Rows):
    write_session(tmp_path, 2)
    row = prearchived(http, project, tmp_path, "E_01", rows)

    answer = http.get(f"/data{row['url']}", params={"format": "zip"})

    with zipfile.ZipFile(io.BytesIO(answer.content)) as archive:
        sent = {name.rsplit("/", 1)[-1]: archive.read(name) for name in archive.namelist() if name.endswith(".dcm")}
    assert sent == {path.name: path.read_bytes() for path in tmp_path.iterdir()}
