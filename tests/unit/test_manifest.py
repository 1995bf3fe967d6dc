"""A manifest lists what is there, once read, in an order and a form that others can check."""

import hashlib
import json
import os
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.errors import OutOfSpace, Rejected, SourceChanged, Unreachable
from lading.filters import FileRules
from lading.manifest import (
    FILTERED_NAME,
    LIST_NAME,
    SUMS_NAME,
    Entry,
    Manifest,
    Seen,
    make,
    unchanged,
)

ODD_NAMES = (
    "plain.dcm",
    " leading space",
    "-",
    "-rf",
    "back\\slash",
    "back\\nslash",
    "new\nline",
    "carriage\rreturn",
    "ends with return\r",
    "quote\"'",
    "größe",
    "日本🧠",
    ".hidden",
    "..x",
    "a*b?[c]",
    os.fsdecode(b"not-utf8-\xff\xfe"),
    "x" * 255,
    "folder\nnew/line\\file",
    "deep/" * 40 + "file",
)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    root = tmp_path / "source"
    root.mkdir()
    return root


@pytest.fixture
def papers(tmp_path: Path) -> Path:
    folder = tmp_path / "papers"
    folder.mkdir()
    return folder


@pytest.fixture
def quick(tmp_path: Path) -> Iterator[Path]:
    """A folder in memory where there is one: 20,000 files are made there in no time."""
    shm = Path("/dev/shm")
    with tempfile.TemporaryDirectory(dir=shm if shm.is_dir() else tmp_path) as folder:
        yield Path(folder)


def put(root: Path, name: str, content: bytes = b"content") -> Path:
    file = root / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def test_every_file_is_listed_with_size_time_and_all_digests(source: Path, papers: Path) -> None:
    contents = {"a/small": b"small", "a/exact": b"x" * (1 << 16), "big": os.urandom(3_000_001), "empty": b""}
    for name, content in contents.items():
        put(source, name, content)

    manifest = make(source, papers, algorithms=("md5", "sha1"))

    listed = {entry.path: entry for entry in manifest}
    assert listed.keys() == contents.keys()
    for name, content in contents.items():
        assert listed[name].size == len(content)
        assert listed[name].mtime_ns == (source / name).stat().st_mtime_ns
        assert listed[name].digests == {
            algorithm: hashlib.new(algorithm, content).hexdigest() for algorithm in ("sha256", "md5", "sha1")
        }
    assert manifest.summary.files == 4
    assert manifest.summary.bytes == sum(map(len, contents.values()))
    assert manifest.summary.algorithms == ("sha256", "md5", "sha1")


def test_sha256sum_accepts_the_list_whatever_the_names(source: Path, papers: Path) -> None:
    for name in ODD_NAMES:
        put(source, name, name.encode("utf-8", "surrogateescape"))
    make(source, papers)

    checked = subprocess.run(
        ["sha256sum", "--check", "--strict", papers / SUMS_NAME], cwd=source, capture_output=True, check=False
    )

    assert checked.returncode == 0, checked.stderr
    assert checked.stdout.count(b": OK") == len(ODD_NAMES)


def test_a_wrong_byte_fails_sha256sum(source: Path, papers: Path) -> None:
    file = put(source, "new\nline", b"right")
    make(source, papers)

    file.write_bytes(b"wrong")

    checked = subprocess.run(["sha256sum", "-c", papers / SUMS_NAME], cwd=source, capture_output=True, check=False)
    assert checked.returncode == 1


def test_names_come_depth_first_in_byte_order(source: Path, papers: Path) -> None:
    for name in ("b", "a.txt", "a/z", "a/b/c", "a-", "Z", "é", os.fsdecode(b"\x80")):
        put(source, name)

    paths = [entry.path for entry in make(source, papers)]

    assert paths == ["Z", "a/b/c", "a/z", "a-", "a.txt", "b", os.fsdecode(b"\x80"), "é"]


