"""omero.grid.ImportProcess: from the Fileset that a client announces to the import that runs in the background.

`begin_import` stores the Fileset, its entries, files and jobs at once. A client that goes away then leaves them behind,
without images: so does OMERO.
"""

import threading
import time
from typing import TYPE_CHECKING

import Ice
import omero
import omero.api
import omero.cmd
import omero.grid
import omero.model
from omero.rtypes import rstring, rtime

from lading.sandbox.omero import errors, model, paths, permissions
from lading.sandbox.omero.handles import Handle
from lading.sandbox.omero.importing import Import
from lading.sandbox.omero.paths import Location, joined
from lading.sandbox.omero.permissions import ALL_GROUPS, Context
from lading.sandbox.omero.raw_files import Uploader
from lading.sandbox.omero.records import Record
from lading.sandbox.omero.services.base import StatefulService
from lading.sandbox.omero.sessions import Session
from lading.sandbox.omero.spoiling import crash
from lading.sandbox.omero.store import milliseconds
from lading.sandbox.omero.wire import servant

if TYPE_CHECKING:
    from lading.sandbox.omero.site import Site

LOG_MIMETYPE = "application/omero-log-file"
_KEEP_ALIVE_S = 0.5
READER_KEY = "bioformats.reader"


def begin_import(
    site: "Site",
    session: Session,
    context: Context,
    fileset: omero.model.Fileset | None,
    settings: omero.grid.ImportSettings | None,
    client: str,
) -> Ice.ObjectPrx:
    """Store the Fileset and open its process. Raises ApiUsageException, ValidationException, SecurityViolation.

    `client`: the UUID of the client that asks for it.
    """
    if fileset is None or fileset.sizeOfUsedFiles() < 1:
        raise errors.api_usage("No paths provided")
    if settings is None or settings.checksumAlgorithm is None:
        raise errors.api_usage("must specify checksum algorithm")
    if context.group == ALL_GROUPS:
        raise errors.security("an import needs a group of its own")
    upload = _upload_job(fileset)
    location = _locate(site, context, fileset, upload)
    for folder in {location.shared, *(location.shared + used[:-1] for used in location.used)}:
        site.files.root.joinpath(*folder).mkdir(parents=True, exist_ok=True)
    fileset.templatePrefix = rstring(location.template_prefix)
    stored = _stored(site, context, fileset, settings, location)
    if site.faults.take("crash_after_fileset"):
        crash()
    process = ImportProcess(site, session, context, settings, client=client, location=location, stored=stored)
    process.proxy = omero.grid.ImportProcessPrx.uncheckedCast(site.add_stateful(process))
    return process.proxy


class Stored:
    """What importing needs to know of a stored Fileset: ids, and the records of its files in order."""

    def __init__(self, fileset: omero.model.Fileset, files: list[int], log: Record) -> None:
        self.fileset: int = fileset.id.val
        self.files, self.log = files, log
        links = fileset.copyJobLinks()
        self.upload_job: int = links[0].child.id.val
        self.activity_link: int = links[1].id.val
        self.activity_job: int = links[1].child.id.val


def _upload_job(fileset: omero.model.Fileset) -> omero.model.UploadJob:
    links = fileset.copyJobLinks()
    if len(links) != 1:
        raise errors.validation("Found more than one job link. Link only updateJob on creation!")
    job = links[0].child
    if job is None:
        raise errors.validation("Found null-UploadJob on creation")
    if not isinstance(job, omero.model.UploadJob):
        raise errors.validation(f"Found non-UploadJob on creation: {type(job).__name__}")
    return job


def _locate(site: "Site", context: Context, fileset: omero.model.Fileset, upload: omero.model.UploadJob) -> Location:
    """Make the fileset's own folder, and say where its files go."""
    group = site.store.get("ExperimenterGroup", context.group)
    terms = {
        "user": context.user_name,
        "userId": str(context.user),
        "group": group.text("name") if group else "",
        "groupId": str(context.group),
        "session": context.session_uuid,
        "sessionId": str(context.session_id),
        "perms": permissions.group_permissions(site.store, context.group),
    }
    reader = next((each.value for each in upload.getVersionInfo() or () if each and each.name == READER_KEY), "")
    client_paths = [entry.clientPath.val for entry in fileset.copyUsedFiles()]
    own = paths.create_own_folder(site.files.root, paths.TEMPLATE, terms)
    return paths.locate(
        own,
        client_paths,
        lambda names: site.images.required_directories(reader, names) if reader.startswith("loci.") else None,
    )


