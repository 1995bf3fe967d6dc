"""omero.api.RawFileStore: the bytes of one file, in blocks, at positions. `close` re-reads the file to hash it."""

import threading
from collections.abc import Callable
from typing import TYPE_CHECKING

import Ice
import omero
import omero.api
from omero.rtypes import rlong

from lading.sandbox.omero import errors, permissions
from lading.sandbox.omero.records import Record
from lading.sandbox.omero.services.base import StatefulService
from lading.sandbox.omero.sessions import Session
from lading.sandbox.omero.stored_files import OpenFile
from lading.sandbox.omero.wire import NoAnswer, servant

if TYPE_CHECKING:
    from lading.sandbox.omero.site import Site

READ_LIMIT = 64 * 1000 * 1000


class _RawFileStore(StatefulService):
    """What the attachment's store and the upload's have in common."""

    def __init__(self, site: "Site", session: Session) -> None:
        super().__init__(site, session)
        self._busy = threading.RLock()
        self._record: Record | None = None
        self._file: OpenFile | None = None
        self._writable = True
        self._modified = False

    def use(self, record: Record, *, writable: bool) -> None:
        """Turn to this file."""
        self._drop()
        self._record, self._writable, self._modified = record, writable, False
        self._file = OpenFile(self.site.files.path(record), writable=writable, faults=self.site.faults)

    # -- what Slice asks for ----------------------------------------------------------------------------------------

    def getFileId(self, current: Ice.Current) -> omero.RLong | None:
        return None if self._record is None else rlong(self._record.id)

    def exists(self, current: Ice.Current) -> bool:
        return self.site.files.path(self._chosen()).exists()

    def size(self, current: Ice.Current) -> int:
        return self._size()

    def read(self, position: int, length: int, current: Ice.Current) -> bytes:
        if length > READ_LIMIT:
            raise errors.api_usage(f"Too big: {length}")
        self._chosen()
        assert self._file is not None
        with self._busy:
            return self._file.read(position, length)

    def write(self, data: bytes, position: int, length: int, current: Ice.Current) -> None:
        self._check_writable()
        assert self._file is not None
        self._cut(position + length)
        with self._busy:
            self._file.write(data[:length], position)
            self._modified = True

    def truncate(self, length: int, current: Ice.Current) -> bool:
        self._check_writable()
        assert self._file is not None
        with self._busy:
            if not self.exists(current) or self._size() <= length:
                return False
            self._file.truncate(length)
            self._modified = True
            return True

    def save(self, current: Ice.Current) -> omero.model.OriginalFile | None:
        record = self._save()
        return None if record is None else self.site.build(record, self.context(current))

    def close(self, current: Ice.Current) -> None:
        """The servant is gone first: whatever saving brings, the client may ask for a new one."""
        self.site.remove_stateful(current.id)
        try:
            self._save()
        finally:
            self._drop()

    def closed(self) -> None:
        """The session is over. Nothing is hashed: an upload that was cut off stays one."""
        self._drop()

    # -- inside -----------------------------------------------------------------------------------------------------

    def _chosen(self) -> Record:
        if self._record is None:
            raise errors.api_usage("setFileId was not called")
        return self._record

    def _check_writable(self) -> None:
        self._chosen()
        if not self._writable:
            raise errors.internal(
                "java.nio.channels.NonWritableChannelException", "the file was opened for reading only"
            )

    def _size(self) -> int:
        try:
            return self.site.files.path(self._chosen()).stat().st_size
        except OSError as error:
            raise errors.resource(str(error)) from error

    def _save(self) -> Record | None:
        """Hash the file again if it was written to, or if somebody else changed its size. None when nothing was done."""
        if self._record is None:
            return None
        with self._busy:
            record = self.store.get("OriginalFile", self._record.id)
            if record is None:
                raise errors.validation(f"OriginalFile:{self._record.id} was deleted")
            path = self.site.files.path(record)
            try:
                found = path.stat()
            except FileNotFoundError:
                return None
            if not self._modified and found.st_size == record.get("size"):
                return None
            assert self._file is not None
            settled = self.site.files.settle(record, path, self._file.descriptor_of(found))
            self._record, self._modified = settled, False
            return settled

    def _drop(self) -> None:
        if self._file is not None:
            with self._busy:
                self._file.close()

    def _cut(self, end: int) -> None:
        """The fault: the network goes away in the middle of an upload."""
        faults = self.site.faults
        if -1 < faults.cut_upload_at < end and faults.take("cut_uploads"):
            raise NoAnswer


@servant
class RawFileStore(_RawFileStore, omero.api.RawFileStore):
    """For files by id: attachments, logs, downloads."""

    def setFileId(self, number: int, current: Ice.Current) -> None:
        context = self.context(current)
        record = self.store.get("OriginalFile", number)
        if record is None or not permissions.can_read(self.store, context, record):
            raise errors.resource(f"OriginalFile:{number} cannot be read")
        self.use(record, writable=permissions.rights(self.store, context, record).edit)


@servant
class Uploader(_RawFileStore, omero.api.RawFileStore):
    """For one file of an import. `on_close` is called when its user closes it, before the file is hashed."""

    def __init__(
        self, site: "Site", session: Session, record: Record, *, writable: bool, on_close: Callable[[], None]
    ) -> None:
        super().__init__(site, session)
        self.use(record, writable=writable)
        self.offset = 0
        self._on_close = on_close

    def setFileId(self, number: int, current: Ice.Current) -> None:
        raise errors.api_usage(f"Cannot reset id to {number}")

    def write(self, data: bytes, position: int, length: int, current: Ice.Current) -> None:
        super().write(data, position, length, current)
        self.offset = position + length

    def close(self, current: Ice.Current) -> None:
        self._on_close()
        super().close(current)
