"""Folders that show what a bucket of Swift holds, so that the suite of the transports can look at it and change it.

Swift keeps objects where nobody can look. A `SwiftView` brings folders up to the bucket, and the bucket up to what a test
(or the inbox) did to the folders meanwhile. It goes through Swift's own API and a door of its own, not through S3: what is
shown must not be what the transport under test would say.
"""

import contextlib
import errno
import hashlib
import http.client
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import cast
from urllib.parse import quote, urlsplit

from lading.delivery import Cargo, DeliveryId, Receipt, Slot
from lading.ports import Journal, Plan, Progress
from transport.s3 import S3Transport

_BLOCK = 1 << 20
_HOLE = bytes(_BLOCK)
_PAGE = 1000
_MTIME = "X-Object-Meta-Mtime"
_KEPT_FOLDERS = 2  # .lading/incoming and the like are the inbox's own
_shown: "list[SwiftView]" = []  # in this process: where a carry is a process of its own, nobody looks until it has begun


class SwiftView:
    """The bucket `name` in the account `url`, shown as folders: each with what lies below a prefix."""

    def __init__(self, url: str, name: str) -> None:
        self._url, self.bucket = url, name
        self._shown: dict[Path, _Shown] = {}

    @contextlib.contextmanager
    def shown(self) -> Iterator[None]:
        """Within this, `LookedAtS3` takes care of the folders."""
        with contextlib.closing(_Line(self._url, self.bucket)) as line:
            line.make_bucket()
        _shown.append(self)
        try:
            yield
        finally:
            _shown.remove(self)

    def show(self, prefix: str, folder: Path) -> None:
        """From now on `folder` shows what lies below `prefix`; what is in it already goes to the bucket."""
        self._shown.setdefault(folder, _Shown(prefix, folder))
        self.look()

    def look(self) -> None:
        """Bring all folders and the bucket up to each other."""
        with contextlib.closing(_Line(self._url, self.bucket)) as line:
            for shown in self._shown.values():
                shown.look(line)

    def unseen(self, folder: Path) -> int:
        """Bytes of the parts that were sent for files in `folder`, below one that is shown; of finished uploads too."""
        (shown,) = (shown for shown in self._shown.values() if folder.is_relative_to(shown.folder))
        with contextlib.closing(_Line(self._url, f"{self.bucket}+segments")) as line:
            return line.size(f"{shown.prefix}/{folder.relative_to(shown.folder).as_posix()}/")

    def allow(self, size: int) -> None:
        """No more than so many bytes in the bucket, from now on."""
        with contextlib.closing(_Line(self._url, self.bucket)) as line:
            line.allow(size)


@contextlib.contextmanager
def _in_step() -> Iterator[None]:
    """The bucket is up to the folders before the block, and the folders to the bucket after it."""
    for view in _shown:
        view.look()
    try:
        yield
    finally:
        for view in _shown:
            view.look()


class LookedAtS3(S3Transport):
    """S3, and the folders of this process's views are kept in step with the bucket."""

    def probe(self, needed_bytes: int = 0) -> None:
        """See the role."""
        with _in_step():
            super().probe(needed_bytes)

    def plan(self, cargo: Cargo, slot: Slot) -> Plan:
        """See the role."""
        with _in_step():
            return super().plan(cargo, slot)

    def carry(self, cargo: Cargo, slot: Slot, journal: Journal, progress: Progress) -> None:
        """See the role."""
        with _in_step():
            super().carry(cargo, slot, journal, progress)

    def fetch_receipt(self, delivery: DeliveryId) -> Receipt | None:
        """See the role."""
        with _in_step():
            return super().fetch_receipt(delivery)


@dataclass
class _Shown:
    """One folder. Whichever side is not as both were at the last look has changed, and the other follows."""

    prefix: str
    folder: Path
    here: dict[str, tuple[int, ...]] = field(default_factory=dict)
    there: dict[str, tuple[str, str]] = field(default_factory=dict)

    def look(self, line: "_Line") -> None:
        here, there = _files(self.folder), line.listed(f"{self.prefix}/")
        ours = {path for path in {*here, *self.here} if here.get(path) != self.here.get(path)}
        theirs = {path for path in {*there, *self.there} if there.get(path) != self.there.get(path)}
        if both := ours & theirs:
            raise RuntimeError(f"changed in the folder and in the bucket: {sorted(both)}")
        for path in ours:
            if path in here:
                line.put(f"{self.prefix}/{path}", self.folder / path)
            else:
                line.delete(f"{self.prefix}/{path}")
        for path in theirs:
            if path not in there or not self._bring(line, path):
                self._forget(path)
        now = line.listed(f"{self.prefix}/") if ours else there
        # What others put since the first listing is not in the folder yet: the next look shows it.
        self.there = {path: (now if path in ours else there)[path] for path in now if path in ours or path in there}
        self.here = _files(self.folder)

    def _bring(self, line: "_Line", path: str) -> bool:
        """The object as a new file, whole at once; False when it is gone, or no folder can hold its name."""
        file, part = self.folder / path, self.folder.with_name(f".{self.folder.name}.part")
        if not line.get(f"{self.prefix}/{path}", part):
            return False
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            part.replace(file)
        except OSError as exc:
            part.unlink()
            if exc.errno != errno.ENAMETOOLONG:
                raise
            return False
        return True

    def _forget(self, path: str) -> None:
        """With the folders that were there for it alone: a bucket has none."""
        with contextlib.suppress(OSError):
            (self.folder / path).unlink(missing_ok=True)
            for parent in list(PurePosixPath(path).parents)[: -1 - _KEPT_FOLDERS]:
                (self.folder / parent).rmdir()


