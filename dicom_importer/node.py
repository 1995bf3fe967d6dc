"""Talks to one node: opens associations, asks what it has, and translates whatever goes wrong."""

import contextlib
import socket
import ssl
from collections.abc import Iterator, Sequence
from io import BytesIO

from pydicom.dataset import Dataset
from pydicom.uid import ExplicitVRLittleEndian, ImplicitVRLittleEndian
from pynetdicom.dsutils import decode, encode

from dicom_importer.errors import SAFE, translated
from dicom_importer.settings import RepositorySettings, client_tls
from lading.errors import LadingError, TargetUnavailable
from transport import dicom_commands as dimse
from transport import dicom_wire as wire
from transport.dicom_commands import Broken, WireError
from transport.dicom_wire import Association, Context, Proposal

VERIFICATION = "1.2.840.10008.1.1"
STUDY_ROOT_FIND = "1.2.840.10008.5.1.4.1.2.2.1"
STUDY_ROOT_GET = "1.2.840.10008.5.1.4.1.2.2.3"
COMMITMENT = "1.2.840.10008.1.20.1"
COMMITMENT_INSTANCE = "1.2.840.10008.1.20.1.1"
PLAIN_SYNTAXES = (str(ExplicitVRLittleEndian), str(ImplicitVRLittleEndian))

_PENDING = (0xFF00, 0xFF01)
_NOT_OFFERED = (0x0112, 0x0122, 0x0124, 0x0211)
_LONGEST_DATA = 64 << 20  # a report about a hundred thousand images; nobody says more


class Node:
    """One node and one of its AE titles. Safe to share between threads: each association is somebody's own."""

    def __init__(self, settings: RepositorySettings, called: str) -> None:
        self.settings, self.called = settings, called

    def __str__(self) -> str:
        return f"{self.called}@{self.settings.address}"

    @contextlib.contextmanager
    def association(self, proposals: Sequence[Proposal], *, doing: str) -> Iterator[Association]:
        """An association for the length of the block. What is raised inside by the wire is translated.

        Raises TargetUnavailable, AccessDenied, ConfigError (certificates).
        """
        try:
            made = self.open(proposals)
        except (OSError, WireError) as exc:
            raise translated(exc, doing=doing, node=str(self)) from exc
        try:
            yield made
        except (OSError, WireError) as exc:
            made.abort()
            raise translated(exc, doing=doing, node=str(self)) from exc
        except BaseException:
            made.abort()
            raise
        made.release()

    def open(self, proposals: Sequence[Proposal]) -> Association:
        """An association. Raises OSError, WireError, ConfigError."""
        settings = self.settings
        line = socket.create_connection((settings.host, settings.port), timeout=settings.connect_timeout)
        try:
            context = client_tls(settings)
            if context:
                line = _secured(line, context, settings.host)
            line.settimeout(settings.answer_timeout)
            return Association.request(line, calling=settings.calling, called=self.called, proposals=proposals)
        except Broken as exc:
            line.close()
            if settings.tls and not settings.certificate and not isinstance(exc.__cause__, TimeoutError):
                # A node that misses our certificate says so after the handshake, and hangs up: its words may be lost.
                raise Broken(f"{exc}; it may want a `certificate` and `key` of ours") from exc.__cause__
            raise
        except BaseException:
            line.close()
            raise

    def echo(self) -> None:
        """The node answers and lets us in. Raises TargetUnavailable, AccessDenied."""
        doing = "asking for a sign of life"
        with self.association([Proposal(VERIFICATION, PLAIN_SYNTAXES)], doing=doing) as line:
            context = line.context_of(VERIFICATION)
            if context is None:
                return  # it let us in, which is what was asked
            line.send(context.id, dimse.request(dimse.C_ECHO_RQ, 1, {dimse.AFFECTED_CLASS: VERIFICATION}))
            answer = line.receive()
            if answer.field != dimse.C_ECHO_RSP or answer.status != 0:
                raise Broken(f"it answers {answer.status:#06x}")

    def accepts(self, contexts: Sequence[tuple[str, str]]) -> set[tuple[str, str]]:
        """Which SOP classes in which transfer syntaxes the node would store. Sends nothing."""
        found: set[tuple[str, str]] = set()
        for start in range(0, len(contexts), wire.MOST_CONTEXTS):
            some = [
                Proposal(sop_class, (syntax,)) for sop_class, syntax in contexts[start : start + wire.MOST_CONTEXTS]
            ]
            with self.association(some, doing="asking what it stores") as line:
                found |= {(one.abstract, one.syntax) for one in line.contexts.values()}
        return found

    def offers(self, services: Sequence[str]) -> set[str]:
        """Which of these SOP classes, that are no storage, the node agrees to. Raises TargetUnavailable, AccessDenied."""
        proposals = [Proposal(service, PLAIN_SYNTAXES) for service in services]
        with self.association(proposals, doing="asking what it offers") as line:
            return {context.abstract for context in line.contexts.values()}

    @contextlib.contextmanager
    def finder(self) -> "Iterator[Finder | None]":
        """Something to ask for images with, or None where the node offers no C-FIND. Raises TargetUnavailable, AccessDenied."""
        doing = "asking what it has"
        with self.association([Proposal(STUDY_ROOT_FIND, PLAIN_SYNTAXES)], doing=doing) as line:
            context = line.context_of(STUDY_ROOT_FIND)
            yield Finder(line, context, str(self)) if context else None


