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
from typing import NoReturn, Self
from uuid import uuid4

from lading import __version__
from lading.errors import LadingError, Refused, TargetUnavailable
from lading.ports import Journal, Progress
from omero_importer import errors, graphs, router, uploads
from omero_importer.filesets import FilesetPlan, FilesetRecord, Place
from omero_importer.hashes import ALGORITHMS, NO_PROOF
from omero_importer.holdings import ClientName
from omero_importer.ice import Ice, cmd, grid, model, omero, rbool, rstring, unloaded
from omero_importer.in_place import InPlace
from omero_importer.session import Connection
from omero_importer.settings import RepositorySettings, RouteSettings
from omero_importer.sources import Source
from omero_importer.valve import Valve
from omero_importer.vitals import measure

_SENDINGS = 3
"""So often a file is sent, before we believe that the server cannot store it."""
_MEASURE_S = 30.0
_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _GROWTH = 0.05, 2.0, 1.5
"""Only for when the server's call that an import has ended gets lost."""
_UNKNOWN_READER = "Unknown"
_CLOSING = 8
"""Servants that are being closed at once."""
_OPENED = 32
"""Files of one Fileset that are opened at once, to be sent soon."""


@dataclass(frozen=True)
class _Uploaded:
    """A Fileset whose files are all on the server."""

    plan: FilesetPlan
    process: "grid.ImportProcessPrx"
    checksums: list[str]


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
    _algorithm: list[str] = field(default_factory=list, repr=False)
    _measured: list[float] = field(default_factory=lambda: [time.monotonic()], repr=False)
    _stopping: threading.Event = field(default_factory=threading.Event, repr=False)
    _closing: _Closing = field(default_factory=_Closing, repr=False)

    def import_fileset(self, plan: FilesetPlan, place: Place, journal: Journal, progress: Progress) -> FilesetRecord:
        """See `Engine`."""
        ((_, record),) = self.import_filesets([plan], place, journal, progress)
        return record

    def import_filesets(
        self,
        plans: Iterable[FilesetPlan],
        place: Place,
        journal: Journal,  # noqa: ARG002 - the mark, saved together with each Fileset, says more than a note could
        progress: Progress,
    ) -> Iterator[tuple[FilesetPlan, FilesetRecord]]:
        """Import them all, in order. What OMERO cannot read does not stop the others, and is raised at the end (Refused)."""
        if self._in_place is not None:
            self._in_place.demand()
        plans = list(plans)
        if not plans:
            return
        # Asked before the threads would all ask.
        _ = self.algorithm
        refused: list[Refused] = []
        under_way: deque[Future[_Uploaded]] = deque()
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
                _abandon(under_way)
                self._closing.finish()
        if refused:
            more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
            raise Refused(f"{refused[0].message}{more}", safe=refused[0].safe, next_command=refused[0].next_command)

    def _read(self, sent: "Future[_Uploaded]", refused: list[Refused]) -> Iterator[tuple[FilesetPlan, FilesetRecord]]:
        uploaded = sent.result()
        try:
            yield uploaded.plan, self._import(uploaded)
        except Refused as problem:
            refused.append(problem)

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

    def _upload(self, plan: FilesetPlan, place: Place, room: threading.Semaphore, progress: Progress) -> _Uploaded:
        process = self.connection.repository().importFileset(self._fileset(plan, place), self._settings(place))
        try:
            return _Uploaded(plan, process, self._sent(process, list(enumerate(plan.files)), room, progress))
        except BaseException as exc:
            if isinstance(exc, omero.ResourceError):
                self.valve.saw_no_room(exc.message)
            _close(process)
            raise

    def _sent(
        self,
        process: "grid.ImportProcessPrx",
        files: Sequence[tuple[int, str]],
        room: threading.Semaphore,
        progress: Progress,
    ) -> list[str]:
        """Bring these files of the Fileset, given with their numbers; their checksums."""
        if (in_place := self._in_place) is not None:
            return self._brought(in_place, process, files)
        checksums: list[str] = []
        for begin in range(0, len(files), _OPENED):
            some = files[begin : begin + _OPENED]
            asked = [process.begin_getUploader(index) for index, _ in some]
            stores = router.introduced(self.connection, [process.end_getUploader(one) for one in asked])
            try:
                checksums += uploads.send_files(
                    [self._sending(store, name, progress) for store, (_, name) in zip(stores, some, strict=True)], room
                )
            except BaseException:
                _close_all(stores)  # those too that were not begun
                raise
        return checksums

    def _sending(self, store: "omero.api.RawFileStorePrx", name: str, progress: Progress) -> uploads.Sending:
        return uploads.sending(
            store,
            self.source.path(name),
            self.source.entries[name],
            algorithm=self.algorithm,
            block=self.route.block_kb << 10,
            timeout=self.settings.read_timeout,
            told=lambda count: self._told(count, progress),
        )

    def _brought(
        self, in_place: InPlace, process: "grid.ImportProcessPrx", files: Sequence[tuple[int, str]]
    ) -> list[str]:
        with ThreadPoolExecutor(self.route.uploads, "omero-file") as several:
            bringing = [
                several.submit(in_place.bring, process, index, self.source.entries[name], self.algorithm)
                for index, name in files
            ]
            try:
                return [one.result() for one in bringing]
            finally:
                for one in bringing:
                    one.cancel()

    def _told(self, count: int, progress: Progress) -> None:
        if self._stopping.is_set():
            raise TargetUnavailable("another file of the delivery could not be sent", next_command="lading retry")
        progress.advance(bytes=count)

    def _measure(self) -> None:
        if time.monotonic() - self._measured[-1] > _MEASURE_S:
            self._measured[:] = [time.monotonic()]
            measure(self.connection, self.valve)

    def _import(self, uploaded: _Uploaded) -> FilesetRecord:
        doing = f"importing {uploaded.plan.entry}"
        try:
            self._measure()
            with self.valve.import_under_way(patience=self.settings.valve.longest_pause):
                handle = self._verified(uploaded, doing)
                try:
                    answer = self._outcome(handle, doing)
                    fileset = _fileset_of(answer) or int(handle.getRequest().activity.parent.id.val)
                finally:
                    self._closing.begin(handle)
        finally:
            self._closing.begin(uploaded.process)
        if isinstance(answer, cmd.ERR):
            self._failed(answer, fileset, doing)
        images = sorted({int(pixels.image.id.val) for pixels in answer.pixels})
        plates = [int(one.id.val) for one in answer.objects if isinstance(one, model.Plate)]
        if not images:
            graphs.delete(
                self.connection, "Fileset", [fileset], doing=f"removing what is left of {uploaded.plan.entry}"
            )
            raise Refused(
                f"{doing} at {self.connection.server}: OMERO read it and found no image", next_command="lading retry"
            )
        return FilesetRecord(fileset, tuple(images), tuple(plates))

    def _verified(self, uploaded: _Uploaded, doing: str) -> "cmd.HandlePrx":
        """Let the server compare the checksums, and send again only the files that it has otherwise. Then the import begins."""
        process, plan = uploaded.process, uploaded.plan
        # It may wait an hour for one of the server's background slots, on a thread of the server's.
        patient = type(process).uncheckedCast(process.ice_invocationTimeout(int(self.settings.import_timeout * 1000)))
        for sending in range(1, _SENDINGS + 1):
            try:
                with self.valve.watching():
                    return patient.verifyUpload(uploaded.checksums)
            except omero.ChecksumValidationException as exc:
                failing = sorted(exc.failingChecksums)
                names = [plan.files[index] for index in failing]
                if sending == _SENDINGS:
                    raise TargetUnavailable(
                        f"{doing} at {self.connection.server}: of {', '.join(names[:3])} the server stored other bytes than "
                        f"were sent, {_SENDINGS} times",
                        safe="The files are in the inbox.",
                        next_command="lading doctor",
                    ) from exc
                again = [(index, plan.files[index]) for index in failing]
                sums = self._sent(process, again, threading.Semaphore(self.route.uploads), _Silent())
                for index, checksum in zip(failing, sums, strict=True):
                    uploaded.checksums[index] = checksum
        raise AssertionError("unreachable")

    def _outcome(self, handle: "cmd.HandlePrx", doing: str) -> "cmd.Response":
        """Wait for the end of the import: woken by the server's call, if it comes, and asking in any case."""
        patience = self.settings.import_timeout
        until, pause = time.monotonic() + patience, _FIRST_PAUSE_S
        with _Callback(self.connection, handle) as finished:
            while (answer := finished.heard(pause) or handle.getResponse()) is None:
                if time.monotonic() > until:
                    raise TargetUnavailable(
                        f"{doing} at {self.connection.server}: no end in sight after {patience:.0f} s",
                        safe="The files are in the inbox.",
                        next_command="lading retry",
                    )
                pause = min(pause * _GROWTH, _LONGEST_PAUSE_S)
        return answer

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


