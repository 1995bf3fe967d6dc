"""S19 by the command line: an S3 bucket as drop between an instrument and the staging host."""

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from lading.testing import trees
from lading.testing.dicom import write_series
from lading.testing.facility import Facility
from lading.testing.faultproxy import FaultProxy
from lading.testing.s3_servers import S3Server, rclone, rclone_s3
from lading.testing.site import flip_a_byte
from lading.testing.swift_server import missing_for_swift, swift_s3

boto3 = pytest.importorskip("boto3", reason="boto3 is not installed (extra: s3)")

MIB = 1 << 20
BUCKET = "drop"
PREFIX = "scanner-1"


@dataclass
class Drop:
    """A bucket at a `server`, behind a `proxy`, and a client that looks at it past both the proxy and our code."""

    server: S3Server
    proxy: FaultProxy

    def __post_init__(self) -> None:
        self.client = boto3.client(
            "s3",
            endpoint_url=self.server.endpoint,
            aws_access_key_id=self.server.access_key,
            aws_secret_access_key=self.server.secret,
            region_name="us-east-1",
            config=boto3.session.Config(s3={"addressing_style": "path"}),
        )

    def table(self, port: int, more: str = "") -> str:
        return f"""kind = "s3"
bucket = "{BUCKET}"
prefix = "{PREFIX}"
endpoint = "http://127.0.0.1:{port}"
addressing = "path"
access_key = "{self.server.access_key}"
secret_key = "file:{self.server.secret_file}"
part_mib = 5
parts_at_once = 2
tries = 1
timeout = 15
{more}
"""

    def settings(self) -> str:
        """The instrument carries through the proxy; the staging host fetches past it."""
        # Less than the second up to which Swift rounds when an upload began: an agent may begin its first one that soon.
        agents = self.table(self.proxy.port, "stale_days = 0.000001")
        return (
            f"[routes.mri.transport]\n{agents}\n[routes.mri.fetch]\n"
            f"{self.table(self.server.port)}waypoint = true\nclear = true\nevery = 0.5\nquiet = 0\n"
        )

    def keys(self) -> set[str]:
        pages = self.client.get_paginator("list_objects_v2").paginate(
            Bucket=BUCKET, Prefix=f"{PREFIX}/.lading/incoming/"
        )
        return {found["Key"].split("/", 4)[4] for page in pages for found in page.get("Contents", ())}

    def unfinished(self) -> set[str]:
        found = self.client.list_multipart_uploads(Bucket=BUCKET).get("Uploads", [])
        return {upload["Key"] for upload in found}


@contextlib.contextmanager
def _swift(folder: Path, served: Path) -> Iterator[S3Server]:
    with swift_s3(folder) as server:
        yield server


@pytest.fixture(
    params=[
        pytest.param(
            rclone_s3, id="rclone", marks=pytest.mark.skipif(rclone() is None, reason="rclone is not installed")
        ),
        pytest.param(
            _swift,
            id="swift",
            marks=[pytest.mark.slow, pytest.mark.skipif(bool(missing_for_swift()), reason=missing_for_swift())],
        ),
    ]
)
def drop(request, tmp_path) -> Iterator[Drop]:
    (tmp_path / "served" / BUCKET).mkdir(parents=True)
    with (
        request.param(tmp_path / "s3", tmp_path / "served") as server,
        FaultProxy(("127.0.0.1", server.port)) as proxy,
    ):
        made = Drop(server, proxy)
        with contextlib.suppress(made.client.exceptions.BucketAlreadyExists):
            made.client.create_bucket(Bucket=BUCKET)
        yield made


def test_s19_a_bucket_is_taken_from_only_when_the_seal_is_there(make_site, drop: Drop) -> None:
    site: Facility = make_site(transport="{ }", more="")
    _use(site, drop)
    assert site.run("fetch", "mri", "--create").returncode == 0
    forgotten = f"{PREFIX}/.lading/incoming/20200101-000000-forgotten0/data/big.raw"
    drop.client.create_multipart_upload(Bucket=BUCKET, Key=forgotten)
    session = site.instrument / "DEMO" / "sub-001" / "MR1"
    write_series(session, 3)
    trees.write(session, {"big.raw": trees.noise(19, 30 * MIB)})

    drop.proxy.faults.cut_at = drop.proxy.passed + 15 * MIB
    site.start_agent()
    site.until(lambda: drop.proxy.faults.cut_at is None, seconds=90, why="the upload was cut", every=0.005)
    drop.proxy.faults.refuse = True
    drop.proxy.cut()
    site.until(
        lambda: any(d["error"] for d in site.deliveries()), seconds=90, why="the agent says that the line is cut"
    )

    there = drop.keys()
    assert "manifest.json" not in there
    assert "data/big.raw" not in there, "an object appears whole or not at all"
    assert [key for key in drop.unfinished() if key.endswith("/data/big.raw")], "what had arrived is kept"
    assert site.run("fetch", "mri").returncode == 0
    assert not list((site.inbox / ".lading" / "incoming").iterdir()), "nothing without a seal is taken"

    drop.proxy.faults.refuse = False
    before = drop.proxy.passed
    site.start_server()
    (delivery,) = site.settle(1, seconds=120)

    assert delivery["stage"] == "VERIFIED", site.words()
    assert drop.proxy.passed - before < 25 * MIB, "the parts that had arrived were sent again"
    assert drop.unfinished() == set(), "the stale upload was given up, and our own was finished"
    assert site.ask("receipt", str(delivery["id"]))["proves_all"]
    assert trees.look(site.inbox / "DEMO" / "sub-001" / "MR1") == trees.look(session)


@pytest.mark.skipif(rclone() is None, reason="rclone is not installed")
def test_s19_an_object_that_was_damaged_in_the_bucket_is_never_taken_and_is_mended(make_site, tmp_path) -> None:
    served = tmp_path / "served" / BUCKET
    served.mkdir(parents=True)
    with rclone_s3(tmp_path / "s3", served.parent) as server, FaultProxy(("127.0.0.1", server.port)) as proxy:
        site: Facility = make_site(transport="{ }")
        _use(site, Drop(server, proxy))
        assert site.run("fetch", "mri", "--create").returncode == 0
        session = site.instrument / "DEMO" / "sub-001" / "MR1"
        write_series(session, 4)
        site.start_agent()
        incoming = served / PREFIX / ".lading" / "incoming"
        site.until(lambda: list(incoming.glob("*/manifest.json")) != [], seconds=60, why="the delivery is sealed")
        (slot,) = incoming.iterdir()
        flip_a_byte(slot / "data" / "0002.dcm")
        site.start_server()

        (delivery,) = site.settle(1, seconds=120)

        assert delivery["stage"] == "VERIFIED", site.words()
        assert trees.look(site.inbox / "DEMO" / "sub-001" / "MR1") == trees.look(session)
        assert "0002.dcm" in str(site.ask("show", str(delivery["id"])))
    shutil.rmtree(served, ignore_errors=True)


def _use(site: Facility, drop: Drop) -> None:
    """The settings of the route, as tables: one line is too short for them."""
    file = site.root / "lading.toml"
    file.write_text(file.read_text().replace("transport = { }\n", "") + drop.settings())
