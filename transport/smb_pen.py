"""Writes one file of a share under the name of its part, and gives it its time and its own name when it is whole.

`SwiftPen` needs one turn to open a file and write its beginning, and one for time, name and closing; blocks of large files are on
their way several at a time. `PlainPen` leaves all of it to `smbclient`, which opens the file anew for each.
"""

import stat
from collections import deque
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any, Protocol

import smbclient
from smbprotocol.exceptions import SMBException, SMBResponseException

from transport import smb_errors
from transport.smb_line import Line
from transport.smb_messages import (
    AS_IT_IS,
    NEW,
    SAME_FILE,
    Answer,
    NotAnAnswerError,
    closing,
    dating,
    ending,
    naming,
    opening,
    writing,
)

_SHARED = "rwd"


@dataclass(frozen=True, slots=True)
class Target:
    r"""`part` grows and becomes `path`, in the same folder (both `\\host\share\…`), changed last at `mtime_ns` since the epoch."""

    part: str
    path: str
    mtime_ns: int
    login: Mapping[str, object] = field(repr=False)


class Pen(Protocol):
    """One file being written. Raises what the library raises; after any error, `let_go`.

    Every step is in two: the second waits for the server.
    """

    def begin(self, offset: int, content: bytes) -> None:
        """Open the part, keep `offset` bytes of it, and write `content` behind them."""

    def begun(self) -> None:
        """Wait until that is done."""

    def write(self, block: bytes) -> None:
        """Write the next block."""

    def written(self) -> None:
        """Wait until the oldest block that was not yet waited for is written."""

    def finish(self) -> None:
        """Give it its time and name, and close it."""

    def finished(self) -> None:
        """Wait until that is done."""

    def let_go(self) -> None:
        """Close the part as it is. Never raises what a server says."""

    @property
    def is_open(self) -> bool:
        """Whether the part is open: from then on nobody is refused for lack of rights."""


class SwiftPen:
    """See the role `Pen`."""

    def __init__(self, line: Line, target: Target) -> None:
        self._line, self._target = line, target
        self._file = b""
        self._position = 0
        self._opening: list[int] = []
        self._first = self._rest = b""
        self._under_way: deque[tuple[list[int], int]] = deque()
        self._closing: list[int] = []

    def begin(self, offset: int, content: bytes) -> None:
        """See the role."""
        requests = [opening(_below_share(self._target.part), AS_IT_IS if offset else NEW)]
        if offset:
            requests.append(ending(SAME_FILE, offset))
        self._first, self._rest = content[: self._line.most], content[self._line.most :]
        if self._first:
            requests.append(writing(SAME_FILE, offset, self._first))
        self._position = offset + len(self._first)
        self._opening = self._line.send(requests, related=True)

    def begun(self) -> None:
        """See the role."""
        numbers, self._opening = self._opening, []
        answers, failures = self._taken(numbers)
        # Opened first of all: where there is an answer, the first is that.
        self._file = answers[0].file_id if answers else b""
        _raise_first(failures)
        if self._first:
            _refuse_less(answers[-1].written, len(self._first))
        if self._rest:
            self.write(self._rest)
            self.written()

    def write(self, block: bytes) -> None:
        """See the role."""
        most = self._line.most
        numbers = []
        for at in range(0, len(block), most):
            piece = block[at : at + most]
            numbers += self._line.send([writing(self._file, self._position, piece)])
            self._position += len(piece)
        self._under_way.append((numbers, len(block)))

    def written(self) -> None:
        """See the role."""
        numbers, expected = self._under_way.popleft()
        answers, failures = self._taken(numbers)
        _raise_first(failures)
        _refuse_less(sum(answer.written for answer in answers), expected)

    def finish(self) -> None:
        """See the role."""
        file, self._file = self._file, b""
        name = naming(file, _below_share(self._target.path))
        self._closing = self._line.send([dating(file, self._target.mtime_ns), name, closing(file)])

    def finished(self) -> None:
        """See the role."""
        numbers, self._closing = self._closing, []
        _, failures = self._taken(numbers)
        if any(smb_errors.in_the_way(exc) for exc in failures):
            name_over(self._target)
            return
        _raise_first(failures)

    def let_go(self) -> None:
        """See the role."""
        opening_, self._opening = self._opening, []
        blocks = [number for numbers, _ in self._under_way for number in numbers]
        self._under_way.clear()
        with suppress(SMBException, NotAnAnswerError):
            answers, _ = self._taken(opening_)
            self._taken([*blocks, *self._closing])
            self._closing = []
            file, self._file = self._file or (answers[0].file_id if answers else b""), b""
            if file:
                self._taken(self._line.send([closing(file)]))

    @property
    def is_open(self) -> bool:
        """See the role."""
        return bool(self._file)

    def _taken(self, numbers: Sequence[int]) -> tuple[list[Answer], list[SMBResponseException]]:
        """All the answers, the refusals apart: each must be taken, even after a failure."""
        answers, failures = [], []
        for number in numbers:
            try:
                answers.append(self._line.answer(number))
            except SMBResponseException as exc:
                failures.append(exc)
        return answers, failures


class PlainPen:
    """See the role `Pen`. Does everything at once, and waits for it."""

    def __init__(self, target: Target) -> None:
        self._target = target
        self._file: Any = None

    def begin(self, offset: int, content: bytes) -> None:
        """See the role."""
        mode = "r+b" if offset else "wb"
        self._file = smbclient.open_file(
            self._target.part, mode=mode, buffering=0, share_access=_SHARED, **self._target.login
        )
        self._file.seek(offset)
        if offset:
            self._file.truncate(offset)
        self.write(content)

    def begun(self) -> None:
        """See the role."""

    def write(self, block: bytes) -> None:
        """See the role."""
        view = memoryview(block)
        while view:
            view = view[self._file.write(view) :]

    def written(self) -> None:
        """See the role."""

    def finish(self) -> None:
        """See the role."""
        self._file.close()
        name_over(self._target)

    def finished(self) -> None:
        """See the role."""

    def let_go(self) -> None:
        """See the role."""
        if self._file is not None:
            with suppress(SMBException, OSError):
                self._file.close()

    @property
    def is_open(self) -> bool:
        """See the role."""
        return self._file is not None and not self._file.closed


def name_over(target: Target) -> None:
    """Give the part, which is closed, its time and name; an empty folder that has the name goes. Raises what the library raises."""
    smbclient.utime(target.part, ns=(target.mtime_ns, target.mtime_ns), follow_symlinks=False, **target.login)
    try:
        smbclient.replace(target.part, target.path, **target.login)
    except OSError as exc:
        if not smb_errors.in_the_way(exc):
            raise
        found = smbclient.lstat(target.path, **target.login)
        if not stat.S_ISDIR(found.st_mode):
            raise
        smbclient.rmdir(target.path, **target.login)
        smbclient.replace(target.part, target.path, **target.login)


def _below_share(path: str) -> str:
    return path.split("\\", 4)[4]


def _refuse_less(written: int, expected: int) -> None:
    if written != expected:
        raise SMBException(f"the server wrote {written} of {expected} bytes")


def _raise_first(failures: Sequence[SMBResponseException]) -> None:
    if failures:
        raise failures[0]
