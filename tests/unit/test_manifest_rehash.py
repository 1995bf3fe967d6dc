"""Reading again finds every difference, and follows no link."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from lading.errors import SourceChanged
from lading.manifest import Entry, Manifest, Verdict, make, rehash


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: 20,000 files are made there in no time."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else tmp_path) as folder:
        yield Path(folder)


@pytest.fixture
def manifest(root: Path, tmp_path: Path) -> Manifest:
    (root / "folder").mkdir()
    for name in ("a", "b", "c", "d", "e", "folder/f"):
        (root / name).write_bytes(name.encode() * 50_000)
    (tmp_path / "papers").mkdir()
    return make(root, tmp_path / "papers", algorithms=("md5",))


def verdicts(root: Path, entries: object, **options: object) -> dict[str, str]:
    return {entry.path: str(verdict) for entry, verdict in rehash(root, entries, **options)}  # type: ignore[arg-type]


def test_equal_files_match_in_order(root: Path, manifest: Manifest) -> None:
    answers = list(rehash(root, manifest, algorithms=("sha256", "md5"), workers=4))

    assert [entry for entry, _ in answers] == list(manifest)
    assert {verdict for _, verdict in answers} == {Verdict.MATCHES}


def test_every_kind_of_difference_has_its_verdict(root: Path, manifest: Manifest, tmp_path: Path) -> None:
    content = bytearray((root / "a").read_bytes())
    content[70_000 % len(content)] ^= 1
    (root / "a").write_bytes(content)
    (root / "b").write_bytes(b"short")
    (root / "c").unlink()
    (root / "d").rename(tmp_path / "d")
    (root / "d").symlink_to(tmp_path / "d")
    (root / "e").unlink()
    os.mkfifo(root / "e")
    (root / "folder").rename(tmp_path / "folder")
    (root / "folder").symlink_to(tmp_path / "folder")

    assert verdicts(root, manifest) == {
        "a": "wrong-digest",
        "b": "wrong-size",
        "c": "missing",
        "d": "not-a-file",
        "e": "not-a-file",
        "folder/f": "not-a-file",
    }


def test_the_other_digests_count_when_asked_for(root: Path, manifest: Manifest) -> None:
    wrong = [replace(entry, digests={**entry.digests, "md5": "0" * 32}) for entry in manifest]

    assert set(verdicts(root, wrong).values()) == {"matches"}
    assert set(verdicts(root, wrong, algorithms=("sha256", "md5")).values()) == {"wrong-digest"}


def test_a_device_is_a_verdict_and_is_not_read(root: Path) -> None:
    entry = Entry("zero", 10, 0, {"sha256": "0" * 64})
    try:
        os.mknod(root / "zero", 0o666 | 0o020000, os.makedev(1, 5))
    except PermissionError:
        pytest.skip("only root makes device files")

    assert verdicts(root, [entry]) == {"zero": "not-a-file"}


def test_a_root_that_is_a_link_is_refused(root: Path, manifest: Manifest, tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to(root)

    with pytest.raises(SourceChanged):
        list(rehash(tmp_path / "link", manifest))


WITHOUT_DIR_FD = """
import os, sys
os.supports_dir_fd = set()
del os.O_NOFOLLOW, os.O_DIRECTORY
from pathlib import Path
from lading.errors import Rejected
from lading.manifest import Manifest, make, rehash
root, papers, again = map(Path, sys.argv[1:])
for entry, verdict in rehash(root, Manifest.open(papers)):
    print(entry.path, verdict)
try:
    print(make(root, again).summary.files, "files")
except Rejected as refused:
    print(*sorted(f.path for f in refused.findings))
"""


def test_a_system_that_opens_by_path_only_follows_no_link_either(
    root: Path, manifest: Manifest, tmp_path: Path
) -> None:
    (tmp_path / "again").mkdir()
    command = [sys.executable, "-c", WITHOUT_DIR_FD, root, manifest.folder, tmp_path / "again"]
    plain = subprocess.run(command, capture_output=True, text=True, check=True)
    for name in ("d", "folder"):
        (root / name).rename(tmp_path / name)
        (root / name).symlink_to(tmp_path / name)

    linked = subprocess.run(command, capture_output=True, text=True, check=False)

    assert plain.stdout.splitlines()[-2:] == ["folder/f matches", "6 files"]
    assert linked.stderr == ""
    assert linked.stdout.splitlines()[3:] == ["d not-a-file", "e matches", "folder/f not-a-file", "d folder"]


def test_many_tiny_files_with_one_flipped_bit_are_caught(quick: Path, tmp_path: Path) -> None:
    root = quick
    for i in range(20_500):
        (root / f"{i:05}").write_bytes(b"%05d" % i)
    (tmp_path / "p").mkdir()
    manifest = make(root, tmp_path / "p")
    (root / "12345").write_bytes(b"12344")
    (root / "20000").unlink()

    wrong = {entry.path: str(verdict) for entry, verdict in rehash(root, manifest) if verdict is not Verdict.MATCHES}

    assert wrong == {"12345": "wrong-digest", "20000": "missing"}
