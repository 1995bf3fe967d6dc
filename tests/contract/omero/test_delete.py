"""Delete2: what goes, what stays, what is refused."""

import uuid

import omero
import omero.cmd
import omero.cmd.graphs
import omero.model
import pytest
from omero.rtypes import rint, rstring

from lading.testing.omero_server import Login, OmeroServer


@pytest.fixture
def name() -> str:
    return f"x-{uuid.uuid4().hex[:12]}"


def delete(
    login: Login, cls: str, *ids: int, dry_run: bool = False, keep: tuple[str, ...] = ()
) -> dict[str, list[int]]:
    """What went, by short class name. Raises omero.CmdError."""
    request = omero.cmd.Delete2()
    request.targetObjects, request.dryRun = {cls: list(ids)}, dry_run
    if keep:
        request.childOptions = [omero.cmd.graphs.ChildOption(excludeType=list(keep))]
    callback = login.client.submit(request)
    try:
        response = callback.getResponse()
    finally:
        callback.close(True)
    return {java.rpartition(".")[2]: sorted(ids) for java, ids in response.deletedObjects.items()}


def exists(login: Login, cls: str, number: int) -> bool:
    return login.factory.getQueryService().find(cls, number) is not None


def image(login: Login, name: str, fileset: int | None = None) -> int:
    """An image with pixels, as an import leaves it."""
    made, pixels = omero.model.ImageI(), omero.model.PixelsI()
    made.name = rstring(name)
    if fileset is not None:
        made.fileset = omero.model.FilesetI(fileset, False)
    for axis in "XYZCT":
        setattr(pixels, f"size{axis}", rint(1))
    pixels.sha1 = rstring("Pending...")
    pixels.pixelsType, pixels.dimensionOrder = omero.model.PixelsTypeI(), omero.model.DimensionOrderI()
    pixels.pixelsType.value, pixels.dimensionOrder.value = rstring("uint8"), rstring("XYZCT")
    made.addPixels(pixels)
    return int(login.factory.getUpdateService().saveAndReturnObject(made).id.val)


def tree(login: Login, name: str) -> tuple[int, int, int]:
    """A project with a dataset with an image."""
    project, dataset, picture = login.save("Project", name=name), login.save("Dataset", name=name), image(login, name)
    login.link("ProjectDatasetLink", ("Project", project), ("Dataset", dataset))
    login.link("DatasetImageLink", ("Dataset", dataset), ("Image", picture))
    return project, dataset, picture


def fileset_of(login: Login, name: str, images: int) -> tuple[int, list[int]]:
    fileset = omero.model.FilesetI()
    fileset.templatePrefix = rstring(name + "/")
    entry, file = omero.model.FilesetEntryI(), omero.model.OriginalFileI()
    file.name, file.path = rstring(name), rstring("/")
    entry.clientPath, entry.originalFile = rstring(name), file
    fileset.addFilesetEntry(entry)
    number = login.factory.getUpdateService().saveAndReturnObject(fileset).id.val
    return number, [image(login, f"{name} [{each}]", number) for each in range(images)]


def test_contents_go_with_their_last_container(login: Login, name: str):
    project, dataset, picture = tree(login, name)

    gone = delete(login, "Project", project)

    assert (gone["Project"], gone["Dataset"], gone["Image"]) == ([project], [dataset], [picture])
    assert not any(exists(login, cls, n) for cls, n in (("Project", project), ("Dataset", dataset), ("Image", picture)))
    assert login.rows("select p.id from Pixels p where p.image.id = :id", id=picture) == []


def test_what_lies_in_another_container_too_stays(login: Login, name: str):
    project, dataset, picture = tree(login, name)
    other = login.save("Dataset", name=name + "-other")
    login.link("DatasetImageLink", ("Dataset", other), ("Image", picture))

    gone = delete(login, "Project", project)

    assert "Image" not in gone
    assert not exists(login, "Dataset", dataset)
    assert login.rows("select l.parent.id from DatasetImageLink l where l.child.id = :id", id=picture) == [[other]]


def test_contents_can_be_kept_on_wish(login: Login, name: str):
    _, dataset, picture = tree(login, name)

    gone = delete(login, "Dataset", dataset, keep=("Image",))

    assert "Image" not in gone
    assert exists(login, "Image", picture)


def test_a_dry_run_tells_and_does_nothing(login: Login, name: str):
    project, dataset, picture = tree(login, name)

    told = delete(login, "Project", project, dry_run=True)

    assert (told["Project"], told["Image"]) == ([project], [picture])
    assert exists(login, "Dataset", dataset)
    assert delete(login, "Project", project) == told


def test_comments_go_and_tags_stay(login: Login, name: str):
    dataset = login.save("Dataset", name=name)
    annotations = {cls: login.save(cls, textValue=name) for cls in ("CommentAnnotation", "TagAnnotation")}
    for cls, number in annotations.items():
        login.link("DatasetAnnotationLink", ("Dataset", dataset), (cls, number))

    delete(login, "Dataset", dataset)

    assert not exists(login, "CommentAnnotation", annotations["CommentAnnotation"])
    assert exists(login, "TagAnnotation", annotations["TagAnnotation"])


def test_a_fileset_goes_with_its_last_image(login: Login, name: str):
    fileset, images = fileset_of(login, name, 2)

    gone = delete(login, "Image", *images)

    assert (gone["Fileset"], gone["Image"]) == ([fileset], images)
    assert {"FilesetEntry", "OriginalFile"} <= set(gone)


def test_a_fileset_is_never_torn_apart(login: Login, name: str):
    fileset, images = fileset_of(login, name, 2)

    with pytest.raises(omero.CmdError):
        delete(login, "Image", images[0])

    assert all(exists(login, "Image", number) for number in images)
    assert delete(login, "Fileset", fileset)["Image"] == images


def test_what_is_not_there_cannot_be_deleted(login: Login):
    with pytest.raises(omero.CmdError):
        delete(login, "Dataset", 2**40)


def test_what_belongs_to_others_cannot_be_deleted(stand_in: OmeroServer, name: str):
    with stand_in.login("alice") as alice, stand_in.login("bob") as bob:
        dataset = alice.save("Dataset", name=name)

        with pytest.raises(omero.CmdError):
            delete(bob, "Dataset", dataset)

        assert exists(alice, "Dataset", dataset)


def test_nothing_goes_when_a_part_of_it_may_not(stand_in: OmeroServer, name: str):
    """Carol leads the lab: she may link Bob's dataset into her project. Bob may not delete hers."""
    with stand_in.login("carol") as carol, stand_in.login("bob") as bob:
        group = bob.group("shared")
        mine = bob.save("Dataset", group=group, name=name)
        hers = carol.save("Dataset", group=bob.group("readonly"), name=name)
        request = omero.cmd.Delete2()
        request.targetObjects = {"Dataset": [mine, hers]}

        with pytest.raises(omero.CmdError):
            bob.client.submit(request)

        assert bob.factory.getQueryService().find("Dataset", mine, {"omero.group": "-1"}) is not None


def test_update_deletes_only_what_nothing_refers_to(login: Login, name: str):
    project, _, _ = tree(login, name)
    lonely = login.save("Dataset", name=name)
    update = login.factory.getUpdateService()

    with pytest.raises(omero.ValidationException):
        update.deleteObject(omero.model.ProjectI(project, False))
    update.deleteObject(omero.model.DatasetI(lonely, False))

    assert exists(login, "Project", project)
    assert not exists(login, "Dataset", lonely)
