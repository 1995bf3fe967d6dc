"""Files behind a protocol: the one small role that SFTP, SMB, FTPS, S3 and WebDAV fill.

`transport.placing` makes a Transport of any of them, and `transport.fetching` brings their folders into an inbox; a protocol
file only says how its server lists, reads, writes and renames. Paths are relative POSIX paths below the configured root.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

from lading.manifest import NameLimits

PART_SUFFIX = ".lading-part"
"""A file that is not whole yet is called `.<name>.lading-part`, next to where it will be; scanners leave it alone."""


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """What a server says about one file or folder. `mtime`: seconds since the epoch, None when it does not keep times.

    `digests`: checksums of the whole content that the server computed or keeps (algorithm → lower-case hex); often empty.
    `version`: whatever changes when the content does (ETag, version id), or "".
    """

    path: str
    size: int
    mtime: float | None = None
    folder: bool = False
    digests: Mapping[str, str] = field(default_factory=dict)
    version: str = ""


@dataclass(frozen=True, slots=True)
class RemoteTraits:
    """What a protocol can do.

    resumes: `place` and `read` continue inside a file. keeps_mtime: `place` sets the time. renames: files may be moved.
    whole: `place` itself is atomic (S3): the object appears whole or not at all, and no part file is used.
    names: what the server refuses or changes.
    """

    resumes: bool = True
    keeps_mtime: bool = True
    renames: bool = True
    whole: bool = False
    names: NameLimits = NameLimits.POSIX


class Body(Protocol):
    """The content to place, read from the source once. Whoever wraps it sees every byte: digest, pace and progress."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def mtime(self) -> float:
        """Seconds since the epoch."""

    def blocks(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes from `offset` (up to `length`), in blocks of at most 1 MiB. Raises SourceChanged. May be called again.

        From several threads at once for different ranges (multipart). What lies before `offset` is read too where a digest
        needs it, but not handed out.
        """


class RemoteFiles(Protocol):
    """One connection. One thread at a time uses it; `RemotePlace.connect` makes more.

    Every method raises only LadingErrors: Unreachable (retried; the connection is then broken and is closed by the caller),
    AccessDenied, OutOfSpace, Corrupted, SourceChanged (from the body).
    """

    def look(self, path: str) -> RemoteFile | None:
        """What is at `path` ("" is the root), or None."""

    def listed(self, folder: str) -> Iterator[RemoteFile]:
        """What lies directly in `folder`, streamed; nothing when there is no such folder. Folders first is not promised."""

    def make_folders(self, path: str) -> None:
        """The folder and its parents exist now (S3: nothing to do)."""

    def place(self, path: str, body: Body) -> None:
        """`path` is the body, whole, replacing what was there; its folder exists.

        Before it is whole nothing is seen under `path`. A part left by an earlier attempt is continued when that is safe (its
        beginning is proven to be the body's, or the server will be asked for a digest of the whole), else begun anew.
        """

    def read(self, path: str, offset: int = 0) -> Iterator[bytes]:
        """The content from `offset`, in blocks. Raises Corrupted when it ends early."""

    def digests(self, path: str, algorithms: tuple[str, ...]) -> Mapping[str, str]:
        """Checksums of what is stored, computed by the server for us; {} when it cannot. Never downloads."""

    def rename(self, old: str, new: str) -> None:
        """Move a file or folder; the target does not exist. Only with the trait `renames`."""

    def remove(self, path: str) -> None:
        """Remove a file, or a folder with all that is in it; silent when there is none."""

    def free_bytes(self) -> int | None:
        """Room that is left, or None when the server does not say."""

    def close(self) -> None:
        """Let go of the connection. Never raises."""


class RemotePlace(Protocol):
    """A configured place on a server: how to get connections to it. Safe to share between threads.

    Made by `from_settings(settings)` from the route's transport table without `kind`, `throttle`, `retry`.
    """

    @property
    def name(self) -> str:
        """For messages: host and root, no secret."""

    @property
    def traits(self) -> RemoteTraits:
        """What its protocol can do, as configured."""

    @property
    def streams(self) -> int:
        """How many connections are worth having at a time."""

    def connect(self) -> RemoteFiles:
        """A new connection, logged in, with certificates and host keys verified.

        Raises Unreachable within the configured connect time-out, AccessDenied.
        """
