"""Stands in for robocopy.exe where there is no Windows: copies named files, shows halves, locks, retries, logs, exit bits.

Written after Microsoft's documentation of the switches and exit codes; it is no recording of a real one. A lock is an `flock`.
"""

import ctypes
import errno
import fcntl
import os
import signal
import sys
import time
from dataclasses import dataclass
from pathlib import Path

WORDS = {
    "en": ("ERROR", "Copying File", "The process cannot access the file because it is being used by another process."),
    "de": ("FEHLER", "Datei wird kopiert", "Der Prozess kann nicht auf die Datei zugreifen, da sie verwendet wird."),
    "ja": (
        "エラー",
        "ファイルをコピーしています",
        "別のプロセスで使用されているため、プロセスはファイルにアクセスできません。",
    ),
}
COPIED, FAILED, FATAL = 1, 8, 16
_NUMBERS = {errno.ENOSPC: 112, errno.EACCES: 5, errno.EPERM: 5, errno.ENOENT: 2, errno.ENOTDIR: 3, errno.EIO: 1117}
_LOCKED = 32
_PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Order:
    """What the command line asks for."""

    source: Path
    target: Path
    names: tuple[str, ...]
    retries: int
    wait: float
    log: Path


def ordered(arguments: list[str]) -> Order:
    """The order in the command line after the program."""
    switches = [argument for argument in arguments[2:] if argument.startswith("/")]
    names = tuple(argument for argument in arguments[2:] if not argument.startswith("/"))
    values = {switch.partition(":")[0]: switch.partition(":")[2] for switch in switches}
    for needed in ("/Z", "/J", "/XJ", "/COPY", "/UNILOG"):
        if needed not in values:
            raise SystemExit(FATAL)
    retries, wait = int(values["/R"]), float(values["/W"])
    return Order(Path(arguments[0]), Path(arguments[1]), names, retries, wait, Path(values["/UNILOG"]))


def main(language: str, arguments: list[str]) -> int:
    """The program. `language`: of its log."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)  # a test that kills its carry means us too
    order = ordered(arguments)
    with order.log.open("w", encoding="utf-16") as log:
        if not order.source.is_dir():
            log.write(line(language, _NUMBERS[errno.ENOENT], str(order.source) + "/"))
            return FATAL
        code = 0
        for name in order.names:
            number = 0
            for attempt in range(order.retries + 1):
                if attempt:
                    time.sleep(order.wait)
                number = copy(order.source / name, order.target / name)
                if not number:
                    break
                log.write(line(language, number, str(order.source / name)))
            code |= FAILED if number else COPIED
        return code


def line(language: str, number: int, path: str) -> str:
    """A failure as the log shows it: two lines."""
    error, doing, said = WORDS[language]
    return f"2026/05/04 18:15:00 {error} {number} (0x{number:08X}) {doing} {path}\n{said}\n"


def copy(source: Path, target: Path) -> int:
    """Copy one file in place; the number of the Windows error, or 0. A file that is not there is nothing to copy."""
    if not source.exists():
        return 0
    try:
        with source.open("rb") as theirs, target.open("wb") as ours:
            try:
                fcntl.flock(theirs, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return _LOCKED
            info = os.fstat(theirs.fileno())
            while block := theirs.read(1 << 18):
                ours.write(block)
        os.utime(target, ns=(info.st_mtime_ns, info.st_mtime_ns))
    except OSError as exc:
        return _NUMBERS.get(exc.errno or 0, 31)
    return 0


def install(folder: Path, language: str = "en") -> Path:
    """A program in `folder` that does this."""
    program = folder / "robocopy.exe"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m lading.testing.robocopy_double {language} "$@"\n')
    program.chmod(0o755)
    return program


if __name__ == "__main__":
    sys.exit(main(sys.argv[1], sys.argv[2:]))
