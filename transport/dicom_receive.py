"""The C-STORE SCP: answers success only for images that survive a power cut. What becomes of them is the spool's."""

import time
from collections.abc import Callable

import structlog

from lading.disk import free_bytes, translated
from lading.errors import ConfigError, Unreachable
from lading.locks import FileLock
from lading.ports import Clock
from transport.dicom_acceptor import SUCCESS, Acceptor, Arrived, Peer, Rules
from transport.dicom_headers import read_identity
from transport.dicom_settings import ReceiveConfig, tls
from transport.dicom_spool import OWN, Published, Sender, Spool

log = structlog.get_logger()

DOES_NOT_MATCH = 0xA900
CANNOT_UNDERSTAND = 0xC000

_GB = 10**9
_LONGEST_LOOK_S = 5.0
_LOCK_PATIENCE_S = 2.0


class Receiver:
    """A port that scanners and archives store to. One per folder; use as a context manager."""

    def __init__(self, config: ReceiveConfig, *, clock: Clock = time.monotonic) -> None:
        self._config = config
        self._spool = Spool(config, clock)
        self._lock = FileLock(config.folder / OWN / "receiver.lock")
        self._acceptor: Acceptor | None = None

    def __enter__(self) -> "Receiver":
        """Listen. Raises ConfigError (certificates), Unreachable (port or folder not to be had), AccessDenied, OutOfSpace."""
        context = tls(self._config)
        with translated("preparing to receive DICOM", self._config.folder):
            if not self._lock.acquire(patience=_LOCK_PATIENCE_S):
                raise ConfigError(
                    f"another receiver already serves {self._config.folder}", next_command="lading doctor"
                )
            self._spool.start()
        rules = Rules(
            self._config.callers,
            self._config.associations,
            int(self._config.max_image_gb * _GB),
            self._spool.arriving,
        )
        acceptor = Acceptor(rules, tls=context, room=self._room, store=self._store, ended=self._ended)
        try:
            acceptor.open(self._config.host, self._config.port)
        except OSError as exc:
            self._lock.release()
            raise Unreachable(
                f"cannot listen for DICOM on {self._config.host}:{self._config.port}: {exc.strerror}",
                next_command="lading doctor",
            ) from exc
        self._acceptor = acceptor
        return self

    def __exit__(self, *_: object) -> None:
        if self._acceptor is not None:
            self._acceptor.close()
        self._lock.release()

    @property
    def port(self) -> int:
        """The port that is listened on."""
        return self._acceptor.port if self._acceptor else self._config.port

    def serve(self, stop: Callable[[float], bool]) -> None:
        """Publish studies as they become complete, until `stop(seconds)`, which waits so long, says so."""
        pause = min(_LONGEST_LOOK_S, self._config.quiet / 4)
        while not stop(pause):
            self.publish_complete()

    def publish_complete(self) -> list[Published]:
        """One look at what is complete. A disk that fails is logged, and looked at again."""
        published: list[Published] = []
        try:
            for one in self._spool.publish_complete():
                _tell(one)
                published.append(one)
        except (OSError, ValueError) as exc:
            log.warning("cannot publish", folder=str(self._config.folder), error=str(exc))
        return published

    def _room(self) -> bool:
        if free_bytes(self._config.folder) >= self._config.keep_free_gb * _GB:
            return True
        log.error("refused: the disk is nearly full", folder=str(self._config.folder))
        return False

    def _store(self, arrived: Arrived) -> int:
        """Keep an image. On return of SUCCESS it survives a power cut. Raises OSError."""
        try:
            header = read_identity(arrived.path)
        except ValueError as exc:
            log.warning("refused", reason=str(exc))
            return CANNOT_UNDERSTAND
        if header.sop_instance != arrived.sop_instance:
            log.warning("refused: the image is not the one that was announced")
            return DOES_NOT_MATCH
        peer = arrived.peer
        self._spool.keep(arrived.path, header, Sender(peer.calling, peer.called), peer.number)
        return SUCCESS

    def _ended(self, peer: Peer, is_released: bool) -> None:  # noqa: FBT001 - a callback
        self._spool.ended(peer.number, released=is_released)


def _tell(one: Published) -> None:
    if one.labels is None:
        log.warning("unmatched", folder=str(one.folder), images=one.images, reason=one.reason)
    elif one.missing:
        log.warning("published, but images are missing", labels=str(one.labels), images=one.images, missing=one.missing)
    else:
        log.info("published", labels=str(one.labels), images=one.images)
