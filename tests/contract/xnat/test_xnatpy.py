"""The unmodified xnatpy does with the server what a user would do."""

import hashlib
import io
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lading.testing.dicom import write_session

xnat = pytest.importorskip("xnat")


@pytest.fixture(scope="module")
def session(server) -> Iterator:
    with xnat.connect(server.url, user=server.user, password=server.password, loglevel="ERROR") as connected:
        yield connected


@pytest.fixture
def experiment(session, project):
    subject = session.classes.SubjectData(parent=session.projects[project], label="S_01")
    return session.classes.MrSessionData(parent=subject, label="E_01")


@pytest.fixture(autouse=True)
def fresh(session) -> None:
    session.clearcache()


def test_it_connects_and_builds_classes_from_the_schema(session):
    assert session.xnat_version.startswith("1.")
    assert issubclass(session.classes.MrSessionData, session.classes.ImageSessionData)
    for kind in ("SmSessionData", "GmSessionData", "UsSessionData", "OtherDicomSessionData", "ScScanData"):
        assert hasattr(session.classes, kind)


def test_it_connects_without_extension_types(server, project):
    with xnat.connect(server.url, user=server.user, password=server.password, extension_types=False) as connected:
        assert project in connected.projects


def test_it_connects_without_a_model(server, project):
    with xnat.connect(server.url, user=server.user, password=server.password, no_parse_model=True) as connected:
        listed = connected.get_json("/data/projects")["ResultSet"]["Result"]
    assert project in [row["ID"] for row in listed]


def test_an_alias_token_logs_in(server, session, project):
    token = session.services.issue_token()

    with xnat.connect(server.url, user=token.alias, password=token.secret, no_parse_model=True) as connected:
        assert connected.get(f"/data/projects/{project}").status_code == 200


def test_a_wrong_password_is_refused(server):
    with pytest.raises(xnat.exceptions.XNATLoginFailedError):
        xnat.connect(server.url, user=server.user, password="wrong" + server.password)


def test_a_project_is_created_listed_and_read(session, project):
    session.put(f"/data/archive/projects/{project}", query={"req_format": "qs", "name": f"Named {project}"})
    session.clearcache()

    found = session.projects[project]

    assert (found.id, found.name) == (project, f"Named {project}")


def test_subject_session_and_scan_are_created_and_listed(session, project, experiment):
    session.classes.MrScanData(parent=experiment, id="1", type="T1w")
    session.clearcache()

    found = session.projects[project]

    assert [row.label for row in found.subjects.values()] == ["S_01"]
    assert [(row.label, type(row).__name__) for row in found.experiments.values()] == [("E_01", "MrSessionData")]
    assert [row.label for row in found.subjects["S_01"].experiments.values()] == ["E_01"]
    assert [(row.id, row.type) for row in found.experiments["E_01"].scans.values()] == [("1", "T1w")]


def test_uploaded_files_are_listed_with_their_md5(session, experiment, tmp_path: Path):
    resource = experiment.create_resource("NIFTI")
    tree = tmp_path / "tree"
    (tree / "sub").mkdir(parents=True)
    (tree / "sub" / "b.bin").write_bytes(bytes(range(256)) * 20)
    (tmp_path / "a.txt").write_bytes(b"hello")

    resource.upload(tmp_path / "a.txt", "x/a.txt")
    resource.upload_dir(tree)
    resource.clearcache()

    assert {file.path: file.digest for file in resource.files.values()} == {
        "x/a.txt": hashlib.md5(b"hello").hexdigest(),
        "sub/b.bin": hashlib.md5(bytes(range(256)) * 20).hexdigest(),
    }
    assert all(file.verify_digest() for file in resource.files.values())


def test_uploading_over_a_file_writes_nothing_and_raises_nothing(session, experiment, tmp_path: Path):
    resource = experiment.create_resource("NIFTI")
    file = tmp_path / "a.txt"
    file.write_bytes(b"first")
    resource.upload(file, "a.txt")
    file.write_bytes(b"second")

    resource.upload(file, "a.txt")
    resource.clearcache()

    assert [each.digest for each in resource.files.values()] == [hashlib.md5(b"first").hexdigest()]


