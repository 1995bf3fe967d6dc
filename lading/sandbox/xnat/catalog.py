"""Resources: files on disk, and a catalog that says what they are. The two are kept apart on purpose.

A listing shows the catalog. It holds each file's MD5 as it was when the entry was written; only a refresh reads the
disk again.
"""

import hashlib
import os
import shutil
import tarfile
import uuid
import zipfile
from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path, PurePosixPath
from typing import IO

from starlette.background import BackgroundTask
from starlette.responses import FileResponse, Response

from lading.sandbox.xnat.answers import Refusal
from lading.sandbox.xnat.site import Site
from lading.sandbox.xnat.state import CatalogEntry, Resource

_BLOCK = 1 << 16  # a small buffer: most files are smaller than a large one takes to get
ARCHIVE_SUFFIXES = (".zip", ".tar", ".tar.gz", ".tgz")


@dataclass(frozen=True)
class Describes:
    """What an uploader says of a file."""

    format: str = ""
    content: str = ""
    tags: str = ""


def create_resource(site: Site, owner: str, label: str, describes: Describes = Describes()) -> Resource:
    """Raises Refusal 409 when the owner has a resource of this label."""
    with site.state.changing():
        if site.state.resource(owner, label):
            raise Refusal(409, "Specified resource already exists.")
        number = str(site.state.count("sequence:resource"))
        folder = _owner_folder(site, owner) / (checked_path(label) if label else number)
        (site.folders.root / folder).mkdir(parents=True, exist_ok=True)
        return site.state.resources.put(
            Resource(number, owner, label, folder.as_posix(), describes.format, describes.content, describes.tags)
        )


def _owner_folder(site: Site, owner: str) -> PurePosixPath:
    kind, _, key = owner.partition(":")
    if kind == "project":
        return PurePosixPath("archive", key, "resources")
    if kind == "subject" and (subject := site.state.subjects.get(key)):
        return PurePosixPath("archive", subject.project, "subjects", subject.label)
    scan = site.state.scans.get(key) if kind == "scan" else None
    experiment = site.state.experiments.get(scan.experiment if scan else key)
    if experiment is None:
        raise Refusal(404, "Unable to find the specified resource's owner.")
    session = PurePosixPath("archive", experiment.project, "arc001", experiment.label)
    return session / "SCANS" / scan.id if scan else session / "RESOURCES"


def delete_resource(site: Site, resource: Resource) -> None:
    with site.state.changing():
        for entry in site.state.entries.of(resource.id):
            site.state.entries.drop(entry)
        site.state.resources.drop(resource)
        shutil.rmtree(site.folders.root / resource.folder, ignore_errors=True)


def delete_owner_resources(site: Site, owner: str) -> None:
    for resource in site.state.resources.of(owner):
        delete_resource(site, resource)


def delete_file(site: Site, entry: CatalogEntry, resource: Resource) -> None:
    with site.state.changing():
        site.state.entries.drop(entry)
        (site.folders.root / resource.folder / entry.path).unlink(missing_ok=True)


def entry_of(site: Site, resource: Resource, path: str) -> CatalogEntry | None:
    return site.state.entries.get(f"{resource.id}/{path}")


def on_disk(site: Site, resource: Resource, path: str) -> Path:
    return site.folders.root / resource.folder / path


def checked_path(path: str) -> str:
    """A relative path that stays where it belongs. Raises Refusal 400."""
    parts = [part for part in path.split("/") if part not in ("", ".")]
    if not parts or ".." in parts or "\0" in path:
        raise Refusal(400, f"Invalid file path: {path}")
    return "/".join(parts)


def store(
    site: Site, resource: Resource, path: str, content: IO[bytes], *, overwrite: bool, describes: Describes
) -> list[str]:
    """Writes one file and its catalog entry; answers [path] when it is a duplicate, and then writes nothing.

    Raises Refusal 500 when another write to this resource overlapped: the file is on disk, but not in the catalog.
    """
    path = checked_path(path)
    target = on_disk(site, resource, path)
    if target.exists() and not overwrite:
        return [path]
    version = site.catalog_versions[resource.id]
    target.parent.mkdir(parents=True, exist_ok=True)
    write_file(site, target, content)
    site.wait(site.faults.catalog_race_window)
    digest = digest_if_wanted(site, target)
    if path.endswith("_catalog.xml"):  # taken for a catalog itself, and never listed
        return []
    with site.state.changing():
        if site.faults.catalog_race and site.catalog_versions[resource.id] != version:
            raise Refusal(500, f"Another thread or process modified the catalog of resource {resource.label}.")
        add_entry(site, resource, path, target, digest, describes=describes)
    return []


def store_archive(
    site: Site, resource: Resource, name: str, content: IO[bytes], *, overwrite: bool, describes: Describes
) -> list[str]:
    """Unpacks an archive into a resource; answers the members that were duplicates."""
    duplicates = []
    with unpacked(site, name, content) as folder:
        for path in sorted(file for file in folder.rglob("*") if file.is_file()):
            relative = path.relative_to(folder).as_posix()
            with path.open("rb") as member:
                duplicates += store(site, resource, relative, member, overwrite=overwrite, describes=describes)
    return duplicates