class _Callback:
    """The server's call when an import has ended, with what came of it. It may be lost, or come twice."""

    def __init__(self, connection: Connection, handle: "cmd.HandlePrx") -> None:
        self._connection, self._handle = connection, handle
        self._event = threading.Event()
        self._response: cmd.Response | None = None
        self._identity = Ice.Identity(uuid4().hex, connection.callback_category)

    def __enter__(self) -> Self:
        adapter = self._connection.client.getAdapter()
        proxy = adapter.add(_Finished(self._tell), self._identity)
        # Not waited for: were it lost, asking is what is left, as when the call itself is lost.
        self._handle.begin_addCallback(cmd.CmdCallbackPrx.uncheckedCast(proxy))
        return self

    def heard(self, patience: float) -> "cmd.Response | None":
        """The response, once the call has come; None when it has not for so many seconds."""
        self._event.wait(patience)
        self._event.clear()
        return self._response

    def _tell(self, response: "cmd.Response | None") -> None:
        self._response = response
        self._event.set()

    def __exit__(self, *_: object) -> None:
        with suppress(Ice.Exception):
            self._connection.client.getAdapter().remove(self._identity)


class _Finished(cmd.CmdCallback):  # type: ignore[misc]  # generated code has no types
    """Hears from the server."""

    def __init__(self, tell: "Callable[[cmd.Response | None], None]") -> None:
        self._tell = tell

    def step(self, complete: int, total: int, current: object = None) -> None:
        """One of five steps is done."""

    def finished(self, response: "cmd.Response | None", status: object, current: object = None) -> None:  # noqa: ARG002 - Ice's signature
        """The import has ended."""
        self._tell(response)


class _Silent:
    """What is sent again was counted before."""

    def advance(self, *, files: int = 0, bytes: int = 0) -> None:  # noqa: A002 - the unit is the name
        """Do nothing."""


def running_import(connection: Connection, fileset: int, patience: float) -> bool:
    """Whether the server was importing the Fileset, on behalf of somebody who is gone; waits for its end."""
    for process in connection.repository().listImports():
        with suppress(Ice.ObjectNotExistException, omero.ApiUsageException, omero.ResourceError):
            handle = process.getHandle()
            if handle is not None and handle.getRequest().activity.parent.id.val == fileset:
                graphs.response(handle, patience, f"waiting for the import of Fileset {fileset} that is under way")
                return True
    return False


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


def _abandon(under_way: "Sequence[Future[_Uploaded]]") -> None:
    """Close what was begun; the Filesets are found by their mark, and removed or taken over, by the next look."""
    for one in under_way:
        one.cancel()
    for one in under_way:
        if not one.cancelled():
            with suppress(Ice.Exception, omero.ClientError, LadingError):
                _close(one.result().process)


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
