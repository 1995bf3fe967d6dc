"""The survey sees what cannot be sent before anything is read."""

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from lading.errors import SourceChanged
from lading.filters import FileRules
from lading.findings import Finding
from lading.listing.names import windows_name
from lading.manifest import Filtered, NameLimits, Seen, survey


def look(
    root: Path, *, limits: NameLimits = NameLimits.POSIX, rules: FileRules | None = None
) -> tuple[list[Seen | Filtered], list[Finding]]:
    walk = survey(root, rules=rules or FileRules(), limits=limits)
    return list(walk), list(walk.findings)


def codes(findings: list[Finding]) -> set[tuple[str, str]]:
    return {(f.code, f.path) for f in findings}


def test_files_folders_and_nothing_else_are_seen_in_order(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    (tmp_path / "b/1").write_bytes(b"one")
    (tmp_path / "a").write_bytes(b"two")
    (tmp_path / "c").write_bytes(b"three")

    seen, findings = look(tmp_path)

    assert [(s.path, s.size) for s in seen] == [("a", 3), ("b/1", 3), ("c", 5)]
    assert findings == []


@pytest.mark.parametrize(
    ("one", "other", "code"),
    [
        ("Image.TIF", "image.tif", "name-collides-by-case"),
        ("STRASSE", "straße", "name-collides-by-case"),
        ("gr\u00f6\u00dfe", "gro\u0308\u00dfe", "name-collides-by-unicode-form"),
        ("\u212b", "\u00c5", "name-collides-by-unicode-form"),
    ],
)
def test_names_that_another_system_would_merge_are_refused(tmp_path: Path, one: str, other: str, code: str) -> None:
    (tmp_path / "ok").write_text("1")
    (tmp_path / one).write_text("1")
    (tmp_path / other).write_text("2")

    _, findings = look(tmp_path)
    _, for_exact = look(tmp_path, limits=NameLimits.EXACT)

    assert [f.code for f in findings] == [code]
    assert for_exact == []


def test_folders_that_collide_are_refused_and_equal_names_in_two_folders_are_not(tmp_path: Path) -> None:
    for name in ("Scan/a", "scan/b", "other/a"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("1")

    _, findings = look(tmp_path)

    assert codes(findings) == {("name-collides-by-case", "scan")}


@pytest.mark.parametrize(
    ("name", "proposal"),
    [
        ("CON", "CON_"),
        ("aux.txt", "aux_.txt"),
        ("com1.tar.gz", "com1_.tar.gz"),
        ("name.", "name"),
        ("name ", "name"),
        ("a:b", "a_b"),
        ('w"h<a>t?|*', "w_h_a_t___"),
        ("tab\there", "tab_here"),
        ("new\nline", "new_line"),
        ("back\\slash", "back_slash"),
        (os.fsdecode(b"raw\xff"), "raw_"),
    ],
)
def test_names_that_windows_refuses_are_refused_with_a_proposal(tmp_path: Path, name: str, proposal: str) -> None:
    (tmp_path / name).write_text("1")

    _, on_posix = look(tmp_path)
    _, on_windows = look(tmp_path, limits=NameLimits.WINDOWS)
    _, on_smb = look(tmp_path, limits=NameLimits.SMB)

    assert on_posix == []
    assert [f.code for f in on_windows] == [f.code for f in on_smb] == ["name-illegal"]
    assert repr(proposal) in on_windows[0].hint
    assert windows_name(proposal) == proposal


@pytest.mark.parametrize("name", ["console", "com10", "auxiliary.txt", ".hidden", "a.b", "größe", "LPT"])
def test_names_that_only_look_like_devices_are_legal_on_windows(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("1")

    assert look(tmp_path, limits=NameLimits.WINDOWS)[1] == []


def test_a_long_path_is_a_note_on_windows_and_a_long_name_an_error(tmp_path: Path) -> None:
    deep = tmp_path / ("a" * 150) / ("b" * 150)
    deep.mkdir(parents=True)
    (deep / "file").write_text("1")
    (tmp_path / ("n" * 201)).write_text("1")

    _, findings = look(tmp_path, limits=NameLimits(windows=True, path_bytes=32_000, name_bytes=200))

    assert [(f.code, str(f.severity)) for f in findings if f.path.endswith("file")] == [
        ("path-long-for-windows", "note")
    ]
    assert ("name-too-long", "n" * 201) in codes(findings)


def test_a_path_deeper_than_the_target_takes_is_refused(tmp_path: Path) -> None:
    deep = tmp_path / "/".join("d" * 5)
    deep.mkdir(parents=True)
    (deep / "file").write_text("1")
    (tmp_path / "ok").write_text("1")

    _, findings = look(tmp_path, limits=NameLimits(depth=5))

    assert ("path-too-deep", "d/d/d/d/d/file") in codes(findings)


def test_links_and_special_files_are_refused_without_touching_what_they_point_to(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("1")
    (tmp_path / "link").symlink_to("/etc/passwd")
    (tmp_path / "folder-link").symlink_to("/")
    (tmp_path / "dangling").symlink_to("nowhere")
    os.mkfifo(tmp_path / "fifo")
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(str(tmp_path / "socket"))

        seen, findings = look(tmp_path)

    assert [s.path for s in seen] == ["file"]
    assert codes(findings) == {
        ("symlink", "link"),
        ("symlink", "folder-link"),
        ("symlink", "dangling"),
        ("special-file", "fifo"),
        ("special-file", "socket"),
    }


def test_a_filtered_link_is_filtered_not_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("1")
    (tmp_path / "latest").symlink_to("file")

    seen, findings = look(tmp_path, rules=FileRules(exclude=("latest",)))

    assert {s.path: type(s) for s in seen} == {"file": Seen, "latest": Filtered}
    assert findings == []


def test_empty_files_warn_empty_folders_are_noted_and_nothing_at_all_is_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()

    _, nothing = look(tmp_path)
    (tmp_path / "zero").touch()
    _, findings = look(tmp_path)

    assert ("nothing-to-send", "error") in [(f.code, str(f.severity)) for f in nothing]
    assert {(f.code, str(f.severity)) for f in findings} == {("zero-byte", "warning"), ("empty-folder", "note")}


SURVEY_AS_NOBODY = """
import os, sys
from pathlib import Path
from lading.manifest import NameLimits, survey
from lading.filters import FileRules
os.setgid(65534); os.setuid(65534)
walk = survey(Path(sys.argv[1]), rules=FileRules(), limits=NameLimits.POSIX)
print([seen.path for seen in walk], [(f.code, f.path) for f in walk.findings])
"""


@pytest.mark.root
@pytest.mark.skipif(os.name == "nt" or os.geteuid() != 0, reason="needs root to become somebody else")
def test_what_may_not_be_read_is_named_before_the_reading(tmp_path: Path) -> None:
    for folder in (tmp_path, *tmp_path.parents):
        if folder.stat().st_uid == 0 and folder != Path("/"):
            folder.chmod(folder.stat().st_mode | 0o005)
    (tmp_path / "open").write_text("1")
    (tmp_path / "secret").write_text("1")
    (tmp_path / "secret").chmod(0o600)
    (tmp_path / "closed").mkdir(mode=0o700)

    ran = subprocess.run(
        [sys.executable, "-c", SURVEY_AS_NOBODY, tmp_path], capture_output=True, text=True, check=False
    )

    assert ran.returncode == 0, ran.stderr
    assert "('unreadable', 'closed'), ('unreadable', 'secret')" in ran.stdout


def test_a_folder_that_vanishes_during_the_survey_is_a_changed_source(tmp_path: Path) -> None:
    for name in ("a/1", "b/2"):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_text("1")
    walk = iter(survey(tmp_path, rules=FileRules(), limits=NameLimits.POSIX))
    next(walk)

    (tmp_path / "b/2").unlink()
    (tmp_path / "b").rmdir()

    with pytest.raises(SourceChanged):
        list(walk)


def test_control_characters_of_a_name_do_not_reach_the_terminal(tmp_path: Path) -> None:
    (tmp_path / "\x1b[2Jclear").symlink_to("x")

    _, findings = look(tmp_path)

    assert all(f.message.isprintable() for f in findings)
