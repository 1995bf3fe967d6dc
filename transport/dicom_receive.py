"""The C-STORE SCP: answers success only for images that survive a power cut. What becomes of them is the spool's."""

import itertools
import socket
import tempfile
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import structlog
from pynetdicom import AE, _config, evt
from pynetdicom.dimse_primitives import C_STORE
from pynetdicom.transport import ThreadedAssociationServer

from lading.disk import free_bytes, translated
from lading.errors import ConfigError, Unreachable
from lading.locks import FileLock
from lading.ports import Clock
from transport.dicom_headers import read_header
from transport.dicom_settings import ReceiveConfig, tls
from transport.dicom_spool import OWN, Published, Sender, Spool

log = structlog.get_logger()

SUCCESS = 0x0000
OUT_OF_RESOURCES = 0xA700
DOES_NOT_MATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000

_VERIFICATION = "1.2.840.10008.1.1"  # C-ECHO
_GB = 10**9
_LONGEST_LOOK_S = 5.0
_LOCK_PATIENCE_S = 2.0
_SILENCE_S = (
    120.0  # a peer that says nothing for so long is gone; scanners pause between series, but then send a release
)


class Receiver:
    """A port that scanners and archives store to. One per folder; use as a context manager."""

    def __init__(self, config: ReceiveConfig, *, clock: Clock = time.monotonic) -> None:
        self._config = config
        self._spool = Spool(config, clock)
        self._lock = FileLock(config.folder / OWN / "receiver.lock")
        self._server: ThreadedAssociationServer | None = None
        self._associations: dict[object, tuple[int, Sender]] = {}
        self._numbers = itertools.count(1)
        self._guard = threading.Lock()

    def __enter__(self) -> "Receiver":
        """Listen. Raises ConfigError (certificates), Unreachable (port or folder not to be had), AccessDenied, OutOfSpace."""
        context = tls(self._config)
        with translated("preparing to receive DICOM", self._config.folder):
            if not self._lock.acquire(patience=_LOCK_PATIENCE_S):
                raise ConfigError(
                    f"another receiver already serves {self._config.folder}", next_command="lading doctor"
                )
            self._spool.start()
        # pynetdicom writes each image to a temporary file of this process as it comes, and gives its path away: one write
        # per byte, flat memory. This is how to have it on the disk where the image stays, so that keeping it is a rename.
        tempfile.tempdir = str(self._spool.arriving)
        _config.STORE_RECV_CHUNKED_DATASET = True
        _config.UNRESTRICTED_STORAGE_SERVICE = True
        try:
            self._server = self._entity().start_server(
                (self._config.host, self._config.port), block=False, ssl_context=context, evt_handlers=self._handlers()
            )
        except OSError as exc:
            self._lock.release()
            raise Unreachable(
                f"cannot listen for DICOM on {self._config.host}:{self._config.port}: {exc.strerror}",
                next_command="lading doctor",
            ) from exc
        return self

    def __exit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.shutdown()
        self._lock.release()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        listening = self._server.socket if self._server else None
        return int(listening.getsockname()[1]) if listening else self._config.port

    def serve(self, stop: Callable[[float], bool]) -> None:
        """Publish studies as they become complete, until `stop(seconds)`, which waits so long, says so."""
        pause = min(_LONGEST_LOOK_S, self._config.quiet / 4)
        while not stop(pause):
            self.publish_complete()

    def publish_complete(self) -> list[Published]:
        """One look at what is complete. A disk that fails is logged, and looked at again."""
        try:
            published = self._spool.publish_complete()
        except (OSError, ValueError) as exc:
            log.warning("cannot publish", folder=str(self._config.folder), error=str(exc))
            return []
        for one in published:
            if one.labels is None:
                log.warning("unmatched", folder=str(one.folder), images=one.images, reason=one.reason)
            elif one.missing:
                log.warning(
                    "published, but images are missing", labels=str(one.labels), images=one.images, missing=one.missing
                )
            else:
                log.info("published", labels=str(one.labels), images=one.images)
        return published

    def _entity(self) -> AE:
        entity = AE(self._config.ae_title)
        entity.maximum_pdu_size = 0
        entity.maximum_associations = self._config.associations
        entity.network_timeout = _SILENCE_S
        entity.require_calling_aet = list(self._config.callers)
        entity.add_supported_context(_VERIFICATION)
        return entity

    def _handlers(self) -> "list[evt.EventHandlerType]":
        return [
            (evt.EVT_CONN_OPEN, _no_delay),
            (evt.EVT_C_STORE, self._store),
            (evt.EVT_RELEASED, self._released),
            (evt.EVT_CONN_CLOSE, self._closed),
        ]

    def _store(self, event: evt.Event) -> int:
        arrived = Path(event.dataset_path)
        try:
            return self._keep(arrived, event)
        except OSError as exc:
            log.warning("cannot keep an image", error=str(exc))
            return OUT_OF_RESOURCES
        finally:
            arrived.unlink(missing_ok=True)

    def _keep(self, arrived: Path, event: evt.Event) -> int:
        if free_bytes(self._config.folder) < self._config.keep_free_gb * _GB:
            log.error("refused: the disk is nearly full", folder=str(self._config.folder))
            return OUT_OF_RESOURCES
        if arrived.stat().st_size > self._config.max_image_gb * _GB:
            log.warning("refused: the image is larger than max_image_gb")
            return OUT_OF_RESOURCES
        try:
            header = read_header(arrived)
        except ValueError as exc:
            log.warning("refused", reason=str(exc))
            return CANNOT_UNDERSTAND
        if not isinstance(event.request, C_STORE) or header.sop_instance != str(event.request.AffectedSOPInstanceUID):
            log.warning("refused: the image is not the one that was announced")
            return DOES_NOT_MATCH
        number, sender = self._association(event)
        self._spool.keep(arrived, header, sender, number)
        return SUCCESS

    def _association(self, event: evt.Event) -> tuple[int, Sender]:
        with self._guard:
            known = self._associations.get(event.assoc)
            if known is None:
                requested = event.assoc.requestor.primitive
                calling, called = (
                    (_ae(requested.calling_ae_title), _ae(requested.called_ae_title)) if requested else ("", "")
                )
                known = self._associations[event.assoc] = (next(self._numbers), Sender(calling, called))
            return known

    def _released(self, event: evt.Event) -> None:
        self._ended(event, released=True)

    def _closed(self, event: evt.Event) -> None:
        self._ended(event, released=False)

    def _ended(self, event: evt.Event, *, released: bool) -> None:
        """A release is told first, then that the connection is closed: by then it is forgotten."""
        with self._guard:
            known = self._associations.pop(event.assoc, None)
        if known:
            self._spool.ended(known[0], released=released)


def _ae(title: object) -> str:
    return str(title or "").strip()


def _no_delay(event: evt.Event) -> None:
    """Our answers are small: without this each waits for the peer's delayed acknowledgement."""
    line = event.assoc.dul.socket.socket if event.assoc.dul.socket else None
    if line:
        with suppress(OSError):
            line.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