def add_entry(
    site: Site, resource: Resource, path: str, file: Path, digest: str, *, describes: Describes, uid: str = ""
) -> CatalogEntry:
    """Writes what the catalog says of a file. With checksums off, an overwritten file keeps its old digest."""
    with site.state.changing():
        former = entry_of(site, resource, path)
        if not digest and former is not None:
            digest = former.digest
        site.catalog_versions[resource.id] += 1
        entry = CatalogEntry(
            resource.id,
            path,
            file.stat().st_size,
            digest,
            describes.format,
            describes.content,
            describes.tags,
            uid,
        )
        site.state.entries.put(entry)
    if site.faults.take("corrupt_after_write"):
        _damage(file)
    return entry


def _damage(file: Path) -> None:
    # Unlink first: the bytes may be shared with another folder by a hard link.
    damaged = bytearray(file.read_bytes())
    if damaged:
        damaged[-1] ^= 0xFF
    else:
        damaged += b"\0"
    file.unlink()
    file.write_bytes(damaged)


def refresh(site: Site, resource: Resource, options: Collection[str]) -> None:
    """Makes the catalog agree with the disk, as far as ``options`` say: append, delete, checksum, populateStats."""
    folder = site.folders.root / resource.folder
    with site.state.changing():
        for path in sorted(_paths_below(folder)) if "append" in options else []:
            if entry_of(site, resource, path) is None:
                file = folder / path
                add_entry(site, resource, path, file, digest_if_wanted(site, file), describes=Describes())
        for entry in site.state.entries.of(resource.id) if "delete" in options else []:
            if not (folder / entry.path).exists():
                site.state.entries.drop(entry)
    if "checksum" in options:
        _hash_again(site, resource)


def _paths_below(folder: Path, above: str = "") -> Iterator[str]:
    """The files in a folder and in those below it, relative to it."""
    if not folder.is_dir():
        return
    with os.scandir(folder) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _paths_below(Path(entry.path), f"{above}{entry.name}/")
            elif entry.is_file():
                yield above + entry.name


def _hash_again(site: Site, resource: Resource) -> None:
    for entry in site.state.entries.of(resource.id):
        file = on_disk(site, resource, entry.path)
        if file.exists():
            # Hashed before the lock is taken: nobody has to wait for a gigabyte.
            hashed = replace(entry, size=file.stat().st_size, digest=md5(file))
            if hashed == entry:
                continue
            with site.state.changing():
                if entry_of(site, resource, entry.path) == entry:
                    site.state.entries.put(hashed)


def digest_if_wanted(site: Site, file: Path) -> str:
    """The file's MD5, or "" when the site keeps no checksums."""
    return md5(file) if site.faults.checksums else ""


def digests(site: Site, files: Collection[Path]) -> dict[Path, str]:
    """The digests that a catalog of these files would show now."""
    return {file: digest_if_wanted(site, file) for file in files}


def md5(file: Path) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    with file.open("rb", buffering=0) as content:
        while block := content.read(_BLOCK):
            digest.update(block)
    return digest.hexdigest()


def write_file(site: Site, target: Path, content: IO[bytes]) -> None:
    """Writes elsewhere, then renames, so that nobody reads half a file."""
    temporary = site.folders.temporary / uuid.uuid4().hex
    with temporary.open("wb") as out:
        shutil.copyfileobj(content, out, 1 << 20)
    temporary.replace(target)


def zip_answer(site: Site, members: Iterable[tuple[Path, str]]) -> Response:
    """Files as one zip, each under the name that comes with it; made on disk, sent, deleted."""
    file = site.folders.temporary / f"{uuid.uuid4().hex}.zip"
    with zipfile.ZipFile(file, "w") as archive:
        for path, name in members:
            archive.write(path, name)
    return FileResponse(file, media_type="application/zip", background=BackgroundTask(file.unlink))


@contextmanager
def unpacked(site: Site, name: str, content: IO[bytes]) -> Iterator[Path]:
    """The members of a zip or tar in a folder that is gone afterwards. Raises Refusal 400."""
    folder = site.folders.temporary / uuid.uuid4().hex
    folder.mkdir(parents=True)
    try:
        unpack_into(folder, name, content)
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def unpack_into(folder: Path, name: str, content: IO[bytes]) -> None:
    """Raises Refusal 400 when it is no archive, or a member would land elsewhere."""
    try:
        if name.lower().endswith(ARCHIVE_SUFFIXES[1:]):
            _untar(folder, content)
        else:
            _unzip(folder, content)
    except (zipfile.BadZipFile, tarfile.TarError, EOFError, OSError) as error:
        raise Refusal(400, f"Unable to process supplied archive file: {error}") from error


def _unzip(folder: Path, content: IO[bytes]) -> None:
    with zipfile.ZipFile(content) as archive:
        for member in archive.infolist():
            if not member.is_dir():
                target = folder / checked_path(member.filename)
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, target.open("wb") as out:
                    shutil.copyfileobj(source, out, 1 << 20)


def _untar(folder: Path, content: IO[bytes]) -> None:
    with tarfile.open(fileobj=content, mode="r:*") as archive:
        for member in archive:
            source = archive.extractfile(member) if member.isfile() else None
            if source is not None:
                target = folder / checked_path(member.name)
                target.parent.mkdir(parents=True, exist_ok=True)
                with source, target.open("wb") as out:
                    shutil.copyfileobj(source, out, 1 << 20)