def _files(folder: Path) -> dict[str, tuple[int, ...]]:
    found: dict[str, tuple[int, ...]] = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            file = Path(parent, name)
            info = file.lstat()
            found[file.relative_to(folder).as_posix()] = (info.st_ino, info.st_size, info.st_mtime_ns, info.st_ctime_ns)
    return found


class _Line:
    """Swift's own API."""

    def __init__(self, url: str, bucket: str) -> None:
        at = urlsplit(url)
        self._path = f"{at.path}/{quote(bucket)}"
        self._line = http.client.HTTPConnection(at.hostname or "", at.port, timeout=120)

    def close(self) -> None:
        self._line.close()

    def make_bucket(self) -> None:
        self._done("PUT", "")

    def allow(self, size: int) -> None:
        self._done("POST", "", headers={"X-Container-Meta-Quota-Bytes": str(size)})

    def listed(self, prefix: str) -> dict[str, tuple[str, str]]:
        """By path below `prefix`: the hash, and the time of the put in microseconds."""
        return {
            str(item["name"]).removeprefix(prefix): (str(item["hash"]), str(item["last_modified"]))
            for item in self._items(prefix)
        }

    def size(self, prefix: str) -> int:
        """Of all objects below `prefix`; there may be no such bucket."""
        return sum(cast("int", item["bytes"]) for item in self._items(prefix, gone_is_fine=True))

    def put(self, key: str, file: Path) -> None:
        content = file.read_bytes()
        headers = {_MTIME: repr(file.stat().st_mtime), "ETag": hashlib.md5(content, usedforsecurity=False).hexdigest()}
        self._done("PUT", f"/{_quoted(key)}", content, headers)

    def delete(self, key: str) -> None:
        self._done("DELETE", f"/{_quoted(key)}", gone_is_fine=True)

    def get(self, key: str, file: Path) -> bool:
        """Into `file`, with its time; False when there is no such object."""
        self._line.request("GET", f"{self._path}/{_quoted(key)}")
        answer = self._line.getresponse()
        if answer.status == http.client.NOT_FOUND:
            answer.read()
            return False
        _checked(answer)
        with file.open("wb") as out:
            while block := answer.read(_BLOCK):
                if block == _HOLE[: len(block)]:
                    out.seek(len(block), os.SEEK_CUR)
                else:
                    out.write(block)
            out.truncate()
            if out.tell() != int(answer.headers["Content-Length"]):
                raise RuntimeError(f"Swift's back door gave only {out.tell()} bytes of {key!r}")
        if kept := answer.headers.get(_MTIME):
            os.utime(file, (float(kept), float(kept)))
        return True

    def _items(self, prefix: str, *, gone_is_fine: bool = False) -> Iterator[Mapping[str, object]]:
        marker = ""
        while True:
            ask = f"?format=json&limit={_PAGE}&prefix={_quoted(prefix)}&marker={_quoted(marker)}"
            page = json.loads(self._done("GET", ask, gone_is_fine=gone_is_fine) or "[]")
            yield from page
            if len(page) < _PAGE:
                return
            marker = page[-1]["name"]

    def _done(
        self,
        method: str,
        what: str,
        body: bytes | None = None,
        headers: Mapping[str, str] | None = None,
        *,
        gone_is_fine: bool = False,
    ) -> bytes:
        self._line.request(method, self._path + what, body, dict(headers or {}))
        answer = self._line.getresponse()
        if not (gone_is_fine and answer.status == http.client.NOT_FOUND):
            _checked(answer)
            return answer.read()
        answer.read()
        return b""


def _checked(answer: http.client.HTTPResponse) -> None:
    if answer.status >= http.client.BAD_REQUEST:
        raise RuntimeError(f"Swift's back door says {answer.status} {answer.reason}: {answer.read()[:300]!r}")


def _quoted(text: str) -> str:
    return quote(os.fsencode(text), safe="")
