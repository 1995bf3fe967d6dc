"""rsync between two other hosts, steered by us: two real sshd, against the shared suite, and scenario S17's faults."""

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lading.errors import ConfigError, SourceChanged
from lading.testing import trees
from lading.testing.faultproxy import FaultProxy
from lading.testing.servers import Sshd, free_port, make_key, missing_for_sshd, sshd
from lading.testing.site import Desk, Site, command_lines
from lading.testing.transport_suite import TransportSuite
from transport.rsync_third_party import PLAN, ThirdPartyRsync

FACTORY = "transport.rsync_third_party:ThirdPartyRsync.from_settings"

pytestmark = [
    pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed (Debian: rsync)"),
    pytest.mark.skipif(bool(missing_for_sshd()), reason=missing_for_sshd()),
]


@dataclass(frozen=True)
class Hosts:
    """The staging host and the host of the data, which trusts the same key."""

    staging: Sshd
    data: Sshd
    known: Path

    def settings(self, inbox: Path, seen_at: Path) -> dict[str, object]:
        return {
            "target": f"{self.staging.user}@127.0.0.1:{inbox}",
            "port": self.staging.port,
            "identity": str(self.staging.identity),
            "known_hosts": str(self.known),
            "connect_timeout": 5,
            "source": {
                "host": f"{self.data.user}@127.0.0.1",
                "port": self.data.port,
                "path": str(seen_at),
                "seen_at": str(seen_at),
                "known_hosts": str(self.data.known_hosts),
            },
        }


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    with sshd(tmp_path / "staging") as staging, sshd(tmp_path / "data") as data:
        with data.authorized_keys.open("a") as keys:
            keys.write(staging.identity.with_suffix(".pub").read_text())
        known = tmp_path / "known"
        known.write_text(staging.known_hosts.read_text() + data.known_hosts.read_text())
        yield Hosts(staging, data, known)


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other accounts can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


@pytest.mark.slow
class TestThirdPartyRsync(TransportSuite):
    @pytest.fixture
    def site(self, hosts: Hosts, tmp_path: Path) -> Site:
        stranger = make_key(tmp_path / "stranger")
        dead = free_port()
        return Site(
            FACTORY,
            lambda inbox: hosts.settings(inbox, tmp_path),
            denied={"a key that the staging host does not know": {"identity": str(stranger)}},
            unreachable={"nobody listens": {"port": dead, "known_hosts": str(hosts.staging.trusting(dead, tmp_path))}},
            secrets=tuple(hosts.staging.identity.read_text().splitlines()[1:-1]),
        )

    def test_the_bytes_do_not_pass_through_the_caller(self, desk: Desk, hosts: Hosts, tmp_path: Path) -> None:
        source = desk.folder / "big"
        trees.write(source, {"a.raw": trees.noise(1, 8_000_000), "b/c.raw": trees.noise(2, 4_000_000)})
        with FaultProxy(("127.0.0.1", hosts.staging.port)) as proxy:
            known = tmp_path / "known-proxy"
            known.write_text(hosts.known.read_text() + hosts.staging.trusting(proxy.port, tmp_path).read_text())
            errand = desk.errand(source, {"port": proxy.port, "known_hosts": str(known)}).sealed()

            errand.carry()

            assert 0 < proxy.passed < 500_000
        assert trees.look(desk.data(errand)) == trees.look(source)

    def test_the_plan_is_noted_before_the_run(self, desk: Desk) -> None:
        errand = desk.errand(desk.plain()).sealed()

        errand.carry()

        plan = json.loads(errand.journal.recall(PLAN) or "{}")
        assert (plan["files"], plan["bytes"]) == (12, sum(size for size, _ in trees.look(Path(errand.root)).values()))


