"""S18 by the command line: a facility's FTPS server with an authority of its own, and a line that is cut in a big file."""

import hashlib
import os
from pathlib import Path

import pytest

from lading.testing import trees
from lading.testing.dicom import write_series
from lading.testing.facility import Facility
from lading.testing.faultproxy import FaultProxy
from lading.testing.ftp_servers import OTHER_ADDRESS, missing_for_ftp_servers, proftpd

pytest.importorskip("trustme", reason="trustme is not installed (extra: dev)")
from lading.testing.certificates import certificates

pytestmark = pytest.mark.skipif(bool(missing_for_ftp_servers()), reason=missing_for_ftp_servers())

MIB = 1 << 20


def _fetch_table(url: str, server, ca: Path, more: str = "") -> str:
    return f"""
[routes.mri.fetch]
kind = "ftps"
url = "{url}"
user = "{server.user}"
password = "file:{server.password_file}"
ca = "{ca}"
timeout = 30
quiet = 0
every = 0
deadline_days = 7
{more}
"""


def _part(inbox: Path) -> int:
    return sum(path.stat().st_size for path in inbox.rglob(".in.*"))


def test_s18_a_wrong_authority_is_explained_and_a_cut_line_is_gone_on_with_inside_the_file(make_site, tmp_path) -> None:
    tls = certificates(tmp_path / "tls", OTHER_ADDRESS)
    beamtime = tmp_path / "beamtime"
    session = beamtime / "DEMO" / "sub-001" / "MR1"
    write_series(session, 3)
    trees.write(session, {"big.h5": trees.noise(18, 40 * MIB)})
    sent = {path: digest for path, (_, digest) in trees.look(session).items()}
    with proftpd(tmp_path / "ftpd", beamtime, tls) as server, FaultProxy(("127.0.0.1", server.port)) as proxy:
        url = f"ftps://{server.through(proxy)}"
        site: Facility = make_site(checks=_fetch_table(url, server, tls.other_ca))

        refused = site.run("fetch", "mri")

        assert refused.returncode == 3, refused.stderr
        said = " ".join(refused.stderr.split())
        assert "CA" in said
        assert "ca = PATH" in said, "what to type"
        assert not [word for word in ("insecure", "skip", "ignore", "disable") if word in said.lower()]
        assert list((site.inbox / ".lading" / "incoming").iterdir()) == []

        slow = "throttle = { mb_per_s = 16 }"
        site.configure(checks=_fetch_table(url, server, tls.ca, slow))
        cut = site.start("fetch", "fetch", "mri", "--wait", "--timeout", "120")
        site.until(
            lambda: _part(site.inbox) > 12 * MIB, seconds=90, why="a quarter of the big file is here", every=0.01
        )
        proxy.faults.refuse = True
        proxy.cut()
        # It ends by itself, or waits and tries again; either way it is over once nothing can be reached.
        site.until(lambda: not _grows(site.inbox), seconds=60, why="nothing comes through a line that is cut")
        assert not list(site.inbox.glob("DEMO/sub-001/MR1"))
        if cut.poll() is None:
            site.kill("fetch")
        kept = _part(site.inbox)
        proxy.faults.refuse = False
        before = proxy.returned
        site.configure(checks=_fetch_table(url, server, tls.ca))

        fetched = site.ask("fetch", "mri", "--wait", "--timeout", "120")

        (folder,) = fetched["folders"]
        assert folder["state"] == "fetched"
        assert kept > 12 * MIB
        assert proxy.returned - before < 40 * MIB - kept + 6 * MIB, "what had arrived came once more"
    site.start_server()
    (delivery,) = site.settle(1, seconds=90)
    assert delivery["stage"] == "VERIFIED", site.words()
    receipt = site.ask("receipt", str(delivery["id"]))
    assert receipt["proves_all"]
    published = site.inbox / "DEMO" / "sub-001" / "MR1"
    assert {path: _sha256(published / path) for path in sent} == sent
    assert sorted(os.listdir(session)) == sorted(sent), "the source is only read"


def _grows(inbox: Path) -> bool:
    import time

    before = _part(inbox)
    time.sleep(0.5)
    return _part(inbox) != before


def _sha256(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest()
