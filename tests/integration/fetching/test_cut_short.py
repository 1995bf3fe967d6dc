"""Fetching when something is cut short: an answer of the server, our own process, the power, a calendar."""

import os
import shutil
import tempfile
from functools import partial
from pathlib import Path

import pytest

from lading.errors import AccessDenied, Corrupted
from lading.testing import trees
from lading.testing.servers import missing_for_sshd
from lading.testing.site import small_disk

pytest.importorskip("asyncssh", reason="asyncssh is not installed (extra: sftp)")
from lading.testing.fetching_scene import SESSION, proof
from transport import fetch_foreign
from transport.fetch_ledger import Progressing
from transport.rsync_places import RsyncConfig
from transport.rsync_pull import RsyncSource

pytestmark = pytest.mark.skipif(bool(missing_for_sshd()), reason=missing_for_sshd())
needs_rsync = pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed (Debian: rsync)")


class Killed(BaseException):
    """As if by kill -9: nothing after it is done."""


def and_then_killed(real, *args, **settings):
    real(*args, **settings)
    raise Killed


class ShortAnswer:
    """A place, or a connection to it, that finds `folder` empty when it is asked for the time `which`: a share came and went."""

    def __init__(self, real, folder, which, asked=None):
        self._real, self._folder, self._which = real, folder, which
        self._asked = [] if asked is None else asked

    def __getattr__(self, name):
        return getattr(self._real, name)

    def connect(self):
        return ShortAnswer(self._real.connect(), self._folder, self._which, self._asked)

    def listed(self, folder):
        if folder == self._folder:
            self._asked.append(folder)
            if len(self._asked) == self._which:
                return iter(())
        return self._real.listed(folder)


@pytest.mark.parametrize("which", [1, 2, 3, 4, 5])
def test_an_answer_that_leaves_something_out_leaves_nothing_out_of_the_delivery(scene, which):
    # Seen with the third: the list was made from it, and six of twelve files were sealed as the whole session.
    source = trees.plain_tree(scene.remote / SESSION)
    fetcher = scene.fetcher(ShortAnswer(scene.place(), f"{SESSION}/series-0", which))

    scene.settled(fetcher)
    (found,) = scene.settled(fetcher)

    assert found.state is Progressing.FETCHED
    assert trees.look(scene.accepted()[0].root) == trees.look(source)


@needs_rsync
def test_what_rsync_lists_without_something_that_is_missing_is_no_list(scene, tmp_path):
    trees.plain_tree(scene.remote / SESSION)
    program = tmp_path / "rsync"
    program.write_text(
        """#!/bin/sh
rsync "$@" || exit
case "$*" in *--list-only*)
    echo 'rsync: [sender] link_stat "/PROJ/sub-001/MR1/trailing." failed: No such file or directory (2)' >&2; exit 23
esac
"""
    )
    program.chmod(0o755)
    scene.kind = "rsync"
    scene.fetcher().round()

    with pytest.raises(AccessDenied, match="cannot list"):
        scene.fetcher(RsyncSource(RsyncConfig(target=str(scene.remote), program=str(program)))).round()

    assert [standing.folder.state for standing in scene.fetcher().standings()] == [Progressing.WAITING]


@needs_rsync
def test_a_listing_that_has_no_room_here_is_said(scene, tmp_path, monkeypatch):
    # Seen: an error nobody foresaw ended the round.
    scene.kind = "rsync"
    trees.plain_tree(scene.remote / SESSION, files=200)
    with small_disk(tmp_path / "small", "8k") as small:
        monkeypatch.setattr(tempfile, "tempdir", str(small))
        (found,) = scene.fetcher().round()

    assert found.state is Progressing.WAITING
    assert "cannot keep what rsync lists" in found.note


def sealed_and_killed(scene, monkeypatch):
    """A session that was sealed by a fetcher that did not come to note it. Its source."""
    source = trees.plain_tree(scene.remote / SESSION)
    scene.fetcher().round()
    scene.clock.now += 100
    with monkeypatch.context() as patched:
        patched.setattr(fetch_foreign, "seal", partial(and_then_killed, fetch_foreign.seal))
        with pytest.raises(Killed):
            scene.fetcher().round()
    return source


@pytest.mark.parametrize("withdrawn", [False, True])
def test_what_came_after_the_seal_is_not_called_fetched(scene, monkeypatch, withdrawn):
    # Seen: the late file became part of what was remembered as fetched, and was nowhere.
    source = sealed_and_killed(scene, monkeypatch)
    if withdrawn:
        (parcel,) = scene.accepted()
        parcel = scene.inbox.publish(parcel)
        scene.inbox.write_receipt(*proof(parcel), b"a key of the server")
        scene.inbox.withdraw(parcel.delivery.id)
    trees.write(source, {"late.dcm": b"late"})

    (found,) = scene.settled(scene.fetcher())

    assert (found.state, [f.code for f in found.findings]) == (Progressing.CHANGED, ["changed-after-fetch"])
    assert not any(standing.safe for standing in scene.fetcher().standings())


