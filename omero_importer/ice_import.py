"""Imports Filesets over Ice, as OMERO's Java importer does: announce the files, send them, let the server check and read them.

Uploads and imports are limited separately: several Filesets are sent at once, and one of them at a time is being imported, so
that a delivery never takes more than one of the server's few background slots.
"""

import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from io import BufferedReader
from typing import NoReturn

from lading import __version__
from lading.errors import Refused, TargetUnavailable
from lading.ports import Journal, NoProgress, Progress
from omero_importer import errors, graphs, router, uploads
from omero_importer.filesets import FilesetPlan, FilesetRecord, Place
from omero_importer.hashes import ALGORITHMS, NO_PROOF
from omero_importer.holdings import ClientName
from omero_importer.ice import Ice, cmd, grid, model, omero, rbool, rstring, unloaded
from omero_importer.import_end import end_of_import
from omero_importer.in_place import InPlace
from omero_importer.session import Connection
from omero_importer.settings import RepositorySettings, RouteSettings
from omero_importer.sources import Source
from omero_importer.underway import Interrupted, UploadUnderway
from omero_importer.valve import Valve
from omero_importer.vitals import measure

_SENDINGS = 3
"""So often a file is sent, before we believe that the server cannot store it."""
_MEASURE_S = 30.0
_UNKNOWN_READER = "Unknown"
_CLOSING = 8
"""Servants that are being closed at once."""
_OPENED = 32
"""Files of one Fileset that are opened at once, to be sent soon."""


class _Closing:
    """Servants being closed while the work goes on. Left open, they count against the ten thousand that a session may have."""

    def __init__(self) -> None:
        self._under_way: deque[tuple[grid.ImportProcessPrx | cmd.HandlePrx, Ice.AsyncResult]] = deque()

    def begin(self, servant: "grid.ImportProcessPrx | cmd.HandlePrx") -> None:
        """Ask for it."""
        with suppress(Ice.Exception):
            self._under_way.append((servant, servant.begin_close()))
        if len(self._under_way) > _CLOSING:
            self._end()

    def finish(self) -> None:
        """Wait until all of them are closed."""
        while self._under_way:
            self._end()

    def _end(self) -> None:
        servant, result = self._under_way.popleft()
        with suppress(Ice.Exception):  # that it is gone already is all right
            servant.end_close(result)


