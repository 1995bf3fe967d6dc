"""Runs the real `omero import`: how it is called, how it is stopped, and what it says. Believes none of it.

Its exit code is 0 after failures (with `-c`), after everything was skipped, and when nothing could be read. So what it says goes
into messages, and what happened is looked up in OMERO by the caller.

The session key reaches `omero` through a private session store. `omero` itself hands it to Java as an argument, where other users
of this machine can see it while the import runs: that is how its Java importer is made. The ice engine has no such moment.
"""

import csv
import json
import os
import re
import shutil
import signal
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

import yaml

from lading.errors import ConfigError, TargetUnavailable
from omero_importer.session import Connection
from omero_importer.settings import RepositorySettings

_KEPT = frozenset({"PATH", "HOME", "JAVA_HOME", "LANG", "TZ", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "PYTHONPATH"})
_OURS = "LADING_OMERO_IMPORT"
_SUMMARY = re.compile(
    r"(\d+) files? uploaded, (\d+) filesets?(?:, \d+ plates?)? created, (\d+) images? imported, (\d+) errors? in"
)
_MAX_SAID = 16 << 20
_LAST_WORDS = 600


@dataclass(frozen=True, slots=True)
class Said:
    """What one run said. `filesets`: the ids in its YAML; `errors`: as its summary counts them, -1 without a summary."""

    code: int
    filesets: tuple[int, ...]
    errors: int
    words: str

    def __str__(self) -> str:
        errors = "no summary" if self.errors < 0 else f"{self.errors} errors"
        return f"exit code {self.code}, {len(self.filesets)} filesets, {errors}{': ' if self.words else ''}{self.words}"