def _stored(
    site: "Site",
    context: Context,
    fileset: omero.model.Fileset,
    settings: omero.grid.ImportSettings,
    location: Location,
) -> Stored:
    """Everything that the database gets before the first byte, in one transaction."""
    jobs = [omero.model.MetadataImportJobI(), omero.model.PixelDataJobI(), omero.model.IndexingJobI()]
    if settings.doThumbnails is not None and settings.doThumbnails.val:
        jobs.insert(2, omero.model.ThumbnailGenerationJobI())
    for job in jobs:
        fileset.linkJob(job)
    _fill_jobs([link.child for link in fileset.copyJobLinks()], context, site)
    hasher = site.files.algorithm(settings.checksumAlgorithm.value.val)
    owner = {"owner": context.user, "group": context.group}
    files = []
    with site.store.transaction():
        for entry, used in zip(fileset.copyUsedFiles(), location.used, strict=True):
            record = site.files.add(location.shared + used, "application/octet-stream", hasher, **owner)
            entry._originalFile = omero.model.OriginalFileI(record.id, False)
            files.append(record.id)
        log = site.files.add(location.log, LOG_MIMETYPE, None, **owner)
        site.save(fileset, context, details=False)
        stored = Stored(fileset, files, log)
        upload = model.class_of(fileset.copyJobLinks()[0].child)
        job = site.store.get(upload, stored.upload_job)
        assert job is not None
        site.store.create("JobOriginalFileLink", {"parent": job.ref, "child": log.ref}, **owner)
    return stored


def _fill_jobs(jobs: list[omero.model.Job], context: Context, site: "Site") -> None:
    """With the same for each; what they share is made once."""
    group = site.store.get("ExperimenterGroup", context.group)
    user, group_name = rstring(context.user_name), rstring(group.text("name") if group else "")
    kind, submitted, now = rstring("User"), rstring("Submitted"), rtime(milliseconds())
    status = omero.model.JobStatusI()
    status.value = submitted
    for job in jobs:
        job.username, job.groupname = user, group_name
        job.type, job.message, job.status = kind, submitted, status
        job.submitted, job.scheduledFor = now, now


class _ImportHandle(Handle):
    """A handle that keeps its session alive while it works, and whose `step` callbacks may get lost."""

    tell_steps = True

    def run(self) -> None:
        """As in OMERO, an import that runs is not ended because nobody asks for it."""
        ended = threading.Event()

        def keep_alive() -> None:
            while not ended.wait(_KEEP_ALIVE_S):
                self.session.touched = time.monotonic()

        self.session.touched = time.monotonic()
        threading.Thread(target=keep_alive, name="import-keep-alive", daemon=True).start()
        try:
            super().run()
        finally:
            ended.set()

    def _tell_all(self, what: str, *arguments: object) -> None:
        if self.tell_steps or what != "step":
            super()._tell_all(what, *arguments)


