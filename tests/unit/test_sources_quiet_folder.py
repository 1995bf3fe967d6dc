"""When does a watched folder count as complete?"""

import os
import shutil
import time
from pathlib import Path

import pytest

from lading.config import WatchConfig
from lading.delivery import Labels
from lading.errors import ConfigError, Unreachable
from lading.filters import FileRules
from lading.template import Template
from transport.sources.quiet_folder import QuietFolderSource


class Watched:
    """A watched folder, its source, and a clock that the test turns."""

    def __init__(self, path: Path, **settings: object) -> None:
        self.path = path
        self.now = 1000.0
        path.mkdir(exist_ok=True)
        rules = settings.pop("rules", FileRules())
        watch = WatchConfig(path=path, route="mri", quiet=60.0, **settings)  # type: ignore[arg-type]
        self.source = QuietFolderSource(watch, rules, clock=lambda: self.now)  # type: ignore[arg-type]

    def write(self, name: str, content: bytes = b"pixels") -> Path:
        file = self.path / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_bytes(content)
        return file

    def ready(self, *, after: float = 0.0) -> list[str]:
        self.now += after
        found = self.source.ready()
        return [a.root.relative_to(self.path).as_posix() for a in found if a.labels is not None]

    def findings(self) -> list[tuple[str, str]]:
        return [(f.code, f.path) for a in self.source.ready() for f in a.findings]

    def reasons(self) -> str:
        return "; ".join(waiting.reason for waiting in self.source.waiting())


@pytest.fixture
def watched(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "instrument")


def test_a_folder_is_complete_after_nothing_changed_for_the_quiet_period(watched: Watched) -> None:
    watched.write("P1/sub-001/s1/a.dcm")

    assert watched.ready() == []
    assert watched.ready(after=59) == []
    assert watched.ready(after=2) == ["P1/sub-001/s1"]
    assert watched.source.ready()[0].labels == Labels("P1", "sub-001", "s1")


def test_a_file_that_grows_a_little_starts_the_quiet_period_again(watched: Watched) -> None:
    file = watched.write("P1/sub-001/s1/a.dcm")
    watched.ready()

    for _ in range(5):
        with file.open("ab") as more:
            more.write(b"x")
        assert watched.ready(after=50) == []

    assert watched.ready(after=61) == ["P1/sub-001/s1"]


def test_a_file_rewritten_at_the_same_size_counts_as_a_change(watched: Watched) -> None:
    file = watched.write("P1/sub-001/s1/a.dcm", b"one")
    watched.ready()

    file.write_bytes(b"two")
    os.utime(file, ns=(1, 1))

    assert watched.ready(after=61) == []


def test_old_times_of_freshly_copied_files_prove_nothing(watched: Watched) -> None:
    file = watched.write("P1/sub-001/s1/a.dcm")
    os.utime(file, (0, 0))

    assert watched.ready() == []


def test_times_from_a_clock_that_runs_ahead_do_not_delay_for_ever(watched: Watched) -> None:
    file = watched.write("P1/sub-001/s1/a.dcm")
    future = time.time() + 10 * 365 * 86400
    os.utime(file, (future, future))
    watched.ready()

    assert watched.ready(after=61) == ["P1/sub-001/s1"]


def test_a_marker_alone_does_not_start_and_quiet_alone_does_not_either(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "instrument", marker="done.txt")
    file = watched.write("P1/sub-001/s1/a.dcm")
    watched.ready()
    assert watched.ready(after=61) == []
    assert "done.txt" in watched.reasons()

    watched.write("P1/sub-001/s1/done.txt")
    assert watched.ready() == []
    watched.now += 30
    file.write_bytes(b"the last write comes after the marker")
    assert watched.ready() == []
    assert watched.ready(after=45) == []

    assert watched.ready(after=16) == ["P1/sub-001/s1"]


@pytest.mark.parametrize(
    "name",
    ["b.dcm.part", ".rsync-partial/b.dcm", ".b.dcm.Xy12ab", ".in.b.dcm", "b.partial", "~$notes.docx", "notes.txt~"],
)
def test_a_folder_with_an_unfinished_file_is_not_complete(watched: Watched, name: str) -> None:
    watched.write("P1/sub-001/s1/a.dcm")
    unfinished = watched.write(f"P1/sub-001/s1/{name}")
    watched.ready()

    assert watched.ready(after=1000) == []
    assert name in watched.reasons()

    unfinished.unlink()
    watched.ready()
    assert watched.ready(after=61) == ["P1/sub-001/s1"]