@dataclass(frozen=True)
class IceEngine:
    """Imports over one connection. Not for several threads at once; it has its own."""

    connection: Connection
    source: Source
    settings: RepositorySettings
    route: RouteSettings
    valve: Valve
    interrupted: Interrupted = field(default_factory=Interrupted)
    _algorithm: list[str] = field(default_factory=list, repr=False)
    _measured: list[float] = field(default_factory=lambda: [time.monotonic()], repr=False)
    _stopping: threading.Event = field(default_factory=threading.Event, repr=False)
    _closing: _Closing = field(default_factory=_Closing, repr=False)

    def import_filesets(
        self,
        plans: Iterable[FilesetPlan],
        place: Place,
        journal: Journal,  # noqa: ARG002 - the mark, saved together with each Fileset, says more than a note could
        progress: Progress,
    ) -> Iterator[tuple[FilesetPlan, FilesetRecord]]:
        """See `Engine`. In order; what was cut off earlier in the same session goes on where it stopped."""
        if self._in_place is not None:
            self._in_place.demand()
        plans = list(plans)
        if not plans:
            return
        # Asked before the threads would all ask.
        _ = self.algorithm
        refused: list[Refused] = []
        under_way: deque[Future[UploadUnderway]] = deque()
        window = self.route.uploads
        room = threading.Semaphore(window)
        with ThreadPoolExecutor(window, "omero-fileset") as filesets:
            try:
                for plan in plans:
                    under_way.append(filesets.submit(self._upload, plan, place, room, progress))
                    # One more than can be sent at once: the senders have work while the first is being imported.
                    if len(under_way) > window:
                        yield from self._read(under_way.popleft(), refused)
                while under_way:
                    yield from self._read(under_way.popleft(), refused)
            finally:
                # Whatever went wrong: what is still being sent is sent in vain.
                self._stopping.set()
                self._abandon(under_way)
                self._closing.finish()
        if refused:
            more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
            raise Refused(f"{refused[0].message}{more}", safe=refused[0].safe, next_command=refused[0].next_command)

    def _read(
        self, sent: "Future[UploadUnderway]", refused: list[Refused]
    ) -> Iterator[tuple[FilesetPlan, FilesetRecord]]:
        uploaded = sent.result()
        try:
            yield uploaded.plan, self._import(uploaded)
        except Refused as problem:
            refused.append(problem)

    def _abandon(self, under_way: "Sequence[Future[UploadUnderway]]") -> None:
        """What was sent and not imported goes on later; else the next look finds it by its mark."""
        for one in under_way:
            one.cancel()
        for one in under_way:
            if not one.cancelled() and one.exception() is None:
                self._interrupt(one.result())

    @property
    def _in_place(self) -> InPlace | None:
        settings = self.route.in_place
        return None if settings.transfer == "upload" else InPlace(settings, self.connection, self.source.root)

    @property
    def algorithm(self) -> str:
        """OMERO's name of the checksum to use, agreed upon with the server once."""
        if not self._algorithm:
            self._algorithm.append(self.route.checksum or self._agreed())
        return self._algorithm[0]

    def _agreed(self) -> str:
        """The server's favourite among those that the manifest has; else among those that prove anything."""
        some = next(iter(self.source.entries.values()), None)
        known = [name for name in ALGORITHMS if some is not None and uploads.checksum_known(some, name)]
        repository = self.connection.repository()
        for names in (known, [name for name in ALGORITHMS if name not in NO_PROOF]):
            found = repository.suggestChecksumAlgorithm([_algorithm(name) for name in names]) if names else None
            if found is not None:
                return str(found.value.val)
        raise Refused(
            f"importing into {self.connection.server}: it supports no checksum that proves anything",
            next_command="set import.checksum of the route",
        )

    def _upload(self, plan: FilesetPlan, place: Place, room: threading.Semaphore, progress: Progress) -> UploadUnderway:
        """Bring all files of a Fileset to the server, or those that are not there yet."""
        upload = self.interrupted.take(place, plan) or self._announced(plan, place)
        try:
            self._send_missing(upload, room, progress)
        except BaseException as exc:
            if isinstance(exc, omero.ResourceError):
                self.valve.saw_no_room(exc.message)
            if isinstance(exc, Ice.Exception | omero.ServerError | omero.ClientError | TargetUnavailable):
                self._interrupt(upload)
            else:
                _close(upload.process)
            raise
        return upload

    def _announced(self, plan: FilesetPlan, place: Place) -> UploadUnderway:
        process = self.connection.repository().importFileset(self._fileset(plan, place), self._settings(place))
        return UploadUnderway.of(self.connection, process, plan, place, self.algorithm)

    def _interrupt(self, upload: UploadUnderway) -> None:
        """It goes on later, if there is something to go on with."""
        if upload.can_go_on and self._in_place is None:
            self.interrupted.keep(upload)
        else:
            _close(upload.process)

    def _send_missing(self, upload: UploadUnderway, room: threading.Semaphore, progress: Progress) -> None:
        """Bring the files of the Fileset that are not wholly there."""
        if (in_place := self._in_place) is not None:
            self._bring(in_place, upload)
        missing = upload.missing
        for begin in range(0, len(missing), _OPENED):
            some = missing[begin : begin + _OPENED]
            asked = [upload.process.begin_getUploader(index) for index in some]
            stores = router.introduced(self.connection, [upload.process.end_getUploader(one) for one in asked])
            try:
                with self.source.way() as opened:
                    uploads.send_files(
                        [
                            self._sending(upload, index, store, progress, opened)
                            for store, index in zip(stores, some, strict=True)
                        ],
                        room,
                    )
            except BaseException:
                _close_all(stores)  # those too that were not begun
                raise

    def _sending(
        self,
        upload: UploadUnderway,
        index: int,
        store: "omero.api.RawFileStorePrx",
        progress: Progress,
        opened: Callable[[str], BufferedReader],
    ) -> uploads.Sending:
        """Send one of its files, from where it stopped, and note how far it comes."""
        name, written = upload.plan.files[index], upload.written.get(index, 0)
        upload.written[index] = start = _still_there(store, written) if written else 0
        file = uploads.Outgoing(
            partial(opened, name),
            self.source.entries[name],
            algorithm=upload.algorithm,
            block=self.route.block_kb << 10,
            timeout=self.settings.read_timeout,
            start=start,
        )

        def told(count: int) -> None:
            upload.written[index] += count
            self._told(count, progress)

        checksum = yield from uploads.sending(store, file, told)
        upload.whole(index, checksum)
        return checksum

    def _bring(self, in_place: InPlace, upload: UploadUnderway) -> None:
        with ThreadPoolExecutor(self.route.uploads, "omero-file") as several:
            bringing = {}
            for index in upload.missing:
                entry = self.source.entries[upload.plan.files[index]]
                bringing[index] = several.submit(in_place.bring, upload.process, index, entry, upload.algorithm)
            try:
                for index, one in bringing.items():
                    upload.whole(index, one.result())
            finally:
                for one in bringing.values():
                    one.cancel()

    def _told(self, count: int, progress: Progress) -> None:
        if self._stopping.is_set():
            raise TargetUnavailable("another file of the delivery could not be sent", next_command="lading retry")
        progress.advance(bytes=count)

    def _measure(self) -> None:
        if time.monotonic() - self._measured[-1] > _MEASURE_S:
            self._measured[:] = [time.monotonic()]
            measure(self.connection, self.valve)

    def _import(self, upload: UploadUnderway) -> FilesetRecord:
        doing = f"importing {upload.plan.entry}"
        try:
            self._measure()
            with self.valve.import_under_way(patience=self.settings.valve.longest_pause):
                handle = self._verified(upload, doing)
                try:
                    answer = end_of_import(self.connection, handle, self.settings.import_timeout, doing)
                    fileset = _fileset_of(answer) or int(handle.getRequest().activity.parent.id.val)
                finally:
                    self._closing.begin(handle)
        finally:
            if upload.asked:
                self._closing.begin(upload.process)
            else:
                self._interrupt(upload)
        if isinstance(answer, cmd.ERR):
            self._failed(answer, fileset, doing)
        images = sorted({int(pixels.image.id.val) for pixels in answer.pixels})
        plates = [int(one.id.val) for one in answer.objects if isinstance(one, model.Plate)]
        if not images:
            graphs.delete(self.connection, "Fileset", [fileset], doing=f"removing what is left of {upload.plan.entry}")
            raise Refused(
                f"{doing} at {self.connection.server}: OMERO read it and found no image", next_command="lading retry"
            )
        return FilesetRecord(fileset, tuple(images), tuple(plates))

    def _verified(self, upload: UploadUnderway, doing: str) -> "cmd.HandlePrx":
        """Let the server compare the checksums, and send again only the files that it has otherwise. Then the import begins."""
        process = upload.process
        # It may wait an hour for one of the server's background slots, on a thread of the server's.
        patient = type(process).uncheckedCast(process.ice_invocationTimeout(int(self.settings.import_timeout * 1000)))
        for sending in range(1, _SENDINGS + 1):
            upload.asked = True
            try:
                with self.valve.watching():
                    return patient.verifyUpload(upload.checksums)
            except omero.ConcurrencyException:
                upload.asked = False  # it says that it did not come to it
                raise
            except omero.ChecksumValidationException as exc:
                failing = sorted(exc.failingChecksums)
                self._demand_unchanged(upload, failing)
                if sending == _SENDINGS:
                    names = [upload.plan.files[index] for index in failing]
                    raise TargetUnavailable(
                        f"{doing} at {self.connection.server}: of {', '.join(names[:3])} the server stored other bytes than "
                        f"were sent, {_SENDINGS} times",
                        safe="The files are in the inbox.",
                        next_command="lading doctor",
                    ) from exc
                for index in failing:
                    upload.wrong(index)
                upload.asked = False  # it was refused: nothing is being imported
                self._send_missing(upload, threading.Semaphore(self.route.uploads), NoProgress())
        raise AssertionError("unreachable")

    def _demand_unchanged(self, upload: UploadUnderway, failing: Sequence[int]) -> None:
        """Where the manifest has OMERO's checksum, nothing was hashed while it was sent. Raises Corrupted."""
        for name in (upload.plan.files[index] for index in failing):
            uploads.demand_unchanged(partial(self.source.opened, name), self.source.entries[name])

    def _failed(self, answer: "cmd.ERR", fileset: int, doing: str) -> NoReturn:
        # The server keeps the Fileset of a failed import, with its files and without an image, for ever.
        graphs.delete(self.connection, "Fileset", [fileset], doing=f"{doing}: removing what is left of it")
        raise errors.from_failed_import(
            answer.name, answer.parameters or {}, doing=doing, server=self.connection.server
        )

    def _fileset(self, plan: FilesetPlan, place: Place) -> "model.FilesetI":
        name = ClientName(place.prefix)
        fileset = model.FilesetI()
        for path in plan.files:
            entry = model.FilesetEntryI()
            entry.clientPath = rstring(name(path))
            fileset.addFilesetEntry(entry)
        fileset.linkAnnotation(unloaded("MapAnnotation", place.mark))
        job = model.UploadJobI()
        job.setVersionInfo(
            [
                # The server looks at the class to know how many folders it must keep; nothing else depends on it.
                model.NamedValue("bioformats.reader", plan.reader or _UNKNOWN_READER),
                model.NamedValue("client.language.name", "Python"),
                model.NamedValue("lading.version", __version__),
            ]
        )
        fileset.linkJob(job)
        if self._in_place is not None:
            self._in_place.annotate(fileset)
        return fileset

    def _settings(self, place: Place) -> "grid.ImportSettings":
        return grid.ImportSettings(
            doThumbnails=rbool(self.route.thumbnails),
            noStatsInfo=rbool(not self.route.stats),
            userSpecifiedTarget=unloaded(place.kind, place.id),
            checksumAlgorithm=_algorithm(self.algorithm),
        )


