"""Does what a task asks: copies files between the folders of two collections, proves them, or removes them.

Like the service: a file grows under its final name; what does not work is tried again until the deadline, or a cancel.
"""

import errno
import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from datetime import datetime
from pathlib import Path
from typing import cast

from lading.sandbox.globus.world import Collection, Document, Task, World

_BLOCK = 1 << 20
_AGAIN_S = 0.1
_TRIES = 4
_CODES = {
    errno.ENOENT: "FILE_NOT_FOUND",
    errno.ENOTDIR: "FILE_NOT_FOUND",
    errno.EACCES: "PERMISSION_DENIED",
    errno.EPERM: "PERMISSION_DENIED",
    errno.ENOSPC: "QUOTA_EXCEEDED",
    errno.EDQUOT: "QUOTA_EXCEEDED",
}


class _Over(Exception):  # the task has ended, which is no error of ours
    pass


class _Fatal(Exception):  # its words become those of the task
    def __init__(self, code: str, what: str) -> None:
        super().__init__(what)
        self.code = code


def run(world: World, task: Task) -> None:
    """Do the task, to its end."""
    try:
        task.tell("STARTED", "")
        _fail_if_asked(world)
        _stay_if_stuck(world, task)
        if task.facts["type"] == "DELETE":
            _remove_all(world, task)
        elif world.faults.moves_nothing:
            pass
        else:
            _Copying(world, task).all()
        task.end("SUCCEEDED")
    except _Over:
        expired = not task.cancelled.is_set()
        task.end(
            "FAILED", "TIMEOUT" if expired else "CANCELED", "deadline passed" if expired else "canceled by its owner"
        )
    except _Fatal as exc:
        task.end("FAILED", exc.code, str(exc))
    except Exception as exc:  # noqa: BLE001 - a task always ends
        task.end("FAILED", "INTERNAL_ERROR", f"{type(exc).__name__}: {exc}")


class _Copying:
    def __init__(self, world: World, task: Task) -> None:
        self._world, self._task, self._asked = world, task, task.asked
        self._source = world.collection(task.asked["source_endpoint"])
        self._target = world.collection(task.asked["destination_endpoint"])

    def all(self) -> None:
        """Copy every item."""
        for item in _items(self._task):
            for one in self._files_of(item):
                self._task.count("files")
                self._task.count("subtasks_total")
                self._until_it_works(lambda one=one: self._one(one))  # type: ignore[misc]  # bound now
                self._task.count("subtasks_succeeded")

    def _files_of(self, item: Document) -> Iterator[Document]:
        if not item.get("recursive"):
            yield item
            return
        top = self._source.at(str(item["source_path"]))
        self._until_it_works(lambda: os.listdir(top))
        for folder, _, names in os.walk(top):
            self._task.count("directories")
            inner = Path(folder).relative_to(top).as_posix()
            (self._target.at(f"{item['destination_path']}/{inner}")).mkdir(parents=True, exist_ok=True)
            for name in sorted(names):
                where = name if inner == "." else f"{inner}/{name}"
                yield {
                    "source_path": f"{str(item['source_path']).rstrip('/')}/{where}",
                    "destination_path": f"{str(item['destination_path']).rstrip('/')}/{where}",
                }

    def _until_it_works(self, step: Callable[[], object]) -> None:
        while True:
            _wait_while_held(self._world, self._task, self._source, self._target)
            try:
                step()
            except OSError as exc:
                code = _CODES.get(exc.errno or 0, "ENDPOINT_ERROR")
                said = f"{exc.strerror}: {exc.filename or ''}"
                if code == "QUOTA_EXCEEDED" and self._asked.get("fail_on_quota_errors"):
                    raise _Fatal(code, said) from exc
                self._task.trouble(code, said)
                time.sleep(_AGAIN_S)
                continue
            self._task.fine()
            return

    def _one(self, item: Document) -> None:
        source, target = self._source.at(str(item["source_path"])), self._target.at(str(item["destination_path"]))
        if not self._source.readable:
            raise PermissionError(errno.EACCES, "Permission denied", str(item["source_path"]))
        if not self._target.writable:
            raise PermissionError(errno.EACCES, "Permission denied", str(item["destination_path"]))
        if self._is_there(source, target):
            self._task.count("files_skipped")
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        for _ in range(_TRIES):
            sent = self._copy(source, target)
            if self._proven(item, sent, target):
                with self._world.lock:
                    rots = self._world.faults.rot_next > 0
                    self._world.faults.rot_next -= rots
                if rots:
                    _damage(target)
                self._record(item, source, target, sent)
                return
            self._task.trouble("VERIFY_CHECKSUM", f"checksum verification failed: {item['destination_path']}")
        raise _Fatal("VERIFY_CHECKSUM", f"checksum verification failed: {item['destination_path']}")

    def _is_there(self, source: Path, target: Path) -> bool:
        level = self._asked.get("sync_level")
        if not isinstance(level, int) or not target.is_file():
            return False
        if level == 0:
            return True
        here, there = source.stat(), target.stat()
        if here.st_size != there.st_size or (level == 2 and here.st_mtime > there.st_mtime):
            return False
        return level < 3 or _digest(source, "sha256") == _digest(target, "sha256")

    def _copy(self, source: Path, target: Path) -> str:
        digest = hashlib.sha256()
        with source.open("rb") as reading, target.open("wb") as writing:
            while block := reading.read(_BLOCK):
                digest.update(block)
                writing.write(block)
                self._task.count("bytes_transferred", len(block))
                if self._world.faults.rate:
                    time.sleep(len(block) / self._world.faults.rate)
                _stop_if_over(self._task)
        with self._world.lock:
            corrupt = self._world.faults.corrupt_next > 0
            self._world.faults.corrupt_next -= corrupt
        if corrupt:
            _damage(target)
        return digest.hexdigest()

    def _proven(self, item: Document, sent: str, target: Path) -> bool:
        given = str(item.get("external_checksum") or "").lower()
        if not self._asked.get("verify_checksum") and not given:
            return True
        arrived = _digest(target, "sha256")
        self._task.count("bytes_checksummed", target.stat().st_size)
        if given:
            algorithm = str(item.get("checksum_algorithm") or "MD5").lower().replace("-", "")
            return (arrived if algorithm == "sha256" else _digest(target, algorithm)) == given
        return arrived == sent

    def _record(self, item: Document, source: Path, target: Path, sent: str) -> None:
        if self._asked.get("preserve_timestamp"):
            moment = int(source.stat().st_mtime)
            os.utime(target, (moment, moment))
        self._task.count("files_transferred")
        paths = {key: item[key] for key in ("source_path", "destination_path")}
        told = {"checksum": sent, "checksum_algorithm": "SHA256"} if self._world.faults.tells_checksums else {}
        facts = {"size": target.stat().st_size, **told}
        self._task.done.append({"DATA_TYPE": "successful_transfer", **paths, **facts})