@servant
class ImportProcess(StatefulService, omero.grid.ImportProcess):
    """One import, until its client closes it. `proxy` is set by who registers it."""

    proxy: Ice.ObjectPrx

    def __init__(
        self,
        site: "Site",
        session: Session,
        context: Context,
        settings: omero.grid.ImportSettings,
        *,
        client: str,
        location: Location,
        stored: Stored,
    ) -> None:
        super().__init__(site, session)
        self._client = client
        self._context, self._settings, self._location, self._stored = context, settings, location, stored
        self._lock = threading.Lock()
        self._uploaders: dict[int, tuple[Uploader, Ice.ObjectPrx]] = {}
        self._handle: Ice.ObjectPrx | None = None

    @property
    def fileset(self) -> int:
        """Its Fileset's id."""
        return self._stored.fileset

    # -- what Slice asks for ----------------------------------------------------------------------------------------

    def getImportSettings(self, current: Ice.Current) -> omero.grid.ImportSettings:
        return self._settings

    def getUploader(self, index: int, current: Ice.Current) -> Ice.ObjectPrx:
        """The same one for an index until it is closed, whatever mode it was opened in."""
        if not 0 <= index < len(self._stored.files):
            raise errors.internal(
                "java.lang.IndexOutOfBoundsException", f"Index: {index}, Size: {len(self._stored.files)}"
            )
        with self._lock:
            if index not in self._uploaders:
                writable = current.ctx.get("omero.fs.mode", "rw") != "r"
                self._uploaders[index] = self._open(index, writable)
            return self._uploaders[index][1]

    def getUploadOffset(self, index: int, current: Ice.Current) -> int:
        """0 once the uploader is closed."""
        with self._lock:
            return self._uploaders[index][0].offset if index in self._uploaders else 0

    def getHandle(self, current: Ice.Current) -> Ice.ObjectPrx | None:
        return self._handle

    def verifyUpload(self, hashes: list[str], current: Ice.Current) -> Ice.ObjectPrx:
        """Compare, then start the import. Waits, on this thread, until a background slot is free."""
        if len(hashes) != len(self._stored.files):
            raise errors.api_usage(f"hashes size should be {len(self._stored.files)} not {len(hashes)}")
        failing = {}
        for index, (number, sent) in enumerate(zip(self._stored.files, hashes, strict=True)):
            kept = self._record(number).get("hash")
            if kept != sent:
                failing[index] = kept or ""
        if failing:
            raise omero.ChecksumValidationException(
                "", "omero.ChecksumValidationException", "A checksum mismatch has occurred.", failing
            )
        self._finish_upload()
        return self._start()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _open(self, index: int, writable: bool) -> tuple[Uploader, Ice.ObjectPrx]:
        # OMERO registers the store with the ServiceFactory of the client that began the import, whoever asks.
        if self.site.factory_of(self.session, self._client) is None:
            raise errors.internal("omero.InternalException", "No ServantHolder for proxy.")
        uploader = Uploader(
            self.site,
            self.session,
            self._record(self._stored.files[index]),
            writable=writable,
            on_close=lambda: self._closed(index),
        )
        return uploader, omero.api.RawFileStorePrx.uncheckedCast(self.site.add_stateful(uploader))

    def _closed(self, index: int) -> None:
        with self._lock:
            self._uploaders.pop(index, None)

    def _record(self, number: int) -> Record:
        record = self.store.get("OriginalFile", number)
        if record is None:
            raise errors.validation(f"OriginalFile:{number} was deleted")
        return record

    def _finish_upload(self) -> None:
        job = self.store.get("UploadJob", self._stored.upload_job)
        if job is not None:
            self.store.change(job, status=self.site.enumeration("JobStatus", "Finished"), message="Finished")

    def _request(self) -> omero.grid.ImportRequest:
        made = omero.grid.ImportRequest()
        made.clientUuid, made.repoUuid = self.session.uuid, self.site.files.uuid
        made.process, made.settings = self.proxy, self._settings
        made.activity = omero.model.FilesetJobLinkI(self._stored.activity_link, True)
        made.activity.parent = omero.model.FilesetI(self._stored.fileset, False)
        made.activity.child = omero.model.MetadataImportJobI(self._stored.activity_job, False)
        made.logFile = omero.model.OriginalFileI(self._stored.log.id, False)
        made.location = omero.grid.ImportLocation()
        made.location.sharedPath, made.location.omittedLevels = joined(self._location.shared), 0
        made.location.usedFiles = [joined(used) for used in self._location.used]
        return made

    def _start(self) -> Ice.ObjectPrx:
        site = self.site
        work = Import(
            site,
            self._context,
            self._settings,
            fileset=self._stored.fileset,
            files=self._stored.files,
            log=self._stored.log,
        )
        handle = _ImportHandle(site, self.session, self._request(), work.steps())
        handle.tell_finished = not site.faults.take("lost_finished")
        handle.tell_steps = not site.faults.take("lost_steps")
        proxy = omero.cmd.HandlePrx.uncheckedCast(site.add_stateful(handle))
        work.on_auto_close = lambda: self._close_both(proxy)
        try:
            site.background.submit(handle.run, handle.tell)
        except BaseException:
            site.remove_stateful(proxy.ice_getIdentity())
            raise
        self._handle = proxy
        return proxy

    def _close_both(self, handle: Ice.ObjectPrx) -> None:
        """The client asked not to have to come back."""
        self.site.remove_stateful(handle.ice_getIdentity())
        self.site.remove_stateful(self.proxy.ice_getIdentity())
