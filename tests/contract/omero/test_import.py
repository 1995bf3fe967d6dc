"""Importing, call by call, with the clients' own classes: see `conftest.py` for the servers."""

import io
import os
import shutil
import uuid
import zlib
from pathlib import Path

import pytest

pytest.importorskip("omero")

import Ice
import numpy as np
import omero
import omero.callbacks
import omero.clients
import omero.model
import omero.sys
from omero.rtypes import rlong, rstring
from PIL import Image

from lading.sandbox.omero import SandboxOmero
from lading.testing.omero_import import (
    Importing,
    algorithm,
    delete,
    path_of,
    rows,
    sha1,
    stored,
)
from lading.testing.omero_server import Login, OmeroServer

FILE_TRANSFER = "openmicroscopy.org/omero/import/fileTransfer"


@pytest.fixture
def client(login: Login) -> omero.client:
    return login.client


@pytest.fixture
def disk(any_omero: OmeroServer) -> SandboxOmero:
    if any_omero.sandbox is None:
        pytest.skip("needs the server's disk")
    return any_omero.sandbox


def png(width: int = 64, height: int = 48) -> bytes:
    """A picture of its own: no two have the same bytes."""
    noise = np.frombuffer(os.urandom(width * height * 3), np.uint8).reshape(height, width, 3)
    buffer = io.BytesIO()
    Image.fromarray(noise).save(buffer, "png")
    return buffer.getvalue()


def dataset(client: omero.client, name: str = "D") -> omero.model.Dataset:
    made = omero.model.DatasetI()
    made.name = rstring(f"{name} {uuid.uuid4().hex[:6]}")
    return client.sf.getUpdateService().saveAndReturnObject(made)


def test_one_file_becomes_one_image_in_its_dataset(client) -> None:
    target, data = dataset(client), png()

    ended = Importing(
        client, {"home/me/a.png": data}, settings={"userSpecifiedTarget": omero.model.DatasetI(target.id.val, False)}
    ).carry_out()

    assert ended.error == ""
    assert ended.names == ["a.png"]
    sizes = "select p.sizeX, p.sizeY, p.sizeC, i.fileset.id from Pixels p join p.image i where i.id = :id"
    assert rows(client, sizes, ended.images[0].id.val) == [[64, 48, 3, ended.fileset]]
    linked = rows(client, "select l.child.id from DatasetImageLink l where l.parent.id = :id", target.id.val)
    assert linked == [[ended.images[0].id.val]]
    assert stored(client, ended.fileset) == [("home/me/a.png", sha1(data), "SHA1-160")]


def test_a_larger_file_travels_in_blocks(client) -> None:
    data = os.urandom((5 << 20) + 7)

    ended = Importing(client, {"in/big.fake": data}).carry_out()

    assert ended.error == ""
    assert stored(client, ended.fileset) == [("in/big.fake", sha1(data), "SHA1-160")]


def test_a_message_that_is_too_large_breaks_the_connection(any_omero) -> None:
    with any_omero.login() as own:
        importing = Importing(own.client, {"in/a.fake": b""}).announce()
        store = importing.process.getUploader(0).ice_invocationTimeout(100_000)

        with pytest.raises(Ice.LocalException) as broken:
            store.write(bytes(66 << 20), 0, 66 << 20)
        assert not isinstance(broken.value, Ice.InvocationTimeoutException)
        own.client.__del__()


ABC = {
    "SHA1-160": "a9993e364706816aba3e25717850c26c9cd0d89d",
    "MD5-128": "900150983cd24fb0d6963f7d28e17f72",
    "Murmur3-128": "6778ad3f3f3f96b4522dca264174a23b",
    "Murmur3-32": "fa93ddb3",
    "CRC-32": "c2412435",
    "Adler-32": "27014d02",
    "File-Size-64": "0300000000000000",
}


@pytest.mark.parametrize("name", ABC)
def test_the_server_hashes_with_the_algorithm_it_was_told(client, name: str) -> None:
    ended = Importing(client, {"in/x.fake": b"abc"}, algorithm=name).announce().upload_all().verify([ABC[name]]).wait()

    assert ended.error == ""
    assert stored(client, ended.fileset) == [("in/x.fake", ABC[name], name)]


