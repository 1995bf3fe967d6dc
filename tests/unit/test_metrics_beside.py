"""A share that hangs must not hang the figures."""

import threading
import time
from collections.abc import Callable, Iterator

import pytest

from lading.errors import Unreachable
from lading.metrics import catalogue
from lading.metrics.beside import Beside
from lading.metrics.figures import Figure

THERE, AWAY = catalogue.INBOX_UP.of(1, "main"), catalogue.INBOX_UP.of(0, "main")


class Share:
    """Answers, hangs, or is away."""

    def __init__(self) -> None:
        self.open = threading.Event()
        self.open.set()
        self.away = False
        self.asked = 0

    def __call__(self) -> Iterator[Figure]:
        self.asked += 1
        self.open.wait()
        if self.away:
            raise Unreachable("nobody there")
        yield THERE


@pytest.fixture
def share() -> Iterator[Share]:
    made = Share()
    yield made
    made.open.set()


def until(true: Callable[[], bool], seconds: float = 120) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_what_answers_is_told(share: Share) -> None:
    assert list(Beside(share, every=0, patience=60, instead=lambda: [AWAY])()) == [THERE]


def test_what_hangs_costs_its_patience_once_and_one_thread(share: Share) -> None:
    beside = Beside(share, every=0, patience=0.5, instead=lambda: [AWAY])
    share.open.clear()

    assert list(beside()) == [AWAY]
    began = time.monotonic()
    assert [list(beside()) for _ in range(200)] == [[AWAY]] * 200

    assert time.monotonic() - began < 50  # two hundred times the patience would be more
    assert share.asked == 1


def test_what_comes_back_is_told_again(share: Share) -> None:
    beside = Beside(share, every=0, patience=0.2, instead=lambda: [AWAY])
    share.open.clear()
    assert list(beside()) == [AWAY]

    share.open.set()

    until(lambda: list(beside()) == [THERE])


def test_what_goes_away_is_told(share: Share) -> None:
    beside = Beside(share, every=0, patience=60, instead=lambda: [AWAY])
    assert list(beside()) == [THERE]

    share.away = True

    assert list(beside()) == [AWAY]


def test_it_is_asked_only_so_often(share: Share) -> None:
    beside = Beside(share, every=3600, patience=60)

    assert [list(beside()) for _ in range(5)] == [[THERE]] * 5
    assert share.asked == 1


@pytest.mark.filterwarnings("ignore::pytest.PytestUnhandledThreadExceptionWarning")
def test_a_fault_of_ours_leaves_no_old_figures_standing() -> None:
    answers = [[THERE]]
    # The second time an IndexError.
    beside = Beside(answers.pop, every=0, patience=60, instead=lambda: [AWAY])

    assert [list(beside()), list(beside())] == [[THERE], [AWAY]]
