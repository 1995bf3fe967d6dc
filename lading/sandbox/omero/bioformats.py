"""Real Bio-Formats for the stand-in: one warm JVM in a process of its own, so that unknown formats are really unknown.

It is separate from the importer's: that one decides before the upload what belongs together, this one plays the server
that finds out afterwards. They must be able to disagree.
"""

import contextlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from lading.sandbox.omero.images import MISSING_FILE, UNREADABLE, CannotRead, ImageFile, Plate, Series, Well

START_S: Final = 180.0
FILE_S: Final = 180.0


def missing_for_bioformats() -> str:
    """What is missing on this machine to run Bio-Formats, or ""."""
    if importlib.util.find_spec("jpype") is None or _jar() is None:
        return "Bio-Formats is not installed: pip install 'lading[bioformats]'"
    import jpype  # noqa: PLC0415 - the optional part

    try:
        jpype.getDefaultJVMPath()
    except (jpype.JVMNotFoundException, OSError, ValueError):
        return "no Java runtime was found (Debian: openjdk-17-jre-headless)"
    return ""


class BioFormats:
    """Starts the JVM at the first question. One question at a time; threads may share it."""

    def __init__(self, memory_mb: int = 512) -> None:
        self._memory_mb = memory_mb
        self._lock = threading.Lock()
        self._worker: _Worker | None = None

    def read(self, path: Path) -> ImageFile:
        """What is in the file. Raises CannotRead."""
        if not path.exists():
            raise CannotRead(MISSING_FILE, f"{path} (No such file or directory)")
        return _image_file(self._ask({"read": str(path)}))

    def required_directories(self, reader: str, paths: Sequence[str]) -> int | None:
        """None when Bio-Formats has no such reader."""
        try:
            answer = self._ask({"required": [reader, list(paths)]})["directories"]
        except CannotRead:
            return None
        return None if answer is None else int(answer)

    @property
    def pid(self) -> int:
        """The process of the JVM; 0 when none runs."""
        return self._worker.pid if self._worker else 0

    def close(self) -> None:
        """End the JVM."""
        with self._lock:
            if self._worker is not None:
                self._worker.end()
            self._worker = None

    def _ask(self, question: Mapping[str, object]) -> Mapping[str, Any]:
        with self._lock:
            if self._worker is None:
                self._worker = _Worker(self._memory_mb)
            try:
                answer = self._worker.ask(question, FILE_S)
            except (EOFError, TimeoutError) as error:
                self._worker.end()
                self._worker = None
                raise CannotRead("java.lang.OutOfMemoryError", f"the JVM was lost: {error!r}") from error
        if "java_class" in answer:
            raise CannotRead(answer["java_class"], answer["message"])
        return answer


class _Worker:
    """The process. Both methods that talk to it raise EOFError when it is gone, TimeoutError when it says nothing."""

    def __init__(self, memory_mb: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "lading.sandbox.omero.bioformats_worker", str(_jar()), str(memory_mb)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            # Java decodes file names by the locale: with "C" it cannot open a name with an umlaut.
            env={**os.environ, "LC_ALL": "C.UTF-8"},
        )
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        threading.Thread(target=self._listen, daemon=True, name="bioformats").start()
        self._next(START_S)

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, question: Mapping[str, object], timeout: float) -> Mapping[str, Any]:
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(json.dumps(question).encode("ascii") + b"\n")
            self._process.stdin.flush()
        except OSError as error:
            raise EOFError from error
        return self._next(timeout)

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            assert pipe is not None
            with contextlib.suppress(OSError, ValueError):
                pipe.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        with contextlib.suppress(OSError, ValueError):  # closed by end()
            for line in self._process.stdout:
                self._answers.put(line)
        self._answers.put(b"")

    def _next(self, timeout: float) -> Mapping[str, Any]:
        try:
            line = self._answers.get(timeout=timeout)
        except queue.Empty:
            raise TimeoutError(f"no answer for {timeout:.0f} s") from None
        if not line:
            raise EOFError
        answer: Mapping[str, Any] = json.loads(line)
        return answer


def _jar() -> Path | None:
    # Found without importing it: the package's own module starts to configure a JVM in this process.
    spec = importlib.util.find_spec("bioformats_jar")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        jar = Path(folder) / "bioformats_package.jar"
        if jar.is_file():
            return jar
    return None


def _image_file(answer: Mapping[str, Any]) -> ImageFile:
    series = tuple(
        Series(**{**each, "channels": tuple(each["channels"]), "physical_sizes": tuple(each["physical_sizes"])})
        for each in answer["series"]
    )
    if not series:
        raise CannotRead(UNREADABLE, "no images")
    plates = tuple(
        Plate(plate["name"], tuple(Well(well["row"], well["column"], tuple(well["series"])) for well in plate["wells"]))
        for plate in answer["plates"]
    )
    return ImageFile(answer["reader"], answer["format"], tuple(answer["used_files"]), series, plates)
