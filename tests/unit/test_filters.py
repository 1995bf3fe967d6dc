"""Junk stays behind, with a reason; patterns decide the rest."""

import pytest

from lading.filters import JUNK, FileRules


@pytest.mark.parametrize(
    "path",
    [
        "Thumbs.db",
        "a/b/THUMBS.DB",
        "desktop.ini",
        ".DS_Store",
        "a/._image.dcm",
        "__MACOSX/a/image.dcm",
        "$RECYCLE.BIN/x",
        "System Volume Information/x",
        "~$notes.docx",
        ".~lock.notes.odt#",
        ".nfs0000001",
        ".rsync-partial/image.dcm",
    ],
)
def test_what_systems_leave_behind_is_junk(path: str) -> None:
    assert (FileRules().reason_to_filter(path) or "").startswith("junk: ")
    assert FileRules(junk=False).reason_to_filter(path) is None


@pytest.mark.parametrize(
    "path", ["image.dcm", "thumbs.db.dcm", "_.dcm", "x._y", "a/desktop.ini.txt", "~x", "$x", "nfs"]
)
def test_what_only_resembles_junk_belongs_to_the_delivery(path: str) -> None:
    assert FileRules().reason_to_filter(path) is None


@pytest.mark.parametrize(("pattern", "reason"), JUNK)
def test_every_junk_pattern_gives_its_own_reason(pattern: str, reason: str) -> None:
    assert FileRules().reason_to_filter("sub/" + pattern.replace("*", "x")) == f"junk: {reason}"


def test_an_exclude_wins_over_an_include_and_both_see_path_and_name() -> None:
    rules = FileRules(include=("*.dcm", "logs/*"), exclude=("logs/secret*", "skip.dcm"))

    assert rules.reason_to_filter("a/image.dcm") is None
    assert rules.reason_to_filter("logs/physio.txt") is None
    assert rules.reason_to_filter("logs/secret.txt") == "excluded by 'logs/secret*'"
    assert rules.reason_to_filter("a/skip.dcm") == "excluded by 'skip.dcm'"
    assert rules.reason_to_filter("notes.pdf") == "not among the included patterns"


def test_a_folder_at_once_judges_like_a_path_alone() -> None:
    rules = FileRules(include=("keep/*",), exclude=("*.tmp",))

    for folder, name in [
        ("keep", "a"),
        ("keep", "a.tmp"),
        ("other", "a"),
        ("", "keep"),
        (".Trashes", "a"),
        ("keep", "._a"),
    ]:
        path = f"{folder}/{name}" if folder else name
        assert rules.for_folder(folder)(name) == rules.reason_to_filter(path)