def _fileset_of(answer: "cmd.Response") -> int:
    """The Fileset's id, where the answer tells it: a request less. 0 where it does not."""
    for pixels in getattr(answer, "pixels", None) or ():
        if pixels.image is not None and pixels.image.isLoaded() and pixels.image.fileset is not None:
            return int(pixels.image.fileset.id.val)
    return 0


def _algorithm(name: str) -> "model.ChecksumAlgorithmI":
    found = model.ChecksumAlgorithmI()
    found.value = rstring(name)
    return found


def _still_there(store: "omero.api.RawFileStorePrx", written: int) -> int:
    """How much of what the server has acknowledged it still has: all of it, unless somebody meddled with its disk."""
    try:
        return min(written, int(store.size()))
    except omero.ResourceError:
        return 0


def _close_all(stores: "Sequence[omero.api.RawFileStorePrx]") -> None:
    closing = []
    for store in stores:
        with suppress(Ice.Exception):
            closing.append((store, store.begin_close()))
    for store, asked in closing:
        with suppress(Ice.Exception):  # that it is gone already is all right
            store.end_close(asked)


def _close(servant: "grid.ImportProcessPrx | cmd.HandlePrx") -> None:
    # Left open, it counts against the ten thousand that a session may have. That it is gone already is all right.
    with suppress(Ice.Exception):
        servant.close()
