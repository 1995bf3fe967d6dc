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
from contextlib import closing, suppress
from typing import BinaryIO

import smbclient
from smbprotocol.exceptions import SMBResponseException

from transport import smb_errors, smb_finish
from transport.smb_frames import DATA, MESSAGE, FrameError, parsed, read_frame, write_frame, write_message

_BLOCK = 1 << 20
_PAGE = 500  # entries of a folder in one message
_REPARSE_POINT = 0x400
_SHARED = "rwd"
"""What others may do with a file that we have open: everything, else the remains of a lost connection would lock us out."""


class Worker:
    """Answers requests. Raises what the library raises."""

    def __init__(self, receive: Callable[[], tuple[bytes, bytes]], send: BinaryIO) -> None:
        self._receive, self._send = receive, send
        self._root = ""
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
            self._put(request, self._next_block())
        elif do == "more":
            self._more(_number(request, "id"))
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
        part, offset = self._at(request["part"]), _number(request, "offset")
        mode = "r+b" if offset else "wb"
        path, when = self._at(request["path"]), _number(request, "mtime_ns")
        with smbclient.open_file(
            part, mode=mode, buffering=0, share_access=_SHARED, desired_access=smb_finish.ACCESS, **self._login
        ) as file:
            write_message(self._send, {"ok": None})
            self.is_writing = True
            file.seek(offset)
            if offset:
                file.truncate(offset)
            while block := self._next_block():
                view = memoryview(block)
                while view:
                    view = view[file.write(view) :]
                write_message(self._send, {"ok": None})
            self.is_writing = False
            named = self._finished(file, path, when)
        self._name(part, path, when, named=named)

    def _name(self, part: str, path: str, when: int, *, named: bool) -> None:
        if not named:
            smbclient.utime(part, ns=(when, when), follow_symlinks=False, **self._login)
            self._rename_over(part, path)
        write_message(self._send, {"ok": None})

    def _put(self, request: dict[str, object], content: bytes) -> None:
        """A small file, which came with its request."""
        part, path, when = self._at(request["part"]), self._at(request["path"]), _number(request, "mtime_ns")
        # Not `with file`, which opens it.
        with closing(smb_finish.new(part, _SHARED, self._login)) as file:
            try:
                smb_finish.begin(file, content)
            except BaseException:
                self.is_writing = not file.closed
                raise
            named = self._finished(file, path, when)
        self._name(part, path, when, named=named)

    def _finished(self, file: object, path: str, when: int) -> bool:
        """Whether the part got its time and name the short way."""
        try:
            return smb_finish.finish(file, path.rpartition("\\")[2], when)
        except SMBResponseException as exc:
            if smb_errors.in_the_way(exc):
                return False
            raise

    def _next_block(self) -> bytes:
        kind, block = self._receive()
        if kind != DATA:
            raise GivenUpError
        return block

    def _rename_over(self, part: str, path: str) -> None:
        try:
            smbclient.replace(part, path, **self._login)
        except OSError as exc:
            if not smb_errors.in_the_way(exc):
                raise
            # A folder, or a read-only file, is in the way.
            found = self._look(path)
            if found is None or not found[2]:
                raise
            smbclient.rmdir(path, **self._login)
            smbclient.replace(part, path, **self._login)

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
    incoming: queue.SimpleQueue[tuple[bytes, bytes]] = queue.SimpleQueue()
    threading.Thread(target=_feed, args=(sys.stdin.buffer, incoming), daemon=True).start()
    out = sys.stdout.buffer
    worker = Worker(incoming.get, out)
    write_message(out, {"ok": "ready"})
    while True:
        kind, payload = incoming.get()
        if kind != MESSAGE:
            continue  # blocks that were on their way when writing them failed
        request = parsed(payload)
        try:
            worker.answer(request)
        except GivenUpError:
            worker.is_writing = False
            write_message(out, {"ok": None})
        except EndedEarlyError:
            write_message(out, {"error": smb_errors.CORRUPTED, "said": "it ended early"})
        except NoSuchPlaceError:
            write_message(out, {"error": smb_errors.UNREACHABLE, "said": "there is no such share or folder"})
        except NotAFileError:
            write_message(out, {"error": smb_errors.DENIED, "said": "it is not a regular file; links are not followed"})
        except Exception as exc:  # noqa: BLE001 - every error is an answer; the parent decides
            write_message(out, _refusal(exc, worker))


def _refusal(exc: BaseException, worker: Worker) -> dict[str, object]:
    kind, said = smb_errors.meaning(exc, writing=worker.is_writing)
    worker.is_writing = False
    return {"error": kind, "said": said}


def _feed(stream: BinaryIO, incoming: "queue.SimpleQueue[tuple[bytes, bytes]]") -> None:
    """Reads ahead, so that the end of the parent is noticed while the library waits. The parent bounds what is on its way."""
    with suppress(FrameError, OSError, ValueError):
        while True:
            incoming.put(read_frame(stream))
    os._exit(1)  # the library has threads that would keep us


def _number(request: dict[str, object], key: str) -> int:
    value = request[key]
    if not isinstance(value, int):
        raise FrameError(f"{key} is not a number")
    return value


if __name__ == "__main__":
    sys.exit(main())
