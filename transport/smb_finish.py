"""Writes a small file, and gives any whole file its time and its name, each in one turn; `smbclient` takes three and six.

Several requests travel as one; `smbclient` opens the file anew for each. Every turn counts where files are small.
"""

from collections.abc import Mapping

from smbclient._io import SMBFileIO, SMBFileTransaction, SMBRawIO
from smbprotocol.exceptions import SMBResponseException
from smbprotocol.file_info import FileBasicInformation, FileRenameInformation
from smbprotocol.open import FilePipePrinterAccessMask, SMB2SetInfoRequest

_EPOCH = 116_444_736_000_000_000
"""1 January 1970 in units of 100 ns since 1601."""
ACCESS = (
    FilePipePrinterAccessMask.FILE_READ_DATA
    | FilePipePrinterAccessMask.FILE_READ_ATTRIBUTES
    | FilePipePrinterAccessMask.FILE_WRITE_DATA
    | FilePipePrinterAccessMask.FILE_WRITE_ATTRIBUTES
    | FilePipePrinterAccessMask.DELETE
)
"""The rights that a handle needs for it."""


def begin(file: SMBFileIO, content: bytes) -> None:
    """Open `file` (see `new`) and write `content` at its beginning. Raises what the library raises; `file` may be open then."""
    together = SMBFileTransaction(file)
    file.open(transaction=together)
    if content:
        together += file.fd.write(content, 0, send=False)
    together.commit()


def new(path: str, sharing: str, login: Mapping[str, object]) -> SMBFileIO:
    """A file to `begin`: empty from then on, whatever was there."""
    return SMBFileIO(path, mode="wb", share_access=sharing, desired_access=ACCESS, **login)


def finish(file: SMBRawIO, name: str, mtime_ns: int) -> bool:
    """Set the time of the open `file`, call it `name`, in its folder, replacing what has that name, and close it.

    Returns False when the share is one of a distributed file system, where the handle does not know its own path. Raises what
    the library raises.
    """
    handle = file.fd
    tree = handle.tree_connect
    if tree.is_dfs_share:
        return False
    when = FileBasicInformation()
    when["last_write_time"] = mtime_ns // 100 + _EPOCH
    named = FileRenameInformation()
    named["replace_if_exists"] = True
    named["file_name"] = "".join(handle.file_name.rpartition("\\")[:2]) + name
    requests = []
    for info in (when, named):
        request = SMB2SetInfoRequest()
        request["info_type"] = info.INFO_TYPE
        request["file_info_class"] = info.INFO_CLASS
        request["file_id"] = handle.file_id
        request["buffer"] = info
        requests.append(request)
    line = handle.connection
    close, closed = handle.close(send=False)
    sent = line.send_compound([*requests, close], tree.session.session_id, tree.tree_connect_id)
    failures = []
    for one, answered in zip(sent, (line.receive, line.receive, closed), strict=True):
        # Each answer must be taken, even after a failure.
        try:
            answered(one)
        except SMBResponseException as exc:
            failures.append(exc)
    if failures:
        raise failures[0]
    return True
