"""Helper processes answer like the reader itself, and never outlive who started them."""

import os
import signal
import subprocess
import sys
import threading
import time
from importlib.util import find_spec
from pathlib import Path

import pytest

from lading.errors import SourceChanged, UnexpectedFault
from lading.filters import FileRules
from lading.listing.entries import DIGEST_CHARS
from lading.listing.helpers import Helpers
from lading.listing.reading import Reader
from lading.listing.survey import Run
from lading.manifest import NameLimits, survey

START_AND_SLEEP = """
import subprocess, sys, time
from pathlib import Path
from lading.listing.helpers import Helpers
helpers = Helpers.start(Path(sys.argv[1]), ("sha256",), 2)
print(*(process.pid for process in helpers._processes), flush=True)
time.sleep(60)
"""


def runs_of(root: Path) -> list[Run]:
    return [run for run in survey(root, rules=FileRules(), limits=NameLimits.POSIX).runs() if isinstance(run, Run)]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False


def test_an_error_in_a_helper_is_the_readers_own_error(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")
    runs = runs_of(tmp_path)
    (tmp_path / "a").write_bytes(b"22")

    with Helpers.start(tmp_path, ("sha256",), 1) as helpers:
        with pytest.raises(SourceChanged, match=r"1 bytes .* became 2 bytes"):
            helpers.list_runs(runs, None)
        after = helpers.list_runs(runs_of(tmp_path), None)

    assert after.files == 1


def test_a_helper_makes_every_digest_that_the_reader_makes(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"abc")
    names = tuple(name for name in DIGEST_CHARS if find_spec("mmh3") or not name.startswith("Murmur"))
    reader = Reader(tmp_path, names, stop=threading.Event())
    (run,) = runs_of(tmp_path)

    with Helpers.start(tmp_path, names, 1) as helpers:
        listed = helpers.list_runs([run], None)

    assert listed == reader.list_run(run)
    assert all(f'"{name}": "'.encode() in listed.lines for name in names)
    reader.close()


def test_a_killed_helper_is_a_fault_and_not_a_hang(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"1")

    with Helpers.start(tmp_path, ("sha256",), 1) as helpers:
        (process,) = helpers._processes
        process.kill()
        process.wait()
        with pytest.raises(UnexpectedFault, match="-9"):
            helpers.list_runs(runs_of(tmp_path), None)


def test_a_module_in_the_current_folder_is_not_taken_for_ours(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "lading.py").write_text("raise SystemExit('taken over')")
    monkeypatch.chdir(tmp_path)

    with Helpers.start(tmp_path, ("sha256",), 1) as helpers:
        assert helpers
        assert helpers.list_runs(runs_of(tmp_path), None).files == 1


def test_helpers_end_when_who_started_them_is_killed(tmp_path: Path) -> None:
    with subprocess.Popen([sys.executable, "-c", START_AND_SLEEP, tmp_path], stdout=subprocess.PIPE) as parent:
        assert parent.stdout
        pids = [int(pid) for pid in parent.stdout.readline().split()]
        assert all(map(is_alive, pids))

        os.kill(parent.pid, signal.SIGKILL)

    deadline = time.monotonic() + 120
    while any(map(is_alive, pids)) and time.monotonic() < deadline:
        time.sleep(0.02)
    assert len(pids) == 2
    assert not any(map(is_alive, pids))
