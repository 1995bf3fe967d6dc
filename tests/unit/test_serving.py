"""Whose inbox it is: the notice that a server leaves there, and what another one with a database of its own makes of it."""

import json
import os
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest

from lading import doctor
from lading.config import Config, load
from lading.engine.database import Connection
from lading.engine.parts import Parts
from lading.engine.reporting import conditions
from lading.engine.serving import BELIEVED_S, RENEW_S, STANDS_S, Keeper, Onlooker, ServedParts
from lading.errors import Unreachable
from lading.inbox import Inbox
from lading.staging import serving
from lading.staging.serving import SERVING, Serving
from lading.testing.fakes import FolderParts

A = "0b0e1f6a-0000-4000-8000-00000000000a"
B = "0b0e1f6a-0000-4000-8000-00000000000b"
OTHER = Serving(B, "otherhost", 4711, "2026-05-04T18:15:00+00:00")
SETTINGS = """
home = "state"
[inboxes.main]
path = "inbox"
keep_free_gb = 0
"""


class Clock:
    """Seconds that pass when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


class OneInbox:
    """As much of the parts of a server as is asked for."""

    def __init__(self, inbox: Inbox) -> None:
        self.inboxes: Mapping[str, Inbox] = {"main": inbox}


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox.create(tmp_path / "inbox")


@pytest.fixture
def clock() -> Clock:
    return Clock()


def keeper(inbox: Inbox, clock: Clock, database: str = A) -> Keeper:
    return Keeper(database, cast("Parts", OneInbox(inbox)), clock)


def said(inbox: Inbox) -> Serving:
    seen = serving.read(inbox.root)
    assert seen is not None
    return seen.serving


def test_the_first_server_serves_at_once_and_the_second_one_stays_away(inbox: Inbox, clock: Clock) -> None:
    first, second = keeper(inbox, clock), keeper(inbox, clock, B)
    first.keep()
    second.keep()

    assert (first.mine, second.mine) == ({"main"}, frozenset())
    assert first.elsewhere == {}
    assert f"process {os.getpid()}" in second.elsewhere["main"]
    assert said(inbox).database == A
    assert (inbox.root / SERVING).stat().st_mode & 0o777 == 0o644
    assert list(ServedParts(cast("Parts", OneInbox(inbox)), first).inboxes) == ["main"]
    assert list(ServedParts(cast("Parts", OneInbox(inbox)), second).inboxes) == []


def test_a_notice_that_is_given_again_and_again_stands_for_ever(inbox: Inbox, clock: Clock) -> None:
    first, second = keeper(inbox, clock), keeper(inbox, clock, B)
    for _ in range(50):
        first.keep()
        second.keep()
        clock.now += RENEW_S / 2

    assert (first.mine, second.mine) == ({"main"}, frozenset())


@pytest.mark.parametrize("written", [0, 4_000_000_000], ids=["long ago", "in the future"])
def test_after_two_minutes_of_silence_another_takes_over_whatever_the_clock_of_the_share_says(
    inbox: Inbox, clock: Clock, written: int
) -> None:
    serving.write(inbox.root, OTHER)
    os.utime(inbox.root / SERVING, (written, written))
    ours = keeper(inbox, clock)
    ours.keep()
    clock.now += STANDS_S - 1
    ours.keep()
    assert ours.mine == frozenset()

    clock.now += 1
    ours.keep()
    assert ours.mine == frozenset()  # another may have found the same at this moment
    ours.keep()

    assert ours.mine == {"main"}
    assert said(inbox).database == A


def test_of_two_that_take_over_at_once_one_serves(inbox: Inbox, clock: Clock) -> None:
    serving.write(inbox.root, replace(OTHER, database=B.replace("b", "c")))
    one, two = keeper(inbox, clock), keeper(inbox, clock, B)
    for each in (one, two):
        each.keep()
    clock.now += STANDS_S
    one.keep()
    serving.write(inbox.root, OTHER)  # the other one looked before that, and writes after it
    for _ in range(3):
        one.keep()
        two.keep()

    assert (one.mine, two.mine) == (frozenset(), {"main"})


def test_several_machines_on_one_database_all_serve(inbox: Inbox, clock: Clock) -> None:
    first, second = keeper(inbox, clock), keeper(inbox, clock)
    serving.write(inbox.root, replace(OTHER, database=A))
    first.keep()
    second.keep()

    assert first.mine == second.mine == {"main"}
    assert said(inbox).host != OTHER.host


def test_who_was_thought_dead_steps_back_when_it_wakes(inbox: Inbox, clock: Clock) -> None:
    first, second = keeper(inbox, clock), keeper(inbox, clock, B)
    first.keep()
    second.keep()
    clock.now += STANDS_S
    second.keep()
    second.keep()
    first.keep()

    assert (first.mine, second.mine) == (frozenset(), {"main"})


def test_a_server_that_ends_takes_its_notice_away_and_the_next_begins_at_once(inbox: Inbox, clock: Clock) -> None:
    first, second = keeper(inbox, clock), keeper(inbox, clock, B)
    first.start()
    second.keep()
    first.stop()

    assert not (inbox.root / SERVING).exists()
    assert first.mine == frozenset()
    second.keep()
    assert second.mine == {"main"}


def test_the_notice_of_another_is_not_taken_away(inbox: Inbox, clock: Clock) -> None:
    first = keeper(inbox, clock)
    first.keep()
    serving.write(inbox.root, replace(OTHER, database=A))  # another machine on the same database
    first.stop()

    assert said(inbox).host == OTHER.host


NONSENSE = [
    b"",
    b"{",
    b"[]",
    b"null",
    b"[" * 4000,
    b"\xff\xfe",
    b" " * 5000,
    json.dumps({"database": B, "host": "h", "pid": 1}).encode(),
    json.dumps({"database": B, "host": "h\x1b[2J", "pid": 1, "at": "x"}).encode(),
    json.dumps({"database": B, "host": "h" * 256, "pid": 1, "at": "x"}).encode(),
    json.dumps({"database": B, "host": ["h"], "pid": 1, "at": "x"}).encode(),
    json.dumps({"database": B, "host": "h", "pid": True, "at": "x"}).encode(),
    json.dumps({"database": B, "host": "h", "pid": -1, "at": "x"}).encode(),
    json.dumps({"database": "x" * 36, "host": "h", "pid": 1, "at": "x"}).encode(),
]


@pytest.mark.parametrize("content", NONSENSE)
def test_nonsense_binds_nobody_and_is_written_over(inbox: Inbox, clock: Clock, content: bytes) -> None:
    (inbox.root / SERVING).write_bytes(content)
    ours = keeper(inbox, clock)
    ours.keep()
    assert "nonsense" in ours.troubles["main"]
    Onlooker(A, clock).demand_ours("main", inbox)
    ours.keep()

    assert ours.mine == {"main"}
    assert ours.troubles == {}
    assert said(inbox).database == A


@pytest.mark.parametrize("kind", ["folder", "pipe", "link"])
def test_what_is_no_file_binds_nobody_and_nothing_is_waited_for(inbox: Inbox, clock: Clock, kind: str) -> None:
    path = inbox.root / SERVING
    elsewhere = inbox.root / "elsewhere"
    elsewhere.write_text("untouched")
    {"folder": path.mkdir, "pipe": lambda: os.mkfifo(path), "link": lambda: path.symlink_to(elsewhere)}[kind]()
    ours = keeper(inbox, clock)
    ours.keep()
    assert SERVING in ours.troubles["main"]
    ours.keep()

    assert ours.mine == {"main"}
    assert elsewhere.read_text() == "untouched"


def test_keys_of_a_later_version_are_passed_over() -> None:
    later = {"database": B, "host": "h", "pid": 1, "at": "x", "since": {"more": 1}}
    assert serving.parse(json.dumps(later).encode()).database == B


@pytest.mark.parametrize("there", [None, replace(OTHER, database=A), OTHER], ids=["none", "ours", "old"])
def test_an_inbox_that_takes_no_notice_is_served_as_before(
    inbox: Inbox, clock: Clock, monkeypatch: pytest.MonkeyPatch, there: Serving | None
) -> None:
    if there:
        serving.write(inbox.root, there)
    ours = keeper(inbox, clock)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(30, "Read-only file system")

    monkeypatch.setattr(serving, "write_whole", refuse)
    monkeypatch.setattr(os, "utime", refuse)
    ours.keep()
    clock.now += STANDS_S
    ours.keep()

    assert ours.mine == {"main"}
    assert "Read-only file system" in ours.troubles["main"]


def test_on_a_full_disk_the_time_of_the_notice_says_it(
    inbox: Inbox, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, second = keeper(inbox, clock), keeper(inbox, clock, B)
    first.keep()

    def refuse(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(serving, "write_whole", refuse)
    for _ in range(20):
        second.keep()
        clock.now += RENEW_S
        first.keep()

    assert (first.mine, second.mine) == ({"main"}, frozenset())
    assert first.troubles == {}


def test_a_share_that_is_away_changes_nothing(inbox: Inbox, clock: Clock) -> None:
    first, second = keeper(inbox, clock), keeper(inbox, clock, B)
    first.keep()
    second.keep()
    (inbox.root / ".lading").rename(inbox.root / "away")
    first.keep()
    second.keep()

    assert (first.mine, second.mine) == ({"main"}, frozenset())
    assert not (inbox.root / ".lading").exists()


def test_a_worker_leaves_the_inbox_of_another_alone_until_that_one_is_silent(inbox: Inbox, clock: Clock) -> None:
    serving.write(inbox.root, OTHER)
    worker = Onlooker(A, clock)
    with pytest.raises(Unreachable, match=r"main is served by otherhost \(process 4711\)"):
        worker.demand_ours("main", inbox)

    clock.now += STANDS_S
    worker.demand_ours("main", inbox)


def test_a_worker_goes_on_when_its_server_took_over(inbox: Inbox, clock: Clock) -> None:
    serving.write(inbox.root, OTHER)
    worker = Onlooker(A, clock)
    with pytest.raises(Unreachable):
        worker.demand_ours("main", inbox)
    serving.write(inbox.root, replace(OTHER, database=A))
    clock.now += BELIEVED_S

    worker.demand_ours("main", inbox)


@pytest.fixture
def config(tmp_path: Path, inbox: Inbox) -> Config:
    (tmp_path / "lading.toml").write_text(SETTINGS)
    made = load(tmp_path / "lading.toml")
    made.home.mkdir()
    return made


def test_the_doctor_repeats_what_the_server_says(config: Config) -> None:
    words = "the inbox main is served by otherhost (process 4711), which keeps its records in another database"
    (config.home / "server.json").write_text(json.dumps({"pid": 1, "inboxes": {"main": words, "gone": "x"}}))

    (found,) = [each for each in doctor.pulse(config) if each.area.startswith("inbox")]
    assert (found.level, found.text) == ("warn", words)
    assert found.next_command.endswith("serving.json")


class NoRows:
    """A database with nothing in it."""

    def execute(self, *_: object) -> "NoRows":
        return self

    def fetchall(self) -> list[object]:
        return []


def test_the_operators_are_told(config: Config, inbox: Inbox, clock: Clock) -> None:
    serving.write(inbox.root, OTHER)
    ours = keeper(inbox, clock)
    ours.keep()
    served = ServedParts(FolderParts(config), ours)

    (told,) = conditions(cast("Connection", NoRows()), config, served)
    assert (told.key, told.what) == ("served/main", "two servers were given the inbox main")
    assert "served by otherhost" in told.detail

    (inbox.root / SERVING).unlink()
    ours.keep()
    assert conditions(cast("Connection", NoRows()), config, served) == []


@pytest.mark.parametrize("heartbeat", ["", "[]", '{"inboxes": 3}', '{"pid": 1}'])
def test_a_heartbeat_without_that_says_nothing(config: Config, heartbeat: str) -> None:
    (config.home / "server.json").write_text(heartbeat)

    assert [each for each in doctor.pulse(config) if each.area.startswith("inbox")] == []


def test_the_doctor_finds_a_notice_that_is_nonsense(config: Config, inbox: Inbox) -> None:
    (inbox.root / SERVING).write_text("hello")

    texts = [each.text for each in doctor.examine(config) if each.area == "inbox main" and each.level == "warn"]
    assert len(texts) == 1
    assert "is nonsense, and ignored: it is not JSON" in texts[0]
