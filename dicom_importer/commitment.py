"""Storage commitment: the node is asked to vouch for images, and brings its report later, to a port of ours (PS3.4 annex J).

A report is believed for a transaction that was asked for, and a transaction's UID cannot be guessed. Reports are kept as files
below the server's state, so that whichever process has the port, all of them see what comes.
"""

import contextlib
import json
import socket
import ssl
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from pydicom.dataset import Dataset
from pydicom.sequence import Sequence
from pydicom.uid import generate_uid
from pynetdicom.presentation import build_context, negotiate_as_acceptor

from dicom_importer.contents import Image
from dicom_importer.errors import SAFE
from dicom_importer.node import (
    COMMITMENT,
    COMMITMENT_INSTANCE,
    PLAIN_SYNTAXES,
    VERIFICATION,
    Node,
    encoded,
    read_dataset,
)
from dicom_importer.settings import RepositorySettings, report_tls
from lading.delivery import DeliveryId
from lading.disk import make_folder, read_small, write_durably
from lading.errors import ConfigError, Refused
from lading.locks import FileLock
from transport import dicom_commands as dimse
from transport import dicom_wire as wire
from transport.dicom_commands import Broken, Message, WireError
from transport.dicom_wire import Association, Proposal

_SUCCESS, _PROCESSING_FAILURE = 0x0000, 0x0110
_ASK = 1  # the only action of the push model
_ON_THE_SAME_ASSOCIATION_S = 1.0
_LOOK_S = 0.1
_KEPT_S = 90 * 86400.0
_LONGEST_REPORT = 64 << 20
_LONGEST_TALK_S = 30.0
_MOST_TALKS = 8
_OUR_OWN = 0.5


@dataclass(frozen=True, slots=True)
class Report:
    """What the node vouches for, and what not: SOPInstanceUID → its reason, a number of PS3.3 C.14.1.1."""

    committed: frozenset[str]
    failed: dict[str, int]


def new_transaction() -> str:
    """A UID out of 122 random bits."""
    return str(generate_uid(prefix=None))


class Reports:
    """The reports of one state folder. Safe to share between threads and processes."""

    def __init__(self, state: Path) -> None:
        self._folder = state / "dicom-reports"

    def expect(self, transaction: str) -> None:
        """From now on a report about it is believed. Durable on return. Raises OSError."""
        self._folder.parent.mkdir(parents=True, exist_ok=True)
        make_folder(self._folder, 0o700)
        self._sweep()
        write_durably(self._folder / f"{transaction}.asked", b"", mode=0o600)

    def keep(self, transaction: str, report: Report) -> bool:
        """The node reported. False when nobody asked."""
        asked = self._folder / f"{transaction}.asked"
        if not _is_uid(transaction) or not asked.exists():
            return False
        content = {"committed": sorted(report.committed), "failed": report.failed}
        write_durably(self._folder / f"{transaction}.json", json.dumps(content).encode(), mode=0o600)
        return True

    def of(self, transaction: str) -> Report | None:
        """The report, or None when it has not come."""
        if not _is_uid(transaction):
            return None
        try:
            found = json.loads(read_small(self._folder / f"{transaction}.json", _LONGEST_REPORT))
        except FileNotFoundError:
            return None
        return Report(frozenset(found["committed"]), dict(found["failed"]))

    def is_used(self, transaction: str) -> bool:
        """Whether its report has been a proof already: it says nothing about what the node holds now."""
        return (self._folder / f"{transaction}.used").exists()

    def use(self, transaction: str, delivery: DeliveryId) -> None:
        """Its report was the proof of a delivery."""
        write_durably(self._folder / f"{transaction}.used", b"", mode=0o600)
        (self._folder / f"{delivery}.pending").unlink(missing_ok=True)

    def pending(self, delivery: DeliveryId) -> str:
        """The transaction of a delivery that was asked for once more, or ""."""
        try:
            return read_small(self._folder / f"{delivery}.pending", 64).decode("ascii", "replace")
        except FileNotFoundError:
            return ""

    def note_pending(self, delivery: DeliveryId, transaction: str) -> None:
        """Before it is asked for. Durable on return. Raises OSError."""
        write_durably(self._folder / f"{delivery}.pending", transaction.encode(), mode=0o600)

    def _sweep(self) -> None:
        old = time.time() - _KEPT_S
        for note in self._folder.iterdir():
            with contextlib.suppress(FileNotFoundError):
                if note.suffix in (".asked", ".json", ".used", ".pending") and note.stat().st_mtime < old:
                    note.unlink()


