"""`lading verify` long after the import: the inbox has forgotten the files, OMERO has not, or somebody made it forget."""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import omero
import omero.clients
import omero.cmd
import pytest
import tifffile
from omero.callbacks import CmdCallbackI

from lading.testing.omero_facility import OmeroFacility, omero_facility


@dataclass(frozen=True)
class Later:
    """Two sessions that were verified; their copies in the inbox are gone. Of `spoilt` a test may remove something in OMERO."""

    site: OmeroFacility
    whole: str
    spoilt: str

    def serve(self, *, password: str = "", imports: str = "") -> None:
        """Start the server again: with another password in OMERO, or other rules for imports, than when it all was imported."""
        self.site.stop("server")
        self.site.environment["LADING_OMERO_PASSWORD"] = password or self.site.omero.password("courier")
        self.site.configure(imports=imports)
        self.site.start_server()


@pytest.fixture(scope="module")
def later(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Later]:
    root = tmp_path_factory.mktemp("later")
    with omero_facility(root / "site") as site:
        site.start_server()
        for day in ("day-1", "day-2"):
            write_session(root / day)
            labels = ("--project", "DEMO", "--participant", "mouse-1", "--session", day)
            sent = site.run("send", str(root / day), "--route", "microscopy", *labels)
            assert sent.returncode == 0, sent.stdout + sent.stderr
        found = site.settle(2, seconds=240)
        assert {one["stage"] for one in found} == {"VERIFIED"}, site.words()
        cleaned = site.run("clean", "--now")
        assert not [path for path in (site.inbox / "DEMO").rglob("*") if path.is_file()], (
            cleaned.stdout + cleaned.stderr
        )
        first, second = sorted(str(one["id"]) for one in found)
        yield Later(site, first, second)


def write_session(folder: Path) -> None:
    folder.mkdir(parents=True)
    for name in ("a", "b", "c"):
        tifffile.imwrite(
            folder / f"{name}-{folder.name}.ome.tif", np.frombuffer(os.urandom(512), np.uint16).reshape(16, 16)
        )
    (folder / "notes.txt").write_text("operator: alice\n")


def remove_fileset_of(site: OmeroFacility, name: str) -> None:
    """Delete an image in OMERO with what it was made of, as an administrator."""
    ((fileset,),) = site.query("select i.fileset.id from Image i where i.name = :name", name=name)
    client = omero.client(host=f"tcp://{site.omero.host}", port=site.omero.tcp_port)
    try:
        session = client.createSession("root", site.omero.password("root"))
        request = omero.cmd.Delete2(targetObjects={"Fileset": [fileset]})
        handle = session.submit(request, {"omero.group": "-1"})
        callback = CmdCallbackI(client, handle)
        callback.loop(200, 100)
        assert not isinstance(callback.getResponse(), omero.cmd.ERR)
        callback.close(True)
    finally:
        client.closeSession()


def test_a_delivery_whose_inbox_copy_is_gone_is_read_back(later: Later) -> None:
    # A rule of today must not be taken for the decision of then.
    later.serve(imports='files = { attach = ["a-*"] }')

    again = later.site.run("verify", later.whole)

    assert again.returncode == 0, again.stdout + again.stderr + later.site.words()
    receipt = later.site.ask("receipt", later.whole)
    assert receipt["proves_all"]
    assert {f["how"] for f in receipt["per_file"]} == {"SHA1-160"}


def test_an_image_that_was_deleted_in_omero_is_named(later: Later) -> None:
    later.serve()
    remove_fileset_of(later.site, "b-day-2.ome.tif")

    again = later.site.run("verify", later.spoilt)

    assert again.returncode == 5, again.stdout + again.stderr + later.site.words()
    assert [
        (finding["code"], finding["path"])
        for finding in later.site.ask("show", later.spoilt)["findings"]
        if finding["severity"] == "error"
    ] == [("not-verified-missing", "b-day-2.ome.tif")]
    assert later.site.ask("receipt", later.spoilt)["counts"] == {"verified": 3, "missing": 1}


@pytest.mark.slow
def test_what_the_servers_disk_lost_is_found_by_reading_it_again(later: Later) -> None:
    later.serve()
    (where,) = (later.site.omero.root / "data" / "ManagedRepository").rglob("c-day-1.ome.tif")
    content = where.read_bytes()
    where.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))

    trusting = later.site.run("verify", later.whole)
    reading = later.site.run("verify", later.whole, "--re-read")
    named = later.site.ask("receipt", later.whole)["per_file"]
    where.write_bytes(content)
    mended = later.site.run("verify", later.whole, "--re-read")

    assert trusting.returncode == 0, trusting.stdout + trusting.stderr
    assert reading.returncode == 5, reading.stdout + reading.stderr
    assert [f["path"] for f in named if f["outcome"] != "verified"] == ["c-day-1.ome.tif"]
    assert mended.returncode == 0, mended.stdout + mended.stderr + later.site.words()


@pytest.mark.slow
def test_a_delivery_from_before_decisions_were_kept_is_read_back_by_what_omero_holds(later: Later) -> None:
    later.serve()
    kept = later.site.root / "state" / "omero-filesets"
    kept.rename(kept.with_name("aside"))

    again = later.site.run("verify", later.whole)

    kept.with_name("aside").rename(kept)
    assert again.returncode == 0, again.stdout + again.stderr + later.site.words()
    assert later.site.ask("receipt", later.whole)["counts"] == {"verified": 4}


@pytest.mark.slow
def test_a_reading_that_cannot_be_done_says_why_at_once(later: Later) -> None:
    later.serve(password="no longer this one")

    refused = later.site.run("verify", later.whole, "--timeout", "300", timeout=330)

    assert refused.returncode == 5, refused.stdout + refused.stderr + later.site.words()
    assert "OMERO does not know this user and password" in " ".join(refused.stdout.split())
    assert later.site.ask("show", later.whole)["stage"] == "VERIFIED"
    assert later.site.ask("receipt", later.whole)["proves_all"]
