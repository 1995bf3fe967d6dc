"""Figures as an operator gets them: scraped from both programs, and by `lading metrics` with and without a server."""

import json
import stat
import subprocess
import sys
import time
import urllib.error
from contextlib import suppress

from lading.inbox import Inbox
from lading.testing.facility import Facility
from lading.testing.scraping import Figures, read, scrape
from lading.testing.servers import free_port

LIVE = """
home = "state"
[agent]
scan_every = 0.3
metrics = "127.0.0.1:{port}"
[[agent.watch]]
path = "instrument"
route = "em"
quiet = 0.2
[routes.em]
transport = {{ kind = "local", path = "{target}" }}
live = {{ settle = 0.3, status_every = 0.3, close_after = 0.0 }}
"""


def scraped(site: Facility, port: int) -> Figures:
    """What an endpoint says, once it is there."""
    found = Figures()

    def answered() -> bool:
        with suppress(urllib.error.URLError, ConnectionError):
            found.update(scrape(f"http://127.0.0.1:{port}/metrics"))
        return bool(found)

    site.until(answered, seconds=120, why=f"port {port} answers")
    return found


def told(site: Facility) -> Figures:
    """What `lading metrics` says; it must be what Prometheus can read."""
    done = site.run("metrics")
    assert done.returncode == 0, done.stderr
    return read(done.stdout)


def test_a_night_in_figures(make_site) -> None:
    server, agent = free_port(), free_port()
    site = make_site(server=f'metrics = "127.0.0.1:{server}"')
    settings = site.root / "lading.toml"
    settings.write_text(settings.read_text().replace("[agent]\n", f'[agent]\nmetrics = "127.0.0.1:{agent}"\n'))
    for name, participant in (("MR1", "sub-001"), ("MR2", "sub-002"), ("MR3", "mistyped")):
        session = site.instrument / "DEMO" / participant / name
        session.mkdir(parents=True)
        (session / "notes.txt").write_bytes(b"x" * 1000)
    before = told(site)

    site.start_server()
    site.start_agent()
    site.settle(3, seconds=180)
    site.until(
        lambda: scraped(site, agent)["lading_agent_verified_total"] == 2, seconds=120, why="two receipts", every=0.5
    )
    on_server, on_agent, both = scraped(site, server), scraped(site, agent), told(site)
    out = site.root / "lading.prom"
    written = site.run("metrics", "--out", str(out))
    as_json = site.ask("metrics")
    site.stop("server")
    without = told(site)

    assert before.labelled("lading_up", program="server") == 0
    assert before.labelled("lading_running", program="agent") == 0
    assert on_server.labelled("lading_up", program="server") == 1
    assert on_server.labelled("lading_running", program="server") == 1
    assert on_server.labelled("lading_ended_total", route="mri", stage="VERIFIED") == 2
    assert on_server.labelled("lading_deliveries", route="mri", stage="REJECTED") == 1
    assert on_server.labelled("lading_verified_files_total", route="mri") == 2
    assert on_server.labelled("lading_verified_bytes_total", route="mri") == 2000
    assert on_server.labelled("lading_repository_up", repository="xnat") == 1
    assert not any("agent" in name for name in on_server)
    assert on_agent.labelled("lading_up", program="agent") == 1
    assert on_agent.labelled("lading_running", program="agent") == 1
    assert on_agent.labelled("lading_agent_deliveries", route="mri", stage="REJECTED") == 1
    assert abs(on_agent["lading_agent_last_receipt_timestamp_seconds"] - time.time()) < 600
    assert on_agent.labelled("lading_watch_up", path=str(site.instrument)) == 1
    assert {*on_server, *on_agent} <= set(both)
    assert written.returncode == 0, written.stderr
    assert set(read(out.read_text())) == set(both)
    assert stat.S_IMODE(out.stat().st_mode) == 0o644
    assert {figure["name"] for figure in as_json["figures"]} == {name.partition("{")[0] for name in both}
    assert without.labelled("lading_up", program="server") == 0
    assert without.labelled("lading_inbox_up", inbox="main") == 1
    assert without["lading_agent_verified_total"] == 2
    assert not any("sub-00" in name or "mistyped" in name or "MR1" in name for name in both)


def test_the_lag_of_a_live_route(tmp_path) -> None:
    port, site = free_port(), Facility(tmp_path)
    target, movies = tmp_path / "target", tmp_path / "instrument" / "DEMO" / "sub-001" / "EM1"
    target.mkdir()
    movies.mkdir(parents=True)
    Inbox.create(target)
    (tmp_path / "lading.toml").write_text(LIVE.format(target=target, port=port))
    site.start_agent()
    try:
        (movies / "1.tif").write_bytes(b"x" * 1000)
        first: Figures = Figures()

        def carried() -> bool:
            first.update(scraped(site, port))
            return first.get("lading_live_files_total{route='em'}") == 1

        site.until(carried, seconds=90, why="the first movie is there", every=0.3)
        target.rename(tmp_path / "unmounted")
        (movies / "2.tif").write_bytes(b"x" * 1000)
        away = Figures()

        def lags() -> bool:
            away.update(scraped(site, port))
            return away.labelled("lading_live_lag_seconds", route="em") > 0

        site.until(lags, seconds=90, why="the second movie waits", every=0.3)
        site.until(
            lambda: scraped(site, port).labelled("lading_live_link_up", route="em") == 0,
            seconds=90,
            why="the link is down",
        )
        (tmp_path / "unmounted").rename(target)
        back = Figures()

        def caught_up() -> bool:
            back.update(scraped(site, port))
            return back.labelled("lading_live_files_total", route="em") == 2

        site.until(caught_up, seconds=90, why="the second movie is there", every=0.3)
    finally:
        site.close()

    assert first.labelled("lading_live_link_up", route="em") == 1
    assert first.labelled("lading_live_lag_seconds", route="em") == 0
    assert away.labelled("lading_live_files_waiting", route="em") == 1
    assert away.labelled("lading_live_bytes_waiting", route="em") == 1000
    assert back.labelled("lading_live_lag_seconds", route="em") == 0
    assert back.labelled("lading_live_bytes_total", route="em") == 2000


def test_settings_that_would_show_figures_to_anybody_start_nothing(make_site) -> None:
    site = make_site(server=f'metrics = "0.0.0.0:{free_port()}"')

    refused = site.run("server", "run")
    examined = site.ask("doctor")

    assert refused.returncode == 2
    assert "open to the network" in refused.stderr
    assert "127.0.0.1" in refused.stderr
    assert not (site.root / "state" / "server.json").exists()
    (diagnosis,) = [one for one in examined["diagnoses"] if one["area"] == "metrics"]
    assert diagnosis["level"] == "fail"
    assert "[metrics]" in diagnosis["next"]


def test_without_anything_to_measure_it_says_so(tmp_path) -> None:
    (tmp_path / "lading.toml").write_text('home = "home"\n')

    asked = subprocess.run(
        [sys.executable, "-m", "lading", "--config", str(tmp_path / "lading.toml"), "metrics", "--json"],
        capture_output=True,
        text=True,
    )

    assert asked.returncode == 2
    assert "nothing to measure" in json.loads(asked.stdout)["error"]["message"]
