"""An import into OMERO, call by call, with omero-py's own classes and nothing else: the witness for the stand-in.

It knows nothing of the importer, so that the two can be wrong independently. Every call can be made alone.
"""

import hashlib
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import omero
import omero.callbacks
import omero.clients
import omero.cmd
import omero.grid
import omero.model
import omero.sys
from omero.rtypes import rbool, rstring, unwrap

PATIENCE_S = 180.0
"""How long an import may take: a JVM starts at the first one, on a busy machine."""
BLOCK = 1 << 20


def sha1(data: bytes) -> str:
    """As OMERO's "SHA1-160" prints it."""
    return hashlib.sha1(data, usedforsecurity=False).hexdigest()


def algorithm(name: str) -> omero.model.ChecksumAlgorithm:
    """A checksum algorithm by name, as clients send it."""
    made = omero.model.ChecksumAlgorithmI()
    made.value = rstring(name)
    return made


@dataclass
class Ended:
    """How an import ended: `response` is an ImportResponse or an ERR."""

    fileset: int
    response: omero.cmd.Response

    @property
    def error(self) -> str:
        """The name of the ERR, "" when it went well."""
        return str(self.response.name) if isinstance(self.response, omero.cmd.ERR) else ""

    @property
    def images(self) -> list[omero.model.Image]:
        """What came of it."""
        return [each for each in self.response.objects if isinstance(each, omero.model.Image)]

    @property
    def names(self) -> list[str]:
        """The images' names."""
        return [each.name.val for each in self.images]


@dataclass
class Importing:
    """One import in the making. `contents`: client path → bytes; the first is the entry point."""

    client: omero.client
    contents: Mapping[str, bytes]
    algorithm: str = "SHA1-160"
    reader: str = ""
    settings: dict[str, object] = field(default_factory=dict)
    links: Sequence[omero.model.Annotation] = ()
    context: Mapping[str, str] = field(default_factory=dict)

    def announce(self) -> "Importing":
        """importFileset."""
        repository = self.client.getManagedRepository()
        fileset = omero.model.FilesetI()
        for path in self.contents:
            entry = omero.model.FilesetEntryI()
            entry.clientPath = rstring(path)
            fileset.addFilesetEntry(entry)
        for annotation in self.links:
            fileset.linkAnnotation(annotation)
        job = omero.model.UploadJobI()
        versions = (
            {"bioformats.reader": self.reader, "omero.version": "5.6"} if self.reader else {"omero.version": "5.6"}
        )
        job.setVersionInfo([omero.model.NamedValue(name, value) for name, value in versions.items()])
        fileset.linkJob(job)
        settings = omero.grid.ImportSettings()
        settings.doThumbnails, settings.noStatsInfo = rbool(val=False), rbool(val=True)
        settings.checksumAlgorithm = algorithm(self.algorithm)
        for name, value in self.settings.items():
            setattr(settings, name, value)
        self.process = repository.importFileset(fileset, settings, dict(self.context) or None)
        return self

    def upload(self, index: int, *, data: bytes | None = None) -> None:
        """One file, or other bytes in its place."""
        sent = list(self.contents.values())[index] if data is None else data
        store = self.process.getUploader(index)
        store.write(b"", 0, 0)  # an empty file must come to be as well
        for start in range(0, len(sent), BLOCK):
            block = sent[start : start + BLOCK]
            store.write(block, start, len(block))
        store.close()

    def upload_all(self) -> "Importing":
        """All files."""
        for index in range(len(self.contents)):
            self.upload(index)
        return self

    def verify(self, hashes: Iterable[str] | None = None) -> "Importing":
        """verifyUpload; the SHA-1 of what was announced unless other hashes are given."""
        chosen = [sha1(data) for data in self.contents.values()] if hashes is None else list(hashes)
        self.handle = self.process.verifyUpload(chosen)
        return self

    def wait(self) -> Ended:
        """Poll for the end, as a client behind a firewall does. Closes handle and process. Raises TimeoutError."""
        deadline = time.monotonic() + PATIENCE_S
        while (response := self.handle.getResponse()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError("the import did not end")
            time.sleep(0.02)
        fileset = self.handle.getRequest().activity.parent.id.val
        self.handle.close()
        self.process.close()
        return Ended(fileset, response)

    def carry_out(self) -> Ended:
        """All of it."""
        return self.announce().upload_all().verify().wait()


def log_in(host: str, port: int, user: str, password: str, *, tls: bool = False) -> omero.client:
    """A client with a session, to be ended with `closeSession`."""
    client = omero.client(host=f"{'ssl' if tls else 'tcp'}://{host}", port=port)
    try:
        client.createSession(user, password)
    except BaseException:
        client.__del__()  # which is omero-py's name for letting go
        raise
    return client


def rows(client: omero.client, hql: str, number: int) -> list[list[object]]:
    """A projection with one parameter, `:id`, across all groups."""
    found = client.sf.getQueryService().projection(hql, omero.sys.ParametersI().addId(number), {"omero.group": "-1"})
    return [[unwrap(value) for value in row] for row in found]


def stored(client: omero.client, fileset: int) -> list[tuple[str, str, str]]:
    """Client path, checksum and algorithm of a Fileset's entries, in order."""
    hql = (
        "select e.clientPath, o.hash, h.value, e.id from FilesetEntry e join e.originalFile o left outer join o.hasher h "
        "where e.fileset.id = :id order by e.id"
    )
    return [(str(path), str(digest), str(name)) for path, digest, name, _ in rows(client, hql, fileset)]


def path_of(client: omero.client, fileset: int, index: int = 0) -> Path:
    """Where the server says it keeps a file of a Fileset."""
    hql = "select o.path, o.name, e.id from FilesetEntry e join e.originalFile o where e.fileset.id = :id order by e.id"
    folder, name, _ = rows(client, hql, fileset)[index]
    root = client.getManagedRepository().root()
    return Path(root.path.val, root.name.val, str(folder).strip("/"), str(name))


def delete(client: omero.client, cls: str, number: int) -> None:
    """Delete one object and what belongs to it. Raises AssertionError with the server's reason."""
    handle = client.sf.submit(omero.cmd.Delete2({cls: [number]}))
    try:
        deadline = time.monotonic() + PATIENCE_S
        while (response := handle.getResponse()) is None:
            if time.monotonic() > deadline:
                raise TimeoutError("the deletion did not end")
            time.sleep(0.02)
    finally:
        handle.close()
    assert not isinstance(response, omero.cmd.ERR), f"{response.name}: {response.parameters}"