def ask(node: Node, images: Iterable[Image], transaction: str, reports: Reports) -> None:
    """Ask the node to vouch for the images. It may report at once, over the same association.

    Raises Refused when it does not do that, TargetUnavailable, AccessDenied.
    """
    reports.expect(transaction)
    wanted = Dataset()
    wanted.TransactionUID = transaction
    wanted.ReferencedSOPSequence = Sequence(_reference(image) for image in images)
    proposals = [Proposal(COMMITMENT, PLAIN_SYNTAXES)]
    with node.association(proposals, doing="asking for storage commitment") as line:
        context = line.context_of(COMMITMENT)
        if context is None:
            raise _not_offered(node, "it does not offer storage commitment to us")
        command = dimse.request(
            dimse.N_ACTION_RQ,
            1,
            {
                dimse.REQUESTED_CLASS: COMMITMENT,
                dimse.REQUESTED_INSTANCE: COMMITMENT_INSTANCE,
                dimse.ACTION_TYPE: _ASK,
            },
            has_data=True,
        )
        line.send(context.id, command, encoded(wanted, context))
        answer = line.receive()
        while answer.field == dimse.N_EVENT_RQ:  # a hasty node
            _take(line, answer, reports)
            answer = line.receive()
        if answer.has_data:
            read_dataset(line, context)
        if answer.status != 0:
            raise _not_offered(node, f"it answers {answer.status:#06x} {answer.text(dimse.COMMENT)}".rstrip())
        with contextlib.suppress(WireError):  # some nodes hang up, and report over an association of their own
            if line.waits(_ON_THE_SAME_ASSOCIATION_S):
                _take(line, line.receive(), reports)


def _reference(image: Image) -> Dataset:
    made = Dataset()
    made.ReferencedSOPClassUID, made.ReferencedSOPInstanceUID = image.sop_class, image.sop
    return made


def _not_offered(node: Node, words: str) -> Refused:
    return Refused(
        f"asking {node} for storage commitment: {words}",
        safe=f"{SAFE} The node has taken the images.",
        next_command="set proof = 'read-back' or allow it on the node, then: lading retry",
    )


def _take(line: Association, message: Message, reports: Reports) -> None:
    """A report: keep it, then answer."""
    context = line.contexts.get(message.context)
    if message.field != dimse.N_EVENT_RQ or not message.has_data or context is None:
        raise Broken(f"something else than a report ({message.field:#06x})")
    told = read_dataset(line, context)
    report = Report(
        frozenset(_uid(one) for one in told.get("ReferencedSOPSequence") or ()),
        {_uid(one): int(one.get("FailureReason") or 0) for one in told.get("FailedSOPSequence") or ()},
    )
    is_ours = reports.keep(str(told.get("TransactionUID") or ""), report)
    event = {dimse.EVENT_TYPE: message.number(dimse.EVENT_TYPE)}
    line.send(message.context, dimse.answer(message, _SUCCESS if is_ours else _PROCESSING_FAILURE, event))


def _uid(item: Dataset) -> str:
    return str(item.get("ReferencedSOPInstanceUID") or "").strip()


def _is_uid(text: str) -> bool:
    return 0 < len(text) <= 64 and set(text) <= set("0123456789.")


