"""S14 with OMERO, through the command line: a folder format, names that are nearly alike, names that differ by case only."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.testing import real_images
from lading.testing.omero_facility import OmeroFacility, omero_facility

LABELS = ("--project", "DEMO", "--participant", "mouse-1", "--session")


@pytest.fixture
def site(tmp_path: Path) -> Iterator[OmeroFacility]:
    with omero_facility(tmp_path / "site", imports="stats = false\nthumbnails = false") as made:
        yield made


# 13² and 127² chunks at full resolution, and a quarter of that again in the smaller level: 218 and 20,225 chunks.
@pytest.mark.parametrize("side", [13, pytest.param(127, marks=[pytest.mark.slow, pytest.mark.timeout(2400)])])
def test_s14_an_ome_zarr_is_imported_as_one_fileset_with_its_names_unchanged(
    site: OmeroFacility, tmp_path: Path, side: int
) -> None:
    session = tmp_path / "session"
    session.mkdir()
    chunks = real_images.ome_zarr(session, side=side)
    others = [*real_images.png(session, "a/b_c.png"), *real_images.png(session, "a_b/c.png", seed=2)]
    site.start_server()

    sent = site.run("send", str(session), "--route", "microscopy", *LABELS, "day-1")
    assert sent.returncode == 0, sent.stdout + sent.stderr
    (delivery,) = site.settle(1, seconds=1800)

    assert delivery["stage"] == "VERIFIED", site.words()
    stored = site.query("select e.fileset.id, e.clientPath, o.path, o.name from FilesetEntry e join e.originalFile o")
    assert sorted(str(path) for _, path, *_ in stored) == sorted(
        f"DEMO/mouse-1/day-1/{name}" for name in (*chunks, *others)
    )
    assert all(f"{folder}{name}".endswith(str(path).removeprefix("DEMO/")) for _, path, folder, name in stored)
    assert {len([1 for fileset, *_ in stored if fileset == one]) for one in {row[0] for row in stored}} == {
        1,
        len(chunks),
    }
    assert len(site.images()) == 3
    assert site.stored() == sorted(
        hashlib.sha256((session / name).read_bytes()).hexdigest() for name in (*chunks, *others)
    )
    assert site.ask("receipt", str(delivery["id"]))["counts"] == {"verified": len(chunks) + 2}


def test_s14_names_that_differ_by_case_only_are_refused_before_anything_is_sent(
    site: OmeroFacility, tmp_path: Path
) -> None:
    session = tmp_path / "session"
    session.mkdir()
    real_images.tiff(session, "Image.TIF")
    real_images.tiff(session, "image.tif", seed=2)
    site.start_server()

    sent = site.run("send", str(session), "--route", "microscopy", *LABELS, "day-1")
    assert sent.returncode == 0, sent.stdout + sent.stderr
    (delivery,) = site.settle(1, seconds=120)

    assert delivery["stage"] in ("REJECTED", "HELD"), site.words()
    assert "image.tif" in str(site.ask("show", str(delivery["id"]))["findings"])
    assert [path for path in (site.inbox / ".lading" / "incoming").rglob("*") if path.is_file()] == []
    assert site.omero.records("Fileset") == 0
