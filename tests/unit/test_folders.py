"""The folders of one carry: each made once, parents first, whoever asks."""

import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from transport.folders import Folders


class Maker:
    """Makes folders slowly, and knows whether two made one at a time."""

    def __init__(self) -> None:
        self.made: list[str] = []
        self.under_way: set[str] = set()
        self.twice: set[str] = set()
        self._guard = threading.Lock()

    def __call__(self, path: str) -> None:
        with self._guard:
            self.twice |= {path} & (self.under_way | set(self.made))
            self.under_way.add(path)
        time.sleep(0.002)
        with self._guard:
            self.under_way.discard(path)
            self.made.append(path)


def test_connections_that_ask_at_once_make_each_folder_once_and_its_parent_before() -> None:
    folders, maker = Folders("slot/data"), Maker()
    wanted = [f"a/b{number % 7}/c{number % 3}" for number in range(200)]

    with ThreadPoolExecutor(8) as crew:
        list(crew.map(lambda path: folders.make(path, maker), wanted))

    assert maker.twice == set()
    assert len(maker.made) == 1 + 7 + 21
    for path in maker.made:
        parent = path.rpartition("/")[0]
        assert parent == "slot/data" or maker.made.index(parent) < maker.made.index(path)


def test_a_folder_that_could_not_be_made_is_asked_for_again() -> None:
    folders, maker = Folders("data"), Maker()

    def refused(path: str) -> None:
        raise OSError(path)

    with pytest.raises(OSError, match="data/a"):
        folders.make("a/b", refused)
    folders.make("a/b", maker)

    assert maker.made == ["data/a", "data/a/b"]


def test_the_root_is_nobodys_to_make() -> None:
    maker = Maker()

    Folders("data").make("", maker)

    assert maker.made == []


def test_what_is_remembered_does_not_grow_without_end() -> None:
    folders = Folders("data")
    for number in range(25_000):
        folders.make(f"f{number}", lambda _: None)

    assert len(folders._made) <= 10_001