def test_the_first_algorithm_of_the_server_that_the_client_has_is_agreed_on(client) -> None:
    repository = client.getManagedRepository()

    agreed = repository.suggestChecksumAlgorithm([algorithm("CRC-32"), algorithm("MD5-128")])

    order = [each.value.val for each in repository.listChecksumAlgorithms()]
    assert agreed.value.val == min(("CRC-32", "MD5-128"), key=order.index)
    assert repository.suggestChecksumAlgorithm([algorithm("Rot-13")]) is None


def test_several_files_are_one_fileset_and_keep_their_folders(client) -> None:
    contents = {"run/set/t&series=3&sizeX=20&sizeY=30.fake": b"", "run/set/notes/b.txt": b"b", "run/set/c.txt": b"c"}

    ended = Importing(client, contents, settings={"userSpecifiedName": rstring("nice")}).carry_out()

    assert len(ended.images) == 3
    assert all(name.startswith("nice [") for name in ended.names)
    assert [path for path, _, _ in stored(client, ended.fileset)] == list(contents)
    first, second = (path_of(client, ended.fileset, index) for index in (0, 1))
    assert second.relative_to(first.parent).as_posix() == "notes/b.txt"


def test_a_wrong_hash_is_refused_by_index_and_repaired_by_one_more_upload(client) -> None:
    contents = {f"in/{name}": name.encode() for name in ("a.fake", "b.txt", "c.txt", "d.txt")}
    importing = Importing(client, contents).announce()
    for index in (0, 2):
        importing.upload(index)
    importing.upload(1, data=b"x.txt")

    with pytest.raises(omero.ChecksumValidationException) as caught:
        importing.verify()
    assert caught.value.failingChecksums == {1: sha1(b"x.txt"), 3: ""}
    for index in (1, 3):
        importing.upload(index)

    ended = importing.verify().wait()
    assert ended.error == ""
    assert [digest for _, digest, _ in stored(client, ended.fileset)] == [sha1(data) for data in contents.values()]


def test_the_number_of_hashes_must_be_right(client) -> None:
    importing = Importing(client, {"in/a.fake": b""}).announce().upload_all()

    with pytest.raises(omero.ApiUsageException, match="hashes size should be 1 not 2"):
        importing.verify(["x", "y"])
    importing.process.close()


UNREADABLE = {"no.txt": b"hello", "cut.png": b"\x89PNG\r\n\x1a\n", "empty.png": b""}


@pytest.mark.parametrize("name", UNREADABLE)
def test_what_cannot_be_read_fails_and_leaves_a_fileset_without_images(client, name: str) -> None:
    data = UNREADABLE[name]

    ended = Importing(client, {f"in/{name}": data}).carry_out()

    assert ended.error
    assert ended.response.parameters["message"]
    assert stored(client, ended.fileset) == [(f"in/{name}", sha1(data), "SHA1-160")]
    assert rows(client, "select count(i) from Image i where i.fileset.id = :id", ended.fileset) == [[0]]


def test_an_unknown_format_says_so(client) -> None:
    ended = Importing(client, {"in/no.txt": b"hello"}).carry_out()

    assert ended.error in ("error-on-init", "import-unknown-format")
    assert "UnknownFormatException" in ended.response.parameters["stacktrace"]


def test_an_empty_companion_is_there_and_has_a_hash(client) -> None:
    ended = Importing(client, {"in/a.fake": b"", "in/empty.txt": b""}).carry_out()

    assert stored(client, ended.fileset)[1] == ("in/empty.txt", sha1(b""), "SHA1-160")


@pytest.mark.parametrize("blocks", [[0, 1, 2], [2, 0, 1]])
def test_blocks_may_come_in_any_order_and_the_offset_is_told_until_the_close(client, blocks: list[int]) -> None:
    data = os.urandom(3000)
    importing = Importing(client, {"in/a.fake": data}).announce()
    store = importing.process.getUploader(0)
    for number in blocks:
        store.write(data[number * 1000 : (number + 1) * 1000], number * 1000, 1000)

    assert importing.process.getUploadOffset(0) == (blocks[-1] + 1) * 1000
    assert store.size() == 3000
    assert store.read(500, 10) == data[500:510]
    store.close()
    assert importing.process.getUploadOffset(0) == 0
    assert importing.verify().wait().error == ""


