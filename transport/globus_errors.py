"""What Globus' answers, and the troubles of its tasks, mean to a sender: the tables from its errors to ours."""

from collections.abc import Iterator
from contextlib import contextmanager

import globus_sdk
import requests

from lading.errors import (
    AccessDenied,
    ConfigError,
    Corrupted,
    LadingError,
    OutOfSpace,
    TransportError,
    UnexpectedFault,
    Unreachable,
)
from transport.foreign import shown

LOGIN = "lading globus login ROUTE"
KEPT = "the source is untouched, nothing is sealed; what arrived is kept and not sent again"
_MAX_SAID = 300
_MANAGER = "ask the collection's manager"
_PATH = "a path is not there: do root and path of the settings fit what the collection shows?"

# Part of an error code of the API → kind, our own code, what it means, what to type. The first that fits counts.
_ANSWERS: tuple[tuple[str, type[LadingError], str, str, str], ...] = (
    (
        "GCDisconnected",
        Unreachable,
        "endpoint-offline",
        "the endpoint is offline",
        "start Globus Connect Personal there",
    ),
    (
        "GCPaused",
        Unreachable,
        "endpoint-paused",
        "the personal endpoint is paused",
        "unpause Globus Connect Personal there",
    ),
    ("Paused", Unreachable, "collection-paused", "the collection is paused by its manager", _MANAGER),
    (
        "EndpointNotFound",
        ConfigError,
        "collection-missing",
        "there is no such collection",
        "globus endpoint search NAME",
    ),
    (
        "PermissionDenied",
        AccessDenied,
        "permission-denied",
        "permission denied (the collection's ACL)",
        f"{_MANAGER} for access",
    ),
    ("AuthenticationFailed", AccessDenied, "login-over", "the log-in is over", LOGIN),
    ("NotFound", Unreachable, "path-missing", "the path is not there", "lading doctor"),
)
# Code of a task's trouble (nice_status, its fatal error, an event) → the same.
_TROUBLES: dict[str, tuple[type[TransportError], str, str, str]] = {
    "PERMISSION_DENIED": (
        AccessDenied, "permission-denied", "permission denied (the collection's ACL)", f"{_MANAGER} for access"
    ),
    "FILE_NOT_FOUND": (Unreachable, "path-missing", _PATH, "lading doctor"),
    "PATH_NOT_FOUND": (Unreachable, "path-missing", _PATH, "lading doctor"),
    "QUOTA_EXCEEDED": (OutOfSpace, "no-room", "no room on the target", "lading inbox list"),
    "NO_SPACE": (OutOfSpace, "no-room", "no room on the target", "lading inbox list"),
    "VERIFY_CHECKSUM": (Corrupted, "checksum-differs", "what arrived differs", ""),
    "PAUSED_BY_ADMIN": (Unreachable, "collection-paused", "the task is paused by a collection's manager", _MANAGER),
    "PAUSED": (Unreachable, "collection-paused", "the task is paused", _MANAGER),
    "GC_PAUSED": (Unreachable, "endpoint-paused", "the personal endpoint is paused", "unpause Globus Connect Personal there"),
    "GC_NOT_CONNECTED": (Unreachable, "endpoint-offline", "an endpoint is offline", "start Globus Connect Personal there"),
    "TIMEOUT": (Unreachable, "deadline-passed", "the task's deadline passed", "lading doctor"),
    "EXPIRED": (Unreachable, "deadline-passed", "the task's deadline passed", "lading doctor"),
    "CANCELED": (AccessDenied, "task-cancelled", "somebody cancelled the task at Globus", "lading retry"),
    "INACTIVE": (AccessDenied, "login-over", "the log-in that the task runs under is over", LOGIN),
}  # fmt: skip
_OTHER_TROUBLE = (Unreachable, "task-failed", "the transfer does not work", "lading doctor")


@contextmanager
def translating(doing: str) -> Iterator[None]:
    """Turns what globus-sdk raises in the block into an error of ours; `doing`: "cannot list /x of Inbox"."""
    try:
        yield
    except globus_sdk.GlobusAPIError as exc:
        raise _answered(exc, doing) from exc
    except (globus_sdk.NetworkError, requests.RequestException) as exc:
        raise Unreachable(f"{doing}: Globus does not answer ({type(exc).__name__})", safe=KEPT) from exc
    except globus_sdk.GlobusError as exc:
        raise UnexpectedFault(f"{doing}: {type(exc).__name__}: {exc}", next_command="lading doctor") from exc


def is_absent(exc: globus_sdk.TransferAPIError) -> bool:
    """Whether the answer is that there is no such path (or no such task)."""
    return exc.http_status == 404 and "EndpointNotFound" not in (exc.code or "")


def is_unknown_submission(exc: globus_sdk.TransferAPIError) -> bool:
    """Whether the answer is that the submission id is not (or no longer) known."""
    said = f"{exc.code} {exc.message}".lower().replace("_", "").replace(" ", "")
    return exc.http_status in (400, 404, 410) and "submissionid" in said


def trouble(code: str, doing: str, details: str) -> TransportError:
    """The error for a task that failed, or does not get on."""
    kind, ours, meaning, command = _TROUBLES.get(code, _OTHER_TROUBLE)
    said = ": ".join(part for part in (ours, code, shown(details)[:_MAX_SAID]) if part)
    return kind(f"{doing}: {meaning} ({said})", safe=KEPT, next_command=command)


def _answered(exc: globus_sdk.GlobusAPIError, doing: str) -> LadingError:
    code = exc.code or ""
    message = f"{doing}: {exc.http_status} {code} {shown(exc.message or '')[:_MAX_SAID]}".rstrip()
    if exc.info.consent_required:
        return AccessDenied(
            f"{doing}: Globus wants your consent that we read and write in this collection (data_access)"
            " (consent-missing)",
            safe=KEPT,
            next_command=f"{LOGIN} --consent",
        )
    if isinstance(exc, globus_sdk.AuthAPIError):
        if exc.http_status >= 500 or exc.http_status == 429:
            return Unreachable(message, safe=KEPT)
        return AccessDenied(f"{message}: Globus Auth refuses the log-in (login-refused)", safe=KEPT, next_command=LOGIN)
    for part, kind, ours, meaning, command in _ANSWERS:
        if part in code:
            return kind(f"{message}: {meaning} ({ours})", safe=KEPT, next_command=command)
    if exc.http_status in (401, 403):
        return AccessDenied(message, safe=KEPT, next_command=LOGIN)
    if exc.http_status in (408, 409, 429) or exc.http_status >= 500:
        return Unreachable(message, safe=KEPT)
    return UnexpectedFault(message, next_command="lading doctor")
