"""Asks Bio-Formats which reader takes a file and which files belong to it, through one warm JVM in a process of its own.

A worker that hangs is killed, one that dies is started again; what that says about the file is an answer, not an error.
"""

import contextlib
import importlib.util
import json
import os
import queue
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import IO, Self, cast

import attrs
import cattrs

from lading.errors import ConfigError

_INSTALL = "pip install 'lading[bioformats]', and a Java runtime of version 8 or later"
# What a JVM needs to start. Nothing else of our environment: the worker reads strangers' files, and secrets live there.
_ENVIRONMENT = frozenset(
    {"PATH", "HOME", "JAVA_HOME", "LD_LIBRARY_PATH", "PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV"}
    | {"TMPDIR", "TEMP", "TMP", "SYSTEMROOT", "SYSTEMDRIVE", "WINDIR"}
)


# The first death may be the fault of an earlier file; only that of a fresh JVM accuses this one.
_DEATHS_BY_ONE_FILE = 2
_LAST_MOMENT = 10.0


@attrs.frozen(kw_only=True)
class BioFormatsSettings:
    """How to run Bio-Formats (`[repositories.NAME.bioformats]`).

    `use`: "auto" (when it is installed), "always" (else an error at start-up), "never" (rules and extensions only).
    `jar`: a bioformats_package.jar, best of the OMERO server's own version; "" takes the one of the extra `bioformats`.
    `memory_mb`: the JVM's heap. `file_timeout`: seconds for one file, on a slow disk too. `start_timeout`: seconds for the JVM.
    `idle`: seconds after which an unused JVM ends.
    """

    use: str = "auto"
    jar: str = ""
    memory_mb: int = 512
    file_timeout: float = 120.0
    start_timeout: float = 120.0
    idle: float = 600.0


class Failure(StrEnum):
    """Why Bio-Formats has no files to name."""

    UNKNOWN_FORMAT = "unknown-format"  # not an image, as far as Bio-Formats can tell
    MISSING_LIBRARY = "missing-library"  # an image, but a reader is not installed
    UNREADABLE = "unreadable"  # an image, but damaged or incomplete
    TIMEOUT = "timeout"
    CRASHED = "crashed"


@dataclass(frozen=True, slots=True)
class Reading:
    """What Bio-Formats says about one file: all `files` (absolute) of its fileset, the entry point first.

    The first `initialising` of them may open the fileset. `required_dirs`: how many parent folders the reader needs.
    `plate`: the reader is one for high-content screening.
    """

    reader: str
    files: tuple[str, ...]
    initialising: int
    required_dirs: int
    series: int
    plate: bool


@dataclass(frozen=True, slots=True)
class NoReading:
    """Bio-Formats cannot read the file."""

    failure: Failure
    message: str


class BioFormats:
    """Bio-Formats, started at the first question. One question at a time; may be shared by threads."""

    def __init__(self, settings: BioFormatsSettings | None = None) -> None:
        self._settings = settings or BioFormatsSettings()
        self._lock = threading.Lock()
        self._worker: _Worker | None = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, exc: BaseException | None, tb: TracebackType | None) -> None:
        self.close()

    def read(self, path: Path) -> Reading | NoReading:
        """What Bio-Formats says about the file at `path` (absolute). Raises ConfigError when the JVM does not start."""
        with self._lock:
            for _ in range(_DEATHS_BY_ONE_FILE):
                answer = self._ask(path)
                if answer is not None:
                    return answer
        return NoReading(Failure.CRASHED, "Bio-Formats (its Java process) crashed on the file")

    @property
    def version(self) -> str:
        """Bio-Formats' version. Starts the JVM. Raises ConfigError."""
        with self._lock:
            return self._running().version

    @property
    def pid(self) -> int:
        """The worker's process id; 0 when none runs."""
        return self._worker.pid if self._worker else 0

    def close(self) -> None:
        """End the JVM. The next question starts another."""
        with self._lock:
            self._drop()

    def _ask(self, path: Path) -> "Reading | NoReading | None":
        while True:
            answer, idle = self._try(path)
            if not idle:
                return answer

    def _try(self, path: Path) -> "tuple[Reading | NoReading | None, bool]":
        """What the worker says, None if it died; and whether it had ended by itself, having nothing to do."""
        worker = self._running()
        try:
            return _understood(worker.ask({"path": str(path)}, self._settings.file_timeout)), False
        except TimeoutError:
            self._drop()
            message = f"Bio-Formats did not finish with the file in {self._settings.file_timeout:.0f} s"
            return NoReading(Failure.TIMEOUT, message), False
        except EOFError:
            idle = worker.ended_by_itself()
            self._drop()
            return None, idle

    def _running(self) -> "_Worker":
        if self._worker is None:
            self._worker = _Worker(self._settings)
        return self._worker

    def _drop(self) -> None:
        if self._worker is not None:
            self._worker.end()
            self._worker = None


def missing_for_bioformats(settings: BioFormatsSettings | None = None) -> str:
    """What is missing on this machine to run Bio-Formats, with what to do; "" when nothing is."""
    settings = settings or BioFormatsSettings()
    if importlib.util.find_spec("jpype") is None:
        return f"jpype1 is not installed: {_INSTALL}"
    if settings.jar and not Path(settings.jar).is_file():
        return f"there is no {settings.jar}"
    if not settings.jar and _wheel_jar() is None:
        return f"bioformats_package.jar is not installed: {_INSTALL}"
    import jpype  # noqa: PLC0415 - the optional part

    try:
        jpype.getDefaultJVMPath()
    except (jpype.JVMNotFoundException, OSError, ValueError):
        return f"no Java runtime was found (JAVA_HOME or PATH): {_INSTALL}"
    return ""


