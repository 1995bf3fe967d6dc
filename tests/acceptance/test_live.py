"""S24: movies appear at the instrument and at the target while a reader looks on, the link goes down, the agent is killed."""

import os
import random
import signal
import time
from pathlib import Path

import pytest

from lading.testing.faultproxy import FaultProxy
from lading.testing.live import Camera, LiveSite, checked_sums, movie, reader
from lading.testing.servers import missing_for_sshd, sshd

needs_sshd = pytest.mark.skipif(bool(missing_for_sshd()), reason=missing_for_sshd())


@pytest.fixture
def site(tmp_path: Path) -> LiveSite:
    return LiveSite(tmp_path)


@pytest.fixture
def server(tmp_path: Path):
    with sshd(tmp_path / "ssh") as running:
        yield running


def _over_ssh(kind, server, proxy, site, folder):
    return (
        f'{{ kind = "{kind}", target = "{server.user}@127.0.0.1:{site.target}", port = {proxy.port}, '
        f'identity = "{server.identity}", known_hosts = "{server.trusting(proxy.port, folder)}", '
        f"timeout = 5, connect_timeout = 5 }}"
    )


def _s24(site: LiveSite, proxy: FaultProxy, *, movies: int, every: float, down_s: float, lag_s: float, patience: float):
    """The scenario. Returns what the reader saw, the last status, and the lags that the figures told on the way."""
    camera = Camera(site.session(), movies, every)
    lags: list[tuple[float, float]] = []
    # The agent first: on a busy machine it may take longer to start than the camera to finish.
    with reader(site.deposit()) as seen, site.agent(), site.up(), camera.running():
        _until(lambda: camera.written >= movies // 4 and len(_carried(site)) >= 3, patience)
        proxy.faults.refuse = True
        proxy.cut()
        until = time.monotonic() + down_s
        # On a busy machine it takes longer before anybody notices.
        while time.monotonic() < until or not any(link == 0 and lag > lag_s for link, lag in lags):
            assert time.monotonic() < until + patience, lags[-3:]
            lags.append(_figures(site))
            time.sleep(0.2)
        proxy.faults.refuse = False
        closed = site.wait_for("closed", seconds=patience)
        # The agent notes it a moment after the target says so.
        _until(lambda: [told["stage"] for told in site.ask("list")["deliveries"]] == ["VERIFIED"], patience)
    lags.append(_figures(site))
    return seen, closed, lags


def _figures(site: LiveSite) -> tuple[float, float]:
    """Link (1 up, 0 down, -1 when nothing is open) and lag, from which a graph is drawn."""
    found = {"lading_live_link_up": -1.0}
    for line in site.lading("metrics").stdout.splitlines():
        if 'route="cryo"' in line and line.startswith("lading_live"):
            found[line.partition("{")[0]] = float(line.rpartition(" ")[2])
    return found["lading_live_link_up"], found["lading_live_lag_seconds"]


def _carried(site: LiveSite) -> list[Path]:
    return list(site.deposit().glob("movie*"))


def _until(holds, seconds: float) -> None:
    until = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < until, "waited in vain"
        time.sleep(0.05)


def _proven(site: LiveSite, seen, closed, movies: int) -> None:
    assert seen.wrong == ()
    assert seen.files == movies
    assert seen.states[-1] == "closed"
    assert closed["files"] == movies + 1  # the marker too
    assert closed["verified"]["files"] == movies + 1
    assert checked_sums(site.deposit()) == (0, "")
    assert all(path.read_bytes() == movie(path.name) for path in _carried(site))
    assert [path for path in site.deposit().rglob(".*") if path.is_file()] == []


@needs_sshd
@pytest.mark.parametrize("kind", ["sftp", pytest.param("rsync", marks=pytest.mark.slow)])
def test_s24_in_short(site, server, tmp_path, kind) -> None:
    pytest.importorskip("asyncssh" if kind == "sftp" else "attrs")
    with FaultProxy(("127.0.0.1", server.port)) as proxy:
        site.configure(transport=_over_ssh(kind, server, proxy, site, tmp_path))
        seen, closed, lags = _s24(site, proxy, movies=60, every=0.1, down_s=3.0, lag_s=1.0, patience=90.0)

    _proven(site, seen, closed, 60)
    assert closed["link_lost"] >= 1
    assert lags[-1] == (-1, 0.0)
    (told,) = site.ask("list")["deliveries"]
    assert (told["stage"], told["files"]) == ("VERIFIED", 61)


@needs_sshd
@pytest.mark.slow
def test_s24_in_full(site, server, tmp_path) -> None:
    """500 movies; ten times as fast as a camera, and the link is down for as many movies as 60 s of a camera's would be."""
    pytest.importorskip("asyncssh", reason="asyncssh is not installed (extra: sftp)")
    with FaultProxy(("127.0.0.1", server.port)) as proxy:
        site.configure(transport=_over_ssh("sftp", server, proxy, site, tmp_path))
        seen, closed, lags = _s24(site, proxy, movies=500, every=0.1, down_s=15.0, lag_s=10.0, patience=240.0)

    _proven(site, seen, closed, 500)
    assert lags[-1] == (-1, 0.0)


@needs_sshd
@pytest.mark.slow
def test_a_killed_agent_goes_on_over_sftp(site: LiveSite, server, tmp_path) -> None:
    pytest.importorskip("asyncssh", reason="asyncssh is not installed (extra: sftp)")
    with FaultProxy(("127.0.0.1", server.port)) as proxy:
        site.configure(transport=_over_ssh("sftp", server, proxy, site, tmp_path))
        _kill_again_and_again(site, 12)


@pytest.mark.parametrize("kills", [4, pytest.param(25, marks=pytest.mark.slow)])
def test_a_killed_agent_loses_nothing_and_carries_nothing_twice(site: LiveSite, kills: int) -> None:
    _kill_again_and_again(site, kills)


def _kill_again_and_again(site: LiveSite, kills: int) -> None:
    camera = Camera(site.session(), 12 * kills, 0.08)
    draw = random.Random(24)
    with reader(site.deposit()) as seen, camera.running():
        for _ in range(kills):
            carried = len(_carried(site))
            with site.agent() as agent:
                _until(lambda: len(_carried(site)) > carried or camera.written == camera.number, 60.0)  # noqa: B023 - called at once
                time.sleep(draw.uniform(0.0, 0.4))
                os.killpg(agent.pid, signal.SIGKILL)
                agent.wait()
        with site.agent():
            closed = site.wait_for("closed", seconds=120.0)

    _proven(site, seen, closed, camera.number)


def test_closing_by_hand_and_what_people_see(site: LiveSite) -> None:
    site.configure(live="")
    session = site.session()
    session.mkdir(parents=True)
    (session / "movie0001.mrc").write_bytes(movie("movie0001.mrc"))
    with site.agent():
        _until(lambda: site.status().get("files") == 1, 60.0)
        (view,) = site.ask("status")["live"]
        shown = site.lading("status").stdout
        refused = site.lading("live", "close", "nothing-of-that-name")
        asked = site.lading("live", "close", str(session))
        site.wait_for("closed", seconds=60.0)
        _until(lambda: [told["state"] for told in site.ask("live", "list")["live"]] == ["closed"], 60.0)
        (session / "movie0002.mrc").write_bytes(movie("movie0002.mrc"))
        reopened = site.lading("live", "reopen", view["delivery"])
        _until(lambda: site.status().get("files") == 2, 60.0)
        still = site.status()["state"]

    assert (view["state"], view["files"], view["link"], view["waiting_files"]) == ("acquiring", 1, "up", 0)
    assert "EM/grid-1/s1" in shown
    assert "acquiring: 1 files" in shown
    assert refused.returncode == 2
    assert asked.returncode == 0, asked.stderr
    assert reopened.returncode == 0, reopened.stderr
    assert still == "acquiring"
