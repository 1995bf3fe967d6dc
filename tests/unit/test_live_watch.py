"""When a file of an acquisition came to rest, and when an acquisition is over: by a clock that the test turns."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.agent import live_watch
from lading.agent.live_book import LiveBook, LiveState
from lading.agent.live_watch import LiveWatch
from lading.agent.outbox import Outbox
from lading.config import LiveConfig, WatchConfig
from lading.delivery import Labels
from lading.deposit import Settled
from lading.errors import Unreachable
from lading.filters import FileRules
from lading.ports import Acquisition

LIVE = LiveConfig(settle=10, close_after=600, marker="done")


class Sources:
    """One session folder; says which files are open for writing."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.open: frozenset[str] = frozenset()
        self.away = False

    def ready(self) -> Iterator[Acquisition]:
        if self.away:
            raise Unreachable("cannot look into the watched folder")
        yield Acquisition(self.root, Labels("EM", "grid-1", "s1"))

    def being_written(self, root: Path) -> frozenset[str]:
        return self.open


class Site:
    def __init__(self, base: Path, live: LiveConfig = LIVE, rules: FileRules | None = None) -> None:
        self.root = base / "data" / "s1"
        self.root.mkdir(parents=True)
        self.now = 1000.0
        self.book = LiveBook(Outbox(base / "home"))
        self.source = Sources(self.root)
        watch = WatchConfig(path=base / "data", route="cryo")
        self.watch = LiveWatch(self.book, watch, live, self.source, rules or FileRules(), clock=lambda: self.now)

    def write(self, name: str, content: bytes) -> None:
        path = self.root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)

    def look(self, after: float = 0.0) -> float | None:
        self.now += after
        return self.watch.look()

    def settled(self) -> list[str]:
        (delivery,) = self.book.deliveries()
        return [row.settled.path for row in self.book.waiting(delivery, files=1000, size=1 << 40)]

    def state(self) -> LiveState:
        (delivery,) = self.book.deliveries()
        return self.book.get(delivery).state

    def why(self) -> str:
        (delivery,) = self.book.deliveries()
        return self.book.get(delivery).why


@pytest.fixture
def site(tmp_path: Path) -> Site:
    return Site(tmp_path)


def test_an_empty_folder_is_no_acquisition_yet(site: Site) -> None:
    site.look()

    assert site.book.deliveries() == []


def test_a_file_settles_after_its_rest_and_not_before(site: Site) -> None:
    site.write("m.mrc", b"half")
    first = site.look()
    site.write("m.mrc", b"half and half")
    site.look(after=9.0)
    still = site.settled()
    site.look(after=9.9)
    nearly = site.settled()
    site.look(after=0.2)

    assert first == pytest.approx(10.0)
    assert (still, nearly) == ([], [])
    assert site.settled() == ["m.mrc"]


def test_a_file_that_is_open_for_writing_does_not_settle(site: Site) -> None:
    site.write("Images/m.mrc", b"half")
    site.source.open = frozenset({"Images/m.mrc"})
    site.look()
    site.look(after=60.0)
    held_open = site.settled()
    site.source.open = frozenset()
    site.look(after=0.1)

    assert held_open == []
    assert site.settled() == ["Images/m.mrc"]


def test_links_junk_and_what_the_rules_leave_out_stay_behind(tmp_path: Path) -> None:
    site = Site(tmp_path, rules=FileRules(exclude=("*.tmp",)))
    (tmp_path / "secret").write_bytes(b"secret")
    (site.root / "link.mrc").symlink_to(tmp_path / "secret")
    os.mkfifo(site.root / "pipe")
    for name in ("good.mrc", "scratch.tmp", "Thumbs.db"):
        site.write(name, b"x")

    site.look()
    site.look(after=11.0)

    assert site.settled() == ["good.mrc"]


def test_the_marker_closes_only_when_all_came_to_rest(site: Site) -> None:
    site.write("m.mrc", b"m")
    site.write("done", b"")
    site.look()
    waiting = site.why()
    site.look(after=11.0)

    assert waiting == "2 files are still being written"
    assert site.state() is LiveState.CLOSING


def test_a_file_that_comes_while_it_closes_opens_it_again(site: Site) -> None:
    site.write("done", b"")
    site.look()
    site.look(after=11.0)
    closing = site.state()
    site.write("m.mrc", b"m")
    site.look(after=1.0)
    again = site.state()
    site.look(after=11.0)

    assert (closing, again, site.state()) == (LiveState.CLOSING, LiveState.ACQUIRING, LiveState.CLOSING)


def test_a_file_that_comes_in_the_very_moment_of_closing_is_carried(site: Site) -> None:
    site.write("done", b"")
    site.look()
    # Asked after the look at the folder, and before the folder's fingerprint is taken.
    site.source.being_written = lambda _: site.write("m.mrc", b"m") or frozenset()  # type: ignore[method-assign]
    site.look(after=11.0)
    in_that_moment = site.state(), site.why()
    site.source.being_written = lambda _: frozenset()  # type: ignore[method-assign]
    site.look(after=1.0)
    site.look(after=11.0)

    assert in_that_moment == (LiveState.ACQUIRING, "files came just now")
    assert site.state() is LiveState.CLOSING
    assert site.settled() == ["done", "m.mrc"]


def test_quiet_alone_closes_it_in_the_end(site: Site) -> None:
    site.write("m.mrc", b"m")
    site.look()
    site.look(after=599.0)
    before = site.state()
    site.look(after=2.0)

    assert (before, site.state()) == (LiveState.ACQUIRING, LiveState.CLOSING)


def test_never_by_itself_when_nothing_says_how(tmp_path: Path) -> None:
    site = Site(tmp_path, LiveConfig(settle=1, close_after=0))
    site.write("m.mrc", b"m")
    site.look()
    site.look(after=1e6)

    assert site.state() is LiveState.ACQUIRING
    assert site.why() == "acquiring; waits for lading live close"


def test_an_unfinished_name_is_waited_for(site: Site) -> None:
    site.write("m.mrc.part", b"half")
    site.write("done", b"")
    site.look()
    site.look(after=11.0)

    assert site.settled() == ["done"]
    assert site.why() == "m.mrc.part is still being written, going by its name"


def test_many_files_are_followed_a_part_at_a_time(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live_watch, "_MOST_MOVING", 10)
    for number in range(25):
        site.write(f"m{number:02}.mrc", b"m")
    site.look()
    seen = []
    for _ in range(3):
        site.look(after=11.0)
        site.look()
        seen.append(len(site.settled()))

    assert seen == [10, 20, 25]


def test_an_absent_folder_is_reported_and_nothing_is_lost(site: Site) -> None:
    site.write("m.mrc", b"m")
    site.look()
    site.source.away = True
    site.look(after=11.0)
    (report,) = site.book.outbox.watches()
    site.source.away = False
    site.look()

    assert "cannot look into the watched folder" in report.error
    assert site.settled() == ["m.mrc"]
    assert site.book.outbox.watches()[0].error == ""


def test_what_an_older_lading_noted_is_not_taken_for_changed(site: Site) -> None:
    site.write("m.mrc", b"m")
    site.look()
    site.look(after=11.0)
    (delivery,) = site.book.deliveries()
    (row,) = site.book.waiting(delivery, files=9, size=99)
    site.book.settle(delivery, [Settled("m.mrc", row.settled.size, row.settled.mtime_ns)])
    site.book.carried(delivery, [(Settled("m.mrc", row.settled.size, row.settled.mtime_ns), "aa")])
    site.look(after=11.0)
    site.look(after=11.0)

    assert site.settled() == []
