"""rsync over one ssh connection: one log-in for a carry, nothing left behind, and a connection each where it cannot be shared."""

import os
import shutil
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import pytest

from lading.errors import AccessDenied
from lading.inbox import Inbox, InboxLimits
from lading.manifest import Manifest, make
from lading.testing import trees
from lading.testing.carrying import Errand
from lading.testing.servers import Sshd, make_key, missing_for_sshd, sshd
from transport import rsync_beside, ssh_sharing
from transport.ssh_sharing import NotSharedError, shared

pytestmark = [
    pytest.mark.skipif(bool(missing_for_sshd()), reason=missing_for_sshd()),
    pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed (Debian: rsync)"),
]


@pytest.fixture
def server(tmp_path):
    with sshd(tmp_path / "ssh") as running:
        yield running


@pytest.fixture
def inbox(tmp_path) -> Inbox:
    return Inbox.create(tmp_path / "inbox", limits=InboxLimits(keep_free_bytes=0))


def _errand(tmp_path: Path, server: Sshd, inbox: Inbox, **settings: object) -> Errand:
    source = trees.write(tmp_path / "source", {"a/one": b"1", "two": b"2" * 100_000})
    (tmp_path / "state").mkdir()
    reach: dict[str, object] = {
        "target": f"{server.user}@127.0.0.1:{inbox.root}",
        "port": server.port,
        "identity": str(server.identity),
        "known_hosts": str(server.known_hosts),
        **settings,
    }
    factory = "transport.rsync:RsyncTransport.from_settings"
    return Errand(factory, reach, str(source), str(tmp_path / "p"), str(tmp_path / "state"), "test-delivery-1").sealed()


def _ssh(server: Sshd) -> list[str]:
    known = f"UserKnownHostsFile={server.known_hosts}"
    return ["ssh", "-F", "none", "-p", str(server.port), "-i", str(server.identity), "-o", known, "-o", "BatchMode=yes"]


def _log_ins(server: Sshd) -> int:
    return server.log.read_text().count("Accepted publickey")


def test_a_carry_logs_in_once(tmp_path, server, inbox):
    errand = _errand(tmp_path, server, inbox)

    errand.carry()

    assert _log_ins(server) == 1
    assert trees.look(inbox.root / errand.slot.data) == trees.look(Path(errand.root))
    assert inbox.accept(errand.slot.delivery)


def test_a_list_that_is_made_long_after_the_files_were_sent_still_arrives(tmp_path, server, inbox, monkeypatch):
    monkeypatch.setattr(ssh_sharing, "_IDLE_S", 1)
    errand = _errand(tmp_path, server, inbox)
    shutil.rmtree(errand.papers)

    def slowly(*args: Any, **options: Any) -> Manifest:
        time.sleep(5)  # the shared connection has ended by then
        return make(*args, **options)

    monkeypatch.setattr(rsync_beside, "make", slowly)

    errand.carry()

    assert _log_ins(server) > 1
    assert inbox.accept(errand.slot.delivery)


def test_nothing_listens_any_more_when_the_block_is_over(tmp_path, server):
    with shared(_ssh(server), f"{server.user}@127.0.0.1", seconds=30) as options:
        socket = Path(options[1].removeprefix("ControlPath="))
        assert socket.is_socket()
        for _ in range(2):
            done = subprocess.run([*_ssh(server), *options, f"{server.user}@127.0.0.1", "true"], check=False)
            assert not done.returncode

    assert not socket.parent.exists()
    assert _log_ins(server) == 1


def test_a_program_that_finds_no_master_logs_in_by_itself(tmp_path, server):
    with shared(_ssh(server), f"{server.user}@127.0.0.1", seconds=30) as options:
        socket = options[1].removeprefix("ControlPath=")
        subprocess.run(["ssh", "-F", "none", "-S", socket, "-O", "exit", "host"], check=True, capture_output=True)
        deadline = time.monotonic() + 60
        while Path(socket).exists() and time.monotonic() < deadline:
            time.sleep(0.01)

        done = subprocess.run([*_ssh(server), *options, f"{server.user}@127.0.0.1", "true"], check=False)

    assert not done.returncode
    assert _log_ins(server) == 2


def test_why_the_log_in_failed_is_told_once_and_by_its_reason(tmp_path, server, inbox):
    errand = _errand(tmp_path, server, inbox, identity=str(make_key(tmp_path / "stranger")))

    with pytest.raises(AccessDenied, match="refused our key"):
        errand.carry()


def test_the_folder_of_one_who_was_killed_goes_and_one_in_use_stays(tmp_path, server, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    killed, fresh, used = (tmp_path / f"lading-ssh-{name}" for name in ("killed", "fresh", "used"))
    for folder in (killed, fresh, used):
        folder.mkdir()
    (used / "s").touch()
    for folder in (killed, used):
        os.utime(folder, (0, 0))

    with shared(_ssh(server), f"{server.user}@127.0.0.1", seconds=30):
        assert not killed.exists()

    assert fresh.exists()
    assert used.exists()


def test_a_program_that_is_not_openssh_shares_nothing():
    with shared(["/usr/bin/plink", "-batch"], "host", seconds=1) as options:
        assert options == []


def test_an_ssh_that_is_not_there_shares_nothing():
    with shared(["/nowhere/ssh"], "host", seconds=1) as options:
        assert options == []


def test_a_host_that_does_not_answer_is_an_error_of_ssh():
    with pytest.raises(NotSharedError), shared(["ssh", "-F", "none", "-p", "1"], "127.0.0.1", seconds=1):
        pass