def _damage(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)


def _stay_if_stuck(world: World, task: Task) -> None:
    """Told once, and never over, though the status says that all is well."""
    told = False
    while stuck := world.faults.stuck:
        _stop_if_over(task)
        if not told:
            task.count("faults")
            task.tell(*stuck, is_error=True)
            told = True
        time.sleep(_AGAIN_S / 2)


def _fail_if_asked(world: World) -> None:
    with world.lock:
        injected = world.faults.fail_tasks.pop(0) if world.faults.fail_tasks else None
    if injected:
        raise _Fatal(*injected)


def _items(task: Task) -> list[Document]:
    return cast("list[Document]", task.asked["DATA"])


def _remove_all(world: World, task: Task) -> None:
    place = world.collection(task.asked["endpoint"])
    for item in _items(task):
        _wait_while_held(world, task, place)
        path = place.at(str(item["path"]))
        if path.is_symlink() or path.is_file():
            path.unlink()
        elif path.is_dir():
            if not task.asked.get("recursive"):
                raise _Fatal("IS_A_DIRECTORY", f"is a folder: {item['path']}")
            shutil.rmtree(path)
        elif not task.asked.get("ignore_missing"):
            raise _Fatal("FILE_NOT_FOUND", f"No such file or directory: {item['path']}")


def _wait_while_held(world: World, task: Task, *places: Collection) -> None:
    while True:
        _stop_if_over(task)
        if paused := [place.name for place in places if place.paused]:
            task.facts["is_paused"] = True
            task.trouble("PAUSED_BY_ADMIN", f"paused by the manager of {paused[0]}")
        elif away := [p.name for p in places if not p.online or p.id in world.faults.away_for_tasks]:
            task.trouble("GC_NOT_CONNECTED", f"{away[0]} is not connected")
        elif not world.faults.hold.is_set():
            return
        time.sleep(_AGAIN_S / 2)


def _stop_if_over(task: Task) -> None:
    deadline = task.facts["deadline"]
    if task.cancelled.is_set():
        raise _Over
    if isinstance(deadline, str) and datetime.fromisoformat(deadline).timestamp() < time.time():
        raise _Over


def _digest(path: Path, algorithm: str) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, algorithm).hexdigest()