def test_what_left_the_source_after_the_seal_was_fetched(scene, monkeypatch):
    shutil.rmtree(sealed_and_killed(scene, monkeypatch))

    scene.fetcher().round()

    (standing,) = scene.fetcher().standings()
    assert (standing.folder.state, standing.folder.findings) == (Progressing.FETCHED, ())


@needs_rsync
def test_what_a_power_cut_left_of_rsync_is_not_believed(scene, monkeypatch):
    # Seen: zeros of the right size and time were hashed, sealed and accepted.
    scene.kind = "rsync"
    source = trees.plain_tree(scene.remote / SESSION)
    fetcher = scene.fetcher()
    fetcher.round()
    scene.clock.now += 100
    with monkeypatch.context() as patched:
        patched.setattr(RsyncSource, "copy_tree", partial(and_then_killed, scene.place().copy_tree))
        with pytest.raises(Killed):
            fetcher.round()
    (victim,) = scene.inbox.root.glob(".lading/incoming/*/data/series-0/image-0000.dcm")
    info = victim.stat()
    victim.write_bytes(bytes(info.st_size))
    os.utime(victim, ns=(info.st_mtime_ns,) * 2)

    (found,) = fetcher.round()

    assert found.state is Progressing.FETCHED
    assert trees.look(scene.accepted()[0].root) == trees.look(source)


def killed(*_, **__):
    raise Killed


def test_a_file_that_is_lost_here_before_the_seal_is_fetched_again(any_scene, monkeypatch):
    # Seen: what a power cut, or somebody, had taken out of the slot kept the delivery "being fetched" for ever.
    scene = any_scene
    source = trees.plain_tree(scene.remote / SESSION)
    with monkeypatch.context() as patched:
        patched.setattr(fetch_foreign.manifest, "write", killed)
        with pytest.raises(Killed):
            scene.settled(scene.fetcher())
    (victim,) = scene.inbox.root.glob(".lading/incoming/*/data/series-0/image-0000.dcm")
    victim.unlink()

    (found,) = scene.fetcher().round()

    assert (found.state, found.note) == (Progressing.FETCHED, "")
    assert trees.look(scene.accepted()[0].root) == trees.look(source)


def test_what_came_back_damaged_and_left_the_source_meanwhile_is_told(any_scene):
    # Seen: it was "fetched", and its slot waited for a sender that had nothing more to send.
    scene = any_scene
    source = trees.plain_tree(scene.remote / SESSION)
    (found,) = scene.settled(scene.fetcher())
    victim = scene.inbox.root / f".lading/incoming/{found.delivery}/data/series-0/image-0000.dcm"
    victim.write_bytes(b"?" * victim.stat().st_size)
    with pytest.raises(Corrupted):
        scene.accepted()
    shutil.rmtree(source)

    (told,) = scene.fetcher().round()

    assert (told.state, [f.code for f in told.findings]) == (Progressing.HELD, ["vanished-before-fetch"])


def test_a_time_that_is_still_to_come_puts_no_deadline_off(scene):
    source = trees.plain_tree(scene.remote / SESSION)
    os.utime(source / "series-0/image-0000.dcm", (scene.clock.now + 30 * 365 * 86_400,) * 2)
    fetcher = scene.fetcher(deadline_days=7, quiet=1e9)
    fetcher.round()

    scene.clock.now += 6 * 86_400
    fetcher.round()

    (standing,) = fetcher.standings()
    assert standing.urgent
    assert standing.due == pytest.approx(scene.clock.now + 86_400, abs=10)


@pytest.fixture
def far_future(scene):
    """A source on a disk that keeps any time. Most do not."""
    folder = Path(os.environ.get("XDG_RUNTIME_DIR") or "/dev/shm", f"lading-{os.getpid()}-{scene.clock.now}")
    try:
        folder.mkdir()
        os.utime(folder, (253_402_300_800, 253_402_300_800))
        if folder.stat().st_mtime != 253_402_300_800:
            pytest.skip(f"no time after the year 9999 at {folder}")
        scene.remote = folder
        yield scene
    except OSError as exc:
        pytest.skip(f"{folder}: {exc}")
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@needs_rsync
def test_a_file_of_the_year_10000_is_fetched_all_the_same(far_future):
    # Seen: rsync prints its date in one figure more, and the file was left out without a word.
    scene = far_future
    scene.kind = "rsync"
    source = trees.plain_tree(scene.remote / SESSION)
    os.utime(source / "series-0/image-0000.dcm", (253_402_300_800, 253_402_300_800))

    scene.settled(scene.fetcher())

    (parcel,) = scene.accepted()
    assert trees.look(parcel.root) == trees.look(source)
