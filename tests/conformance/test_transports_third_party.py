"""rsync between two other hosts, steered by us: two real sshd, against the shared suite, and scenario S17's faults."""

import json
import os
import shutil
import signal
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from lading.errors import ConfigError, SourceChanged
from lading.ports import PLANNED
from lading.testing import trees
from lading.testing.carrying import Errand
from lading.testing.faultproxy import FaultProxy
from lading.testing.servers import free_port, make_key, missing_for_sshd
from lading.testing.site import Desk, Site, command_lines, settle
from lading.testing.transport_suite import TransportSuite
from lading.testing.two_hosts import FACTORY, Hosts, between
from transport.rsync_third_party import ThirdPartyRsync

pytestmark = [
    pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed (Debian: rsync)"),
    pytest.mark.skipif(bool(missing_for_sshd()), reason=missing_for_sshd()),
]


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that other accounts can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        yield Path(folder)


def spoiled(desk: Desk, proxy: FaultProxy, changes: dict[str, object], spoil: Callable[[], None]) -> Errand:
    """An errand whose first carry meets the fault when half of the large file is there, and says that it was the line."""
    source = trees.write(desk.folder / "source", {"large.raw": trees.noise(3, 60_000_000), "small.raw": b"small"})
    errand = desk.errand(source, changes).sealed()
    proxy.faults.bytes_per_second = 25_000_000
    process = errand.start()
    while proxy.returned < 30_000_000:
        assert process.poll() is None, process.communicate()
        time.sleep(0.01)
    spoil()
    said = process.communicate(timeout=200)[0].decode(errors="replace")
    assert process.returncode
    assert "Unreachable" in said
    assert not desk.is_sealed(errand)
    assert not (desk.data(errand) / "large.raw").exists()
    proxy.faults.bytes_per_second = 0
    return errand


def finished(desk: Desk, errand: Errand) -> None:
    """The next carry brings the rest."""
    settle(desk, errand)
    errand.carry()
    assert trees.look(desk.data(errand)) == trees.look(Path(errand.root))
    desk.inbox.accept(errand.slot.delivery)


@pytest.mark.slow
class TestThirdPartyRsync(TransportSuite):
    @pytest.fixture
    def site(self, hosts: Hosts, tmp_path: Path) -> Site:
        stranger = make_key(tmp_path / "stranger")
        wrong_host = tmp_path / "wrong-host"
        words = stranger.with_suffix(".pub").read_text().split()[:2]
        wrong_host.write_text(
            f"[127.0.0.1]:{hosts.staging.port} {' '.join(words)}\n" + hosts.data.known_hosts.read_text()
        )
        dead = free_port()
        return Site(
            FACTORY,
            lambda inbox: hosts.settings(inbox, tmp_path),
            denied={"a key that the staging host does not know": {"identity": str(stranger)}},
            untrusted={"a host key of the staging host that is not the one we know": {"known_hosts": str(wrong_host)}},
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

    # The line that the bytes go over is the one between the two hosts: that is where the proxy stands.

    def test_a_cut_connection_is_unreachable_and_can_be_finished(self, desk, hosts, tmp_path):
        with FaultProxy(("127.0.0.1", hosts.data.port)) as proxy:
            errand = spoiled(desk, proxy, between(hosts, proxy, tmp_path), proxy.cut)
            before = proxy.returned
            finished(desk, errand)
            assert proxy.returned - before < 45_000_000, "what had arrived came once more"

    def test_a_byte_flipped_on_the_way_does_no_harm(self, desk, hosts, tmp_path):
        with FaultProxy(("127.0.0.1", hosts.data.port)) as proxy:

            def flip() -> None:
                proxy.faults.flip_at = proxy.passed

            finished(desk, spoiled(desk, proxy, between(hosts, proxy, tmp_path), flip))

    def test_a_line_that_only_we_still_believe_in_is_given_up_and_can_be_finished(self, desk, hosts, tmp_path):
        """The ssh between the hosts gives up within `timeout`."""
        with FaultProxy(("127.0.0.1", hosts.data.port)) as proxy:

            def lose() -> None:
                proxy.faults.lose_at = proxy.passed

            finished(desk, spoiled(desk, proxy, between(hosts, proxy, tmp_path), lose))

    def test_a_stalled_line_is_unreachable(self, desk, hosts, tmp_path):
        """As above."""
        with FaultProxy(("127.0.0.1", hosts.data.port)) as proxy:

            def stall() -> None:
                proxy.faults.stall = True

            errand = spoiled(desk, proxy, between(hosts, proxy, tmp_path), stall)
            proxy.faults.stall = False
            finished(desk, errand)

    def test_the_plan_is_noted_before_the_run(self, desk: Desk) -> None:
        errand = desk.errand(desk.plain()).sealed()

        errand.carry()

        plan = json.loads(errand.journal.recall(PLANNED) or "{}")
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
    plan = json.loads(errand.journal.recall(PLANNED) or "{}")
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
