"""`lading send --dry-run` of a transport that steers two other hosts: what these see, not what is seen here."""

import json
import shutil
import time
from pathlib import Path

import pytest
from click.testing import CliRunner

from lading.cli.main import lading
from lading.config import load
from lading.inbox import Inbox
from lading.testing import trees
from lading.testing.faultproxy import FaultProxy
from lading.testing.servers import missing_for_sshd
from lading.testing.site import Desk, Site
from lading.testing.two_hosts import FACTORY, Hosts, between

pytestmark = [
    pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed (Debian: rsync)"),
    pytest.mark.skipif(bool(missing_for_sshd()), reason=missing_for_sshd()),
]

FILES = {"a.raw": b"0123456789", "b/c.raw": b"01234"}


class Beamline:
    """Settings of a route between the hosts, whose data lies at `there`, and is seen from here at `here`."""

    def __init__(self, root: Path, hosts: Hosts) -> None:
        self.here, self.there, self.inbox = root / "here", root / "there", root / "inbox"
        self.settings = root / "lading.toml"
        self.inbox.mkdir()
        Inbox.create(self.inbox)
        for folder in (self.here, self.there):
            trees.write(folder / "MR1", FILES)
        self.configure(hosts)

    def configure(self, hosts: Hosts, **changes: object) -> None:
        table = {**hosts.settings(self.inbox, self.here), "kind": "rsync-third-party", **changes}
        assert isinstance(table["source"], dict)
        table["source"] = {**table["source"], "path": str(self.there)}
        self.settings.write_text(f'home = "state"\n[routes.visit]\ntransport = {inline(table)}\n')
        load(self.settings)

    def dry_run(self, *words: str) -> str:
        labels = ("--project", "P", "--participant", "s", "--session", "MR1")
        arguments = ["--config", str(self.settings), "send", str(self.here / "MR1"), "--route", "visit", *labels]
        return CliRunner().invoke(lading, [*arguments, "--dry-run", *words]).stdout


def inline(table: dict[str, object]) -> str:
    """A TOML table on one line."""
    written = [
        f"{key} = {inline(value) if isinstance(value, dict) else json.dumps(value)}" for key, value in table.items()
    ]
    return "{ " + ", ".join(written) + " }"


@pytest.fixture
def beamline(tmp_path: Path, hosts: Hosts) -> Beamline:
    return Beamline(tmp_path, hosts)


def test_the_plan_is_that_of_the_two_hosts_and_nothing_is_written(beamline: Beamline, hosts: Hosts) -> None:
    before = trees.look(beamline.inbox)

    told = json.loads(beamline.dry_run("--json"))
    words = " ".join(beamline.dry_run().split())

    assert told["plan"]["told_by"] == f"{hosts.data.user}@127.0.0.1 and {hosts.staging.user}@127.0.0.1"
    assert (told["plan"]["files"], told["plan"]["bytes"], told["plan"]["already_there"]) == (2, 15, 0)
    assert sorted(told["plan"]["sample"]) == sorted(FILES)
    assert told["findings"] == []
    assert f"the plan of {told['plan']['told_by']}: 2 files, 15 B move from host to host" in words
    assert trees.look(beamline.inbox) == before


def test_what_the_data_host_sees_otherwise_is_said(beamline: Beamline) -> None:
    (beamline.there / "MR1" / "a.raw").write_bytes(b"0123456789 and more")

    told = json.loads(beamline.dry_run("--json"))

    assert (told["bytes"], told["plan"]["bytes"]) == (15, 24)
    assert [finding["code"] for finding in told["findings"]] == ["seen-otherwise"]


def test_a_file_that_the_data_host_does_not_have_is_named(beamline: Beamline) -> None:
    (beamline.there / "MR1" / "b" / "c.raw").unlink()

    told = json.loads(beamline.dry_run("--json"))

    assert told["plan"] is None
    assert [finding["code"] for finding in told["findings"]] == ["source-changed", "not-asked-over-there"]
    assert "b/c.raw" in told["findings"][0]["message"]


def test_without_the_hosts_it_says_that_the_figures_are_of_what_is_seen_here(beamline: Beamline, hosts: Hosts) -> None:
    beamline.configure(hosts, known_hosts=str(hosts.data.known_hosts))  # the staging host's key is not among them

    words = " ".join(beamline.dry_run().split())

    assert "2 files, 15 bytes is what is seen from here" in words
    assert "host key" in words.lower()


def test_a_line_between_the_hosts_that_stalls_is_given_up_within_the_time_out(hosts: Hosts, tmp_path: Path) -> None:
    """`timeout` is 5 s here. The rsync on the staging host ends then; the ssh that it leaves behind must not hold us."""
    (tmp_path / "desk").mkdir()
    desk = Desk(tmp_path / "desk", Site(FACTORY, lambda inbox: hosts.settings(inbox, tmp_path)))
    source = trees.write(tmp_path / "source", {"large.raw": trees.noise(3, 30_000_000)})
    with FaultProxy(("127.0.0.1", hosts.data.port)) as proxy:
        errand = desk.errand(source, between(hosts, proxy, tmp_path)).sealed()
        proxy.faults.bytes_per_second = 10_000_000
        process = errand.start()
        while proxy.returned < 10_000_000:
            assert process.poll() is None, process.communicate()
            time.sleep(0.01)
        proxy.faults.stall = True
        since = time.monotonic()

        said = process.communicate(timeout=200)[0].decode(errors="replace")

        assert time.monotonic() - since < 30
        assert "Unreachable" in said