def test_an_excluded_name_does_not_hold_a_session_back(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "instrument", rules=FileRules(exclude=("*.part",)))
    watched.write("P1/sub-001/s1/a.dcm")
    watched.write("P1/sub-001/s1/stale.part")
    watched.ready()

    assert watched.ready(after=61) == ["P1/sub-001/s1"]


def test_a_file_on_its_way_under_a_name_not_included_yet_is_waited_for(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "instrument", rules=FileRules(include=("*.dcm",)))
    watched.write("P1/sub-001/s1/a.dcm")
    watched.write("P1/sub-001/s1/b.dcm.part")
    watched.ready()

    assert watched.ready(after=61) == []


def test_junk_that_changes_does_not_delay(watched: Watched) -> None:
    watched.write("P1/sub-001/s1/a.dcm")
    watched.ready()
    watched.write("P1/sub-001/s1/Thumbs.db", b"somebody looks at the folder")

    assert watched.ready(after=61) == ["P1/sub-001/s1"]


@pytest.mark.skipif(not Path("/proc/self/fdinfo").is_dir(), reason="only Linux says who has a file open")
def test_a_file_still_open_for_writing_keeps_the_folder_waiting(watched: Watched) -> None:
    file = watched.write("P1/sub-001/s1/a.dcm")
    with file.open("ab"):
        watched.ready()
        assert watched.ready(after=61) == []
        assert f"process {os.getpid()}" in watched.reasons()

    with file.open("rb"):
        assert watched.ready() == ["P1/sub-001/s1"]


def test_an_empty_session_folder_is_not_complete(watched: Watched) -> None:
    (watched.path / "P1/sub-001/s1").mkdir(parents=True)
    watched.ready()

    assert watched.ready(after=61) == []
    assert "no files" in watched.reasons()


def test_a_missing_watched_folder_is_unreachable_and_not_empty(watched: Watched) -> None:
    shutil.rmtree(watched.path)

    with pytest.raises(Unreachable, match="mounted"):
        watched.source.ready()


def test_what_fits_no_template_is_named_and_not_silently_left(tmp_path: Path) -> None:
    watched = Watched(tmp_path / "instrument", template="{project}/sub-{participant}/{session}")
    watched.write("P1/sub-001/s1/a.dcm")
    watched.write("P1/002/s1/a.dcm")
    watched.write("P1/sub-001/lost.dcm")
    watched.write("P1/Thumbs.db")

    assert sorted(watched.findings()) == [("file-outside-session", "P1/sub-001"), ("path-does-not-fit", "P1/002")]
    assert watched.ready(after=61) == ["P1/sub-001/s1"]


def test_a_link_in_place_of_a_session_is_not_followed(watched: Watched, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "secret.dcm").write_bytes(b"x")
    (watched.path / "P1/sub-001").mkdir(parents=True)
    (watched.path / "P1/sub-001/s1").symlink_to(elsewhere)
    watched.ready()

    assert watched.ready(after=61) == []
    assert watched.findings() == [("file-outside-session", "P1/sub-001")]


@pytest.mark.parametrize(
    ("template", "path", "labels"),
    [
        ("{project}/{participant}/{session}", "P/a/1", Labels("P", "a", "1")),
        ("{_}/{project}/raw/{participant}_{session}", "2026/P/raw/ab_1", Labels("P", "ab", "1")),
        ("{project}/{participant}/{participant}_{session}", "P/ab/ab_1", Labels("P", "ab", "1")),
        ("{project}/{participant}/{participant}_{session}", "P/ab/xy_1", None),
        ("{project}/{participant}/{session}", "P/a", None),
        ("export/{project}/{participant}/{session}", "Export/P/a/1", None),
    ],
)
def test_labels_are_read_from_the_path(template: str, path: str, labels: Labels | None) -> None:
    assert Template.parse(template).labels(path) == labels


@pytest.mark.parametrize(
    "template", ["{project}/{subject}/{session}", "{project}/{participant}", "{project/{participant}/{session}"]
)
def test_a_template_that_cannot_give_all_labels_is_refused(template: str) -> None:
    with pytest.raises(ConfigError):
        Template.parse(template)
