"""Other people's clients, unmodified: the `omero` command, BlitzGateway, ezomero."""

import contextlib
import json
import os
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.testing import java_double, real_images
from lading.testing.omero_command import OmeroCommand
from lading.testing.omero_server import Login, OmeroServer

with contextlib.suppress(ImportError):  # the conftest skips where it is missing
    from omero.gateway import BlitzGateway, FileAnnotationWrapper, MapAnnotationWrapper, TagAnnotationWrapper


@pytest.fixture
def name() -> str:
    return f"c-{uuid.uuid4().hex[:12]}"


# -- BlitzGateway --------------------------------------------------------------------------------------------------------


@pytest.fixture
def gateway(any_omero: OmeroServer, omero_kind: str) -> Iterator["BlitzGateway"]:
    """Over TLS to the end, or leaving TLS after the login, as it does by default."""
    port = any_omero.inside.port if any_omero.sandbox else any_omero.port
    made = BlitzGateway(any_omero.user, any_omero.password, host="127.0.0.1", port=port, secure=omero_kind != "tcp")
    if any_omero.sandbox is None:
        made = BlitzGateway(any_omero.user, any_omero.password, host=any_omero.address, port=port, secure=True)
    assert made.connect(), made.getLastError()
    yield made
    made.close()


def test_the_gateway_walks_the_hierarchy(gateway: "BlitzGateway", login: Login, name: str):
    project, dataset = login.save("Project", name=name), login.save("Dataset", name=name + "-d")
    login.link("ProjectDatasetLink", ("Project", project), ("Dataset", dataset))

    found = gateway.getObject("Project", project)

    assert [child.getName() for child in found.listChildren()] == [name + "-d"]
    assert gateway.getObject("Dataset", dataset).getParent().getId() == project
    assert found.countChildren() == 1
    assert found.canLink()
    assert found.getOwnerOmeName() == gateway.getUser().getName()
    assert [each.getId() for each in gateway.getObjects("Project", attributes={"name": name})] == [project]
    assert [each.getId() for each in gateway.getObjects("Dataset", opts={"project": project})] == [dataset]


def test_the_gateway_annotates(gateway: "BlitzGateway", login: Login, name: str):
    dataset = gateway.getObject("Dataset", login.save("Dataset", name=name))
    pairs, tag = MapAnnotationWrapper(gateway), TagAnnotationWrapper(gateway)
    pairs.setNs(name)
    pairs.setValue([["instrument", "x1"], ["delivery", name]])
    tag.setValue(name)

    dataset.linkAnnotation(pairs)
    dataset.linkAnnotation(tag)

    again = gateway.getObject("Dataset", dataset.getId())
    assert again.getAnnotation(name).getValue() == [("instrument", "x1"), ("delivery", name)]
    assert {type(each).__name__ for each in again.listAnnotations()} == {"MapAnnotationWrapper", "TagAnnotationWrapper"}
    again.removeAnnotations(name)
    assert gateway.getObject("Dataset", dataset.getId()).getAnnotation(name) is None


def test_the_gateway_attaches_files(gateway: "BlitzGateway", login: Login, name: str, tmp_path):
    content = bytes(range(256)) * 5000
    (tmp_path / "notes.bin").write_bytes(content)
    dataset = gateway.getObject("Dataset", login.save("Dataset", name=name))

    attached = gateway.createFileAnnfromLocalFile(str(tmp_path / "notes.bin"), mimetype="application/x-notes", ns=name)
    dataset.linkAnnotation(attached)

    found = gateway.getObject("Dataset", dataset.getId()).getAnnotation(name)
    assert isinstance(found, FileAnnotationWrapper)
    assert (found.getFileName(), found.getFileSize()) == ("notes.bin", len(content))
    assert b"".join(found.getFileInChunks()) == content


def test_the_gateway_deletes(gateway: "BlitzGateway", login: Login, name: str):
    dataset = login.save("Dataset", name=name)

    gateway.deleteObjects("Dataset", [dataset], wait=True)

    assert gateway.getObject("Dataset", dataset) is None


def test_the_gateway_works_as_somebody_else(stand_in: OmeroServer, name: str):
    box = stand_in.inside
    root = BlitzGateway("root", box.password("root"), host=box.host, port=box.port, secure=True)
    assert root.connect()
    try:
        bob = root.suConn("bob", group="lab")
        try:
            assert (bob.getUser().getName(), bob.getGroupFromContext().getName()) == ("bob", "lab")
        finally:
            bob.close()
    finally:
        root.close()


# -- ezomero --------------------------------------------------------------------------------------------------------------


def test_ezomero_posts_and_finds(gateway: "BlitzGateway", name: str):
    ezomero = pytest.importorskip("ezomero")

    project = ezomero.post_project(gateway, name)
    dataset = ezomero.post_dataset(gateway, name + "-d", project_id=project, description="made by ezomero")
    annotation = ezomero.post_map_annotation(gateway, "Dataset", dataset, {"k": "v"}, name)

    assert ezomero.get_dataset_ids(gateway, project=project) == [dataset]
    assert project in ezomero.get_project_ids(gateway)
    assert ezomero.get_map_annotation(gateway, annotation) == {"k": "v"}
    assert ezomero.get_map_annotation_ids(gateway, "Dataset", dataset, ns=name) == [annotation]
    assert ezomero.get_image_ids(gateway, dataset=dataset) == []
    ezomero.put_map_annotation(gateway, annotation, {"k": "w"})
    assert ezomero.get_map_annotation(gateway, annotation) == {"k": "w"}