def test_the_uploader_of_a_file_is_the_same_until_it_is_closed(client) -> None:
    importing = Importing(client, {"in/a.fake": b"x"}).announce()
    first, again = importing.process.getUploader(0), importing.process.getUploader(0)
    first.close()

    assert first.ice_getIdentity() == again.ice_getIdentity()
    assert importing.process.getUploader(0).ice_getIdentity() != first.ice_getIdentity()
    with pytest.raises(omero.ApiUsageException):
        importing.process.getUploader(0).setFileId(1)


def test_callbacks_count_the_steps_and_then_say_that_it_is_finished(client) -> None:
    importing = Importing(client, {"in/a.fake": b""}).announce().upload_all().verify()
    callback = omero.callbacks.CmdCallbackI(client, importing.handle)
    try:
        callback.loop(360, 500)

        assert isinstance(callback.getResponse(), omero.grid.ImportResponse)
        assert not callback.getStatus().flags
    finally:
        callback.close(True)


@pytest.mark.parametrize("kind", ["importFileset without files", "without algorithm", "two jobs", "wrong job"])
def test_what_is_no_import_is_refused(client, kind: str) -> None:
    repository, fileset, settings = client.getManagedRepository(), omero.model.FilesetI(), omero.grid.ImportSettings()
    settings.checksumAlgorithm = None if kind == "without algorithm" else algorithm("SHA1-160")
    if "without files" not in kind:
        entry = omero.model.FilesetEntryI()
        entry.clientPath = rstring("a.fake")
        fileset.addFilesetEntry(entry)
    jobs = {"two jobs": [omero.model.UploadJobI(), omero.model.UploadJobI()], "wrong job": [omero.model.IndexingJobI()]}
    for job in jobs.get(kind, [omero.model.UploadJobI()]):
        fileset.linkJob(job)

    with pytest.raises((omero.ApiUsageException, omero.ValidationException)):
        repository.importFileset(fileset, settings)


def test_hostile_names_stay_inside_the_repository(client, disk) -> None:
    path = '../../../../etc/../a:b*"<c>?|\x07/con/$mft/aux.fake'

    ended = Importing(client, {path: b""}).carry_out()

    root = disk.root / "data" / "ManagedRepository"
    kept = path_of(client, ended.fileset)
    assert kept.resolve().is_relative_to(root.resolve())
    assert kept.is_file()
    assert kept.relative_to(root).parts[-4:] == ("a;bx'[c]%!_", "con_", "_$mft", "_aux.fake")


def test_the_template_the_import_log_and_the_read_only_files_are_as_in_omero(client, disk, any_omero) -> None:
    ended = Importing(client, {"in/a.fake": b""}).carry_out()

    prefix = rows(client, "select f.templatePrefix from Fileset f where f.id = :id", ended.fileset)[0][0]
    user, month, day, clock, end = prefix.split("/")
    assert user.startswith(any_omero.user + "_")
    assert (len(month), len(day), len(clock), end) == (7, 2, 12, "")
    log = disk.root / "data" / "ManagedRepository" / (prefix.rstrip("/") + ".log")
    assert f"fileset {ended.fileset}" in log.read_text()
    hql = (
        "select o.name, o.size from FilesetJobLink l join l.child j join j.originalFileLinks k join k.child o "
        "where l.parent.id = :id and o.mimetype = 'application/omero-log-file'"
    )
    assert rows(client, hql, ended.fileset) == [[clock + ".log", log.stat().st_size]]
    assert path_of(client, ended.fileset).stat().st_mode & 0o222 == 0


