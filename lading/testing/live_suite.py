"""What every transport that can fill a deposit folder must show, over a real server: a class of tests to inherit from.

class TestMyProtocol(DepositSuite):
    @pytest.fixture
    def site(self, tmp_path): ...          # as for the TransportSuite
"""

import hashlib
import os
import time
from pathlib import Path

import pytest

from lading.deposit import Deposit, Settled, deposit_of
from lading.errors import LadingError, SourceChanged, Unreachable
from lading.listing.entries import Entry
from lading.testing.carrying import Errand
from lading.testing.site import Desk, Site, flip_a_byte, proxied

FOLDER = "deposit/DEMO/sub-001/session 1"
BIG = 6 << 20


class Place:
    """A deposit folder of the desk's inbox, and the source that goes into it."""

    def __init__(self, desk: Desk, changes: dict[str, object] | None = None) -> None:
        self.desk, self.changes = desk, changes or {}
        self.source = desk.folder / "live source"
        self.source.mkdir(exist_ok=True)
        self.there = desk.inbox.root / FOLDER
        self.told: dict[str, Entry | LadingError] = {}

    def opened(self) -> Deposit:
        settings = {**self.desk.site.reach(self.desk.inbox.root), **self.changes}
        errand = Errand(self.desk.site.factory, settings, str(self.source), "", str(self.desk.state), "test-live-1")
        return deposit_of(errand.transport(), FOLDER)

    def make(self, path: str, content: bytes, *, mtime_ns: int = 1_700_000_000_000_000_000) -> Settled:
        file = self.source / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        os.utime(file, ns=(mtime_ns, mtime_ns))
        return self.settled(path)

    def settled(self, path: str, *, perhaps: bool = False) -> Settled:
        info = (self.source / path).stat()
        return Settled(path, info.st_size, info.st_mtime_ns, perhaps)

    def bring(self, deposit: Deposit, *files: Settled) -> None:
        self.told = {}
        deposit.bring(self.source, files, lambda file, outcome: self.told.update({file.path: outcome}))

    def begin(self, deposit: Deposit) -> None:
        """As the agent does: a paper first."""
        paper = self.desk.folder / "paper"
        paper.write_bytes(b'{"state": "acquiring"}\n')
        deposit.write("STATUS.json", paper)

    def files(self) -> dict[str, bytes]:
        """What readers see: every file whose name is not hidden."""
        return {
            path.relative_to(self.there).as_posix(): path.read_bytes()
            for path in self.there.rglob("*")
            if path.is_file() and not any(part.startswith(".") for part in path.relative_to(self.there).parts)
        }


def entry_of(path: str, content: bytes, mtime_ns: int = 1_700_000_000_000_000_000) -> Entry:
    """What is told of a file once it is there."""
    return Entry(path, len(content), mtime_ns, {"sha256": hashlib.sha256(content).hexdigest()})


