"""S17 by the command line: rsync between two other hosts; a file vanishes there, and another may not be read."""

import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.testing import trees
from lading.testing.dicom import write_series
from lading.testing.facility import Facility
from lading.testing.servers import missing_for_sshd, sshd

pytestmark = [
    pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed (Debian: rsync)"),
    pytest.mark.skipif(bool(missing_for_sshd()), reason=missing_for_sshd()),
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file that the data's account may not read"),
]

# What the data's host runs for us: as somebody who may not read everything, and from the second time on without one file.
WRAPPER = """\
#!/bin/sh
if [ -e "{state}" ]; then rm -f "{gone}"; fi
touch "{state}"
exec setpriv --reuid=65534 --regid=65534 --clear-groups sh -c "$SSH_ORIGINAL_COMMAND"
"""


@pytest.fixture
def visit() -> Iterator[Path]:
    """A folder that other accounts can reach, unlike pytest's own."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o777)
        yield Path(folder)


@pytest.mark.slow
def test_s17_what_vanished_and_what_cannot_be_read_are_named_and_a_retry_completes(make_site, visit, tmp_path) -> None:
    session = visit / "DEMO" / "sub-001" / "MR1"
    write_series(session, 8)
    for path in visit.rglob("*"):
        path.chmod(0o755)
    gone, locked = session / "0002.dcm", session / "0005.dcm"
    content, times = gone.read_bytes(), gone.stat()
    whole = trees.look(session)
    with sshd(tmp_path / "staging") as staging, sshd(tmp_path / "data") as data:
        keys = data.authorized_keys.read_text() + staging.identity.with_suffix(".pub").read_text()
        wrapper = visit / "wrapper"
        wrapper.write_text(WRAPPER.format(state=visit / "state", gone=gone))
        wrapper.chmod(0o755)
        data.authorized_keys.write_text("".join(f'command="{wrapper}" {line}\n' for line in keys.splitlines()))
        known = tmp_path / "known"
        known.write_text(staging.known_hosts.read_text() + data.known_hosts.read_text())
        site: Facility = make_site()
        source = f'{{ host = "{data.user}@127.0.0.1", port = {data.port}, path = "{visit}", seen_at = "{visit}"'
        site.configure(
            transport=f'{{ kind = "rsync-third-party", target = "{staging.user}@127.0.0.1:{site.inbox}", '
            f'port = {staging.port}, identity = "{staging.identity}", known_hosts = "{known}", '
            f'source = {source}, known_hosts = "{data.known_hosts}" }} }}'
        )
        labels = ("--project", "DEMO", "--participant", "sub-001", "--session", "MR1")

        planned = site.ask("send", str(session), "--route", "mri", *labels, "--dry-run")
        (visit / "state").unlink()  # to plan, the data's host was asked, too
        locked.chmod(0o600)
        site.run("send", str(session), "--route", "mri", *labels)
        site.start_agent()
        site.until(lambda: "0005.dcm" in json.dumps(site.deliveries()), seconds=90, why="it names what it misses")
        told = json.dumps([site.deliveries(), (site.root / "logs" / "agent.log").read_text()])
        events = [event["note"] for event in site.ask("show", str(site.deliveries()[0]["id"]))["events"]]
        sealed = list((site.inbox / ".lading" / "incoming").glob("*/manifest.json"))

        data.authorized_keys.write_text(keys)
        locked.chmod(0o755)
        gone.write_bytes(content)
        os.utime(gone, ns=(times.st_atime_ns, times.st_mtime_ns))
        site.start_server()
        (delivery,) = site.settle(1, seconds=120)

        assert (planned["files"], sealed) == (8, [])
        size = sum(size for size, _ in whole.values())
        assert [note for note in events if note.startswith(f"plan: 8 files, {size} bytes")], events
        assert "0002.dcm" in told
        assert "Permission denied" in told
        assert delivery["stage"] == "VERIFIED", site.words()
        receipt = site.ask("receipt", str(delivery["id"]))
        assert (receipt["files"], receipt["proves_all"]) == (planned["files"], True)
        assert trees.look(site.inbox / "DEMO" / "sub-001" / "MR1") == whole
