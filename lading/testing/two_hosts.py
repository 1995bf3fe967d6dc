"""Two sshd that stand for a staging host and the host of the data: for a transport that steers both."""

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lading.testing.faultproxy import FaultProxy
from lading.testing.servers import Sshd, sshd

FACTORY = "transport.rsync_third_party:ThirdPartyRsync.from_settings"


@dataclass(frozen=True)
class Hosts:
    """The staging host and the host of the data, which trusts the same key. `known` pins the keys of both."""

    staging: Sshd
    data: Sshd
    known: Path

    def settings(self, inbox: Path, seen_at: Path) -> dict[str, object]:
        """Of a transport into `inbox`, for data that both sides see at `seen_at`."""
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


@contextlib.contextmanager
def two_hosts(folder: Path) -> Iterator[Hosts]:
    """Both, running, with their files in `folder`."""
    with sshd(folder / "staging") as staging, sshd(folder / "data") as data:
        with data.authorized_keys.open("a") as keys:
            keys.write(staging.identity.with_suffix(".pub").read_text())
        known = folder / "known"
        known.write_text(staging.known_hosts.read_text() + data.known_hosts.read_text())
        yield Hosts(staging, data, known)


def between(hosts: Hosts, proxy: FaultProxy, tmp_path: Path) -> dict[str, object]:
    """Changes to the settings that put the proxy between the two hosts."""
    there = hosts.data.trusting(proxy.port, tmp_path)
    known = tmp_path / "known-between"
    known.write_text(hosts.known.read_text() + there.read_text())
    source = hosts.settings(tmp_path, tmp_path)["source"]
    assert isinstance(source, dict)
    return {
        "known_hosts": str(known),
        "timeout": 5,
        "source": {**source, "port": proxy.port, "known_hosts": str(there)},
    }
