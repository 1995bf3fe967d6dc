"""A session for each checksum that an OMERO may want, through the command line: the instrument's one read has made it."""

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tifffile

from lading.listing.entries import DIGEST_CHARS
from lading.manifest import Manifest
from lading.sandbox.omero.checksums import checksum
from lading.testing.omero_facility import OmeroFacility, omero_facility

WANTED = {"SHA1-160": "sha1", "MD5-128": "md5"} | {
    name: name for name in ("Murmur3-128", "Murmur3-32", "CRC-32", "Adler-32", "File-Size-64")
}


@pytest.fixture
def site(tmp_path: Path) -> Iterator[OmeroFacility]:
    named = ", ".join(f'"{name}"' for name in DIGEST_CHARS if name != "sha256")
    (tmp_path / "site").mkdir()
    with omero_facility(tmp_path / "site", digests=f"[{named}]", imports='blank_digest = "download"') as made:
        yield made


@pytest.mark.slow
def test_whichever_checksum_the_server_wants_the_manifest_has_it(site: OmeroFacility, tmp_path: Path) -> None:
    site.start_server()
    site.start_agent()
    seen: set[object] = set()
    for number, (wanted, ours) in enumerate(WANTED.items(), 1):
        site.omero.faults(checksums=[wanted, *(["SHA1-160"] if wanted == "File-Size-64" else [])])
        made = tmp_path / f"made-{number}.tif"
        tifffile.imwrite(made, np.frombuffer(os.urandom(2048), np.uint16).reshape(32, 32))
        session = site.instrument / "DEMO" / f"mouse-{number}" / "day-1"
        session.mkdir(parents=True)
        made.rename(session / "field.ome.tif")

        (delivery,) = [one for one in site.settle(number, seconds=120) if one["id"] not in seen]
        seen.add(delivery["id"])

        assert delivery["stage"] == "VERIFIED", site.words()
        (entry,) = Manifest.open(site.inbox / ".lading" / "accepted" / str(delivery["id"]))
        (stored,) = site.query(
            "select h.value, o.hash from FilesetEntry e join e.originalFile o join o.hasher h where e.clientPath like :p",
            p=f"DEMO/mouse-{number}/%",
        )
        used = "SHA1-160" if wanted == "File-Size-64" else wanted
        assert entry.sha256 == hashlib.sha256((session / "field.ome.tif").read_bytes()).hexdigest()
        assert entry.digests[ours] == checksum(session / "field.ome.tif", wanted)
        assert stored == [used, entry.digests[WANTED[used]]]
        (proof,) = site.ask("receipt", str(delivery["id"]))["per_file"]
        assert (proof["outcome"], proof["how"]) == ("verified", used)
