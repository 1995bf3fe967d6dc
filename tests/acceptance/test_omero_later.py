"""`lading verify` long after the import: the inbox has forgotten the files, OMERO has not, or somebody made it forget."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path

import omero
import omero.clients
import omero.cmd
import pytest
import tifffile
from omero.callbacks import CmdCallbackI

from lading.testing import real_images
from lading.testing.omero_facility import OmeroFacility, omero_facility


@pytest.fixture
def site(tmp_path: Path) -> Iterator[OmeroFacility]:
    with omero_facility(tmp_path / "site", imports='tags = ["later"]') as made:
        yield made


def write_session(folder: Path) -> None:
    folder.mkdir(parents=True)
    for seed, name in enumerate(("a.ome.tif", "b.ome.tif", "c.ome.tif")):
        tifffile.imwrite(folder / name, real_images.pixels(32, 32, seed=seed))
    (folder / "notes.txt").write_text("operator: alice\n")


def withdrawn(site: OmeroFacility, folder: Path) -> str:
    """A session that was sent and verified, and whose copy in the inbox is gone; its delivery's id."""
    sent = site.run(
        "send", str(folder), "--route", "microscopy",
        "--project", "DEMO", "--participant", "mouse-1", "--session", "day-1",
    )  # fmt: skip
    assert sent.returncode == 0, sent.stdout + sent.stderr
    (delivery,) = site.settle(1, seconds=180)
    assert delivery["stage"] == "VERIFIED", site.words()
    published = site.inbox / "DEMO" / "mouse-1" / "day-1"
    assert published.is_dir()
    cleaned = site.run("clean", "--now", str(delivery["id"]))
    assert not published.exists(), cleaned.stdout + cleaned.stderr
    return str(delivery["id"])


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


def test_a_delivery_whose_inbox_copy_is_gone_is_read_back_and_a_deleted_image_is_named(
    site: OmeroFacility, tmp_path: Path
) -> None:
    site.start_server()
    write_session(tmp_path / "session")
    delivery = withdrawn(site, tmp_path / "session")
    # A rule of today must not be taken for the decision of then.
    settings = site.root / "lading.toml"
    settings.write_text(settings.read_text().replace('tags = ["later"]', 'files = { attach = ["a.*"] }'))
    site.stop("server")
    site.start_server()

    again = site.run("verify", delivery)

    assert again.returncode == 0, again.stdout + again.stderr + site.words()
    receipt = site.ask("receipt", delivery)
    assert receipt["proves_all"]
    assert {f["path"]: f["how"] for f in receipt["per_file"]} == {
        **dict.fromkeys(("a.ome.tif", "b.ome.tif", "c.ome.tif", "notes.txt"), "SHA1-160")
    }

    remove_fileset_of(site, "b.ome.tif")
    third = site.run("verify", delivery)

    assert third.returncode == 5, third.stdout + third.stderr + site.words()
    shown = json.dumps(site.ask("show", delivery)["findings"])
    assert "b.ome.tif" in shown
    assert "a.ome.tif" not in shown
    assert site.ask("receipt", delivery)["counts"] == {"verified": 3, "missing": 1}


@pytest.mark.slow
def test_a_delivery_from_before_decisions_were_kept_is_read_back_by_what_omero_holds(
    site: OmeroFacility, tmp_path: Path
) -> None:
    site.start_server()
    write_session(tmp_path / "session")
    delivery = withdrawn(site, tmp_path / "session")
    shutil.rmtree(site.root / "state" / "omero-filesets")

    again = site.run("verify", delivery)

    assert again.returncode == 0, again.stdout + again.stderr + site.words()
    assert site.ask("receipt", delivery)["counts"] == {"verified": 4}
