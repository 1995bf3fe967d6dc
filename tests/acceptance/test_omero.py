"""S1, S3, S8, S10 and S15 with OMERO as the repository, through the command line; OMERO's own disk and tables are the witness."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import numpy as np
import pytest
import tifffile
from PIL import Image

from lading.testing.omero_facility import OmeroFacility, omero_facility


class MakeSite(Protocol):
    def __call__(self, **parts: str | float) -> OmeroFacility: ...


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[MakeSite]:
    with ExitStack() as stack:

        def make(**parts: str | float) -> OmeroFacility:
            (tmp_path / "site").mkdir()
            return stack.enter_context(omero_facility(tmp_path / "site", **parts))

        yield make


def pixels(side: int = 32) -> np.ndarray:
    """Never the same picture twice: OMERO would rightly ask which is which."""
    return np.frombuffer(os.urandom(side * side * 2), np.uint16).reshape(side, side)


def write_images(folder: Path, count: int) -> list[Path]:
    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"field-{chr(97 + number // 26)}{chr(97 + number % 26)}.ome.tif" for number in range(count)]
    for path in paths:
        tifffile.imwrite(path, pixels())
    return paths


def digests(folder: Path) -> dict[str, str]:
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


def test_s1_a_clean_session_is_verified_file_by_file_and_the_source_is_kept(make_site: MakeSite) -> None:
    site = make_site()
    site.start_server()
    site.start_agent()
    session = site.instrument / "DEMO" / "mouse-1" / "day-1"
    write_images(session, 3)
    tifffile.imwrite(session / "overview.tif", pixels())
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(session / "dish.png")
    (session / "notes.txt").write_text("operator: alice\n")
    (session / "Thumbs.db").write_bytes(bytes(100))
    before = digests(session)

    (delivery,) = site.settle(1, seconds=120)

    assert delivery["stage"] == "VERIFIED", site.words()
    receipt = site.ask("receipt", str(delivery["id"]))
    per_file = {f["path"]: f for f in receipt["per_file"]}
    assert receipt["proves_all"]
    assert {path: f["sha256"] for path, f in per_file.items() if f["outcome"] == "verified"} == {
        path: digest for path, digest in before.items() if path != "Thumbs.db"
    }
    assert per_file["Thumbs.db"]["outcome"] == "filtered"
    assert digests(session) == before
    assert site.stored() == sorted(digest for path, digest in before.items() if path not in ("Thumbs.db", "notes.txt"))
    assert len(site.images()) == 5
    assert {(project, dataset) for project, dataset, *_ in site.images()} == {("DEMO", "mouse-1_day-1")}
    assert site.attached() == ["notes.txt"]