def _secured(line: socket.socket, context: ssl.SSLContext, host: str) -> socket.socket:
    try:
        return context.wrap_socket(line, server_hostname=host)
    except OSError as exc:
        if isinstance(exc, ssl.SSLError) and not isinstance(exc, ssl.SSLEOFError | ssl.SSLZeroReturnError):
            raise
        raise Broken(f"{exc.strerror or 'silence'} instead of TLS: does it speak TLS on this port?") from exc


class NotOffered(Exception):
    """The node agreed to a service and then does not do it."""


class Finder:
    """C-FIND over one association."""

    def __init__(self, line: Association, context: Context, node: str) -> None:
        self._line, self._context, self._node = line, context, node
        self._number = 0

    def images(self, study: str, series: str) -> Iterator[str]:
        """SOPInstanceUIDs that the node has of a series. To be read to the end. Raises WireError, TargetUnavailable, NotOffered."""
        wanted = Dataset()
        wanted.QueryRetrieveLevel = "IMAGE"
        wanted.StudyInstanceUID, wanted.SeriesInstanceUID, wanted.SOPInstanceUID = study, series, ""
        self._number = self._number % 0xFFFF + 1
        command = dimse.request(
            dimse.C_FIND_RQ,
            self._number,
            {dimse.AFFECTED_CLASS: STUDY_ROOT_FIND, dimse.PRIORITY: dimse.MEDIUM},
            has_data=True,
        )
        self._line.send(self._context.id, command, encoded(wanted, self._context))
        while True:
            answer = self._line.receive()
            identifier = read_dataset(self._line, self._context) if answer.has_data else None
            if answer.field != dimse.C_FIND_RSP:
                raise Broken(f"an answer to something else ({answer.field:#06x})")
            if answer.status in _NOT_OFFERED:
                raise NotOffered
            if answer.status not in _PENDING:
                break
            sop = str(identifier.get("SOPInstanceUID") or "").strip() if identifier is not None else ""
            if sop:
                yield sop
        if answer.status != 0:
            raise TargetUnavailable(
                f"asking {self._node} which images of series {series} it has: it answers {answer.status:#06x} "
                f"{answer.text(dimse.COMMENT)}".rstrip(),
                safe=SAFE,
                next_command="lading retry",
            )


def encoded(content: Dataset, context: Context) -> bytes:
    """A small data set for the wire, in one of PLAIN_SYNTAXES."""
    made = encode(content, context.syntax == str(ImplicitVRLittleEndian), True)  # noqa: FBT003 - pynetdicom's signature
    if made is None:
        raise Broken("a request that cannot be written")
    return made


def read_dataset(line: Association, context: Context) -> Dataset:
    """A small data set that comes now. Raises Broken when it is large or cannot be read."""
    raw = BytesIO()
    for piece in line.data():
        raw.write(piece)
        if raw.tell() > _LONGEST_DATA:
            raise Broken("an answer that does not end")
    raw.seek(0)
    try:
        return decode(raw, context.syntax == str(ImplicitVRLittleEndian), True)  # noqa: FBT003
    except LadingError:
        raise
    except Exception as exc:  # what pydicom raises for strangers' bytes is not a closed list
        raise Broken(f"an answer that cannot be read: {type(exc).__name__}") from exc
