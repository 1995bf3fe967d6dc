"""Files below a folder that others may write to: no link is followed on the way, however many are opened one after the other."""

from pathlib import Path

import pytest

from lading.listing.below import open_below, opening_below
from lading.testing import trees

FILES = {"a": b"1", "b/c/d": b"2", "b/c/e": b"3", "b/f": b"4", "g/h/i/j": b"5"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return trees.write(tmp_path / "inbox" / "x" / "data", FILES)


def test_files_are_opened_in_any_order_by_one_way(root: Path) -> None:
    names = [*FILES, *reversed(FILES), "b/c/d", "a"]

    with opening_below(root, within=root.parents[1]) as opened:
        found = []
        for name in names:
            with opened(name) as file:
                found.append(file.read())

    assert found == [FILES[name] for name in names]


def test_what_is_not_there_does_not_spoil_the_way(root: Path) -> None:
    with opening_below(root) as opened:
        for missing in ("b/c/x", "b/x/y", "x"):
            with pytest.raises(FileNotFoundError):
                opened(missing)
        with opened("b/c/e") as file:
            assert file.read() == b"3"


@pytest.mark.parametrize("name", ["link", "b/link", "folder/d", "b/c"])
def test_neither_links_nor_folders_are_files(root: Path, tmp_path: Path, name: str) -> None:
    outside = trees.write(tmp_path / "outside", {"d": b"secret"})
    (root / "link").symlink_to(outside / "d")
    (root / "b" / "link").symlink_to(root / "a")
    (root / "folder").symlink_to(outside)

    with opening_below(root) as opened, pytest.raises((OSError, ValueError)):
        opened(name)
    with pytest.raises((OSError, ValueError)):
        open_below(root, name)


def test_a_link_between_inbox_and_root_is_not_followed(root: Path, tmp_path: Path) -> None:
    inbox, aside = root.parents[1], tmp_path / "aside"
    root.parent.rename(aside)
    root.parent.symlink_to(aside)

    with pytest.raises(OSError):  # noqa: PT011 - which one depends on the system
        open_below(root, "a", within=inbox)
    with open_below(aside / "data", "a", within=inbox) as file:
        assert file.read() == b"1"


def test_a_folder_that_becomes_a_link_between_two_files_is_not_followed(root: Path, tmp_path: Path) -> None:
    outside = trees.write(tmp_path / "outside", {"c/e": b"secret"})
    with opening_below(root) as opened:
        opened("a").close()
        (root / "b").rename(tmp_path / "away")
        (root / "b").symlink_to(outside)
        with pytest.raises(OSError):  # noqa: PT011
            opened("b/c/e")