def install(missing: str) -> str:
    """The command that mends what `missing_for_bioformats` said, or shows it."""
    if missing.startswith("there is no "):
        return f"ls -l {missing.removeprefix('there is no ')}"
    return (
        "apt-get install default-jre-headless" if missing.startswith("no Java") else "pip install 'lading[bioformats]'"
    )


def bioformats(settings: BioFormatsSettings) -> BioFormats | None:
    """Bio-Formats as the settings ask for it; None when it shall not, or with "auto" cannot, be used. Raises ConfigError."""
    if settings.use not in ("auto", "always", "never"):
        raise ConfigError(
            f"bioformats.use = {settings.use!r}; there are auto, always, never", next_command="lading doctor"
        )
    missing = "" if settings.use == "never" else missing_for_bioformats(settings)
    if settings.use == "always" and missing:
        raise ConfigError(f"Bio-Formats cannot be used: {missing}", next_command=install(missing))
    return None if settings.use == "never" or missing else BioFormats(settings)


class _Worker:
    """One worker process. Every method raises EOFError when it is gone."""

    def __init__(self, settings: BioFormatsSettings) -> None:
        missing = missing_for_bioformats(settings)
        if missing:
            raise ConfigError(f"starting Bio-Formats: {missing}", next_command="lading doctor")
        jar = settings.jar or str(_wheel_jar())
        self._log: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115 - closed in end()
        self._process = subprocess.Popen(
            [
                sys.executable,
                "-m",
                "omero_importer.bioformats_worker",
                jar,
                str(settings.memory_mb),
                str(settings.idle),
            ],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            env=_environment(),
            start_new_session=True,
        )
        self._questions = cast("IO[bytes]", self._process.stdin)
        self._output = cast("IO[bytes]", self._process.stdout)
        self._answers: queue.SimpleQueue[bytes] = queue.SimpleQueue()
        self._listener = threading.Thread(target=self._listen, daemon=True, name="bioformats")
        self._listener.start()
        try:
            self.version = str(self._answer(settings.start_timeout)["version"])
        except (EOFError, TimeoutError) as exc:
            said = self._last_words() or f"no answer within {settings.start_timeout:.0f} s"
            self.end()
            raise ConfigError(f"starting Java for Bio-Formats ({jar}): {said}", next_command="lading doctor") from exc

    @property
    def pid(self) -> int:
        return self._process.pid

    def ask(self, request: Mapping[str, str], timeout: float) -> Mapping[str, object]:
        """The answer to `request`. Raises TimeoutError, EOFError."""
        try:
            self._questions.write(json.dumps(request).encode("ascii") + b"\n")
            self._questions.flush()
        except OSError as exc:
            raise EOFError from exc
        return self._answer(timeout)

    def ended_by_itself(self) -> bool:
        """Of a worker that is gone: whether it was idle, and not killed by what it read."""
        try:
            return self._process.wait(_LAST_MOMENT) == 0
        except subprocess.TimeoutExpired:
            return False

    def end(self) -> None:
        self._process.kill()
        self._process.wait()
        self._listener.join(_LAST_MOMENT)  # a pipe cannot be closed under a thread that reads it
        for pipe in (self._questions, self._output):
            with contextlib.suppress(OSError, ValueError):  # the last request was never taken
                pipe.close()
        self._log.close()

    def _listen(self) -> None:
        with contextlib.suppress(OSError, ValueError):  # closed by end()
            for line in self._output:
                self._answers.put(line)
        self._answers.put(b"")

    def _answer(self, timeout: float) -> Mapping[str, object]:
        deadline = time.monotonic() + timeout
        while True:
            try:
                line = self._answers.get(timeout=max(0.0, deadline - time.monotonic()))
            except queue.Empty:
                raise TimeoutError from None
            if not line:
                raise EOFError
            answer = json.loads(line)
            if isinstance(answer, dict):
                return answer

    def _last_words(self) -> str:
        self._log.seek(0, os.SEEK_END)
        self._log.seek(max(0, self._log.tell() - 2000))
        lines = self._log.read().decode("utf-8", "replace").strip().splitlines()
        return lines[-1] if lines else ""


def _environment() -> dict[str, str]:
    kept = {name: os.environ[name] for name in _ENVIRONMENT if name in os.environ}
    # Java decodes file names by the locale: with "C" it cannot open a name with an umlaut.
    return kept if os.name == "nt" else {**kept, "LC_ALL": "C.UTF-8"}


def _wheel_jar() -> Path | None:
    # Found without importing it: the package's own module starts to configure a JVM in this process.
    spec = importlib.util.find_spec("bioformats_jar")
    for folder in (spec.submodule_search_locations or ()) if spec else ():
        jar = Path(folder) / "bioformats_package.jar"
        if jar.is_file():
            return jar
    return None


_converter = cattrs.Converter()


def _understood(answer: Mapping[str, object]) -> Reading | NoReading:
    if "failure" in answer:
        return NoReading(Failure(str(answer["failure"])), str(answer["message"]))
    reading: Reading = _converter.structure(dict(answer), Reading)
    return reading
