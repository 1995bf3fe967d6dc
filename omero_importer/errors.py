"""What OMERO, Ice and the network say, in our words: one table, which also says what may be done next.

A reply that never came is not a failure: the request may have been carried out. So each line says whether to look again
before anything is repeated, and the callers do nothing that cannot be looked for.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import Enum, auto

from lading.errors import (
    AccessDenied,
    ConfigError,
    LadingError,
    Refused,
    TargetMissing,
    TargetUnavailable,
    UnexpectedFault,
)
from omero_importer.ice import Glacier2, Ice, omero

_RETRY = "lading retry"
_DOCTOR = "lading doctor"


class Then(Enum):
    """What to do after a failed request."""

    LOG_IN_AGAIN = auto()  # it was certainly not carried out: the session is over
    JOIN_AGAIN = auto()  # it was certainly not carried out: the connection is gone, the session perhaps not
    LOOK_AGAIN = auto()  # it may have been carried out: connect anew, and look
    WAIT = auto()  # the server is busy with other things, and says so
    GIVE_UP = auto()


@dataclass(frozen=True, slots=True)
class Meaning:
    """One line of the table."""

    ours: type[LadingError]
    says: str
    then: Then = Then.GIVE_UP


def _away(says: str, then: Then = Then.LOOK_AGAIN) -> Meaning:
    return Meaning(TargetUnavailable, says, then)


# The most specific class first; a test keeps the table complete for Ice, Glacier2 and OMERO.
EXCEPTIONS: tuple[tuple[type[BaseException], Meaning], ...] = (
    # Logging in.
    (Glacier2.PermissionDeniedException, Meaning(AccessDenied, "OMERO does not know this user and password")),
    (omero.ExpiredCredentialException, Meaning(AccessDenied, "the password has expired")),
    (omero.AuthenticationException, Meaning(AccessDenied, "OMERO did not log us in")),
    (omero.WrappedCreateSessionException, _away("the server could not make a session", Then.WAIT)),
    (Glacier2.CannotCreateSessionException, _away("the server could not make a session", Then.GIVE_UP)),
    (Glacier2.SessionNotExistException, _away("the session is gone", Then.JOIN_AGAIN)),
    # The session.
    (omero.RemovedSessionException, _away("the session was closed", Then.LOG_IN_AGAIN)),
    (omero.SessionTimeoutException, _away("the session has expired", Then.LOG_IN_AGAIN)),
    (omero.ShutdownInProgress, _away("the server is shutting down", Then.LOOK_AGAIN)),
    (omero.SessionException, _away("the session is not valid any more", Then.LOG_IN_AGAIN)),
    # The server's own words.
    (omero.DatabaseBusyException, _away("its database is busy", Then.WAIT)),
    (omero.TryAgain, _away("it asks us to try again", Then.WAIT)),
    (omero.LockTimeout, _away("what is needed is locked", Then.WAIT)),
    (omero.OptimisticLockException, _away("somebody else changed it at the same time", Then.WAIT)),
    (omero.ConcurrencyException, _away("somebody else works on the same", Then.WAIT)),
    (omero.OverUsageException, _away("our session holds too many things open", Then.LOG_IN_AGAIN)),
    (omero.ChecksumValidationException, _away("the server stored other bytes than were sent", Then.GIVE_UP)),
    (omero.FilePathNamingException, Meaning(Refused, "OMERO does not take a file of that name")),
    (omero.ValidationException, Meaning(Refused, "OMERO takes the request for wrong")),
    (omero.QueryException, Meaning(UnexpectedFault, "OMERO does not understand our query")),
    (omero.ApiUsageException, Meaning(Refused, "OMERO takes the request for wrong")),
    (omero.GroupSecurityViolation, Meaning(TargetMissing, "our account may not do that in this group")),
    (omero.PermissionMismatchGroupSecurityViolation, Meaning(TargetMissing, "our account may not do that in this group")),
    (omero.ReadOnlyGroupSecurityViolation, Meaning(TargetMissing, "the group is read-only for our account")),
    (omero.SecurityViolation, Meaning(TargetMissing, "our account may not do that")),
    (omero.ResourceError, _away("the server could not use one of its disks or files", Then.GIVE_UP)),
    (omero.InternalException, _away("the server failed within", Then.GIVE_UP)),
    (omero.ServerError, _away("the server failed", Then.GIVE_UP)),
    (omero.ClientError, _away("the connection could not be made", Then.GIVE_UP)),
    # The network. Ice itself never tries again.
    (Ice.ConnectionRefusedException, _away("nobody listens there", Then.JOIN_AGAIN)),
    (Ice.ConnectTimeoutException, _away("no connection within the time allowed", Then.JOIN_AGAIN)),
    (Ice.ConnectFailedException, _away("no connection could be made", Then.JOIN_AGAIN)),
    (Ice.DNSException, _away("its name is not known", Then.GIVE_UP)),
    (Ice.ConnectionLostException, _away("the connection broke")),
    (Ice.CloseConnectionException, _away("the server closed the connection", Then.JOIN_AGAIN)),
    (Ice.ForcedCloseConnectionException, _away("the connection was cut")),
    (Ice.ConnectionNotValidatedException, _away("the connection broke at its beginning", Then.JOIN_AGAIN)),
    (Ice.InvocationTimeoutException, _away("no answer within the time allowed")),
    (Ice.InvocationCanceledException, _away("the request was taken back")),
    (Ice.TimeoutException, _away("no answer within the time allowed")),
    (Ice.SocketException, _away("the connection failed")),
    (Ice.ObjectNotExistException, _away("the session is gone", Then.JOIN_AGAIN)),
    (Ice.SecurityException, Meaning(AccessDenied, "the server's certificate was not accepted; set ssl.ca to the site's own")),
    (Ice.MemoryLimitException, Meaning(Refused, "the message is larger than a server takes")),
    (Ice.EndpointParseException, Meaning(ConfigError, "host or port cannot be used")),
    (Ice.PluginInitializationException, Meaning(ConfigError, "encryption cannot be set up; is ssl.ca a readable PEM file?")),
    (Ice.CommunicatorDestroyedException, _away("the connection was closed meanwhile", Then.JOIN_AGAIN)),
    (Ice.ObjectAdapterDeactivatedException, _away("the connection was closed meanwhile", Then.JOIN_AGAIN)),
    (Ice.OperationNotExistException, Meaning(UnexpectedFault, "the server does not know this request")),
    (Ice.UnknownException, _away("the server failed within")),
    (Ice.ProtocolException, _away("the answer is not OMERO's", Then.GIVE_UP)),
    (Ice.SyscallException, _away("the connection failed")),
    (Ice.LocalException, _away("the request failed")),
)  # fmt: skip

# The names of a failed import (`ERR`), after which no image is there.
IMPORT_FAILURES: dict[str, Meaning] = {
    "import-unknown-format": Meaning(Refused, "OMERO does not know this format"),
    "import-file-exception": Meaning(Refused, "OMERO cannot read the file, or a file that belongs to it is missing"),
    "import-missing-library": Meaning(Refused, "the server lacks a library that this format needs"),
    "import-request-failure": _away("the import failed on the server", Then.GIVE_UP),
    "error-on-init": _away("the import could not begin on the server", Then.GIVE_UP),
    "update-log-file-size": _away("the server could not finish its log of the import", Then.GIVE_UP),
}

_JAVA: tuple[tuple[str, Meaning], ...] = (
    ("loci.formats.UnknownFormatException", IMPORT_FAILURES["import-unknown-format"]),
    ("loci.formats.MissingLibraryException", IMPORT_FAILURES["import-missing-library"]),
    ("loci.formats.FormatException", IMPORT_FAILURES["import-file-exception"]),
    ("java.io.FileNotFoundException", IMPORT_FAILURES["import-file-exception"]),
)

_NEXT: dict[type[LadingError], str] = {
    AccessDenied: _DOCTOR,
    ConfigError: _DOCTOR,
    TargetMissing: _DOCTOR,
    UnexpectedFault: _DOCTOR,
}
_HANDSHAKE = "the encrypted connection could not be made; a server without a certificate needs ssl.ciphers"


def meaning(exc: BaseException) -> Meaning:
    """The line for `exc`."""
    if isinstance(exc, omero.WrappedCreateSessionException) and not exc.concurrency:
        return _away("the server could not make a session", Then.GIVE_UP)
    if isinstance(exc, Ice.ProtocolException) and "handshake" in _said(exc).lower():
        return Meaning(AccessDenied, _HANDSHAKE)
    for foreign, found in EXCEPTIONS:
        if isinstance(exc, foreign):
            return found
    return Meaning(UnexpectedFault, "something unforeseen")


def from_exception(exc: BaseException, *, doing: str, server: str) -> LadingError:
    """`exc` in our words. `doing` says what was asked for; the caller raises it `from exc`."""
    if isinstance(exc, LadingError):
        return exc
    line = meaning(exc)
    said = _said(exc)
    quoted = f": “{said}”" if said else ""
    return line.ours(
        f"{doing} at {server}: {line.says} ({type(exc).__name__}{quoted})",
        safe="The files are in the inbox.",
        next_command=_NEXT.get(line.ours, _RETRY),
    )


def from_failed_import(name: str, parameters: Mapping[str, str], *, doing: str, server: str) -> LadingError:
    """The error that a failed import (`ERR`) stands for."""
    line = IMPORT_FAILURES.get(name, _away("the import failed on the server", Then.GIVE_UP))
    # Whatever goes wrong while the file is opened has the same name; the Java exception says more.
    trace = parameters.get("stacktrace", "")
    line = next((found for java, found in _JAVA if java in trace), line)
    words = " ".join((parameters.get("message") or "").split())[:300]
    quoted = f": “{words}”" if words else ""
    return line.ours(
        f"{doing} at {server}: {line.says} ({name}{quoted})",
        safe="The files are in the inbox. What OMERO had stored of them for this import was removed again.",
        next_command=_RETRY,
    )


def back_off_s(exc: BaseException) -> float:
    """For how long the server asks us to stay away, in seconds; 0 when it does not say."""
    return max(0.0, float(getattr(exc, "backOff", 0) or 0) / 1000)


def _said(exc: BaseException) -> str:
    """The server's message in one line, at most 300 characters. Never its stack trace."""
    text = ""
    for name in ("message", "reason"):
        value = getattr(exc, name, "")
        if isinstance(value, str) and value:
            text = " ".join(value.split())
            break
    return text if len(text) <= 300 else text[:297] + "…"
