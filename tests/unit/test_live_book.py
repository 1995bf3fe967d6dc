"""What the outbox remembers of files that are pushed one by one."""

from pathlib import Path

import pytest

from lading.agent.live_book import KEPT_S, Link, LiveBook, LiveState
from lading.agent.outbox import Outbox
from lading.delivery import DeliveryId, Labels
from lading.deposit import Settled


class Book(LiveBook):
    """With one acquisition, and a clock that the test turns."""

    def __init__(self, home: Path) -> None:
        self.now = 1_800_000_000.0
        super().__init__(Outbox(home, clock=lambda: self.now))
        taken = self.outbox.take(home, "cryo", Labels("EM", "g", "s"), fingerprint="live", live=True)
        self.id: DeliveryId = taken.id
        self.get(self.id)

    def carry(self, file: Settled, sha256: str) -> None:
        self.sending(self.id, [row for row in self.rows() if row.settled.path == file.path])
        self.carried(self.id, [(file, sha256)])

    def rows(self):
        return self.waiting(self.id, files=1000, size=1 << 40)

    def list(self) -> dict[str, str]:
        return {entry.path: entry.sha256 for entry in self.listed(self.id)}


@pytest.fixture
def book(tmp_path: Path) -> Book:
    return Book(tmp_path / "home")


A, B = Settled("a.mrc", 10, 1), Settled("Images/b.mrc", 20, 2)


def test_files_go_in_the_order_in_which_they_came_to_rest(book: Book) -> None:
    book.settle(book.id, [B])
    book.now += 1
    book.settle(book.id, [A, Settled("c.mrc", 5, 0)])

    assert [row.settled.path for row in book.rows()] == ["Images/b.mrc", "c.mrc", "a.mrc"]
    assert [row.settled.path for row in book.waiting(book.id, files=2, size=1 << 40)] == ["Images/b.mrc", "c.mrc"]
    assert [row.settled.path for row in book.waiting(book.id, files=9, size=22)] == ["Images/b.mrc"]


def test_only_what_is_there_is_listed(book: Book) -> None:
    book.settle(book.id, [A, B])
    book.carry(A, "aa")

    assert book.list() == {"a.mrc": "aa"}
    assert book.figures(book.id).waiting == 1


def test_an_older_content_is_listed_until_it_is_about_to_be_replaced(book: Book) -> None:
    book.settle(book.id, [A])
    book.carry(A, "old")
    newer = Settled("a.mrc", 11, 5)
    book.settle(book.id, [newer])
    waiting, (row,) = book.list(), book.rows()
    book.sending(book.id, [row])
    on_its_way = book.list()
    book.carried(book.id, [(newer, "new")])

    assert waiting == {"a.mrc": "old"}
    assert (row.replaces, on_its_way) == (True, {})
    assert book.list() == {"a.mrc": "new"}


def test_what_changed_while_it_was_carried_is_not_listed_and_goes_again(book: Book) -> None:
    book.settle(book.id, [A])
    book.sending(book.id, book.rows())
    book.settle(book.id, [Settled("a.mrc", 99, 7)])
    book.carried(book.id, [(A, "of the older content")])

    assert book.list() == {}
    assert [(row.settled.size, row.settled.perhaps) for row in book.rows()] == [(99, True)]


def test_what_was_rewritten_under_its_size_and_time_while_it_was_carried_goes_again(book: Book) -> None:
    book.settle(book.id, [Settled("a.mrc", 10, 1, ctime_ns=5)])
    book.sending(book.id, book.rows())
    book.settle(book.id, [Settled("a.mrc", 10, 1, ctime_ns=6)])
    book.carried(book.id, [(Settled("a.mrc", 10, 1, ctime_ns=5), "of the older content")])

    assert book.list() == {}
    assert [row.settled for row in book.rows()] == [Settled("a.mrc", 10, 1, True, 6)]


def test_after_a_kill_what_was_on_its_way_is_perhaps_there(book: Book) -> None:
    book.settle(book.id, [A, B])
    book.sending(book.id, book.rows()[:1])

    assert [row.settled.perhaps for row in book.rows()] == [True, False]


def test_lag_is_the_age_of_the_oldest_that_is_not_there(book: Book) -> None:
    book.settle(book.id, [A])
    book.now += 30
    book.settle(book.id, [B])
    book.now += 5
    before = book.figures(book.id)
    book.carry(A, "aa")
    between = book.figures(book.id)
    book.carry(B, "bb")
    after = book.figures(book.id)

    assert (before.lag_s, between.lag_s, after.lag_s) == (35, 5, 0)
    assert (after.files, after.bytes, after.last_path) == (2, 30, "Images/b.mrc")
    assert after.files_per_s == pytest.approx(2 / 60)


def test_a_refused_file_rests_for_a_minute_and_holds_no_other_up(book: Book) -> None:
    book.settle(book.id, [A, B])
    book.refuse(book.id, A, "cannot be read")
    now = [row.settled.path for row in book.rows()]
    book.now += 61

    assert now == ["Images/b.mrc"]
    assert {row.settled.path for row in book.rows()} == {"Images/b.mrc", "a.mrc"}
    assert book.refused(book.id) == [(A, "cannot be read")]


