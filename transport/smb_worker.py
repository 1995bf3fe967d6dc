"""The process that speaks SMB for `transport.smb`: `python -P -m transport.smb_worker`, with frames on its standard streams.

A process of its own because the library waits for ever on a peer that stalls, and a process can be ended. It holds one connection
and does one thing at a time. It ends when its parent does.
"""

import os
import queue
import stat
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import suppress
from typing import BinaryIO

import smbclient
from smbclient._pool import get_smb_tree

from transport import smb_errors
from transport.frames import DATA, MESSAGE, WINDOW, FrameError, parsed, read_frame, write_frame, write_message
from transport.smb_line import Line
from transport.smb_pen import Pen, PlainPen, SwiftPen, Target

_BLOCK = 1 << 20
_PAGE = 500  # entries of a folder in one message
_REPARSE_POINT = 0x400
_AHEAD = WINDOW // 2  # blocks on their way to the server at a time; the parent sends more before it waits
_TOGETHER = 16  # small files on their way to the server at a time
_SHARED = "rwd"
"""What others may do with a file that we have open: everything, else the remains of a lost connection would lock us out."""


class Worker:
    """Answers requests. Raises what the library raises."""

    def __init__(self, incoming: "Incoming", send: BinaryIO) -> None:
        self._incoming, self._send = incoming, send
        self._root = ""
        self._line: Line | None = None
        self._login: dict[str, object] = {}
        self._streams: dict[int, Iterator[bytes | list[object]]] = {}
        self._count = 0
        self.is_writing = False

    def answer(self, request: dict[str, object]) -> None:
        """Do what is asked and send the answer."""
        do = str(request["do"])
        if do == "write":
            self._write(request)
        elif do == "put":
            self._put_all(request)
        elif do == "more":
            self._more(_number(request, "id"))
        elif do == "give up":  # nothing is being written any more
            write_message(self._send, {"ok": None})
        else:
            write_message(self._send, {"ok": self._simple(do, request)})

    def _simple(self, do: str, request: dict[str, object]) -> object:
        match do:
            case "connect":
                self._connect(request)
            case "look":
                return self._look(self._at(request["path"]))
            case "list":
                return self._begin(self._entries(self._at(request["path"])))
            case "read":
                return self._begin(self._blocks(self._at(request["path"]), _number(request, "offset")))
            case "drop":
                self._streams.pop(_number(request, "id"), None)
            case "mkdir":
                self._make(str(request["path"]))
            case "rename":
                smbclient.replace(self._at(request["old"]), self._at(request["new"]), **self._login)
            case "remove":
                self._remove(self._at(request["path"]))
            case "free":
                return int(smbclient.stat_volume(self._root, **self._login).caller_available_size)
            case _:
                raise FrameError(f"no such request: {do}")
        return None

    def _connect(self, request: dict[str, object]) -> None:
        host, port = str(request["host"]), _number(request, "port")
        self._root = str(request["root"])
        self._login = {
            "username": request["user"] or None,
            "password": request["password"] or None,
            "port": port,
            "encrypt": True if request["encrypt"] else None,
            "auth_protocol": request["auth"],
        }
        # What is not encrypted is signed: nobody on the way can change it, and no guest gets in.
        smbclient.register_session(
            host, **self._login, connection_timeout=_number(request, "timeout"), require_signing=True
        )
        if self._look(self._root) is None:
            raise NoSuchPlaceError
        tree, _ = get_smb_tree(self._root, **self._login)
        self._line = Line.over(tree)

    def _at(self, path: object) -> str:
        below = str(path).replace("/", "\\")
        return f"{self._root}\\{below}" if below else self._root

    # -- looking -----------------------------------------------------------------------------------------------------

    def _look(self, path: str) -> list[object] | None:
        try:
            found = smbclient.lstat(path, **self._login)
        except OSError as exc:
            if smb_errors.is_missing(exc) or isinstance(exc, NotADirectoryError):
                return None
            raise
        folder = stat.S_ISDIR(found.st_mode)
        link = bool(found.st_file_attributes & _REPARSE_POINT)
        size = 0 if folder else int(found.st_size)
        return [-1 if link else size, found.st_mtime_ns / 1e9, folder and not link]

    def _entries(self, folder: str) -> Iterator[list[object]]:
        page: list[object] = []
        try:
            for entry in smbclient.scandir(folder, **self._login):
                info = entry.smb_info
                link = bool(info.file_attributes & _REPARSE_POINT)
                is_folder = bool(info.file_attributes & 0x10) and not link
                size = -1 if link else 0 if is_folder else int(info.end_of_file)
                page.append([info.file_name, size, info.last_write_time.timestamp(), is_folder])
                if len(page) >= _PAGE:
                    yield page
                    page = []
        except OSError as exc:
            if not (smb_errors.is_missing(exc) or isinstance(exc, NotADirectoryError)):
                raise
        if page:
            yield page

    # -- contents ----------------------------------------------------------------------------------------------------

    def _blocks(self, path: str, offset: int) -> Iterator[bytes]:
        found = self._look(path)
        if found is not None and (found[0] == -1 or found[2]):
            raise NotAFileError
        with smbclient.open_file(path, mode="rb", buffering=0, share_access=_SHARED, **self._login) as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(offset)
            while offset < end:
                block = file.read(min(_BLOCK, end - offset))
                if not block:
                    raise EndedEarlyError
                offset += len(block)
                yield bytes(block)

    def _begin(self, stream: Iterator[bytes | list[object]]) -> int:
        self._count += 1
        self._streams[self._count] = stream
        return self._count

    def _more(self, number: int) -> None:
        """The next block or page; an empty one is the end."""
        part = next(self._streams[number], None)
        if part is None:
            del self._streams[number]
        if isinstance(part, bytes):
            write_frame(self._send, DATA, part)
        else:
            write_message(self._send, {"ok": part or []})

    def _write(self, request: dict[str, object]) -> None:
        """Blocks come in, each is acknowledged when the server has it; an empty one is the end: then the part gets its name."""
        pen = self._pen(request)
        try:
            pen.begin(_number(request, "offset"), b"")
            pen.begun()
            write_message(self._send, {"ok": None})
            self._write_blocks(pen)
            pen.finish()
            pen.finished()
        except BaseException:
            self.is_writing = pen.is_open
            pen.let_go()
            raise
        write_message(self._send, {"ok": None})

    def _write_blocks(self, pen: Pen) -> None:
        under_way = 0
        while True:
            kind, block = self._incoming.next()
            goes_on = kind == DATA and bool(block)
            if goes_on:
                pen.write(block)
                under_way += 1
            while under_way > (_AHEAD if goes_on else 0):
                pen.written()
                under_way -= 1
                write_message(self._send, {"ok": None})
            if kind != DATA:
                self._incoming.again(kind, block)
                raise GivenUpError
            if not block:
                return

    def _put_all(self, request: dict[str, object]) -> None:
        """A small file, which comes with its request, and those that wait behind it: they share the turns. Answers in order."""
        puts = [self._begun_put(request)]
        while len(puts) < _TOGETHER and (waiting := self._incoming.waiting("put")):
            puts.append(self._begun_put(waiting))
        for put in puts:
            put.go_on(put.pen.begun)
            put.go_on(put.pen.finish)
        for put in puts:
            put.go_on(put.pen.finished)
            write_message(self._send, put.answer)

    def _begun_put(self, request: dict[str, object]) -> "_Put":
        put = _Put(self._pen(request))
        _, content = self._incoming.next()
        put.go_on(lambda: put.pen.begin(0, content))
        return put

    def _pen(self, request: dict[str, object]) -> Pen:
        target = Target(self._at(request["part"]), self._at(request["path"]), _number(request, "mtime_ns"), self._login)
        return SwiftPen(self._line, target) if self._line else PlainPen(target)

    # -- names -------------------------------------------------------------------------------------------------------

    def _make(self, path: str) -> None:
        try:
            smbclient.mkdir(self._at(path), **self._login)
        except OSError as exc:
            parent = path.rpartition("/")[0]
            if smb_errors.is_missing(exc) and parent:
                self._make(parent)
                smbclient.mkdir(self._at(path), **self._login)
            elif smb_errors.exists(exc):
                self._stand_in_place_of(path)
            else:
                raise

    def _stand_in_place_of(self, path: str) -> None:
        """A folder, where something is already."""
        found = self._look(self._at(path))
        if found is None or not found[2]:
            self._remove(self._at(path))
            smbclient.mkdir(self._at(path), **self._login)

    def _remove(self, path: str) -> None:
        try:
            smbclient.remove(path, **self._login)
        except OSError as exc:
            if smb_errors.is_folder(exc):
                smbclient.rmdir(path, **self._login)
            elif not smb_errors.is_missing(exc):
                raise


