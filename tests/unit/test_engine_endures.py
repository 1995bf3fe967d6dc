"""The server outlives a machine that is short of something for a moment, and faults that nobody foresaw."""

import errno
import os
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.assembly import server_parts
from lading.config import Config, InboxConfig
from lading.engine import chores, server
from lading.engine.chores import Chores
from lading.inbox import BareFolder, Inbox
from lading.testing.engine_site import EngineSite
from lading.testing.fakes import FolderParts


@pytest.fixture
def site(tmp_path: Path) -> EngineSite:
    return EngineSite(tmp_path / "site", database="postgresql://unused")


def test_a_worker_that_cannot_be_started_is_started_later(site: EngineSite, monkeypatch: pytest.MonkeyPatch) -> None:
    tries: list[object] = []

    def no_memory(*args: object, **_: object) -> None:
        tries.append(args)
        raise OSError(errno.ENOMEM, os.strerror(errno.ENOMEM))

    monkeypatch.setattr(subprocess, "Popen", no_memory)
    worker = server._WorkerProcess(site.config, "unused")

    worker.tend()
    worker.tend()
    assert len(tries) == 1  # not again at once
    worker.started -= worker.pause
    worker.tend()

    assert len(tries) == 2
    assert worker.process is None


def test_a_chore_that_meets_a_fault_nobody_foresaw_is_done_again(
    site: EngineSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[float] = []
    went_on = threading.Event()

    def without_threads(_: Inbox, *, quiet_s: float, **__: object) -> Iterator[BareFolder]:
        looks.append(quiet_s)
        if len(looks) > 1:
            went_on.set()
            return iter(())
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(Inbox, "bare", without_threads)
    monkeypatch.setattr(chores, "_AFTER_A_BUG_S", 0.01)
    made = Chores(site.config, "postgresql:///unused?host=/nowhere", FolderParts(site.config))
    made.start()
    try:
        assert went_on.wait(30)
    finally:
        made.stop()


def test_an_inbox_that_is_mounted_while_the_others_are_gone_through(tmp_path: Path) -> None:
    """Its first visitor may be another thread; going through them raised RuntimeError, and the server ended."""
    folders = {name: InboxConfig(path=tmp_path / name) for name in ("first", "late")}
    Inbox.create(tmp_path / "first")
    parts = server_parts(Config(home=tmp_path / "home", inboxes=folders))
    going_through = iter(parts.inboxes.items())
    Inbox.create(tmp_path / "late")

    assert set(parts.inboxes) == {"first", "late"}  # as the other thread sees it
    assert [name for name, _ in going_through] == ["first"]