def test_a_manifest_read_back_says_the_same(source: Path, papers: Path) -> None:
    for name in ODD_NAMES:
        put(source, name)
    put(source, "Thumbs.db")
    made = make(source, papers, algorithms=("md5",))

    read = Manifest.open(papers)

    assert read.summary == made.summary
    assert [entry.path for entry in read] == [entry.path for entry in made]
    assert [(f.path, f.reason) for f in read.filtered()] == [("Thumbs.db", "junk: Windows thumbnail cache")]
    assert made.summary.digest == hashlib.sha256((papers / SUMS_NAME).read_bytes()).hexdigest()
    assert made.summary.list_digest == hashlib.sha256((papers / LIST_NAME).read_bytes()).hexdigest()


def test_a_short_list_is_what_it_was_when_it_was_checked(source: Path, papers: Path) -> None:
    put(source, "one")
    put(source, "two")
    made = make(source, papers)
    opened, trusted = Manifest.open(papers), Manifest.trusted(papers, made.summary)
    entries = list(trusted)

    (papers / LIST_NAME).write_bytes(b"something else\n")

    assert list(opened) == list(trusted) == entries
    with pytest.raises(Rejected):
        list(Manifest.trusted(papers, made.summary))  # never gone through before: it is read, and checked


def test_a_long_list_is_read_every_time(source: Path, papers: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put(source, "one")
    put(source, "two")
    make(source, papers)
    monkeypatch.setattr("lading.manifest.SHORT_BYTES", (papers / LIST_NAME).stat().st_size - 1)
    opened = Manifest.open(papers)
    list(opened)

    (papers / LIST_NAME).write_bytes(b"something else\n")

    with pytest.raises(Rejected):
        list(opened)


def test_the_list_is_json_lines_that_any_program_can_read(source: Path, papers: Path) -> None:
    put(source, "größe\n", b"x")
    make(source, papers)

    (line,) = (papers / LIST_NAME).read_text("ascii").splitlines()

    assert json.loads(line)["path"] == "größe\n"
    assert json.loads(line)["size"] == 1


def test_times_do_not_change_what_the_content_is(source: Path, tmp_path: Path) -> None:
    file = put(source, "a")
    folders = [tmp_path / name for name in ("first", "second", "third")]
    for folder in folders:
        folder.mkdir()
    first = make(source, folders[0])
    os.utime(file, ns=(1, 1))
    second = make(source, folders[1])
    file.write_bytes(b"CONTENT")
    third = make(source, folders[2])

    assert second.contains_same_content(first)
    assert not third.contains_same_content(first)
    assert first.summary.list_digest != second.summary.list_digest


def test_what_the_rules_leave_out_is_recorded_with_its_reason(source: Path, papers: Path) -> None:
    for name in ("keep.dcm", "Thumbs.db", "sub/._keep.dcm", "notes.tmp"):
        put(source, name)

    manifest = make(source, papers, rules=FileRules(exclude=("*.tmp",)))

    assert [entry.path for entry in manifest] == ["keep.dcm"]
    assert {f.path: f.reason for f in manifest.filtered()} == {
        "Thumbs.db": "junk: Windows thumbnail cache",
        "sub/._keep.dcm": "junk: macOS resource fork",
        "notes.tmp": "excluded by '*.tmp'",
    }
    assert manifest.summary.filtered == 3


class Recorder:
    """A sink that keeps what it was given, and may disturb the source at the first block of a file."""

    def __init__(self, disturb: Path | None = None, how: str = "") -> None:
        self.content: dict[str, bytes] = {}
        self.aborted: list[str] = []
        self.done: dict[str, Entry] = {}
        self._disturb, self._how, self._lock = disturb, how, threading.Lock()

    def open(self, seen: Seen) -> "RecordedFile":
        return RecordedFile(self, seen.path)

    def disturb(self) -> None:
        with self._lock:
            file, self._disturb = self._disturb, None
        if file and self._how == "append":
            with file.open("ab") as out:
                out.write(b"more")
        elif file and self._how == "rewrite with the same size and time":
            info = file.stat()
            with file.open("r+b") as out:
                out.write(b"other")
            os.utime(file, ns=(info.st_atime_ns, info.st_mtime_ns))
        elif file and self._how == "replace":
            other = file.with_name("other")
            other.write_bytes(file.read_bytes())
            os.utime(other, ns=(file.stat().st_atime_ns, file.stat().st_mtime_ns))
            other.replace(file)
        elif file and self._how == "truncate":
            os.truncate(file, 10)


class RecordedFile:
    def __init__(self, recorder: Recorder, path: str) -> None:
        self._recorder, self._path, self._blocks = recorder, path, []

    def write(self, block: memoryview) -> None:
        self._blocks.append(bytes(block))
        self._recorder.disturb()

    def done(self, entry: Entry) -> None:
        self._recorder.content[self._path] = b"".join(self._blocks)
        self._recorder.done[self._path] = entry

    def abort(self) -> None:
        self._recorder.aborted.append(self._path)


def test_a_sink_gets_every_byte_from_the_one_read(source: Path, papers: Path) -> None:
    contents = {f"f{i}": os.urandom(size) for i, size in enumerate((0, 1, 65_536, 65_537, 2_500_000, 5_000_000))}
    for name, content in contents.items():
        put(source, name, content)
    sink = Recorder()

    manifest = make(source, papers, sink=sink)

    assert sink.content == contents
    assert sink.aborted == []
    assert [sink.done[entry.path] for entry in manifest] == list(manifest)


@pytest.mark.parametrize("how", ["append", "rewrite with the same size and time", "replace", "truncate"])
@pytest.mark.parametrize("size", [100, 3_000_000])
def test_a_file_that_changes_while_being_read_is_not_listed(source: Path, papers: Path, how: str, size: int) -> None:
    file = put(source, "moving.dcm", b"x" * size)
    sink = Recorder(file, how)

    with pytest.raises(SourceChanged, match="moving"):
        make(source, papers, sink=sink)

    assert sink.aborted == ["moving.dcm"]
    assert not sink.done
    assert list(papers.iterdir()) == []


def test_an_error_of_the_sink_reaches_its_caller_unchanged(source: Path, papers: Path) -> None:
    for i in range(50):
        put(source, f"f{i}", b"x" * 500_000)

    class Full(Recorder):
        def open(self, seen: Seen) -> RecordedFile:
            if seen.path == "f7":
                raise OutOfSpace("the target is full")
            return super().open(seen)

    with pytest.raises(OutOfSpace, match="the target is full"):
        make(source, papers, sink=Full())

    assert list(papers.iterdir()) == []


def test_a_refused_folder_is_refused_before_a_sink_sees_anything(source: Path, papers: Path) -> None:
    put(source, "a")
    (source / "z").symlink_to("/etc/passwd")
    sink = Recorder()

    with pytest.raises(Rejected) as refused:
        make(source, papers, sink=sink)

    assert [f.code for f in refused.value.findings] == ["symlink"]
    assert not sink.content
    assert list(papers.iterdir()) == []


def test_a_folder_that_is_not_there_is_unreachable_not_empty(tmp_path: Path, papers: Path) -> None:
    with pytest.raises(Unreachable, match="mounted"):
        make(tmp_path / "absent", papers)


def test_making_a_manifest_again_replaces_the_old_one(source: Path, papers: Path) -> None:
    put(source, "a")
    make(source, papers)
    (papers / f".{LIST_NAME}.part").write_bytes(b"left behind by a killed process")
    put(source, "b")

    make(source, papers)

    assert [entry.path for entry in Manifest.open(papers)] == ["a", "b"]
    assert sorted(p.name for p in papers.iterdir()) == sorted([LIST_NAME, SUMS_NAME, FILTERED_NAME])


def test_one_worker_and_many_write_the_same_list(source: Path, tmp_path: Path) -> None:
    for i in range(700):
        put(source, f"{i % 7}/{i}", os.urandom(i * 100))
    folders = [tmp_path / "one", tmp_path / "many"]
    for folder in folders:
        folder.mkdir()

    one, many = make(source, folders[0], workers=1), make(source, folders[1], workers=8)

    assert one.summary == many.summary
    assert one.summary.files == 700


def test_unchanged_names_what_differs_from_the_manifest(source: Path, papers: Path) -> None:
    for name in ("same", "longer", "touched", "gone", "linked", "folder/gone"):
        put(source, name)
    manifest = make(source, papers)
    assert unchanged(source, manifest) == []

    put(source, "longer", b"longer content")
    os.utime(source / "touched", ns=(1, 1))
    (source / "gone").unlink()
    (source / "linked").rename(source / "elsewhere")
    (source / "linked").symlink_to("elsewhere")
    (source / "folder/gone").unlink()
    (source / "folder").rmdir()

    assert unchanged(source, manifest) == ["folder/gone", "gone", "linked", "longer", "touched"]


def test_progress_counts_every_file_and_byte(source: Path, papers: Path) -> None:
    sizes = [0, 10, 70_000, 3_000_000]
    for size in sizes:
        put(source, f"f{size}", b"x" * size)
    lock, seen = threading.Lock(), [0, 0]

    class Count:
        def advance(self, *, files: int = 0, bytes: int = 0) -> None:  # noqa: A002
            with lock:
                seen[0] += files
                seen[1] += bytes

    make(source, papers, progress=Count())

    assert seen == [len(sizes), sum(sizes)]


MAKE = """
import sys
from pathlib import Path
from lading.manifest import make, Manifest, rehash, Verdict
root, papers = map(Path, sys.argv[1:])
made = make(root, papers)
assert Manifest.open(papers).summary == made.summary
assert all(verdict is Verdict.MATCHES for _, verdict in rehash(root, made))
# Not ru_maxrss: Linux carries it over from the process that started this one.
(peak,) = [line.split()[1] for line in open("/proc/self/status") if line.startswith("VmHWM")]
print(made.summary.files, int(peak) // 1024)
"""


def test_many_tiny_files_are_read_by_helpers_in_little_memory(quick: Path, papers: Path) -> None:
    count, per_folder = 24_000, 500
    for start in range(0, count, per_folder):
        (quick / f"s{start}").mkdir()
        for i in range(start, start + per_folder):
            (quick / f"s{start}" / f"IM_{i:06}.dcm").write_bytes(b"%d" % i)

    ran = subprocess.run([sys.executable, "-c", MAKE, quick, papers], capture_output=True, text=True, check=True)

    files, megabytes = map(int, ran.stdout.split())
    assert files == count
    assert megabytes < 80
    sums = dict(line.split("  ")[::-1] for line in (papers / SUMS_NAME).read_text().splitlines())
    assert sums["s500/IM_000777.dcm"] == hashlib.sha256(b"777").hexdigest()
    assert len(sums) == count


def test_a_link_among_many_tiny_files_is_still_refused(quick: Path, papers: Path) -> None:
    for i in range(21_000):
        (quick / f"{i:05}").touch()
    (quick / "99999").symlink_to("00000")

    with pytest.raises(Rejected) as refused:
        make(quick, papers)

    codes = {f.code for f in refused.value.findings}
    assert codes == {"symlink", "zero-byte"}
    assert len(refused.value.findings) == 1 + 200 + 1
    assert any("20800 more" in f.message for f in refused.value.findings)
    assert list(papers.iterdir()) == []


def test_no_descriptor_stays_open(source: Path, papers: Path) -> None:
    for name in ODD_NAMES:
        put(source, name)
    make(source, papers)
    before = len(os.listdir("/proc/self/fd"))

    make(source, papers)
    list(Manifest.open(papers))
    (source / "link").symlink_to("x")
    with pytest.raises(Rejected):
        make(source, papers)

    assert len(os.listdir("/proc/self/fd")) == before