def test_a_resource_is_downloaded_as_a_zip(session, experiment, tmp_path: Path):
    resource = experiment.create_resource("NIFTI")
    (tmp_path / "a.txt").write_bytes(b"hello")
    resource.upload(tmp_path / "a.txt", "x/a.txt")

    resource.download(tmp_path / "out.zip", verbose=False)

    with zipfile.ZipFile(io.BytesIO((tmp_path / "out.zip").read_bytes())) as archive:
        (name,) = archive.namelist()
        assert name.endswith("/NIFTI/files/x/a.txt")
        assert archive.read(name) == b"hello"


def test_an_inbox_import_reaches_the_prearchive_and_the_archive(
    server, session, project, project_inbox: Callable[[str], Path]
):
    folder = project_inbox(project)
    write_session(folder, 3)
    on_server = f"{server.inbox_path}/{folder.relative_to(server.inbox).as_posix()}"

    request = session.services.import_dicom_inbox(on_server, project=project, subject="S_02", experiment="E_02")
    deadline = time.monotonic() + 60
    while request.status != "Processed" and time.monotonic() < deadline:
        time.sleep(0.05)
    (waiting,) = _ready_sessions(session, project)
    files = [len(scan.files) for scan in waiting.scans.values()]
    described = (waiting.label, waiting.subject, waiting.project, files)
    archived = waiting.archive()

    assert described == ("E_02", "S_02", project, [3])
    assert (archived.label, type(archived).__name__) == ("E_02", "MrSessionData")
    found = session.projects[project].experiments["E_02"].scans["1"].resources["DICOM"].files
    local = {path.name: hashlib.md5(path.read_bytes()).hexdigest() for path in folder.iterdir()}
    assert {file.path: file.digest for file in found.values()} == local


def _ready_sessions(session, project: str):
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline:
        found = [row for row in session.prearchive.sessions(project) if row.status == "READY"]
        if found:
            return found
        session.prearchive.clearcache()
        time.sleep(0.1)
    raise AssertionError("no session became READY")


def test_a_folder_is_imported_straight_into_the_archive(session, project, tmp_path: Path):
    write_session(tmp_path / "dicom", 2)

    imported = session.services.import_dir(
        tmp_path / "dicom",
        destination=f"/archive/projects/{project}/subjects/S_03/experiments/E_03",
        import_handler="DICOM-zip",
        overwrite="append",
    )

    assert (imported.label, imported.project) == ("E_03", project)


def test_a_folder_is_imported_into_the_prearchive(session, project, tmp_path: Path):
    write_session(tmp_path / "dicom", 2)

    imported = session.services.import_dir(
        tmp_path / "dicom", destination=f"/prearchive/projects/{project}", import_handler="DICOM-zip"
    )

    assert (imported.project, imported.status) == (project, "READY")
    imported.delete()
    assert session.prearchive.sessions(project) == []


def test_a_catalog_is_refreshed(session, experiment, tmp_path: Path):
    resource = experiment.create_resource("NIFTI")
    (tmp_path / "a.txt").write_bytes(b"hello")
    resource.upload(tmp_path / "a.txt", "a.txt")

    session.services.refresh_catalog(resource, checksum=True)
    resource.clearcache()

    assert [file.digest for file in resource.files.values()] == [hashlib.md5(b"hello").hexdigest()]


def test_the_header_of_an_archived_object_is_dumped(session, project, tmp_path: Path):
    write_session(tmp_path / "dicom", 1)
    imported = session.services.import_dir(
        tmp_path / "dicom",
        destination=f"/archive/projects/{project}/subjects/S_04/experiments/E_04",
        import_handler="DICOM-zip",
    )

    dumped = imported.scans["1"].dicom_dump(fields=["Modality"])

    assert [(row["tag1"], row["vr"], row["value"]) for row in dumped] == [("(0008,0060)", "CS", "MR")]