class OmeroImport:
    """`omero import` for one connection and place. `mark` names the delivery in OMERO; leftovers are known by it."""

    def __init__(self, settings: RepositorySettings, connection: Connection, mark: int) -> None:
        self._settings, self._connection = settings, connection
        self._tag = f"{connection.server}/{mark}"
        if settings.plain != "no":
            raise ConfigError(
                "the engine cli logs in over TLS, as OMERO's Java importer does: leave repositories.NAME.plain out",
                next_command="lading doctor",
            )
        if not settings.cli.client_dir:
            raise ConfigError(
                "the engine cli needs repositories.NAME.cli.client_dir, the folder with OMERO.java's jars: without it `omero "
                "import` would download whatever is called latest",
                next_command="lading doctor",
            )

    def run(self, options: Sequence[str], paths: Sequence[Path], timeout: float) -> Said:
        """One Java process for all `paths`. Raises TargetUnavailable after `timeout` seconds, ConfigError without `omero`."""
        with self._folder() as folder:
            return self._carried_out(folder, [*options, "-c", *map(str, paths)], timeout)

    def run_bulk(self, options: dict[str, str | bool], paths: Sequence[Path], timeout: float) -> Said:
        """A Java process for each of `paths`, so that none is hurt by another. `options` are `omero import`'s long ones."""
        with self._folder() as folder:
            with open(folder / "paths.csv", "w", newline="") as table:
                csv.writer(table, quoting=csv.QUOTE_ALL).writerows([str(path)] for path in paths)
            keys = {name.replace("-", "_"): value for name, value in options.items()}
            bulk = {**keys, "path": str(folder / "paths.csv"), "columns": ["path"], "continue": True}
            (folder / "bulk.yml").write_text(json.dumps(bulk))  # which is YAML
            return self._carried_out(folder, ["--bulk", str(folder / "bulk.yml")], timeout)

    def end_leftovers(self) -> int:
        """Kill what an importer that is gone has left running for this delivery, Java too; how many. Linux only."""
        wanted, killed = f"{_OURS}={self._tag}".encode(), 0
        for entry in Path("/proc").glob("[0-9]*"):
            with suppress(OSError):
                if int(entry.name) != os.getpid() and wanted in (entry / "environ").read_bytes().split(b"\0"):
                    os.kill(int(entry.name), signal.SIGKILL)
                    killed += 1
        return killed

    @contextmanager
    def _folder(self) -> Iterator[Path]:
        with tempfile.TemporaryDirectory(prefix="lading-omero-") as name:  # mode 0700
            yield Path(name)

    def _carried_out(self, folder: Path, arguments: Sequence[str], timeout: float) -> Said:
        self._log_in(folder / "sessions")
        out, errs, screen = folder / "out.yml", folder / "errs.txt", folder / "screen.txt"
        argv = [*self._settings.cli.command, "import", "--clientdir", self._settings.cli.client_dir]
        argv += ["--file", str(out), "--errs", str(errs), *arguments]
        with open(screen, "wb") as file:
            code = self._wait(argv, folder, file.fileno(), timeout)
        errors, words = _understood(errs, screen)
        return Said(code, _filesets(out), errors, words)

    def _wait(self, argv: Sequence[str], folder: Path, output: int, timeout: float) -> int:
        try:
            process = subprocess.Popen(
                argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                cwd=folder,
                env=self._environment(folder),
                start_new_session=True,
            )
        except OSError as exc:
            raise ConfigError(
                f"running {argv[0]}: {exc.strerror}", next_command="make omero, or set cli.command"
            ) from exc
        try:
            return process.wait(timeout)
        except subprocess.TimeoutExpired as exc:
            raise TargetUnavailable(
                f"omero import at {self._connection.server}: no end in sight after {timeout:.0f} s",
                safe="The files are in the inbox.",
                next_command="lading retry",
            ) from exc
        finally:
            # Java is of the same group, and may outlive the command that started it.
            with suppress(ProcessLookupError, PermissionError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _environment(self, folder: Path) -> dict[str, str]:
        kept = {name: value for name, value in os.environ.items() if name in _KEPT}
        return {
            **kept,
            "LC_ALL": "C.UTF-8",
            "OMERO_USERDIR": str(folder),
            "OMERO_SESSIONDIR": str(folder / "sessions"),
            "ICE_CONFIG": str(self._ice_config(folder)),
            _OURS: self._tag,
        }

    def _log_in(self, folder: Path) -> None:
        """The session of our connection, in a store of `omero`'s that only we can read."""
        from omero.util.sessions import SessionsStore  # noqa: PLC0415 - the library of the command, needed here only

        server = self._settings.host
        properties = {"omero.port": str(self._settings.port)}
        key = self._connection.client.getSessionId()
        store = SessionsStore(str(folder))
        store.add(server, self._connection.user, key, properties)
        store.set_current(server, self._connection.user, key, properties)

    def _ice_config(self, folder: Path) -> Path:
        ssl, path = self._settings.ssl, folder / "ice.config"
        lines = [f"IceSSL.VerifyPeer={2 if ssl.verify else 0}"]
        if ssl.verify:
            lines.append(f"IceSSL.CAs={ssl.ca}" if ssl.ca else "IceSSL.UsePlatformCAs=1")
        if ssl.ciphers:
            lines.append(f"IceSSL.Ciphers={ssl.ciphers}")
        path.write_text("\n".join(lines) + "\n")
        return path


def missing_for_cli(command: Sequence[str]) -> str:
    """What is missing on this machine to run `omero import`, or ""."""
    for program in (command[0], "java"):
        if not shutil.which(program):
            return f"{program} is not installed"
    return ""


def _filesets(out: Path) -> tuple[int, ...]:
    """One YAML document per fileset; what is cut off, or no YAML at all, counts for nothing."""
    found: list[int] = []
    with suppress(OSError, yaml.YAMLError, RecursionError):
        for document in yaml.safe_load_all(_text(out)):
            for one in document if isinstance(document, list) else ():
                if isinstance(one, dict) and isinstance(one.get("Fileset"), int):
                    found.append(one["Fileset"])
    return tuple(found)


def _understood(errs: Path, screen: Path) -> tuple[int, str]:
    """The errors that all summaries (one for each Java process) count together, and the last words of interest."""
    said, wrapper = _text(errs), _text(screen)
    counts = [int(match.group(4)) for match in _SUMMARY.finditer(said)]
    lines = [line.strip() for line in f"{said}\n{wrapper}".splitlines() if line.strip()]
    telling = [line for line in lines if re.search(r"rror|xception|FATAL|ail", line)] or lines[-3:]
    words = " ".join(dict.fromkeys(line for line in telling if not _SUMMARY.search(line)))
    return (sum(counts) if counts else -1), words[-_LAST_WORDS:]


def _text(path: Path) -> str:
    with suppress(OSError), open(path, "rb") as file:
        return file.read(_MAX_SAID).decode("utf-8", "replace")
    return ""