def test_a_verification_goes_on_where_it_stopped_and_a_new_content_is_proved_anew(book: Book) -> None:
    book.settle(book.id, [A, B])
    book.carry(A, "aa")
    book.carry(B, "bb")
    (page,) = book.unproved(book.id)
    book.prove(book.id, page[:1])
    rest = [entry.path for page in book.unproved(book.id) for entry in page]
    book.settle(book.id, [Settled("a.mrc", 11, 9), Settled("Images/b.mrc", 21, 9)])
    for file, sha256 in ((Settled("a.mrc", 11, 9), "cc"), (Settled("Images/b.mrc", 21, 9), "dd")):
        book.carry(file, sha256)

    assert (len(page), len(rest)) == (2, 1)
    assert sum(len(page) for page in book.unproved(book.id)) == 2


def test_names_that_are_no_text_come_back_as_they_were(book: Book) -> None:
    odd = Settled("f\udcff/line\nbreak \udc80.mrc", 1, 1)
    book.settle(book.id, [odd])
    book.carry(odd, "aa")

    assert book.list() == {odd.path: "aa"}
    assert book.in_folder(book.id, "f\udcff") == {"line\nbreak \udc80.mrc": (1, 1, 0)}


def test_pages_are_whole_whatever_their_number(book: Book) -> None:
    files = [Settled(f"d{number % 7}/m{number:05}.mrc", number, number) for number in range(1234)]
    book.settle(book.id, files)
    book.carried(book.id, [(file, f"{file.size:x}") for file in files])

    assert book.list() == {file.path: f"{file.size:x}" for file in files}
    assert [len(page) for page in book.unproved(book.id)] == [500, 500, 234]


def test_a_link_that_goes_and_comes_is_counted_once_each(book: Book) -> None:
    for link in (Link.UP, Link.DOWN, Link.DOWN, Link.UP, Link.DOWN):
        book.now += 1
        book.link(book.id, link)

    live = book.get(book.id)
    assert (live.downs, live.tries, live.link, live.link_since) == (2, 3, Link.DOWN, book.now)


def test_live_deliveries_are_none_of_the_ordinary_carriers(book: Book) -> None:
    assert book.outbox.carriable() == []
    assert not book.outbox.has_cargo()
    assert book.deliveries(open_only=True) == [book.id]


def test_the_files_of_what_was_closed_long_ago_are_forgotten(book: Book) -> None:
    book.settle(book.id, [A])
    book.carry(A, "aa")
    book.put(book.id, state="closed", closed_at=book.now)
    book.now += KEPT_S - 60
    book.thin_out()
    kept = book.list()
    book.now += 120
    book.thin_out()

    assert kept == {"a.mrc": "aa"}
    assert book.list() == {}


@pytest.mark.parametrize(
    ("before", "after"),
    [(LiveState.CLOSING, LiveState.ACQUIRING), (LiveState.CLOSED, LiveState.CLOSED)],
)
def test_files_that_come_late_open_what_is_closing_and_not_what_was_closed_meanwhile(
    book: Book, before: LiveState, after: LiveState
) -> None:
    book.put(book.id, state=before)

    book.not_over(book.id)

    assert book.get(book.id).state is after


def test_a_clock_that_was_set_back_keeps_no_refused_file_waiting(tmp_path: Path) -> None:
    now = [2_000_000_000.0]
    outbox = Outbox(tmp_path / "home", clock=lambda: now[0])
    item = outbox.take(Path("/data/s1"), "cryo", Labels("EM", "g", "s1"), fingerprint="live", live=True)
    book, file = LiveBook(outbox), Settled("m1.mrc", 3, 5)
    book.settle(item.id, [file])
    book.refuse(item.id, file, "locked")
    assert not book.waiting(item.id, files=9, size=99)

    now[0] -= 86_400.0

    assert [row.settled for row in book.waiting(item.id, files=9, size=99)] == [file]


@pytest.mark.parametrize("time_ns", [10_413_792_000 * 10**9, -20_000_000_000 * 10**9, -1], ids=["2300", "1336", "1969"])
def test_a_file_of_any_time_is_noted_and_carried(book: Book, time_ns: int) -> None:
    # Seen: SQLite's integers end in the year 2262, and nothing of that folder went any more.
    strange = Settled("strange.mrc", 10, time_ns)
    book.settle(book.id, [strange, A])
    assert {row.settled for row in book.rows()} == {strange, A}
    assert book.in_folder(book.id, "")["strange.mrc"][:2] == (10, time_ns)

    book.refuse(book.id, strange, "not now")
    assert [file for file, _ in book.refused(book.id)] == [strange]
    book.now += 100
    book.carry(strange, "aa")

    assert {entry.path: entry.mtime_ns for entry in book.listed(book.id)} == {"strange.mrc": time_ns}
    assert book.figures(book.id).waiting == 1
