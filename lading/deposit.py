"""The role behind live mode: a folder at the target that is filled while an instrument writes, and that others read meanwhile.

A transport that can do this is `Depositing`. It carries single files, each whole or not at all, where `Transport.carry` carries
a delivery. What the agent makes of it (when a file is settled, which list lies beside the files) is `lading.agent.live`.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self, runtime_checkable

from lading.delivery import Labels
from lading.errors import ConfigError, LadingError
from lading.listing.entries import Entry
from lading.ports import Transport
from lading.staging.slots import DEPOSIT_MARK

STATUS_NAME = "STATUS.json"
"""What people and programs look at to know how far an acquisition is."""

MAX_STATUS_BYTES = 1 << 20


def mark_of(folder: str) -> str:
    """Where the mark goes that says what the first part of `folder` is (relative POSIX)."""
    return f"{folder.partition('/')[0]}/{DEPOSIT_MARK}"


def deposit_folder(below: str, labels: Labels) -> str:
    """Where the files of an acquisition go, relative to the root of the target (POSIX)."""
    return f"{below}/{labels.project}/{labels.participant}/{labels.session}"


@dataclass(frozen=True, slots=True)
class Settled:
    """A file of the source that came to rest: `path` relative POSIX, `size` in bytes, `mtime_ns` since the epoch.

    `ctime_ns`: when anything of it was last changed, which no program can set back; 0 where the system does not keep that.
    `perhaps`: a killed agent may have placed it already, so that a look is worthwhile before it is sent.
    """

    path: str
    size: int
    mtime_ns: int
    perhaps: bool = False
    ctime_ns: int = 0


@dataclass(frozen=True, slots=True)
class Read:
    """What a reading back says about one file: `problem` is "" when its content is the listed one."""

    entry: Entry
    problem: str = ""


Told = Callable[[Settled, Entry | LadingError], None]
"""Called once per file: with its entry when it is whole and durable there, with the error when this file alone cannot go."""


class Deposit(Protocol):
    """One acquisition's folder at the target, open for a while. For one thread. A context manager; leaving it never raises.

    Every method raises what `Transport.carry` raises (Unreachable, AccessDenied, OutOfSpace, …); nothing foreign escapes.
    After Unreachable it is left, and another one is opened later.
    """

    def __enter__(self) -> Self:
        """Connected, and at the right place: the sentinel is there. Writes nothing yet."""

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        """Let go of the connection."""

    @property
    def name(self) -> str:
        """For messages: where it is. No secret."""

    @property
    def proof(self) -> str:
        """How `verify` compares, in a few words for STATUS.json."""

    def read(self, name: str) -> bytes | None:
        """A small file of the folder, or None when it is not there."""

    def bring(self, root: Path, files: Sequence[Settled], told: Told) -> None:
        """Make the folder hold these files of `root`, in this order where that costs nothing, replacing older contents.

        A file appears under its name whole, or not at all. `told` is called for every file; for SourceChanged, a source
        that cannot be read and a refused name it gets the error, and the others go on.
        """

    def write(self, name: str, content: Path) -> None:
        """The file `name` of the folder is now that of the local file `content`, replaced in one step.

        Makes the folder, and puts DEPOSIT_MARK into the one above all acquisitions: then no inbox takes them for bare deliveries.
        """

    def verify(self, root: Path, entries: Iterable[Entry]) -> Iterator[Read]:
        """Read every one of `entries` at the target, in this order, and say what is wrong with it. Streams."""

    def tidy(self) -> None:
        """Remove the parts that its own killed carries left. Nothing else: readers may keep files of their own there."""


@runtime_checkable
class Depositing(Protocol):
    """A transport that can fill a folder while others read it. Optional: a route with `live` and another transport is refused."""

    def deposit(self, folder: str) -> Deposit:
        """The folder at `folder` (relative POSIX, below the root of the inbox). Not connected before it is entered."""


def deposit_of(transport: object, folder: str, *, where: str = "live") -> Deposit:
    """The folder at the target of `transport`; `where` names the settings. Raises ConfigError when it cannot fill one."""
    third_party = isinstance(transport, Transport) and transport.traits.third_party
    if third_party or not isinstance(transport, Depositing):
        raise ConfigError(
            f"{where}: {transport!r} cannot put single files into a folder that others read;"
            " local, rsync, sftp, smb, ftps, s3 and webdav can",
            next_command="lading transports",
        )
    return transport.deposit(folder)
