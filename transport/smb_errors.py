"""What an answer of an SMB server means: the one table from its status codes to the kinds of our errors.

Used inside the worker process, which sends the kind and the text; `transport.smb` makes the error of it.
"""

from smbprotocol.exceptions import (
    SMBAuthenticationError,
    SMBException,
    SMBOSError,
    SMBResponseException,
)

UNREACHABLE, DENIED, FULL, CORRUPTED, UNEXPECTED = "unreachable", "denied", "full", "corrupted", "unexpected"

ACCESS_DENIED = 0xC0000022
_MISSING = frozenset({0xC0000034, 0xC000003A, 0xC0000225, 0xC000000F, 0xC0000103})
_EXISTS = 0xC0000035
_IS_FOLDER = 0xC00000BA
_STATUS: dict[int, tuple[str, str]] = {
    ACCESS_DENIED: (DENIED, "the server denies access"),
    0xC000006D: (DENIED, "the user or the password is wrong"),
    0xC000006E: (DENIED, "the account is restricted"),
    0xC000006F: (DENIED, "the account may not log in at this time"),
    0xC0000070: (DENIED, "the account may not log in from this computer"),
    0xC0000071: (DENIED, "the password has expired"),
    0xC0000072: (DENIED, "the account is disabled"),
    0xC000015B: (DENIED, "the account may not log in this way"),
    0xC0000193: (DENIED, "the account has expired"),
    0xC0000224: (DENIED, "the password must be changed first"),
    0xC0000234: (DENIED, "the account is locked out"),
    0xC00000CA: (DENIED, "network access is denied"),
    0xC00000CC: (DENIED, "the server has no share of that name"),
    0xC00000A2: (DENIED, "the disk is write-protected"),
    0xC0000121: (DENIED, "the file cannot be deleted; is it read-only?"),
    0xC0000033: (DENIED, "the server refuses the name"),
    0xC000003B: (DENIED, "the server refuses the path"),
    0x8000002D: (DENIED, "a link is on the way; name the folder that it leads to"),
    0xC000007F: (FULL, "the disk of the server is full"),
    0xC0000044: (FULL, "the quota on the server is used up"),
    0xC0000043: (UNREACHABLE, "another program has the file open"),
    0xC0000056: (UNREACHABLE, "the file is being deleted"),
    0xC0000101: (UNREACHABLE, "the folder is not empty"),
    0xC000009A: (UNREACHABLE, "the server is short of resources"),
    0xC0000205: (UNREACHABLE, "the server is short of resources"),
    0xC000020C: (UNREACHABLE, "the server ended the connection"),
    0xC00000C9: (UNREACHABLE, "the server removed the share"),
    0xC0000203: (UNREACHABLE, "the server ended the session"),
    0xC000035C: (UNREACHABLE, "the session has expired"),
    0xC00000B5: (UNREACHABLE, "the server's disk does not answer"),
    0xC0000185: (UNREACHABLE, "the server's disk failed"),
    0xC00000D0: (UNREACHABLE, "the server does not take the request"),
    0xC0000128: (UNREACHABLE, "the server forgot the open file"),
}


def status_of(exc: BaseException) -> int | None:
    """The NT status in `exc`, or None."""
    if isinstance(exc, SMBOSError):
        return int(exc.ntstatus)
    return int(exc.status) if isinstance(exc, SMBResponseException) else None


def is_missing(exc: BaseException) -> bool:
    """Whether there is no such file or folder."""
    return status_of(exc) in _MISSING


def exists(exc: BaseException) -> bool:
    """Whether something of that name is there already."""
    return status_of(exc) == _EXISTS


def in_the_way(exc: BaseException) -> bool:
    """Whether something that a file cannot simply replace, as a folder, has the name."""
    return status_of(exc) in {_EXISTS, ACCESS_DENIED}


def is_folder(exc: BaseException) -> bool:
    """Whether a folder is where a file was expected."""
    return status_of(exc) == _IS_FOLDER


def meaning(exc: BaseException, *, writing: bool) -> tuple[str, str]:
    """The kind of error, and what happened. `writing`: into a file that is open, where nobody is refused for lack of rights:
    then a server says "access denied" to a message whose signature does not hold."""
    status = status_of(exc)
    if status == ACCESS_DENIED and writing:
        return UNREACHABLE, "the server refused a message of ours; was it damaged on the way?"
    if status in _STATUS:
        return _STATUS[status]
    if status in _MISSING:
        return UNREACHABLE, "it is no longer there"
    if status is not None:
        return UNEXPECTED, f"the server answered with status 0x{status:08x}"
    return _meaning_of_ours(exc)


def _meaning_of_ours(exc: BaseException) -> tuple[str, str]:
    """The same, for what the library says of itself."""
    if isinstance(exc, SMBAuthenticationError):
        # What the server sent may be in its text.
        return DENIED, "the log-in is wrong, or the server and we have no way of logging in in common"
    text = str(exc)
    if isinstance(exc, SMBException) and ("encryption" in text or "signing was required" in text):
        return DENIED, f"the server does not protect the connection as required: {text}"
    # A ValueError is what it makes of a connection that could not be made.
    if isinstance(exc, SMBException | OSError | EOFError | ValueError) and not isinstance(exc, UnicodeError):
        return UNREACHABLE, f"the connection broke: {text}"
    return UNEXPECTED, f"{type(exc).__name__}: {text}"
