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
_KEPT = "the source is untouched, nothing is sealed; what arrived is kept and not sent again"
_MAX_SAID = 300

# Part of an error code of the API → kind, what it means, what to type. The first that fits counts.
_ANSWERS: tuple[tuple[str, type[LadingError], str, str], ...] = (
    ("GCDisconnected", Unreachable, "the endpoint is offline", "start Globus Connect Personal on that computer"),
    ("GCPaused", Unreachable, "the personal endpoint is paused", "unpause Globus Connect Personal on that computer"),
    ("Paused", Unreachable, "the collection is paused by its manager", "ask the collection's manager"),
    ("EndpointNotFound", ConfigError, "there is no such collection", "globus endpoint search NAME"),
    ("PermissionDenied", AccessDenied, "permission denied (the collection's ACL)", "ask its manager for access"),
    ("AuthenticationFailed", AccessDenied, "the log-in is over", LOGIN),
    ("NotFound", Unreachable, "the path is not there", "lading doctor"),
)
# Code of a task's trouble (nice_status, or its fatal error) → the same.
_TROUBLES: dict[str, tuple[type[TransportError], str, str]] = {
    "PERMISSION_DENIED": (AccessDenied, "permission denied (the collection's ACL)", "ask its manager for access"),
    "FILE_NOT_FOUND": (Unreachable, "a path is not there: do source.root and source.path fit?", "lading doctor"),
    "PATH_NOT_FOUND": (Unreachable, "a path is not there: do source.root and source.path fit?", "lading doctor"),
    "QUOTA_EXCEEDED": (OutOfSpace, "no room on the target", "lading inbox"),
    "NO_SPACE": (OutOfSpace, "no room on the target", "lading inbox"),
    "VERIFY_CHECKSUM": (Corrupted, "what arrived differs", ""),
    "PAUSED_BY_ADMIN": (Unreachable, "the task is paused by a collection's manager", "ask the collection's manager"),
    "PAUSED": (Unreachable, "the task is paused", "ask the collection's manager"),
    "GC_PAUSED": (Unreachable, "the personal endpoint is paused", "unpause Globus Connect Personal"),
    "GC_NOT_CONNECTED": (Unreachable, "an endpoint is offline", "start Globus Connect Personal on that computer"),
    "TIMEOUT": (Unreachable, "the task's deadline passed", "lading doctor"),
    "CANCELED": (AccessDenied, "somebody cancelled the task at Globus", "lading retry"),
    "INACTIVE": (AccessDenied, "the log-in that the task runs under is over", LOGIN),
}


@contextmanager
def translating(doing: str) -> Iterator[None]:
    """Turns what globus-sdk raises in the block into an error of ours; `doing`: "cannot list /x of Inbox"."""
    try:
        yield
    except globus_sdk.GlobusAPIError as exc:
        raise _answered(exc, doing) from exc
    except (globus_sdk.NetworkError, requests.RequestException) as exc:
        raise Unreachable(f"{doing}: Globus does not answer ({type(exc).__name__})", safe=_KEPT) from exc
    except globus_sdk.GlobusError as exc:
        raise UnexpectedFault(f"{doing}: {type(exc).__name__}: {exc}", next_command="lading doctor") from exc


def is_absent(exc: globus_sdk.TransferAPIError) -> bool:
    """Whether the answer is that there is no such path (or no such task)."""
    return exc.http_status == 404 and "EndpointNotFound" not in (exc.code or "")


def trouble(code: str, doing: str, details: str) -> TransportError:
    """The error for a task that failed, or does not get on."""
    kind, meaning, command = _TROUBLES.get(code, (Unreachable, "the transfer does not work", "lading doctor"))
    said = shown(details)[:_MAX_SAID]
    return kind(f"{doing}: {meaning} ({code}{': ' if said else ''}{said})", safe=_KEPT, next_command=command)


def _answered(exc: globus_sdk.GlobusAPIError, doing: str) -> LadingError:
    code = exc.code or ""
    message = f"{doing}: {exc.http_status} {code} {shown(exc.message or '')[:_MAX_SAID]}".rstrip()
    if exc.info.consent_required:
        return AccessDenied(
            f"{doing}: Globus wants your consent that we read and write in this collection (data_access)",
            safe=_KEPT,
            next_command=f"{LOGIN} --consent",
        )
    if isinstance(exc, globus_sdk.AuthAPIError):
        if exc.http_status >= 500 or exc.http_status == 429:
            return Unreachable(message, safe=_KEPT)
        return AccessDenied(f"{message}: Globus Auth refuses the log-in", safe=_KEPT, next_command=LOGIN)
    for part, kind, meaning, command in _ANSWERS:
        if part in code:
            return kind(f"{message}: {meaning}", safe=_KEPT, next_command=command)
    if exc.http_status in (401, 403):
        return AccessDenied(message, safe=_KEPT, next_command=LOGIN)
    if exc.http_status in (408, 409, 429) or exc.http_status >= 500:
        return Unreachable(message, safe=_KEPT)
    return UnexpectedFault(message, next_command="lading doctor")