def test_checksums_can_be_verified_later_by_reading_again(client, disk) -> None:
    ended = Importing(client, {"in/a.fake": b"abc", "in/b.txt": b"def"}).carry_out()
    hql = "select o.id, e.id from FilesetEntry e join e.originalFile o where e.fileset.id = :id order by e.id"
    numbers = [row[0] for row in rows(client, hql, ended.fileset)]
    repository = client.getManagedRepository()
    assert repository.verifyChecksums(numbers) == []

    damaged = path_of(client, ended.fileset, 1)
    damaged.chmod(0o644)
    damaged.write_bytes(b"dex")

    assert repository.verifyChecksums(numbers) == [numbers[1]]
    assert repository.setChecksumAlgorithm(algorithm("CRC-32"), [numbers[0]]) == [numbers[0]]
    assert stored(client, ended.fileset)[0] == ("in/a.fake", ABC["CRC-32"], "CRC-32")


def test_deleting_the_last_image_deletes_the_files(client, disk) -> None:
    ended = Importing(client, {"in/t&series=2.fake": b"", "in/b.txt": b"def"}).carry_out()
    paths = [path_of(client, ended.fileset, index) for index in (0, 1)]
    delete(client, "Fileset", ended.fileset)

    assert not any(path.exists() for path in paths)
    assert not paths[0].parent.exists()
    assert rows(client, "select count(i) from Image i where i.fileset.id = :id", ended.fileset) == [[0]]


def test_what_a_client_that_went_away_left_behind_can_be_deleted(any_omero, client, disk) -> None:
    name = f"gone/{uuid.uuid4().hex}.fake"
    with any_omero.login() as other:
        Importing(other.client, {name: b"abc"}).announce().upload(0)
    ((left,),) = client.sf.getQueryService().projection(
        "select e.fileset.id from FilesetEntry e where e.clientPath = :name",
        omero.sys.ParametersI().addString("name", name),
        {"omero.group": "-1"},
    )
    path = path_of(client, left.val)
    assert path.read_bytes() == b"abc"
    assert rows(client, "select count(i) from Image i where i.fileset.id = :id", left.val) == [[0]]

    delete(client, "Fileset", left.val)

    assert not path.exists()


def test_an_open_import_is_listed_until_it_is_closed(client) -> None:
    importing = Importing(client, {"in/a.fake": b""}).announce()
    repository = client.getManagedRepository()

    assert importing.process.ice_getIdentity() in [each.ice_getIdentity() for each in repository.listImports()]
    importing.process.close()
    assert importing.process.ice_getIdentity() not in [each.ice_getIdentity() for each in repository.listImports()]


@pytest.mark.parametrize("token", [b"not the size of the file", b"0123456789"])
def test_a_file_is_linked_in_place(client, disk, tmp_path: Path, token: bytes) -> None:
    source, name = tmp_path / "a.fake", "ome.formats.importer.transfers.SymlinkFileTransfer"
    source.write_bytes(b"9876543210")
    how = omero.model.CommentAnnotationI()
    how.ns, how.textValue = rstring(FILE_TRANSFER), rstring(name)
    importing = Importing(client, {"in/a.fake": source.read_bytes()}, links=[how]).announce()

    place = prove_same_disk(client, importing, token)
    place.symlink_to(source)
    reading = importing.process.getUploader(0, {"omero.fs.mode": "r"})
    assert reading.size() == 10
    with pytest.raises(omero.ServerError):
        reading.write(b"x", 0, 1)
    reading.save()
    reading.close()

    if len(token) == 10:
        # The trap: the server hashes again only when the size differs, so it still has the token's hash.
        with pytest.raises(omero.ChecksumValidationException):
            importing.verify()
        assert source.read_bytes() == b"9876543210"
        return
    ended = importing.verify().wait()
    assert ended.error == ""
    assert place.is_symlink()
    delete(client, "Fileset", ended.fileset)
    assert source.exists()
    assert not place.is_symlink()