class _Put:
    """One small file on its way."""

    def __init__(self, pen: Pen) -> None:
        self.pen = pen
        self.answer: dict[str, object] = {"ok": None}

    def go_on(self, step: Callable[[], None]) -> None:
        """Do the next step, unless one has failed."""
        if "error" in self.answer:
            return
        try:
            step()
        except Exception as exc:  # noqa: BLE001 - every error is an answer; the parent decides
            self.answer = _refusal(exc, writing=self.pen.is_open)
            self.pen.let_go()


class Incoming:
    """What the parent says, frame by frame."""

    def __init__(self) -> None:
        self._frames: queue.SimpleQueue[tuple[bytes, bytes]] = queue.SimpleQueue()
        self._kept: tuple[bytes, bytes] | None = None

    def feed(self, stream: BinaryIO) -> None:
        """Read ahead, so that the end of the parent is noticed while the library waits. The parent bounds what is on its way."""
        with suppress(FrameError, OSError, ValueError):
            while True:
                self._frames.put(read_frame(stream))
        os._exit(1)  # the library has threads that would keep us

    def next(self) -> tuple[bytes, bytes]:
        """The next frame: its kind and payload."""
        kept, self._kept = self._kept, None
        return kept or self._frames.get()

    def again(self, kind: bytes, payload: bytes) -> None:
        """Let it be the next frame once more."""
        self._kept = kind, payload

    def waiting(self, do: str) -> dict[str, object] | None:
        """The next frame, if it is here already and a request to `do`."""
        if self._kept is None:
            with suppress(queue.Empty):
                self._kept = self._frames.get_nowait()
        if self._kept is None or self._kept[0] != MESSAGE:
            return None
        request = parsed(self._kept[1])
        if request.get("do") != do:
            return None
        self._kept = None
        return request


