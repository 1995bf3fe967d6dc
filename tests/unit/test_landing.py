"""The parts of files that go on growing: nobody else's file, pipe or folder is written to, or waited for."""

import os
import threading
from pathlib import Path

import pytest

from transport.landing import TEMPORARY, Landing

pytestmark = pytest.mark.skipif(os.name == "nt", reason="links and pipes are made as POSIX has them")


def link(part: Path, foreign: Path) -> None:
    part.symlink_to(foreign)


def hard_link(part: Path, foreign: Path) -> None:
    part.hardlink_to(foreign)


def pipe(part: Path, foreign: Path) -> None:
    os.mkfifo(part)


def folder(part: Path, foreign: Path) -> None:
    part.mkdir()
    (part / "inner").write_bytes(b"")


@pytest.mark.parametrize("plant", [link, hard_link, pipe, folder])
def test_what_another_sender_put_in_the_place_of_a_part_is_removed_and_not_written_to(tmp_path, plant):
    slot, foreign = tmp_path / "slot", tmp_path / "foreign"
    slot.mkdir()
    foreign.write_bytes(b"of somebody else")
    plant(slot / f"{TEMPORARY}which", foreign)
    failures: list[Exception] = []
    found: list[bytes] = []

    def write() -> None:
        try:
            with Landing(slot) as landing:
                arriving, before = landing.resume("file", "which")
                found.append(os.read(before, 100))
                os.close(before)
                arriving.write(b"ours")
                arriving.finish()
        except Exception as exc:  # noqa: BLE001 - told by the thread that asks
            failures.append(exc)

    writing = threading.Thread(target=write, daemon=True)  # a pipe would keep it for ever
    writing.start()
    writing.join(30)

    assert not writing.is_alive(), "it waits for somebody to read the pipe"
    assert not failures, failures
    assert found == [b""], "it is no part of ours"
    assert foreign.read_bytes() == b"of somebody else"
    assert (slot / "file").read_bytes() == b"ours"
    assert [path.name for path in slot.iterdir()] == ["file"]


def test_a_part_of_our_own_is_gone_on_with(tmp_path):
    with Landing(tmp_path) as landing:
        arriving, before = landing.resume("file", "which")
        os.close(before)
        arriving.write(b"first ")
        arriving.leave()
    with Landing(tmp_path) as landing:
        arriving, before = landing.resume("file", "which")
        found = os.read(before, 100)
        os.close(before)
        arriving.write(b"second")
        arriving.finish()

    assert found == b"first "
    assert (tmp_path / "file").read_bytes() == b"first second"
