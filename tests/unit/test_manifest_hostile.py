"""A manifest from a stranger can neither escape, nor lie about itself, nor fill the memory."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import pytest

from lading.errors import Rejected
from lading.listing.entries import parse_entry, sums_line
from lading.manifest import FILTERED_NAME, LIST_NAME, SUMS_NAME, Limits, Manifest, make

SHA = hashlib.sha256(b"").hexdigest()


def line(path: object = "a", **other: object) -> str:
    return json.dumps({"path": path, "size": 1, "mtime_ns": 1, "sha256": SHA} | other)


def leave(folder: Path, *lines: str) -> Path:
    """The three files as a stranger would leave them."""
    folder.mkdir(exist_ok=True)
    (folder / LIST_NAME).write_text("".join(f"{text}\n" for text in lines), encoding="utf-8", errors="surrogateescape")
    paths = [raw.get("path") for raw in map(_loaded, lines) if isinstance(raw, dict)]
    sums = "".join(sums_line(path, SHA) for path in paths if isinstance(path, str))
    (folder / SUMS_NAME).write_bytes(sums.encode("utf-8", "replace"))
    (folder / FILTERED_NAME).write_text("")
    return folder


def _loaded(text: str) -> object:
    try:
        return json.loads(text)
    except (ValueError, RecursionError):
        return None


def refusal(folder: Path, limits: Limits | None = None) -> str:
    with pytest.raises(Rejected) as refused:
        Manifest.open(folder, limits=limits)
    (finding,) = refused.value.findings
    return finding.code


def test_an_honest_manifest_of_a_stranger_is_accepted(tmp_path: Path) -> None:
    folder = leave(tmp_path / "p", line("a"), line("a b/ü"), line("x", md5="0" * 32), line("y\\z"))

    manifest = Manifest.open(folder)

    assert [entry.path for entry in manifest] == ["a", "a b/ü", "x", "y\\z"]
    assert manifest.summary.algorithms == ("sha256",)


@pytest.mark.parametrize(
    "path",
    ["../x", "a/../../x", "/etc/passwd", "a//b", "a/", "./a", "a/./b", "..", "a\0b", "C:\\x", "\\\\host\\share", "//x"],
)
def test_a_path_that_could_leave_the_folder_is_refused(tmp_path: Path, path: str) -> None:
    assert refusal(leave(tmp_path / "p", line(path))) == "manifest-path-escapes"


@pytest.mark.parametrize(
    "text",
    [
        "",
        "[]",
        "null",
        "{",
        "[" * 50_000,
        line(path=""),
        line(path=7),
        line(path=None),
        line(path="\ud800"),
        line(size=-1),
        line(size=True),
        line(size="1"),
        line(size=1.0),
        line(size=10**30),
        line().replace('"size": 1', '"size": NaN'),
        line().replace('"size": 1', '"size": ' + "9" * 5000),
        line().replace('"size": 1', '"size": 1, "size": 2'),
        line(mtime_ns=None),
        line(mtime_ns=10**30),
        line(sha256=SHA.upper()),
        line(sha256=SHA[:-1]),
        line(sha256=None),
        line(md5="short"),
        line(owner="me"),
        '{"path": "a", "size": 1, "mtime_ns": 1}',
        "\udcff" + line(),
        line(path="/".join("d" * 65)),
        line(path="x" * 70_000),
    ],
)
def test_a_malformed_line_is_refused(tmp_path: Path, text: str) -> None:
    assert refusal(leave(tmp_path / "p", text)) == "manifest-malformed"


@pytest.mark.parametrize("paths", [("a", "a"), ("b", "a"), ("a.txt", "a/b"), ("a", "a/b"), ("é", "z")], ids="-".join)
def test_duplicates_and_disorder_are_refused(tmp_path: Path, paths: tuple[str, ...]) -> None:
    assert refusal(leave(tmp_path / "p", *map(line, paths))) == "manifest-order"


def test_a_list_that_ends_in_the_middle_of_a_line_is_refused(tmp_path: Path) -> None:
    folder = leave(tmp_path / "p", line("a"), line("b"))
    os.truncate(folder / LIST_NAME, (folder / LIST_NAME).stat().st_size - 1)

    assert refusal(folder) == "manifest-malformed"


def test_two_lists_that_disagree_are_refused(tmp_path: Path) -> None:
    folder = leave(tmp_path / "p", line("a"))
    (folder / SUMS_NAME).write_text(f"{'0' * 64}  a\n")

    assert refusal(folder) == "manifest-lists-disagree"


@pytest.mark.parametrize("name", [LIST_NAME, SUMS_NAME, FILTERED_NAME])
def test_a_sparse_manifest_of_ten_gigabytes_is_refused_unread(tmp_path: Path, name: str) -> None:
    folder = leave(tmp_path / "p", line("a"))
    os.truncate(folder / name, 10 << 30)

    assert refusal(folder) == "manifest-too-large"


def test_more_files_than_allowed_are_refused(tmp_path: Path) -> None:
    folder = leave(tmp_path / "p", line("a"), line("b"), line("c"))

    assert refusal(folder, Limits(max_files=2)) == "manifest-too-large"


@pytest.mark.parametrize("name", [LIST_NAME, SUMS_NAME, FILTERED_NAME])
@pytest.mark.parametrize(
    ("put", "code"),
    [
        (lambda file: None, "manifest-missing"),
        (lambda file: file.symlink_to("/etc/passwd"), "manifest-not-a-file"),
        (os.mkfifo, "manifest-not-a-file"),
        (Path.mkdir, "manifest-not-a-file"),
        (lambda file: file.symlink_to("/dev/zero"), "manifest-not-a-file"),
    ],
    ids=["missing", "link", "fifo", "folder", "device-link"],
)
def test_what_is_not_a_plain_file_is_refused(tmp_path: Path, name: str, put: Callable[[Path], None], code: str) -> None:
    folder = leave(tmp_path / "p", line("a"))
    (folder / name).unlink()
    put(folder / name)

    assert refusal(folder) == code


def test_our_own_manifest_always_passes_the_strangers_gate(tmp_path: Path) -> None:
    source, papers = tmp_path / "s", tmp_path / "p"
    source.mkdir()
    papers.mkdir()
    for name in ("C:", "a:b", "\x7f", "\u2028", os.fsdecode(b"\x80"), '"', "..."):
        (source / name).write_text("1")
    os.utime(source / "C:", ns=(-5_000_000_000, -5_000_000_000))

    made = make(source, papers, algorithms=("sha1",))

    assert Manifest.open(papers).summary == made.summary
    assert {entry.mtime_ns for entry in made if entry.path == "C:"} == {-5_000_000_000}


@pytest.mark.parametrize("year", [-8000, 0, 1400, 1960, 2300, 9999, 60_000])
def test_a_file_of_any_time_that_a_file_system_knows_is_taken(tmp_path: Path, year: int) -> None:
    # Seen: an instrument's clock was wrong, and the inbox called the manifest malformed.
    time = (year - 1970) * 31_556_952 * 1_000_000_000 + 1

    assert parse_entry(line(mtime_ns=time), max_depth=8).mtime_ns == time


def test_our_own_manifest_of_a_file_dated_beyond_64_bits_passes_the_strangers_gate(tmp_path: Path) -> None:
    source, papers = tmp_path / "s", tmp_path / "p"
    source.mkdir()
    papers.mkdir()
    (source / "late").write_text("1")
    year_2300 = 10_413_792_000 * 1_000_000_000
    os.utime(source / "late", ns=(year_2300, year_2300))
    if (source / "late").stat().st_mtime_ns != year_2300:
        pytest.skip("this file system knows no such time")

    made = make(source, papers)

    assert Manifest.open(papers).summary == made.summary
    assert [entry.mtime_ns for entry in made] == [year_2300]
