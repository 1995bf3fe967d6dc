"""What a node answers, and what goes wrong on the way to it, in our words: one table per language (PS3.7 annex C, PS3.4 B.2.3)."""

import ssl
from enum import Enum, auto

from lading.errors import AccessDenied, LadingError, TargetUnavailable
from transport.dicom_commands import Broken, WireError
from transport.dicom_wire import RefusedAssociation, Released

_RETRY = "lading retry"
_DOCTOR = "lading doctor"
SAFE = "The files are in the inbox."


class Kind(Enum):
    """What an answer to C-STORE means for the image."""

    TAKEN = auto()
    TAKEN_WITH_WARNING = auto()
    REFUSED = auto()  # this image; the others may be welcome
    LATER = auto()  # the node is full or busy


# First and last status of each kind; what is in none of them was refused.
_KINDS: tuple[tuple[int, int, Kind, str], ...] = (
    (0x0000, 0x0000, Kind.TAKEN, "taken"),
    (0x0001, 0x0001, Kind.TAKEN_WITH_WARNING, "warning"),
    (0x0107, 0x0107, Kind.TAKEN_WITH_WARNING, "attributes it does not know"),
    (0x0111, 0x0111, Kind.TAKEN_WITH_WARNING, "it has this instance already"),
    (0x0116, 0x0116, Kind.TAKEN_WITH_WARNING, "a value out of range"),
    (0xB000, 0xB000, Kind.TAKEN_WITH_WARNING, "it changed elements"),
    (0xB006, 0xB006, Kind.TAKEN_WITH_WARNING, "it left out elements"),
    (0xB007, 0xB007, Kind.TAKEN_WITH_WARNING, "the image does not match its class"),
    (0xB000, 0xBFFF, Kind.TAKEN_WITH_WARNING, "warning"),
    (0xA700, 0xA7FF, Kind.LATER, "it is out of resources"),
    (0x0213, 0x0213, Kind.LATER, "it is at its limit"),
    (0x0110, 0x0110, Kind.REFUSED, "it could not process it"),
    (0x0117, 0x0117, Kind.REFUSED, "it calls the instance invalid"),
    (0x0122, 0x0122, Kind.REFUSED, "it does not support the SOP class"),
    (0x0124, 0x0124, Kind.REFUSED, "it does not allow us that"),
    (0xA900, 0xA9FF, Kind.REFUSED, "the image does not match its class"),
    (0xC000, 0xCFFF, Kind.REFUSED, "it cannot understand the image"),
)


def kind_of(status: int) -> tuple[Kind, str]:
    """What a C-STORE status means, and in words with its number."""
    for first, last, kind, words in _KINDS:
        if first <= status <= last:
            return kind, f"{words} ({status:#06x})"
    return Kind.REFUSED, f"an answer of {status:#06x}"


def translated(exc: Exception, *, doing: str, node: str) -> LadingError:
    """`exc`, met while `doing` something at `node`, in our words. The caller raises it `from exc`."""
    where = f"{doing} at {node}"
    if isinstance(exc, LadingError):
        return exc
    if isinstance(exc, RefusedAssociation):
        if exc.permanent:
            return AccessDenied(
                f"{where}: the node does not let us in: {exc}; check `called` and `calling`, and that the node knows us",
                safe=SAFE,
                next_command=_DOCTOR,
            )
        return TargetUnavailable(f"{where}: the node has no room for us now: {exc}", safe=SAFE, next_command=_RETRY)
    cause = exc.__cause__ if isinstance(exc, WireError) else exc
    if isinstance(cause, ssl.SSLError) and not isinstance(cause, ssl.SSLEOFError | ssl.SSLZeroReturnError):
        return AccessDenied(f"{where}: {_tls(cause)}", safe=SAFE, next_command=_DOCTOR)
    if isinstance(exc, Broken | Released):
        return TargetUnavailable(f"{where}: {exc}", safe=SAFE, next_command=_RETRY)
    said = (exc.strerror or type(exc).__name__) if isinstance(exc, OSError) else type(exc).__name__
    return TargetUnavailable(f"{where}: {said}", safe=SAFE, next_command=_RETRY)


def _tls(exc: ssl.SSLError) -> str:
    # Python gives these two only to errors that OpenSSL itself made.
    reason = str(getattr(exc, "reason", None) or type(exc).__name__)
    if isinstance(exc, ssl.SSLCertVerificationError):
        return (
            f"its certificate is not trusted ({getattr(exc, 'verify_message', reason)}); set `ca` to the site's own CA, and "
            "`host` as the certificate has it"
        )
    if "WRONG_VERSION" in reason or "UNKNOWN_PROTOCOL" in reason:
        return "it does not speak TLS on this port"
    return f"no TLS with it ({reason}); it may want a `certificate` and `key` of ours"
