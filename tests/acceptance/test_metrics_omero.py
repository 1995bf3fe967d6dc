"""The figures of an OMERO that is well, and of one that is left alone, as a scraper sees them while the server runs."""

import os
from contextlib import suppress
from pathlib import Path
from urllib.error import URLError

import numpy as np
import pytest
import tifffile

pytest.importorskip("omero")

from lading.testing.omero_facility import OmeroFacility, omero_facility
from lading.testing.scraping import Figures, scrape
from lading.testing.servers import free_port


def acquire(site: OmeroFacility, session: str) -> None:
    folder = site.instrument / "DEMO" / "mouse-1" / session
    folder.mkdir(parents=True)
    for name in ("a", "b"):
        pixels = np.frombuffer(os.urandom(32 * 32 * 2), np.uint16).reshape(32, 32)
        tifffile.imwrite(folder / f"{name}.ome.tif", pixels)


def scraped(port: int) -> Figures:
    """Empty while nobody answers."""
    with suppress(URLError, ConnectionError):
        return scrape(f"http://127.0.0.1:{port}/metrics")
    return Figures()


def test_a_valve_that_closes_is_seen_with_its_cause(tmp_path: Path) -> None:
    port = free_port()
    # Any answer of its database is too slow: once may be chance, twice and it is left alone.
    with omero_facility(
        tmp_path / "site", server=f'metrics = "127.0.0.1:{port}"', valve="database_wait = 0.000001"
    ) as site:
        site.start_server()
        site.start_agent()
        acquire(site, "day-1")
        (done,) = site.settle(1, seconds=120)
        well = scraped(port)
        acquire(site, "day-2")
        closed = Figures()

        def is_closed() -> bool:
            closed.clear()
            closed.update(scraped(port))
            return closed.get("lading_valve{position='open',repository='omero'}") == 0

        site.until(is_closed, seconds=120, why="the valve closes", every=0.1)
        status = site.ask("status")

    labels = {"repository": "omero"}
    assert done["stage"] == "VERIFIED", done
    assert well.labelled("lading_valve", position="open", **labels) == 1
    assert well.labelled("lading_valve", position="closed", **labels) == 0
    assert not any(name.startswith("lading_valve_cause") for name in well)
    assert 0 < well.labelled("lading_valve_database_seconds", **labels) < 60
    assert 0 < well.labelled("lading_valve_verify_seconds", **labels) < 60
    assert well.labelled("lading_valve_free_bytes", **labels) > 0
    assert well.labelled("lading_valve_imports_under_way", **labels) == 0
    assert well.labelled("lading_repository_imports_limit", **labels) == 2
    assert well.labelled("lading_verified_files_total", route="microscopy") == 2
    assert closed.labelled("lading_valve_cause", cause="database", **labels) == 1
    assert closed.labelled("lading_valve_imports_to_go", **labels) >= 1
    assert closed.labelled("lading_valve_pause_seconds", **labels) >= 1
    assert closed.labelled("lading_verified_files_total", route="microscopy") >= 2
    (valve,) = status["valves"]
    assert valve["position"] != "open"
    assert "its database took" in valve["reason"]