# What the data's host runs for us: as somebody who may not read everything, and from the second time on without one file.
WRAPPER = """\
#!/bin/sh
if [ -e "{state}" ]; then rm -f "{gone}"; fi
touch "{state}"
exec setpriv --reuid=65534 --regid=65534 --clear-groups sh -c "$SSH_ORIGINAL_COMMAND"
"""


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file that the data's account may not read")
def test_s17_what_vanished_and_what_cannot_be_read_are_named_and_a_retry_completes(
    hosts: Hosts, open_folder: Path, tmp_path: Path
) -> None:
    site = Site(FACTORY, lambda inbox: hosts.settings(inbox, open_folder))
    desk_folder = tmp_path / "desk"
    desk_folder.mkdir()
    desk = Desk(desk_folder, site)
    source = trees.plain_tree(open_folder / "session")
    gone, locked = source / "series-1" / "image-0001.dcm", source / "series-1" / "image-0003.dcm"
    content, times = gone.read_bytes(), gone.stat()
    for path in (source, *source.rglob("*")):
        path.chmod(0o755)
    errand = desk.errand(source).sealed()
    locked.chmod(0o600)
    wrapper = open_folder / "wrapper"
    wrapper.write_text(WRAPPER.format(state=open_folder / "state", gone=gone))
    wrapper.chmod(0o755)
    keys = hosts.data.authorized_keys.read_text()
    hosts.data.authorized_keys.write_text(
        "".join(f'command="{wrapper}" {line}\n' for line in keys.splitlines() if line.strip())
    )
    (open_folder / "state").touch(0o666)
    (open_folder / "state").unlink()
    open_folder.chmod(0o777)

    with pytest.raises(SourceChanged) as lost:
        errand.carry()

    assert "image-0001.dcm" in lost.value.message
    assert "image-0003.dcm (Permission denied)" in lost.value.message
    assert not desk.is_sealed(errand)
    plan = json.loads(errand.journal.recall(PLAN) or "{}")
    assert plan["files"] == 12

    hosts.data.authorized_keys.write_text(keys)
    gone.write_bytes(content)
    os.utime(gone, ns=(times.st_atime_ns, times.st_mtime_ns))
    locked.chmod(0o755)
    errand.carry()

    assert trees.look(desk.data(errand)) == trees.look(source)
    desk.inbox.accept(errand.slot.delivery)


def test_the_copy_ends_when_the_caller_is_killed(hosts: Hosts, tmp_path: Path) -> None:
    folder = tmp_path / "desk"
    folder.mkdir()
    desk = Desk(folder, Site(FACTORY, lambda inbox: {**hosts.settings(inbox, tmp_path), "fsync": True}))
    source = trees.write(folder / "source", {f"{n:02}.raw": trees.noise(n, 4_000_000) for n in range(24)})
    errand = desk.errand(source).sealed()
    process = errand.start()

    def copying() -> list[str]:
        return [line for line in command_lines() if "--files-from=" in line and str(desk.inbox.root) in line]

    deadline = time.monotonic() + 60
    while not (desk.data(errand).exists() and copying()) and time.monotonic() < deadline:
        assert process.poll() is None, "the carry was over before it could be killed"
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    while copying() and time.monotonic() < deadline:
        time.sleep(0.05)

    assert not copying()
    assert not desk.is_sealed(errand)
    errand.carry()
    assert trees.look(desk.data(errand)) == trees.look(source)


def test_a_folder_that_the_data_host_does_not_serve_is_a_mistake_in_the_settings(hosts: Hosts, tmp_path: Path) -> None:
    folder = tmp_path / "desk"
    folder.mkdir()
    desk = Desk(folder, Site(FACTORY, lambda inbox: hosts.settings(inbox, tmp_path / "elsewhere")))

    with pytest.raises(ConfigError, match="is not below"):
        desk.errand(desk.plain()).sealed().carry()


@pytest.mark.parametrize(
    "change", [{"identity": None}, {"target": "/here"}, {"source": {"host": "x", "path": "y", "seen_at": "/"}}]
)
def test_half_a_third_party_is_refused_when_the_settings_are_read(
    hosts: Hosts, tmp_path: Path, change: dict[str, object]
) -> None:
    settings = {**hosts.settings(tmp_path, tmp_path), **change}

    with pytest.raises(ConfigError):
        ThirdPartyRsync.from_settings({k: v for k, v in settings.items() if v is not None}, state=tmp_path)
