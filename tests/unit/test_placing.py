"""The parts that every remote transport is made of, over a place in memory: bodies, hashes, crew, watchdog, names."""

import hashlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.delivery import DeliveryId
from lading.errors import AccessDenied, ConfigError, Corrupted, Rejected, SourceChanged, Unreachable
from lading.manifest import Entry, NameLimits
from lading.testing import trees
from transport import placing
from transport.bodies import FileBody, Folder, SmallBody, Told, is_body_of
from transport.crew import Crew
from transport.logins import password
from transport.naming import refuse_names
from transport.pacing import Unpaced
from transport.placing import PlacingTransport
from transport.remote import BLOCK, RemoteFile, RemoteTraits, part_path
from transport.stalling import Watch
from transport.there import Found, Hashes, There, Wanted


class Sums:
    """Adds up progress."""

    def __init__(self) -> None:
        self.files = self.bytes = 0

    def advance(self, *, files: int = 0, bytes: int = 0) -> None:  # noqa: A002
        self.files += files
        self.bytes += bytes


def entry_of(path: Path, **digests: str) -> Entry:
    info = path.stat()
    sha256 = hashlib.sha256(path.read_bytes()).hexdigest()
    return Entry(path.name, info.st_size, info.st_mtime_ns, {"sha256": sha256} | digests)


def body_of(path: Path, told: Told | None = None, entry: Entry | None = None, **more) -> FileBody:
    folder = Folder(path.parent)
    return FileBody(path.parent, entry or entry_of(path), folder.open, pace=Unpaced(), told=told, **more)


@pytest.fixture(params=[0, 1, BLOCK - 1, BLOCK, BLOCK + 1, 3 * BLOCK + 17, 9 * BLOCK + 3])
def path(request, tmp_path) -> Path:
    file = tmp_path / "file"
    file.write_bytes(trees.noise(1, request.param))
    return file


# -- bodies ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("offset", [0, 1, BLOCK, BLOCK + 1, 2 * BLOCK + 5])
def test_a_body_hands_out_what_lies_behind_the_offset_in_blocks(path, offset):
    content = path.read_bytes()
    offset = min(offset, len(content))
    with body_of(path) as body:
        blocks = list(body.blocks(offset))

    assert b"".join(blocks) == content[offset:]
    assert all(0 < len(block) <= BLOCK for block in blocks)


def test_ranges_in_any_order_and_the_rest_is_proven_afterwards(path):
    content = path.read_bytes()
    with body_of(path) as body:
        half = len(content) // 2
        second = b"".join(body.blocks(half, len(content) - half))
        first = b"".join(body.blocks(0, half))
        body.prove()

    assert first + second == content


def test_the_last_block_of_a_changed_source_never_leaves(path):
    entry = entry_of(path)
    other = Entry(entry.path, entry.size, entry.mtime_ns, {"sha256": "0" * 64})
    came = []
    with body_of(path, entry=other) as body, pytest.raises(SourceChanged, match="no longer has the content"):
        came.extend(body.blocks())

    assert sum(map(len, came)) < max(entry.size, 1)


def test_a_changed_source_is_noticed_after_ranges_too(path):
    entry = entry_of(path)
    other = Entry(entry.path, entry.size, entry.mtime_ns, {"sha256": "0" * 64})
    with body_of(path, entry=other) as body:
        list(body.blocks(0, entry.size))
        with pytest.raises(SourceChanged):
            body.prove()


def test_a_source_that_grew_or_became_a_link_is_changed(tmp_path):
    file = tmp_path / "file"
    file.write_bytes(b"content")
    entry = entry_of(file)
    with file.open("ab") as out:
        out.write(b"more")
    with body_of(file, entry=entry) as body, pytest.raises(SourceChanged):
        list(body.blocks())
    file.unlink()
    file.symlink_to("/etc/hostname")
    with body_of(file, entry=entry) as body, pytest.raises(SourceChanged):
        list(body.blocks())


