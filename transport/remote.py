"""Files behind a protocol: the one small role that SFTP, SMB, FTPS, S3 and WebDAV fill.

`transport.placing` makes a Transport of any of them, and `transport.fetching` brings their folders into an inbox; a protocol
file only says how its server lists, reads, writes and renames. Paths are relative POSIX paths below the configured root.
"""

import hashlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar, Protocol, Self, runtime_checkable

from lading.manifest import NameLimits
from lading.ports import Journal, Progress
from transport.pacing import Pace

BLOCK = 1 << 20
PART_PREFIX = ".in."
"""How the name of a file begins that is not whole yet; the inbox and its scanners leave such names alone."""


def part_path(path: str, body: "Body") -> str:
    """Where `body` grows until it may be called `path`: in the same folder, under a short name that says which content it is.

    The same name in every attempt, so that a part is found again; another one for other content, so that a part which is
    found was written from this very content. Short, because any legal name must be carried.
    """
    folder, slash, name = path.rpartition("/")
    which = f"{name}\0{body.size}\0{body.digests.get('sha256', body.mtime)}"
    return f"{folder}{slash}{PART_PREFIX}{hashlib.blake2b(which.encode('utf-8', 'surrogatepass'), digest_size=12).hexdigest()}"


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """What a server says about one file or folder. `mtime`: seconds since the epoch, None when it does not keep times.

    What is neither (a link, a device) is never followed: `size` -1.

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
    stall_s: seconds without a byte after which a connection counts as broken; `close` is then called from another thread and
    must make the call that is under way raise Unreachable. None: the library has time-outs of its own for every call.
    another_after_s: for that long there must be more to do than the connections can, before one more is worth its log-in.
    lists_on_the_way: `place` does as well without the digests of the content, which are known only when all of it was read.
    two_handed: it is our own processor time that small files cost; a second process (transport.hands) makes the place anew from
    its settings, and shares the work and the connections.
    """

    resumes: bool = True
    keeps_mtime: bool = True
    renames: bool = True
    whole: bool = False
    names: NameLimits = NameLimits.POSIX
    stall_s: float | None = 120.0
    another_after_s: float = 0.0
    lists_on_the_way: bool = True
    two_handed: bool = False


class Body(Protocol):
    """The content to place, read from the source once. Whoever wraps it sees every byte: digest, pace and progress."""

    @property
    def size(self) -> int:
        """Bytes."""

    @property
    def mtime(self) -> float:
        """Seconds since the epoch."""

    @property
    def digests(self) -> Mapping[str, str]:
        """What the whole content must amount to (algorithm → lower-case hex); empty when that is not known yet."""

    def blocks(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
        """The bytes from `offset` (up to `length`), in blocks of at most 1 MiB. Raises SourceChanged. May be called again.

        From several threads at once for different ranges (multipart, `length` given). Without a `length`, what lies before
        `offset` is read too where a digest needs it, but not handed out; and the last block comes only after the whole content
        was found to be the one of the manifest, so that a changed source never becomes a whole file.
        """


class RemoteFiles(Protocol):
    """One connection. One thread at a time uses it; `RemotePlace.connect` makes more.

    Every method raises only LadingErrors: Unreachable (retried; the connection is then broken and is closed by the caller),
    AccessDenied, OutOfSpace, Corrupted, SourceChanged (from the body).
    `close` alone may be called from another thread, while another call is under way (see RemoteTraits.stall_s).
    """

    def look(self, path: str) -> RemoteFile | None:
        """What is at `path` ("" is the root), or None."""

    def listed(self, folder: str) -> Iterator[RemoteFile]:
        """What lies directly in `folder`, streamed; nothing when there is no such folder. Folders first is not promised."""

    def make_folders(self, path: str) -> None:
        """The folder and its parents exist now (S3: nothing to do)."""

    def place(self, path: str, body: Body) -> None:
        """`path` is the body, whole, replacing what was there; its folder exists.

        Before it is whole nothing is seen under `path`; it grows at `part_path(path, body)`. A part found there was written
        from the same content, over a connection that was lost: what of it may not have reached the disk whole (its last block,
        holes of parallel writes) is compared or written again. Raises Corrupted when it arrived damaged: that file is then
        placed once more. A part that is no longer wanted is removed by the caller.
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


class ConfiguredPlace(RemotePlace, Protocol):
    """A place that can be made from the settings of a route."""

    @classmethod
    def from_settings(cls, settings: Mapping[str, object]) -> Self:
        """Made from a transport or fetch table. Raises ConfigError."""


class StatefulPlace(RemotePlace, Protocol):
    """As ConfiguredPlace, for one that keeps a log-in below Lading's state folder `state`, and says so."""

    needs_state: ClassVar[bool]

    @classmethod
    def from_settings(cls, settings: Mapping[str, object], *, state: Path) -> Self:
        """Made from a fetch table. Raises ConfigError."""


@runtime_checkable
class ListsTrees(Protocol):
    """A connection that lists a whole tree at once. Optional."""

    def tree(self, folder: str, depth: int | None = None) -> Iterator[RemoteFile]:
        """Everything below `folder` (down to `depth` levels), streamed; nothing when there is no such folder."""


@runtime_checkable
class CopiesTrees(Protocol):
    """A place whose own program copies a whole tree, and compares what it copied with the source. Optional, for fetching."""

    def copy_tree(
        self, folder: str, paths: Iterable[str], into: Path, pace: Pace, progress: Progress, *, by_content: bool = False
    ) -> None:
        """Bring `paths` (relative to the remote `folder`) below the folder `into`, with their times. May be called again.

        What is there already is known again by size and time; with `by_content` it is not believed, and compared.
        Raises Unreachable, SourceChanged, AccessDenied, OutOfSpace.
        """


@runtime_checkable
class HandsOver(Protocol):
    """A place whose own service brings files to a folder of ours, without us. Optional, for fetching."""

    @property
    def at_once(self) -> int:
        """How many files one call takes."""

    def hand_over(
        self, folder: str, files: Sequence[RemoteFile], into: Path, journal: Journal, progress: Progress
    ) -> Mapping[str, Mapping[str, str]]:
        """Bring `files` (paths relative to the remote `folder`) below the folder `into`, with their times.

        What the service is asked is noted in `journal` before it is waited for; called again with the same files, after a crash
        or Unreachable, it goes on with that. Returns the checksums that the service compared at both ends, by path, as far as
        it tells them. Raises Unreachable, AccessDenied, OutOfSpace, Corrupted, Rejected.
        """

    def forget(self, journal: Journal) -> None:
        """What was brought has been looked at: the next call asks the service anew."""


@runtime_checkable
class PlacesMany(Protocol):
    """Files of a connection that are quicker together. Optional: `place` is called for each where this is missing."""

    def place_many(self, bodies: Iterable[tuple[str, Body]]) -> None:
        """As `place` for each of these small files (path, body), in any order, several on their way at a time."""
