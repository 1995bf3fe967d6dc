"""The slot's folder is made while the rsync of the files starts; alone where only one call at a time is let in."""

import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from lading.errors import Unreachable
from lading.inbox import Inbox, InboxLimits
from lading.ports import NoProgress
from lading.testing import trees
from lading.testing.carrying import Errand
from lading.testing.servers import missing_for_sshd, sshd
from transport.rsync import RsyncTransport
from transport.rsync_run import Rsync

fcntl = pytest.importorskip("fcntl", reason="rrsync locks as POSIX does")
pytestmark = [
    pytest.mark.skipif(bool(missing_for_sshd()), reason=missing_for_sshd()),
    pytest.mark.skipif(not shutil.which("rrsync"), reason="rsync and rrsync are not installed (Debian: rsync)"),
]


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox.create(tmp_path / "inbox", limits=InboxLimits(keep_free_bytes=0))


@pytest.fixture(params=["", "restricted", "restricted -no-lock", "one session"])
def errand(request, tmp_path: Path, inbox: Inbox):
    restricted = request.param.startswith("restricted")
    lock = request.param.removeprefix("restricted") if restricted else ""
    command = f"{shutil.which('rrsync')}{lock} {tmp_path}" if restricted else ""
    extra = "MaxSessions 1" if request.param == "one session" else ""
    source = trees.write(tmp_path / "source", {"a/one": b"1", "two": b"2" * 100_000})
    (tmp_path / "state").mkdir()
    with sshd(tmp_path / "ssh", forced_command=command, extra=extra) as server:
        reach = {
            "target": f"{server.user}@127.0.0.1:{'/inbox' if restricted else inbox.root}",
            "port": server.port,
            "identity": str(server.identity),
            "known_hosts": str(server.known_hosts),
        }
        factory = "transport.rsync:RsyncTransport.from_settings"
        yield Errand(
            factory, reach, str(source), str(tmp_path / "p"), str(tmp_path / "state"), "test-delivery-1"
        ).sealed()


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, float, float]]:
    """Where each rsync wrote to, when it was started, and when it had ended."""
    noted: list[tuple[str, float, float]] = []
    run = Rsync.run

    def noting(self: Rsync, arguments: list[str], **options: object) -> object:
        begun = time.monotonic()
        try:
            return run(self, arguments, **options)  # type: ignore[arg-type]
        finally:
            noted.append((arguments[-1].rstrip("/").rpartition("/")[2], begun, time.monotonic()))

    monkeypatch.setattr(Rsync, "run", noting)
    return noted


def test_two_calls_at_a_time_and_one_after_the_other_where_only_one_is_let_in(
    errand: Errand, inbox: Inbox, calls: list[tuple[str, float, float]], request: pytest.FixtureRequest
) -> None:
    errand.carry()

    assert trees.look(inbox.root / errand.slot.data) == trees.look(Path(errand.root))
    assert inbox.accept(errand.slot.delivery)
    names = [name for name, *_ in calls]
    if request.node.callspec.params["errand"] != "restricted":
        # The papers are there before the files' rsync, begun before them, has ended; then the seal.
        assert names == ["test-delivery-1", "data", "test-delivery-1"]
        assert calls[1][1] < calls[0][2]


@pytest.mark.parametrize("errand", ["restricted"], indirect=True)
def test_what_was_refused_once_is_not_tried_again(
    errand: Errand, inbox: Inbox, calls: list[tuple[str, float, float]], monkeypatch: pytest.MonkeyPatch
) -> None:
    send = RsyncTransport._send

    def late(self: RsyncTransport, *args: object) -> None:
        time.sleep(1)  # the rsync of the files has been let in by then
        send(self, *args)  # type: ignore[arg-type]

    transport, cargo = errand.transport(), errand.cargo()
    other = Errand(errand.factory, errand.settings, errand.root, f"{errand.papers}-2", errand.state, "test-delivery-2")
    other.sealed()
    with monkeypatch.context() as patched:
        patched.setattr(RsyncTransport, "_send", late)
        transport.carry(cargo, errand.slot, errand.journal, NoProgress())
    tried = len(calls)
    transport.carry(other.cargo(), other.slot, other.journal, NoProgress())

    assert [name for name, *_ in calls[tried:]] == ["test-delivery-2", "data", "test-delivery-2"]
    assert calls[tried][2] <= calls[tried + 1][1]
    assert tried > 3
    assert inbox.accept(other.slot.delivery)


@pytest.mark.parametrize("errand", ["restricted"], indirect=True)
def test_who_comes_while_another_sends_is_told_to_wait(errand: Errand, inbox: Inbox) -> None:
    locked = os.open(inbox.root.parent, os.O_RDONLY)
    fcntl.flock(locked, fcntl.LOCK_EX)
    try:
        with pytest.raises(Unreachable, match="-no-lock"):
            errand.carry()
        with pytest.raises(Unreachable, match="one at a time"):
            errand.transport().fetch_receipt(errand.slot.delivery)
    finally:
        os.close(locked)

    errand.carry()
    assert inbox.accept(errand.slot.delivery)


def test_no_folder_is_made_where_the_share_is_absent(errand: Errand, inbox: Inbox) -> None:
    shutil.rmtree(inbox.root)
    inbox.root.mkdir()

    with pytest.raises(Unreachable, match="is the share mounted"):
        errand.carry()

    assert not list(inbox.root.iterdir())


def test_a_folder_that_could_not_be_made_is_made_again_alone(
    errand: Errand, inbox: Inbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever it was that failed: nothing is sent before the folder is there, and all of it afterwards."""
    send: Callable[..., None] = RsyncTransport._send
    failures = iter([True])

    def failing_once(self: RsyncTransport, *args: object) -> None:
        if next(failures, False):
            raise Unreachable("cut off by the test")
        send(self, *args)

    monkeypatch.setattr(RsyncTransport, "_send", failing_once)

    errand.carry()

    assert inbox.accept(errand.slot.delivery)
