"""Filesets whose files were being sent when something broke: they go on where they stopped, as long as their session lives.

OMERO keeps an import's process, and what was written to its files, with the *session*: a connection may break meanwhile, and the
session be joined again over another. A fileset goes on only when the server shows that its process is still there, and which
Fileset it belongs to. Everything else is as if nothing had been kept: what the delivery has in OMERO is looked at, and completed.
"""

import threading
from collections import OrderedDict
from collections.abc import Collection, Hashable
from contextlib import suppress
from dataclasses import dataclass, field

from omero_importer.filesets import FilesetPlan, Place
from omero_importer.ice import Ice, ParametersI, grid, omero, plain, rlong
from omero_importer.session import Connection

_KEPT = 64
"""So many wait to go on; each holds a few of the ten thousand servants that a session may have."""


@dataclass(eq=False)
class UploadUnderway:
    """A Fileset that OMERO knows, and how far its files have come. One thread at a time changes it.

    `address`: its ImportProcess, in words, for another connection of the same session. `checksums`: of the files that are wholly
    there, by OMERO's `algorithm`, "" for the others. `written`: of those, file number → bytes from its beginning that the server
    has acknowledged. `asked`: OMERO was asked to import it; what came of that is to be looked for, and never asked for twice.
    """

    plan: FilesetPlan
    place: Place
    algorithm: str
    process: "grid.ImportProcessPrx" = field(repr=False)
    # Either of them opens everything that the account may do.
    session: str = field(repr=False)
    address: str = field(repr=False)
    checksums: list[str] = field(default_factory=list, repr=False)
    written: dict[int, int] = field(default_factory=dict)
    asked: bool = False
    _taken_up_at: tuple[int, int] = field(default=(0, 0), init=False)

    def __post_init__(self) -> None:
        self.checksums = self.checksums or [""] * len(self.plan.files)

    @classmethod
    def of(
        cls, connection: Connection, process: "grid.ImportProcessPrx", plan: FilesetPlan, place: Place, algorithm: str
    ) -> "UploadUnderway":
        """One that was just announced to the server."""
        return cls(plan, place, algorithm, process, connection.key, str(process))

    @property
    def missing(self) -> list[int]:
        """The numbers of the files that are not wholly there."""
        return [index for index, checksum in enumerate(self.checksums) if not checksum]

    def whole(self, index: int, checksum: str) -> None:
        """That file is there."""
        self.checksums[index] = checksum
        self.written.pop(index, None)

    def wrong(self, index: int) -> None:
        """The server has something else of that file: it is to be sent from its beginning."""
        self.checksums[index] = ""
        self.written.pop(index, None)

    @property
    def can_go_on(self) -> bool:
        """Whether that promises more than to begin anew: it came further than when it was last taken up."""
        return not self.asked and (not self.missing or self.come() != self._taken_up_at)

    def take_up(self) -> None:
        """Note how far it has come: once more without getting further, and it is begun anew."""
        self._taken_up_at = self.come()

    def come(self) -> tuple[int, int]:
        """So many files are there, and so many bytes of others."""
        return len(self.checksums) - len(self.missing), sum(self.written.values())

    def move_to(self, connection: Connection) -> None:
        """Use this connection of its session from here on."""
        proxy = connection.client.getCommunicator().stringToProxy(self.address)
        self.process = grid.ImportProcessPrx.uncheckedCast(proxy)

    def fileset(self, connection: Connection) -> int:
        """The Fileset's id, asked of the server; 0 when the import is gone, or has begun. As Ice raises."""
        missing = self.missing
        try:
            if self.process.getHandle() is not None:
                return 0  # it is being imported, whoever asked for that
            store = self.process.getUploader(missing[0] if missing else 0)
            file = int(store.getFileId().val)
            if not missing:
                store.close()  # the others will be asked for again, and are the same until they are closed
        except omero.ConcurrencyException:
            raise
        except (Ice.ObjectNotExistException, omero.ServerError):
            return 0
        query = "select e.fileset.id from FilesetEntry e where e.originalFile.id = :file"
        rows = plain(connection.queries.projection(query, ParametersI().add("file", rlong(file))))
        return int(rows[0][0]) if rows else 0

    def give_up(self) -> None:
        """Let the server close it, whenever it hears of it."""
        with suppress(Ice.Exception):
            self.process.begin_close()


class Interrupted:
    """Those of all deliveries of one importer. Safe to share between threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._kept: OrderedDict[tuple[Place, str], UploadUnderway] = OrderedDict()

    def __repr__(self) -> str:
        return f"Interrupted({len(self._kept)})"

    def keep(self, upload: UploadUnderway) -> None:
        """It may go on later."""
        with self._lock:
            key = (upload.place, upload.plan.key)
            old = [self._kept.pop(key)] if key in self._kept else []
            self._kept[key] = upload
            if len(self._kept) > _KEPT:
                old.append(self._kept.popitem(last=False)[1])
        for one in old:
            if one is not upload:
                one.give_up()

    def of(self, connection: Connection, place: Place, plans: Collection[FilesetPlan]) -> dict[int, UploadUnderway]:
        """Those of the delivery in `place` that can go on over `connection`, by the id of their Fileset; the others are forgotten.

        `plans`: what the delivery is to become. Raises as Ice does.
        """
        found = {}
        for upload in self._all_in(place):
            ours = upload.session == connection.key
            if ours:
                upload.move_to(connection)
            if ours and upload.can_go_on and upload.plan in plans and (number := upload.fileset(connection)):
                found[number] = upload
            else:
                self.forget(upload)
        return found

    def come(self, prefix: str) -> Hashable:
        """How far those have come that can go on, of the delivery whose places have that prefix; None when there are none."""
        with self._lock:
            found = [upload for (where, _), upload in self._kept.items() if where.prefix == prefix and upload.can_go_on]
            return tuple((upload.plan.key, *upload.come()) for upload in found) or None

    def forget(self, upload: UploadUnderway) -> None:
        """It will not go on."""
        self.take(upload.place, upload.plan)
        upload.give_up()

    def take(self, place: Place, plan: FilesetPlan) -> UploadUnderway | None:
        """The one of this plan, to go on with it; None when there is none."""
        with self._lock:
            upload = self._kept.pop((place, plan.key), None)
        if upload is not None:
            upload.take_up()
        return upload

    def _all_in(self, place: Place) -> list[UploadUnderway]:
        with self._lock:
            return [upload for (where, _), upload in self._kept.items() if where == place]
