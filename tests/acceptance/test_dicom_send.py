"""From an instrument's folder to a DICOM node, through the command line: proven, or held and kept."""

from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from lading.testing.dicom import write_series
from lading.testing.dicom_nodes import dataset, missing_for_dicom, stored, storescp
from lading.testing.facility import Facility
from lading.testing.orthanc_node import Orthanc, missing_for_orthanc

MISSING = missing_for_dicom() or missing_for_orthanc()
pytestmark = pytest.mark.skipif(bool(MISSING), reason=MISSING)

SETTINGS = """\
home = "state"

[inboxes.main]
path = "{inbox}"
keep_free_gb = 0

[repositories.pacs]
kind = "dicom"
host = "127.0.0.1"
port = {port}
called = "{called}"
tls = false
settle = 1

[routes.mri]
inbox = "main"
repository = "pacs"
transport = {transport}
exclude = ["*.txt"]

[agent]
scan_every = 0.5
receipts_every = 0.3

[[agent.watch]]
path = "instrument"
route = "mri"
quiet = 1
clean = true
grace_days = 1

[server]
scan_every = 0.3
workers = 2
"""


class Site(Facility):
    SETTINGS: ClassVar[str] = SETTINGS


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "site").mkdir()
    made = Site(tmp_path / "site")
    yield made
    made.close()


def begin(site: Site, port: int, called: str) -> dict[str, bytes]:
    """Server and agent run, and the instrument has written a session; its images."""
    site.configure(port=port, called=called)
    made = site.run("inbox", "create")
    assert made.returncode == 0, made.stdout + made.stderr
    images = write_series(site.instrument / "DEMO" / "sub-001" / "MR1", 6)
    site.start_server()
    site.start_agent()
    return dict(map(dataset, images))


def clean(site: Site, delivery: str) -> None:
    """Once the agent has the receipt, remove what may be removed."""
    site.until(
        lambda: (
            any("agent" in d["known_to"] for d in site.deliveries()) and bool(site.ask("show", delivery)["receipt"])
        ),
        seconds=60,
        why="the agent has the receipt",
        every=0.5,
    )
    site.stop("agent")
    done = site.run("clean", "--now")
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_session_reaches_a_node_is_read_back_and_only_then_may_its_source_go(site: Site, tmp_path: Path) -> None:
    with Orthanc(tmp_path / "orthanc").running() as orthanc:
        images = begin(site, orthanc.port, orthanc.title)
        examined = site.run("doctor")
        (delivery,) = site.settle(1, seconds=200)
        receipt = site.ask("receipt", str(delivery["id"]))
        held = dict(map(dataset, orthanc.files()))
        clean(site, str(delivery["id"]))

    assert delivery["stage"] == "VERIFIED", site.words()
    assert receipt["proves_all"]
    assert {str(file["where"]).split("/instances/")[1] for file in receipt["per_file"]} == set(images)
    assert set(held) == set(images)
    assert not list(site.instrument.rglob("*.dcm"))
    assert "pacs" in examined.stdout


@pytest.mark.slow
def test_a_node_that_proves_nothing_holds_the_delivery_and_its_source_stays(site: Site, tmp_path: Path) -> None:
    with storescp(tmp_path / "stored") as port:
        images = begin(site, port, "STORE")
        (delivery,) = site.settle(1, seconds=200)
        shown = site.run("show", str(delivery["id"]))
        clean(site, str(delivery["id"]))

    assert delivery["stage"] == "HELD"
    assert "offers nothing that could be asked" in shown.stdout
    assert stored(tmp_path / "stored") == images
    assert len(list(site.instrument.rglob("*.dcm"))) == 6
