"""The unmodified pyxnat, the independent witness, sees and does the same."""

import hashlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lading.testing.dicom import write_session

pyxnat = pytest.importorskip("pyxnat")


@pytest.fixture(scope="module")
def witness(server) -> Iterator:
    interface = pyxnat.Interface(server=server.url, user=server.user, password=server.password)
    yield interface
    interface.disconnect()


@pytest.fixture
def scan(witness, project):
    made = witness.select.project(project).subject("S_10").experiment("E_10").scan("5")
    made.create(experiments="xnat:mrSessionData", scans="xnat:mrScanData")
    return made


def test_it_says_who_it_talks_to(witness):
    assert witness.version()


def test_projects_are_listed(witness, project):
    assert project in witness.select.projects().get()
    assert witness.select.project(project).exists()
    assert not witness.select.project(project + "_absent").exists()


def test_subject_session_and_scan_are_created_at_once(witness, project, scan):
    assert scan.exists()
    assert witness.select.project(project).subject("S_10").exists()
    (found,) = witness.select.project(project).subject("S_10").experiments()
    assert (found.label(), found.datatype()) == ("E_10", "xnat:mrSessionData")
    assert len(witness.select.project(project).subjects().get()) == 1


def test_a_file_is_put_described_and_got_back(scan, tmp_path: Path):
    (tmp_path / "p.nii").write_bytes(b"pyx" * 1000)
    resource = scan.resource("NIFTI")
    resource.create()

    resource.file("p.nii").put(str(tmp_path / "p.nii"), format="NIFTI", content="T1", overwrite=True)

    assert resource.exists()
    described = resource.file("p.nii").attributes()
    assert described["digest"] == hashlib.md5(b"pyx" * 1000).hexdigest()
    assert (described["Size"], described["file_format"], described["file_content"]) == ("3000", "NIFTI", "T1")
    assert Path(resource.file("p.nii").get(str(tmp_path / "back.nii"))).read_bytes() == b"pyx" * 1000


def test_a_zip_is_unpacked_into_a_resource(scan, tmp_path: Path):
    (tmp_path / "a.txt").write_bytes(b"a")
    (tmp_path / "b.txt").write_bytes(b"b")
    resource = scan.resource("NIFTI")
    resource.create()

    resource.put([str(tmp_path / "a.txt"), str(tmp_path / "b.txt")], extract=True)

    assert sorted(resource.files().get()) == ["a.txt", "b.txt"]


def test_the_prearchive_is_read(witness, project, project_inbox: Callable[[str], Path], inbox_import):
    folder = project_inbox(project)
    write_session(folder, 2)
    inbox_import(folder, ("Processed",), PROJECT_ID=project, SUBJECT_ID="S", EXPT_LABEL="E", cleanupAfterImport="false")

    (triple,) = [found for found in witness.manage.prearchive.get() if found[0] == project]

    assert triple[2] == "E"
    assert witness.manage.prearchive.status(triple) in ("READY", "RECEIVING", "QUEUED_BUILDING", "BUILDING")
    assert list(witness.manage.prearchive.get_scans(triple)) == ["1"]


def test_data_types_and_xml_are_shown(witness, project):
    assert "xnat:mrSessionData" in witness.inspect.datatypes("*")
    assert b"Project" in witness.select.project(project).get()
