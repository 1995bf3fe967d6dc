"""S4 by the command line: a byte is flipped on an open line; one file is sent again, and the source stays until it is proven."""

import json

import pytest

from lading.testing import trees
from lading.testing.dav_servers import wsgidav
from lading.testing.dicom import write_series
from lading.testing.facility import Facility
from lading.testing.faultproxy import FaultProxy
from lading.testing.site import inodes

pytest.importorskip("wsgidav", reason="wsgidav is not installed (extra: dev)")

SIZE = 4_000_000
CLEANING = "clean = true\ngrace_days = 0"


def test_s4_a_byte_flipped_on_the_way_is_found_and_only_that_file_goes_again(make_site, tmp_path) -> None:
    site: Facility = make_site(quiet=1)
    session = site.instrument / "DEMO" / "sub-001" / "MR1"
    write_series(session, 7)
    trees.write(session, {"0005.raw": trees.noise(4, SIZE)})
    whole = trees.look(session)
    with wsgidav(tmp_path / "dav", site.inbox, None) as server, FaultProxy(("127.0.0.1", server.port)) as proxy:
        # Plain WebDAV, in the clear: no checksum of the protocol or of TLS finds it before the inbox does.
        transport = (
            f'{{ kind = "webdav", url = "http://127.0.0.1:{proxy.port}", user = "{server.user}", '
            f'password = "file:{server.password_file}", server = "plain" }}'
        )
        site.configure(transport=transport, watch=CLEANING)
        proxy.faults.flip_at = SIZE // 2  # the others are so small that it can only be in that file
        site.start_agent()
        incoming = site.inbox / ".lading" / "incoming"
        site.until(lambda: len(list(incoming.glob("*/manifest.json"))) == 1, seconds=60, why="the delivery is sealed")
        (slot,) = incoming.iterdir()
        arrived = trees.look(slot / "data")
        before = inodes(slot / "data")
        site.until(lambda: site.deliveries()[0]["stage"] == "ARRIVED", seconds=60, why="the agent knows it")
        site.stop("agent")
        early = site.run("clean", "--now")

        assert [path for path in whole if arrived[path] != whole[path]] == ["0005.raw"]
        assert early.returncode == 0, early.stderr
        assert trees.look(session) == whole, "nothing may be cleaned that nobody has read back"

        passed = proxy.passed
        site.start_agent()
        site.start_server()
        site.until(lambda: site.deliveries()[0]["stage"] == "CLEANED", seconds=90, why="proven, and then cleaned")
        sent_again = proxy.passed - passed

    (delivery,) = site.deliveries()
    shown = site.ask("show", str(delivery["id"]))
    told = [event["note"] for event in shown["events"]]
    assert [note for note in told if "0005.raw" in note], json.dumps(told)
    assert not [note for note in told if ".dcm" in note]
    assert "corrupted" in json.dumps(shown), "the code of what happened"
    published = site.inbox / "DEMO" / "sub-001" / "MR1"
    after = inodes(published)
    assert {path for path in after if after[path][0] != before[path][0]} <= {"0005.raw"}
    assert SIZE < sent_again < SIZE * 5 // 4
    assert trees.look(published) == whole
    assert site.ask("receipt", str(delivery["id"]))["proves_all"]
    assert not list(site.instrument.rglob("*.raw")), "now it may go"
