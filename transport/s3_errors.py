"""What an S3 server's answer, or its silence, means to a sender: the one table from botocore's errors to ours."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import urllib3.exceptions
from botocore import exceptions as boto

from lading.errors import AccessDenied, Corrupted, LadingError, OutOfSpace, UnexpectedFault, Unreachable
from transport.foreign import shown
from transport.https import certificate_refused, untrusted

_ACCESS = frozenset(
    {
        "401",
        "403",
        "AccessDenied",
        "AccountProblem",
        "AllAccessDisabled",
        "AuthorizationHeaderMalformed",
        "ExpiredToken",
        "Forbidden",
        "InvalidAccessKeyId",
        "InvalidToken",
        "MethodNotAllowed",
        "NotSignedUp",
        "RequestTimeTooSkewed",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "Unauthorized",
        "UnauthorizedAccess",
    }
)
_DAMAGED = frozenset(
    {
        "BadDigest",
        "ContentSHA256Mismatch",
        "InvalidDigest",
        "XAmzContentChecksumMismatch",
        "XAmzContentSHA256Mismatch",
    }
)
_FULL = frozenset({"507", "EntityTooLarge", "InsufficientStorage", "QuotaExceeded", "XMinioStorageFull"})
_LATER = frozenset(
    {
        "IncompleteBody",
        "InternalError",
        "NoSuchBucket",
        "NoSuchUpload",
        "OperationAborted",
        "RequestTimeout",
        "ServiceUnavailable",
        "SlowDown",
        "Throttling",
        "ThrottlingException",
    }
)
_ABSENT = frozenset({"404", "NoSuchKey", "NotFound"})

_NO_LOGIN = (
    boto.NoCredentialsError,
    boto.PartialCredentialsError,
    boto.CredentialRetrievalError,
    boto.ProfileNotFound,
    boto.TokenRetrievalError,
    boto.UnauthorizedSSOTokenError,
)
_BROKEN_LINE = (
    boto.ConnectionError,
    boto.HTTPClientError,  # TLS, time-outs, a closed connection
    boto.IncompleteReadError,
    boto.ResponseStreamingError,
    urllib3.exceptions.HTTPError,
)
_DISK_IS_FULL = ("no space left", "disk quota exceeded", "insufficient storage", "storage full")


class Answers:
    """Knows whom we talk to, for the messages."""

    def __init__(self, name: str, ca: Path | None) -> None:
        self._name, self._ca = name, ca

    @contextmanager
    def translating(self, doing: str, path: str = "") -> Iterator[None]:
        """Turns what botocore raises in the block into an error of ours: "cannot `doing` `path` in S3 …: …"."""
        try:
            yield
        except (boto.BotoCoreError, boto.ClientError, urllib3.exceptions.HTTPError, OSError) as exc:
            error = self._translated(exc, f"cannot {doing} {shown(path) + ' ' if path else ''}in {self._name}", path)
            raise error from exc

    def _translated(self, exc: Exception, doing: str, path: str) -> LadingError:
        if isinstance(exc, boto.ClientError):
            return _from_answer(exc, doing, path)
        if certificate_refused(exc):
            return untrusted(self._name, self._ca)
        if isinstance(exc, _NO_LOGIN):
            return AccessDenied(f"{doing}: no usable credentials ({type(exc).__name__})", next_command="lading doctor")
        if isinstance(exc, boto.FlexibleChecksumError):
            return Corrupted(f"{doing}: what came does not have the checksum that the server keeps", paths=[path])
        if isinstance(exc, (*_BROKEN_LINE, OSError)):
            return Unreachable(f"{doing}: {type(exc).__name__}", safe="what arrived is kept and not sent again")
        return UnexpectedFault(f"{doing}: {type(exc).__name__}: {exc}", next_command="lading doctor")


def is_absent(exc: boto.ClientError) -> bool:
    """Whether the server says that there is no such object."""
    return code_of(exc) in _ABSENT


def code_of(exc: boto.ClientError) -> str:
    """The error code of S3, or the HTTP status where the answer had no body."""
    return str(exc.response.get("Error", {}).get("Code", ""))


def _from_answer(exc: boto.ClientError, doing: str, path: str) -> LadingError:
    code = code_of(exc)
    status = int(exc.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0) or 0)
    said = str(exc.response.get("Error", {}).get("Message", ""))[:300]
    message = f"{doing}: {code or status} {shown(said)}".rstrip()
    if code in _DAMAGED:
        return Corrupted(message, paths=[path])
    if code in _FULL or status == 507 or any(words in said.lower() for words in _DISK_IS_FULL):
        return OutOfSpace(message, safe="what arrived is kept and not sent again")
    if code in _ACCESS or code.startswith("KMS") or status in {401, 403}:
        return AccessDenied(message, safe="nothing was changed", next_command="lading doctor")
    if code in _LATER or status in {408, 409, 429} or status >= 500:
        return Unreachable(message, safe="what arrived is kept and not sent again")
    return UnexpectedFault(message, next_command="lading doctor")