class Listener:
    """The port that reports come to. One process of this machine has it at a time; the others look at what it keeps."""

    def __init__(self, settings: RepositorySettings, state: Path, reports: Reports) -> None:
        self._settings, self._reports = settings, reports
        self._lock = FileLock(state / f"dicom-reports-{settings.commitment_port}.lock")
        self._guard = threading.Lock()
        self._port: socket.socket | None = None
        self._talks = threading.BoundedSemaphore(_MOST_TALKS)

    def wait(self, transaction: str, seconds: float, clock: Callable[[], float] = time.monotonic) -> Report | None:
        """The report about a transaction, if it comes within so many seconds. Listens unless another of our processes does.

        Raises ConfigError when somebody else has the port.
        """
        until = clock() + seconds
        while True:
            self.listen()
            found = self._reports.of(transaction)
            if found is not None or clock() >= until:
                return found
            time.sleep(_LOOK_S)

    def listen(self) -> None:
        """Have the port, or know that another of our processes has it. Stays open until `close`."""
        with self._guard:
            if self._port is not None or not self._lock.acquire():
                return
            settings = self._settings
            try:
                context = report_tls(settings)
                # Without SO_REUSEPORT: two programs on one port would each get some of the reports.
                port = socket.create_server((settings.commitment_host, settings.commitment_port), backlog=_MOST_TALKS)
            except OSError as exc:
                self._lock.release()
                raise ConfigError(
                    f"cannot listen on {settings.commitment_host}:{settings.commitment_port}, where the DICOM node "
                    f"{settings.address} sends its reports to: {exc.strerror}",
                    next_command="lading doctor",
                ) from exc
            except BaseException:
                self._lock.release()
                raise
            self._port = port
        threading.Thread(target=self._serve, args=(port, context), name="dicom-reports", daemon=True).start()

    def close(self) -> None:
        """Give the port back."""
        with self._guard:
            if self._port is not None:
                with contextlib.suppress(OSError):
                    self._port.shutdown(socket.SHUT_RDWR)  # wakes the thread that accepts
                self._port.close()
                self._port = None
                self._lock.release()

    def _serve(self, port: socket.socket, context: ssl.SSLContext | None) -> None:
        while True:
            try:
                line, _ = port.accept()
            except OSError:
                if port.fileno() == -1 or self._port is not port:
                    return
                time.sleep(_OUR_OWN)  # too many open files: later there may be fewer
                continue
            if not self._talks.acquire(blocking=False):
                line.close()
                continue
            threading.Thread(target=self._talk, args=(line, context), name="dicom-report", daemon=True).start()

    def _talk(self, line: socket.socket, context: ssl.SSLContext | None) -> None:
        try:
            line.settimeout(_LONGEST_TALK_S)
            with contextlib.suppress(WireError, OSError, ValueError):
                secured = context.wrap_socket(line, server_side=True) if context else line
                _hear(secured, self._reports)
                secured.close()
        finally:
            line.close()
            self._talks.release()


def _hear(line: socket.socket, reports: Reports) -> None:
    """One association by the node, which is the SCP of what it reports about."""
    wanted = wire.read_request(line)
    ours = [build_context(one, list(PLAIN_SYNTAXES)) for one in (COMMITMENT, VERIFICATION)]
    ours[0].scu_role, ours[0].scp_role = True, True
    asked = {item.sop_class_uid: (item.scu_role, item.scp_role) for item in wire.roles_of(wanted) if item.sop_class_uid}
    agreed, roles = negotiate_as_acceptor(wanted.presentation_context_definition_list, ours, asked)
    association = Association.accept(line, wanted, agreed, roles=roles)
    with contextlib.suppress(wire.Released):
        while True:
            message = association.receive()
            if message.field == dimse.C_ECHO_RQ:
                association.send(message.context, dimse.answer(message, _SUCCESS))
            else:
                _take(association, message, reports)