def test_progress_counts_every_byte_once_however_often_the_body_is_read(path):
    sums = Sums()
    told = Told(sums, path.stat().st_size)
    with body_of(path, told) as body:
        list(body.blocks())
        list(body.blocks(path.stat().st_size // 2))
    told.done()

    assert (sums.files, sums.bytes) == (1, path.stat().st_size)


def test_reading_stops_when_another_file_failed(path):
    with body_of(path, goes_on=lambda: path.stat().st_size == 0) as body:
        if path.stat().st_size:
            with pytest.raises(Unreachable):
                list(body.blocks())


@pytest.mark.parametrize("taken", [0, 1, 9])
def test_nobody_reads_ahead_of_a_body_that_was_let_go(tmp_path, taken):
    (tmp_path / "file").write_bytes(bytes(30 * BLOCK))
    sums = Sums()
    with body_of(tmp_path / "file", Told(sums, 30 * BLOCK)) as body:
        blocks = body.blocks()
        for _ in range(taken):
            next(blocks)

    assert not [thread for thread in threading.enumerate() if thread.name == "lading-read-ahead"]
    assert sums.bytes <= (taken + 5) * BLOCK


def test_content_is_compared_by_digest_and_by_bytes(path):
    content = path.read_bytes()
    with body_of(path) as body:
        assert is_body_of(body, iter([content]))
        assert not is_body_of(body, iter([content + b"x"]))
        assert not content or not is_body_of(body, iter([content[:-1] + b"\0x"[:1]])) or content[-1] == 0
    assert is_body_of(SmallBody(b"abc"), iter([b"ab", b"c"]))


def test_a_parts_name_depends_on_name_and_content_and_is_short():
    one, other = SmallBody(b"one"), SmallBody(b"two")
    long = "f/" + "n" * 255

    assert part_path("f/a", one) == part_path("f/a", one)
    assert len({part_path("f/a", one), part_path("f/b", one), part_path("f/a", other)}) == 3
    assert part_path(long, one).startswith("f/.in.")
    assert len(part_path(long, one)) < 40
    assert part_path("a\udcff", one).startswith(".in.")


# -- what is there -----------------------------------------------------------------------------------------------------


def test_hashes_hold_what_was_added_and_nothing_else():
    held = Hashes(10)
    for number in range(5000):
        held.add(f"path/{number}")
        held.add(f"path/{number}")

    assert all(f"path/{number}" in held for number in range(5000))
    assert not any(f"other/{number}" in held for number in range(5000))


def test_what_is_there_is_told_by_size_and_time():
    there = There(10, with_times=True)
    there.add(RemoteFile("a", 3, 100.7))
    there.add(RemoteFile("b", 3))

    def found(path: str, size: int, mtime: float) -> Found:
        return there.of(Entry(path, size, int(mtime * 1e9), {"sha256": ""}))

    assert found("a", 3, 100.2) is Found.TIME
    assert found("a", 3, 101) is Found.SIZE
    assert found("a", 4, 100) is Found.ABSENT
    assert found("b", 3, 100) is Found.SIZE
    assert found("c", 3, 100) is Found.ABSENT


def test_files_folders_and_parts_of_a_manifest_are_wanted_links_are_not():
    wanted = Wanted(10)
    wanted.add("x/y/a", "x/y/.in.1")

    assert RemoteFile("x/y/a", 1) in wanted
    assert RemoteFile("x/y/.in.1", 1) in wanted
    assert RemoteFile("x/y", 0, folder=True) in wanted
    assert RemoteFile("x/y", 1) not in wanted
    assert RemoteFile("x/y/a", -1) not in wanted
    assert RemoteFile("x/y/a", 0, folder=True) not in wanted


# -- names -------------------------------------------------------------------------------------------------------------


def _refused(limits: NameLimits, *paths: str) -> set[tuple[str, str]]:
    try:
        refuse_names((Entry(path, 0, 0, {"sha256": ""}) for path in paths), limits, "the share")
    except Rejected as exc:
        return {(finding.code, finding.path) for finding in exc.findings}
    return set()


def test_names_that_the_target_refuses_are_told_before_anything_is_sent():
    assert _refused(NameLimits.POSIX, "a", "b/c", "odd\nname") == set()
    assert _refused(NameLimits.SMB, "a:b", "CON/x", "CON/y", "ok/dot./z") == {
        ("name-illegal", "a:b"),
        ("name-illegal", "CON"),
        ("name-illegal", "ok/dot."),
    }
    assert _refused(NameLimits.SMB, "f/Case.tif", "f/case.tif") == {("name-collides-by-case", "f/case.tif")}
    assert _refused(NameLimits.SMB, "f/u\u0308", "f/\u00fc") == {("name-collides-by-case", "f/\u00fc")}
    assert _refused(NameLimits.EXACT, "f/Case.tif", "f/case.tif") == set()
    assert _refused(NameLimits.POSIX, "n" * 256) == {("name-too-long", "n" * 256)}


# -- crew and watchdog -------------------------------------------------------------------------------------------------


class Silent:
    """A connection that never answers, until it is closed."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def look(self, path: str) -> RemoteFile | None:
        self.closed.wait(60)
        raise Unreachable(f"closed while looking at {path}")

    def read(self, path: str, offset: int = 0) -> Iterator[bytes]:
        for _ in range(5):
            time.sleep(0.05)
            yield b"x"

    def place(self, path: str, body) -> None:
        for _ in body.blocks():
            pass

    def close(self) -> None:
        self.closed.set()


class Place:
    """Hands out silent connections."""

    name = "nowhere"
    streams = 3
    traits = RemoteTraits(stall_s=0.3)

    def __init__(self) -> None:
        self.made: list[Silent] = []
        self.refuse = False

    def connect(self) -> Silent:
        if self.refuse:
            raise AccessDenied("no")
        self.made.append(Silent())
        return self.made[-1]


def test_a_connection_that_stalls_is_closed_and_the_call_ends():
    with Watch(0.3) as watch:
        files = watch.over(Silent())  # type: ignore[arg-type]  # only what is called

        with pytest.raises(Unreachable, match=r"nothing moved for 0\.3 seconds"):
            files.look("x")


def test_waiting_for_the_source_or_the_pace_is_no_stall():
    class Slow(SmallBody):
        def blocks(self, offset: int = 0, length: int | None = None) -> Iterator[bytes]:
            time.sleep(1.0)
            yield from super().blocks(offset, length)

    with Watch(0.3) as watch:
        silent = Silent()
        files = watch.over(silent)  # type: ignore[arg-type]
        files.place("x", Slow(b"slow"))
        assert list(files.read("x")) == [b"x"] * 5
        time.sleep(0.6)

        assert not silent.closed.is_set(), "nobody was calling"


def test_a_crew_does_all_the_work_and_hires_no_more_than_it_needs():
    done: list[int] = []
    place = Place()
    with Watch(None) as watch, Crew[int](place, watch, lambda _, work: done.append(work)) as crew:  # type: ignore[arg-type]
        for number in range(100):
            crew.submit(number)
        crew.finish()

    assert sorted(done) == list(range(100))
    assert 1 <= len(place.made) <= 3
    assert all(silent.closed.is_set() for silent in place.made)


def test_the_first_error_ends_a_crew_and_wakes_those_who_wait():
    place = Place()

    def work(files, number: int) -> None:
        if number == 0:
            files.look("for ever")
        raise Corrupted("this one is damaged")

    start = time.monotonic()
    with pytest.raises(Corrupted):
        _hand_out(place, work, grace_s=0.5)
    assert time.monotonic() - start < 25


def test_a_crew_that_gets_no_connection_says_why():
    place = Place()
    place.refuse = True
    with pytest.raises(AccessDenied):
        _hand_out(place, lambda *_: None)


def _hand_out(place: Place, work, **how: float) -> None:
    with Watch(30) as watch, Crew[int](place, watch, work, **how) as crew:  # type: ignore[arg-type]
        for number in range(100):
            crew.submit(number)
        crew.finish()


# -- passwords ---------------------------------------------------------------------------------------------------------


def test_a_password_is_read_where_it_is_kept(tmp_path, monkeypatch):
    file = tmp_path / "secret"
    file.write_text("s3cret with spaces \nand a comment\n")
    file.chmod(0o600)
    monkeypatch.setenv("LADING_TEST_PASSWORD", "from the environment")

    assert password(f"file:{file}", "x") == "s3cret with spaces "
    assert password("env:LADING_TEST_PASSWORD", "x") == "from the environment"


def test_a_password_that_others_can_read_or_that_is_written_down_is_refused_unseen(tmp_path):
    file = tmp_path / "secret"
    file.write_text("s3cret\n")
    file.chmod(0o640)

    with pytest.raises(AccessDenied, match="0640"):
        password(f"file:{file}", "x")
    with pytest.raises(AccessDenied, match="NOT_SET"):
        password("env:LADING_TEST_NOT_SET", "x")
    with pytest.raises(ConfigError) as caught:
        password("hunter2", "x")
    assert "hunter2" not in str(caught.value)
    with pytest.raises(ConfigError) as caught:
        password("hunter2:hunter2", "x")
    assert "hunter2" not in str(caught.value)


# -- the connection that is kept for the next question -----------------------------------------------------------------


class Answering:
    """A connection to a place where there is nothing."""

    def __init__(self) -> None:
        self.closed = threading.Event()

    def look(self, path: str) -> None:
        assert not self.closed.is_set(), path

    def close(self) -> None:
        self.closed.set()


class Empty(Place):
    """Hands out connections that answer."""

    made: list[Answering]  # type: ignore[assignment]

    def connect(self) -> Answering:  # type: ignore[override]
        self.made.append(Answering())
        return self.made[-1]


def test_one_connection_and_one_timer_serve_any_number_of_questions():
    place = Empty()
    transport = PlacingTransport(place)  # type: ignore[arg-type]  # only what is called
    before = threading.enumerate()

    for number in range(50):
        assert transport.fetch_receipt(DeliveryId(f"delivery-{number}")) is None

    timers = [one for one in threading.enumerate() if isinstance(one, threading.Timer) and one not in before]
    assert (len(place.made), len(timers)) == (1, 1)


def test_a_connection_that_nobody_uses_is_closed_and_the_next_question_makes_another(monkeypatch):
    monkeypatch.setattr(placing, "_IDLE_S", 0.3)
    place = Empty()
    transport = PlacingTransport(place)  # type: ignore[arg-type]
    asked_until = time.monotonic() + 0.6  # longer than a connection is kept, if nobody asks
    while time.monotonic() < asked_until:
        transport.fetch_receipt(DeliveryId("delivery-1"))

    assert place.made[-1].closed.wait(30)
    transport.fetch_receipt(DeliveryId("delivery-1"))

    assert len(place.made) >= 2
    assert place.made[-1].closed.wait(30), "and that one is closed as well"
