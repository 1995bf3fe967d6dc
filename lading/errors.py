"""Every error of Lading, as one tree.

LadingError
├─ ConfigError            operator   at start-up; names file, key, nearest valid key
├─ TransportError
│  ├─ Unreachable         nobody     retried
│  │  └─ SourceAway       nobody     retried  the folder to be sent, not the inbox
│  ├─ SourceChanged       nobody     retried
│  ├─ Corrupted           nobody     retried (that file only)
│  ├─ AccessDenied        operator   held     credentials, permissions, host key, certificate
│  └─ OutOfSpace          operator   held     which disk, how much is missing
│     └─ OwnDiskFull      operator   held     the disk of Lading's own notes and lists, not the target's
├─ Rejected               sender     final    carries the findings
├─ ImporterError
│  ├─ TargetUnavailable   nobody     retried  server down or saturated, session lost
│  ├─ TargetMissing       operator   held     project, dataset or session absent
│  ├─ Refused             operator   held     the server read it and said no
│  └─ NotVerified         operator   held     imported, but reading back disagrees
├─ ReportError             operator            telling people failed
│  ├─ ReporterAway        nobody     retried  mail or chat server down, or says later
│  └─ NoSuchRecipient     operator   given up after some attempts
├─ EngineError            operator   worker stops: we do not carry what we cannot record
└─ UnexpectedFault        operator   held     a bug or an unmapped foreign exception; cause kept

Each class answers *who must act?* (`actor`) and *is it worth trying again unchanged?* (`retried`).
Each message says what we were doing, to what, and what happened; `safe` says what is not lost; `next_command` what to type.
"""

from collections.abc import Iterable
from enum import StrEnum
from typing import ClassVar

from lading.findings import Finding


class Actor(StrEnum):
    """Who must act on an error."""

    NOBODY = "nobody"
    SENDER = "sender"
    OPERATOR = "operator"


class LadingError(Exception):
    """Something Lading could not do."""

    code: ClassVar[str] = "error"
    actor: ClassVar[Actor] = Actor.OPERATOR
    retried: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1

    def __init__(self, message: str, *, safe: str = "", next_command: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.safe = safe
        self.next_command = next_command

    def as_dict(self) -> dict[str, str | bool]:
        """The error for `--json`: code, actor, retried, message, safe, next."""
        return {
            "code": self.code,
            "actor": str(self.actor),
            "retried": self.retried,
            "message": self.message,
            "safe": self.safe,
            "next": self.next_command,
        }


class ConfigError(LadingError):
    """The settings cannot be used."""

    code = "config"
    exit_code = 2


class TransportError(LadingError):
    """Carrying files failed."""

    code = "transport"
    exit_code = 3


class Unreachable(TransportError):
    """The other side does not answer, or the place is not the one we were told (no sentinel)."""

    code = "unreachable"
    actor = Actor.NOBODY
    retried = True


class SourceAway(Unreachable):
    """The folder to be sent is not there: its disk or share is not mounted, or it was renamed or removed."""

    code = "source-away"


class SourceChanged(TransportError):
    """A file at the source changed while, or after, it was read."""

    code = "source-changed"
    actor = Actor.NOBODY
    retried = True


class Corrupted(TransportError):
    """What arrived differs from the manifest. `paths` names the files (relative POSIX)."""

    code = "corrupted"
    actor = Actor.NOBODY
    retried = True

    def __init__(self, message: str, *, paths: Iterable[str] = (), safe: str = "", next_command: str = "") -> None:
        super().__init__(message, safe=safe, next_command=next_command)
        self.paths = tuple(paths)


class AccessDenied(TransportError):
    """Credentials, permissions, host key or certificate were refused."""

    code = "access-denied"


class OutOfSpace(TransportError):
    """The target disk has not enough room."""

    code = "out-of-space"


class OwnDiskFull(OutOfSpace):
    """The disk on which Lading writes its own notes and lists is full: `home`, or the inbox where a list is made there."""

    code = "own-disk-full"


class Rejected(LadingError):
    """The sender must act. Carries the findings."""

    code = "rejected"
    actor = Actor.SENDER
    exit_code = 4

    def __init__(
        self, message: str, *, findings: Iterable[Finding] = (), safe: str = "", next_command: str = ""
    ) -> None:
        super().__init__(message, safe=safe, next_command=next_command)
        self.findings = tuple(findings)


class ImporterError(LadingError):
    """Registering data in the repository failed."""

    code = "importer"
    exit_code = 5


class TargetUnavailable(ImporterError):
    """The repository is down, saturated, or lost our session."""

    code = "target-unavailable"
    actor = Actor.NOBODY
    retried = True


class TargetMissing(ImporterError):
    """The project, dataset or session that should receive the data is absent or not ours to edit."""

    code = "target-missing"


class Refused(ImporterError):
    """The repository read the data and said no."""

    code = "refused"


class NotVerified(ImporterError):
    """Imported, but reading back disagrees with the manifest."""

    code = "not-verified"


class ReportError(LadingError):
    """Telling people failed: the mail server's login, certificate or refusal. Deliveries are not touched by it."""

    code = "report"
    exit_code = 1


class ReporterAway(ReportError):
    """The mail or chat server does not answer, or says "later"."""

    code = "reporter-away"
    actor = Actor.NOBODY
    retried = True


class NoSuchRecipient(ReportError):
    """The mail server refuses this recipient, or this message.

    `readers`: the addresses it refused while it took the report for the others; empty when nobody has it. `lasting`: it said
    "never", not "later".
    """

    code = "no-such-recipient"

    def __init__(
        self,
        message: str,
        *,
        readers: Iterable[str] = (),
        lasting: bool = True,
        safe: str = "",
        next_command: str = "",
    ) -> None:
        super().__init__(message, safe=safe, next_command=next_command)
        self.readers = tuple(readers)
        self.lasting = lasting


class EngineError(LadingError):
    """The work cannot be recorded, so it is not done."""

    code = "engine"
    exit_code = 6


class UnexpectedFault(LadingError):
    """A bug, or a foreign exception that no table translates; the cause is kept."""

    code = "unexpected"
    exit_code = 70