class GivenUpError(Exception):
    """The parent does not go on with the file."""


class NoSuchPlaceError(Exception):
    """The share, or the folder in it, is not there."""


class NotAFileError(Exception):
    """A link or a folder, where a file was to be read."""


class EndedEarlyError(Exception):
    """A file has fewer bytes than the server said."""


def main() -> int:
    """Answer until the parent is gone. What is wrong with a request is an answer too."""
    incoming = Incoming()
    threading.Thread(target=incoming.feed, args=(sys.stdin.buffer,), daemon=True).start()
    out = sys.stdout.buffer
    worker = Worker(incoming, out)
    write_message(out, {"ok": "ready"})
    while True:
        kind, payload = incoming.next()
        if kind != MESSAGE:
            continue  # blocks that were on their way when writing them failed
        worker.is_writing = False
        try:
            worker.answer(parsed(payload))
        except GivenUpError:
            continue  # the answer is to the request that says so
        except Exception as exc:  # noqa: BLE001 - every error is an answer; the parent decides
            write_message(out, _refusal(exc, writing=worker.is_writing))


def _refusal(exc: BaseException, *, writing: bool) -> dict[str, object]:
    kind, said = _OURS.get(type(exc)) or smb_errors.meaning(exc, writing=writing)
    return {"error": kind, "said": said}


_OURS: dict[type[BaseException], tuple[str, str]] = {
    EndedEarlyError: (smb_errors.CORRUPTED, "it ended early"),
    NoSuchPlaceError: (smb_errors.UNREACHABLE, "there is no such share or folder"),
    NotAFileError: (smb_errors.DENIED, "it is not a regular file; links are not followed"),
}


def _number(request: dict[str, object], key: str) -> int:
    value = request[key]
    if not isinstance(value, int):
        raise FrameError(f"{key} is not a number")
    return value


if __name__ == "__main__":
    sys.exit(main())