@pytest.mark.parametrize("omero_kind", ["ssl"], indirect=True)
def test_ezomero_imports_lists_and_deletes(
    stand_in: OmeroServer, gateway: "BlitzGateway", name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    """It runs OMERO's own `omero import`; only the Java program behind that is a double."""
    ezomero = pytest.importorskip("ezomero")
    monkeypatch.setattr("os.geteuid", lambda: 1000)  # `omero` refuses root, which tests may be
    jars = java_double.install(tmp_path / "java")
    monkeypatch.setenv("PATH", f"{tmp_path / 'java'}{os.pathsep}{os.environ['PATH']}")
    (file,) = real_images.tiff(tmp_path, f"{name}.tif", size=24)

    images = ezomero.ezimport(
        gateway, str(tmp_path / file), name, name + "-d", ann={"k": "v"}, ns=name, clientdir=str(jars)
    )

    (project,) = gateway.getObjects("Project", attributes={"name": name})
    (dataset,) = ezomero.get_dataset_ids(gateway, project=project.getId())
    assert images == ezomero.get_image_ids(gateway, dataset=dataset)
    image = gateway.getObject("Image", images[0])
    assert (image.getName(), image.getSizeX(), image.getSizeY()) == (file, 24, 24)
    (pairs,) = ezomero.get_map_annotation_ids(gateway, "Image", images[0], ns=name)
    assert ezomero.get_map_annotation(gateway, pairs) == {"k": "v"}
    gateway.deleteObjects("Image", images, wait=True)
    assert ezomero.get_image_ids(gateway, dataset=dataset) == []


# -- the omero command -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def command(any_omero: OmeroServer) -> Iterator[OmeroCommand]:
    """Logged in. As nobody: the command refuses root."""
    host, port = any_omero.address.removeprefix("tcp://"), str(any_omero.port)
    if any_omero.sandbox is not None:
        port = str(any_omero.sandbox.port)
    with OmeroCommand(OMERO_PASSWORD=any_omero.password) as made:
        login = made.run("login", "-s", host, "-p", port, "-u", any_omero.user)
        assert login.returncode == 0, login.stderr
        yield made
        made.run("logout")


def typed(command: OmeroCommand, *arguments: str) -> str:
    done = command.run(*arguments)
    assert done.returncode == 0, f"omero {' '.join(arguments)}: {done.stdout}{done.stderr}"
    return done.stdout.strip()


@pytest.mark.parametrize("omero_kind", ["ssl", pytest.param("glacier2", marks=pytest.mark.slow)], indirect=True)
def test_the_command_makes_and_deletes(command: OmeroCommand, login: Login, name: str):
    project = typed(command, "obj", "new", "Project", f"name={name}")
    number = int(project.partition(":")[2])
    dataset = login.save("Dataset", name=name)
    login.link("ProjectDatasetLink", ("Project", number), ("Dataset", dataset))

    report = typed(command, "delete", project, "--report")

    assert f"Dataset:{dataset}" in report
    assert login.rows("select p.id from Project p where p.name = :n", n=name) == []


@pytest.mark.slow
@pytest.mark.parametrize("omero_kind", ["ssl"], indirect=True)
def test_the_command_shows(command: OmeroCommand, login: Login, name: str):
    project = login.save("Project", name=name)

    shown = typed(
        command, "hql", "--style", "json", "-q", f"select p.id, p.name from Project p where p.name = '{name}'"
    )

    assert [row["Col2"] for row in json.loads(shown)] == [name]
    assert f"name={name}" in typed(command, "obj", "get", f"Project:{project}")
    assert "Managed" in typed(command, "fs", "repos")
    assert "Prefix" in typed(command, "fs", "sets")


@pytest.mark.slow
@pytest.mark.parametrize("omero_kind", ["ssl"], indirect=True)
def test_the_command_lists_people_and_sessions(command: OmeroCommand, any_omero: OmeroServer):
    assert any_omero.user in typed(command, "sessions", "list")
    assert any_omero.user in typed(command, "user", "list")
    assert "system" in typed(command, "group", "list")


@pytest.mark.slow
@pytest.mark.parametrize("omero_kind", ["ssl"], indirect=True)
def test_the_command_uploads_and_downloads(command: OmeroCommand, name: str):
    (command.home / "up.txt").write_text(name)
    (command.home / "up.txt").chmod(0o644)

    file = typed(command, "upload", "up.txt").splitlines()[-1]
    typed(command, "download", file, "down.txt")

    assert (command.home / "down.txt").read_text() == name


@pytest.mark.slow
@pytest.mark.parametrize("omero_kind", ["ssl"], indirect=True)
def test_the_command_is_told_when_it_may_not(command: OmeroCommand, stand_in: OmeroServer, name: str):
    with stand_in.login("bob") as bob:
        dataset = bob.save("Dataset", name=name)

        refused = command.run("delete", f"Dataset:{dataset}", "--report")

        assert "not permitted to delete" in refused.stdout + refused.stderr
        assert bob.rows("select d.id from Dataset d where d.name = :n", n=name) == [[dataset]]