@pytest.mark.parametrize("how", ["changed", "cut off", "another file", "a link"])
def test_what_lies_at_its_place_when_it_is_closed_is_what_is_hashed(client, disk, tmp_path: Path, how: str) -> None:
    importing = Importing(client, {"in/a.fake": b"9876543210"}).announce()
    place, other = prove_same_disk(client, importing, b"token"), tmp_path / "other"
    store = importing.process.getUploader(0)
    store.write(b"0123456789", 0, 10)
    assert place.read_bytes() == b"0123456789"

    # Behind the server's back, while it has the file open.
    if how in ("changed", "cut off"):
        with place.open("r+b") as file:
            file.write(b"x")
            file.truncate(10 if how == "changed" else 4)
    elif how == "another file":
        other.write_bytes(b"abc")
        shutil.move(other, place)
    else:
        other.write_bytes(b"abc")
        place.unlink()
        place.symlink_to(other)
    number = store.getFileId().val
    store.close()

    record = client.sf.getQueryService().get("OriginalFile", number, {"omero.group": "-1"})
    there = place.read_bytes()
    assert there == {"changed": b"x123456789", "cut off": b"x123"}.get(how, b"abc")
    assert (record.hash.val, record.size.val) == (sha1(there), len(there))


def prove_same_disk(client: omero.client, importing: Importing, token: bytes) -> Path:
    """Where the server writes what we send: known because we read it there. Removes it again."""
    store = importing.process.getUploader(0)
    record = client.sf.getQueryService().get("OriginalFile", store.getFileId().val, {"omero.group": "-1"})
    store.write(token, 0, len(token))
    store.close()
    root = client.getManagedRepository().root()
    place = Path(root.path.val, root.name.val, record.path.val.strip("/"), record.name.val)
    assert place.read_bytes() == token
    place.unlink()
    return place


def test_annotations_given_with_the_import_are_linked_to_every_image(client) -> None:
    pairs = omero.model.MapAnnotationI()
    pairs.ns = rstring("lading.test")
    pairs.setMapValue([omero.model.NamedValue("key", "value")])
    saved = omero.model.TagAnnotationI()
    saved.textValue = rstring("tag " + uuid.uuid4().hex)
    saved = client.sf.getUpdateService().saveAndReturnObject(saved)
    tag = omero.model.TagAnnotationI(saved.id.val, False)

    ended = Importing(
        client, {"in/t&series=2.fake": b""}, settings={"userSpecifiedAnnotationList": [pairs, tag]}
    ).carry_out()

    hql = "select l.child.id from ImageAnnotationLink l where l.parent.id = :id order by l.child.id"
    linked = [rows(client, hql, image.id.val) for image in ended.images]
    assert len(linked[0]) == 2
    assert linked[0] == linked[1]


def test_a_target_of_another_group_is_an_error_and_makes_no_image(client) -> None:
    ended = Importing(
        client, {"in/a.fake": b""}, settings={"userSpecifiedTarget": omero.model.DatasetI(rlong(987654321), False)}
    ).carry_out()

    assert ended.error
    assert rows(client, "select count(i) from Image i where i.fileset.id = :id", ended.fileset) == [[0]]


def test_files_of_one_name_are_two_imports(client) -> None:
    data = png()

    first, second = (Importing(client, {"same/a.png": data}).carry_out() for _ in range(2))

    assert first.fileset != second.fileset
    assert path_of(client, first.fileset) != path_of(client, second.fileset)


def test_attachments_are_hashed_too(client) -> None:
    file = omero.model.OriginalFileI()
    file.name, file.path, file.mimetype = rstring("notes.txt"), rstring("in/"), rstring("text/plain")
    file.hasher = algorithm("CRC-32")
    file = client.sf.getUpdateService().saveAndReturnObject(file)
    store = client.sf.createRawFileStore()
    store.setFileId(file.id.val)
    store.write(b"abc", 0, 3)

    saved = store.save()
    store.close()

    assert saved.hash.val == f"{zlib.crc32(b'abc').to_bytes(4, 'little').hex()}"
    assert saved.size.val == 3


@pytest.mark.slow
def test_a_fileset_of_many_files(client) -> None:
    contents = {"many/a.fake": b""} | {f"many/chunks/{number // 100}/{number}": b"x" for number in range(5000)}

    ended = Importing(client, contents).carry_out()

    assert ended.error == ""
    assert [path for path, _, _ in stored(client, ended.fileset)] == list(contents)
    delete(client, "Fileset", ended.fileset)