class DepositSuite:
    """The tests."""

    keeps_inode = True
    """Whether an unchanged file of the served folder keeps its inode and time: how a second sending would be noticed."""

    leftover = ".in.0123456789abcdef"
    """How a part is called that a killed carry leaves."""

    @pytest.fixture
    def desk(self, tmp_path: Path, site: Site) -> Desk:
        (tmp_path / "desk").mkdir()
        return Desk(tmp_path / "desk", site)

    @pytest.fixture
    def place(self, desk: Desk) -> Place:
        return Place(desk)

    def test_files_arrive_whole_with_the_digest_that_is_told(self, place: Place) -> None:
        movies = {"movie 1.mrc": b"one" * 1000, "Images/grid ä/movie2.mrc": b"2" * BIG, "empty.mdoc": b""}
        with place.opened() as deposit:
            place.begin(deposit)
            place.bring(deposit, *(place.make(path, content) for path, content in movies.items()))

        assert place.told == {path: entry_of(path, content) for path, content in movies.items()}
        assert place.files() == {**movies, "STATUS.json": b'{"state": "acquiring"}\n'}
        assert (place.desk.inbox.root / "deposit" / ".lading-deposit").is_file()

    def test_a_file_that_grew_replaces_its_older_content(self, place: Place) -> None:
        with place.opened() as deposit:
            place.begin(deposit)
            place.bring(deposit, place.make("stack.mdoc", b"one line\n"))
            grown = place.make("stack.mdoc", b"one line\nanother line\n", mtime_ns=1_700_000_009_000_000_000)
            place.bring(deposit, grown)

        assert place.files()["stack.mdoc"] == b"one line\nanother line\n"
        assert place.told["stack.mdoc"] == entry_of("stack.mdoc", b"one line\nanother line\n", grown.mtime_ns)

    def test_what_was_damaged_there_is_replaced_though_size_and_time_are_right(self, place: Place) -> None:
        with place.opened() as deposit:
            place.begin(deposit)
            movie = place.make("movie.mrc", b"m" * 5000)
            place.bring(deposit, movie)
            there = (place.there / "movie.mrc").stat()
            flip_a_byte(place.there / "movie.mrc")
            os.utime(place.there / "movie.mrc", ns=(there.st_atime_ns, there.st_mtime_ns))

            place.bring(deposit, movie)

        assert place.files()["movie.mrc"] == b"m" * 5000

    def test_what_was_replaced_within_the_same_second_is_carried_again(self, place: Place) -> None:
        with place.opened() as deposit:
            place.begin(deposit)
            place.bring(deposit, place.make("movie.mrc", b"m" * 5000))
            other = place.make("movie.mrc", b"n" * 5000, mtime_ns=1_700_000_000_900_000_000)
            place.bring(deposit, other)

        assert place.files()["movie.mrc"] == b"n" * 5000
        assert place.told["movie.mrc"] == entry_of("movie.mrc", b"n" * 5000, other.mtime_ns)

    def test_what_a_killed_agent_placed_is_recognised_and_not_sent_again(self, place: Place) -> None:
        with place.opened() as deposit:
            place.begin(deposit)
            place.bring(deposit, place.make("movie.mrc", b"m" * 5000), place.make("other.mrc", b"o" * 5000))
        before = (place.there / "movie.mrc").stat()
        (place.there / "other.mrc").write_bytes(b"x" * 5000)
        time.sleep(0.05)

        with place.opened() as deposit:
            place.bring(deposit, place.settled("movie.mrc", perhaps=True), *self._perhaps_damaged(place))

        after = (place.there / "movie.mrc").stat()
        assert place.told["movie.mrc"] == entry_of("movie.mrc", b"m" * 5000)
        if self.keeps_inode:
            assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)

    def _perhaps_damaged(self, place: Place) -> list[Settled]:
        return [place.settled("other.mrc", perhaps=True)]

    def test_a_file_that_changed_does_not_keep_the_others(self, place: Place) -> None:
        changed = place.make("changed.mrc", b"before")
        gone = place.make("gone.mrc", b"gone")
        place.make("changed.mrc", b"after, and longer", mtime_ns=1_700_000_005_000_000_000)
        (place.source / "gone.mrc").unlink()
        with place.opened() as deposit:
            place.begin(deposit)
            place.bring(deposit, changed, gone, place.make("good.mrc", b"good"))

        assert isinstance(place.told["changed.mrc"], SourceChanged)
        assert isinstance(place.told["gone.mrc"], SourceChanged)
        assert place.told["good.mrc"] == entry_of("good.mrc", b"good")
        assert set(place.files()) == {"STATUS.json", "good.mrc"}

    def test_papers_are_replaced_and_read_back(self, place: Place) -> None:
        paper = place.desk.folder / "paper"
        with place.opened() as deposit:
            assert deposit.read("STATUS.json") is None
            for text in (b"first", b"other", b"a longer one"):
                paper.write_bytes(text)
                deposit.write("STATUS.json", paper)
                assert deposit.read("STATUS.json") == text
            assert place.files() == {"STATUS.json": b"a longer one"}

    def test_reading_back_finds_what_is_damaged_and_what_is_missing(self, place: Place) -> None:
        contents = {f"movie{n}.mrc": bytes([n]) * (3000 + n) for n in range(5)}
        with place.opened() as deposit:
            place.begin(deposit)
            place.bring(deposit, *(place.make(path, content) for path, content in contents.items()))
            flip_a_byte(place.there / "movie1.mrc")
            (place.there / "movie2.mrc").unlink()
            (place.source / "movie3.mrc").unlink()  # what left the source is compared all the same
            flip_a_byte(place.there / "movie3.mrc")
            (place.source / "movie4.mrc").unlink()

            reads = list(deposit.verify(place.source, [entry_of(path, content) for path, content in contents.items()]))

        assert [read.entry.path for read in reads] == sorted(contents)
        assert {read.entry.path for read in reads if read.problem} == {"movie1.mrc", "movie2.mrc", "movie3.mrc"}

    def test_what_killed_carries_left_goes_and_what_readers_keep_stays(self, place: Place) -> None:
        with place.opened() as deposit:
            place.begin(deposit)
            place.bring(deposit, place.make("movie.mrc", b"movie"))
            (place.there / self.leftover).write_bytes(b"half")
            (place.there / "relion").mkdir()
            (place.there / "relion" / "job.star").write_bytes(b"theirs")

            deposit.tidy()

        assert {path.name for path in place.there.rglob("*") if path.is_file()} == {
            "movie.mrc",
            "STATUS.json",
            "job.star",
        }

    def test_an_absent_share_is_unreachable_and_nothing_is_made_there(self, place: Place) -> None:
        (place.desk.inbox.root / ".lading" / "inbox.json").unlink()

        with pytest.raises(Unreachable), place.opened():
            pass

        assert not (place.desk.inbox.root / "deposit").exists()

    def test_a_cut_line_shows_nothing_half_and_can_be_finished(self, desk: Desk) -> None:
        content = os.urandom(4 * BIG)
        with proxied(desk.site) as (proxy, changes):
            place = Place(desk, dict(changes))
            movie = place.make("movie.mrc", content)
            with pytest.raises(LadingError) as raised, place.opened() as deposit:  # noqa: PT012 - the block is the visit
                place.begin(deposit)
                proxy.faults.cut_at = proxy.passed + BIG
                place.bring(deposit, movie)
            seen = place.files()
            with place.opened() as deposit:
                place.bring(deposit, Settled(movie.path, movie.size, movie.mtime_ns, perhaps=True))

            assert raised.value.retried
            assert set(seen) == {"STATUS.json"}
            assert place.files()["movie.mrc"] == content
            assert place.told["movie.mrc"] == entry_of("movie.mrc", content)
