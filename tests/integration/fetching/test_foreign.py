"""Fetching over a real sshd: foreign folders, from the remote tree to the accepted parcel."""

import contextlib
import os
import shutil
import sqlite3
import threading

import pytest

from lading.errors import Corrupted, Rejected, Unreachable
from lading.inbox import Inbox, InboxLimits
from lading.testing import trees
from lading.testing.faultproxy import FaultProxy
from lading.testing.servers import missing_for_sshd

pytest.importorskip("asyncssh", reason="asyncssh is not installed (extra: sftp)")
from lading.testing.fetching_scene import LABELS, SESSION, proof, size_of_parts
from lading.testing.instrument import wait_until
from transport.fetch_deadlines import DAY_S
from transport.fetch_ledger import Progressing

pytestmark = pytest.mark.skipif(bool(missing_for_sshd()), reason=missing_for_sshd())


def test_a_remote_folder_becomes_a_delivery_after_two_quiet_looks(any_scene):
    scene = any_scene
    source = trees.plain_tree(scene.remote / SESSION)
    fetcher = scene.fetcher()

    first = fetcher.round()
    scene.clock.now += 30
    second = fetcher.round()
    scene.clock.now += 60
    third = fetcher.round()

    assert [f.state for f in (*first, *second, *third)] == [
        Progressing.WAITING,
        Progressing.WAITING,
        Progressing.FETCHED,
    ]
    (parcel,) = scene.accepted()
    assert parcel.delivery.labels == LABELS
    assert trees.look(parcel.root) == trees.look(source)
    assert trees.times(parcel.root) == trees.times(source)
    assert parcel.manifest.summary.algorithms == ("sha256", "md5", "CRC-32")
    assert "unverified-at-source" in {note.code for note in scene.inbox.notes(parcel.delivery.id)}


def test_what_was_fetched_is_not_fetched_again(scene):
    trees.plain_tree(scene.remote / SESSION)
    fetcher = scene.fetcher()
    (fetched,) = scene.settled(fetcher)

    (again,) = fetcher.round()

    assert again == fetched
    assert len(list(scene.inbox.arrivals())) == 1


@pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed (Debian: rsync)")
def test_rsync_fetches_over_ssh(scene):
    source = trees.plain_tree(scene.remote / SESSION)
    trees.write(source, {"odd\nname ü.dcm": b"odd", ".hidden/-x": b"dash"})
    scene.kind = "rsync over ssh"

    (found,) = scene.settled(scene.fetcher())

    assert found.state is Progressing.FETCHED
    (parcel,) = scene.accepted()
    assert trees.look(parcel.root) == trees.look(source)


def test_a_growing_folder_is_waited_for(any_scene):
    scene = any_scene
    source = trees.plain_tree(scene.remote / SESSION)
    fetcher = scene.fetcher()
    fetcher.round()
    for _ in range(3):
        scene.clock.now += 100
        with (source / "series-0" / "image-0000.dcm").open("ab") as out:
            out.write(b"more")
        (found,) = fetcher.round()
        assert found.state is Progressing.WAITING

    (found,) = scene.settled(fetcher)

    assert found.state is Progressing.FETCHED
    assert trees.look(scene.accepted()[0].root) == trees.look(source)


def test_conflict_copies_and_empty_files_stay_with_a_finding_and_the_rest_is_fetched(any_scene):
    scene = any_scene
    source = trees.plain_tree(scene.remote / SESSION)
    whole = trees.look(source)
    trees.write(
        source,
        {
            "a (conflicted copy 2026-05-04 181500).dcm": b"other version",
            "failed upload.tif": b"",
            "series-0/lock": b"",
            "Thumbs.db": b"junk",
        },
    )

    (found,) = scene.settled(scene.fetcher(empty_files=("lock",)))

    assert found.state is Progressing.FETCHED
    assert sorted((f.code, f.path) for f in found.findings) == [
        ("conflict-copy", "a (conflicted copy 2026-05-04 181500).dcm"),
        ("empty-file", "failed upload.tif"),
    ]
    (parcel,) = scene.accepted()
    assert trees.look(parcel.root).keys() == whole.keys() | {"series-0/lock"}
    assert {f.path for f in parcel.manifest.filtered()} == {
        "a (conflicted copy 2026-05-04 181500).dcm",
        "failed upload.tif",
        "Thumbs.db",
    }


def test_an_unfinished_copy_is_waited_for(scene):
    source = trees.plain_tree(scene.remote / SESSION)
    trees.write(source, {"big.tif.part": b"half"})

    (found,) = scene.settled(scene.fetcher())

    assert found.state is Progressing.WAITING
    assert "big.tif.part" in found.note


def test_a_link_at_the_source_is_not_followed(any_scene):
    scene = any_scene
    source = trees.plain_tree(scene.remote / SESSION)
    secret = trees.write(scene.folder / "outside", {"secret": b"precious"})
    (source / "link").symlink_to(secret / "secret")
    (source / "folder").symlink_to(secret)

    (found,) = scene.settled(scene.fetcher())

    (parcel,) = scene.accepted()
    assert "link" not in trees.look(parcel.root)
    assert not (parcel.root / "folder").exists()
    assert {f.code for f in found.findings} == {"link-left"}


def test_only_one_folder_is_fetched_when_asked(any_scene):
    scene = any_scene
    trees.plain_tree(scene.remote / SESSION)
    trees.plain_tree(scene.remote / "PROJ/sub-002/MR1")
    fetcher = scene.fetcher(quiet=0.0)

    fetcher.round(only=SESSION)
    (found,) = fetcher.round(only=SESSION + "/")

    assert (found.path, found.state) == (SESSION, Progressing.FETCHED)
    assert [p.delivery.labels for p in scene.accepted()] == [LABELS]
    with pytest.raises(Rejected):
        fetcher.round(only="PROJ/sub-001")
    with pytest.raises(Rejected):
        fetcher.round(only="PROJ/sub-001/none")


def test_a_template_with_other_folders_chooses_the_sessions(scene):
    trees.plain_tree(scene.remote / "visits/2026_PROJ/sub-001/MR1")
    trees.plain_tree(scene.remote / "other/2026_PROJ/sub-001/MR1")

    found = scene.settled(scene.fetcher(template="visits/{_}_{project}/{participant}/{session}"))

    assert [f.path for f in found] == ["visits/2026_PROJ/sub-001/MR1"]
    assert scene.accepted()[0].delivery.labels == LABELS


def test_a_cut_in_a_big_file_is_gone_on_with_inside_the_file(scene):
    source = trees.write(scene.remote / SESSION, {"large": trees.noise(3, 30_000_000), "small": b"x"})
    with FaultProxy(("127.0.0.1", scene.server.port)) as proxy:
        fetcher = scene.fetcher(scene.place(proxy.port, timeout=5, connect_timeout=5))
        fetcher.round()
        scene.clock.now += 100
        failure: list[BaseException] = []

        def fetch() -> None:
            try:
                fetcher.round()
            except Unreachable as exc:
                failure.append(exc)

        proxy.faults.bytes_per_second = 20_000_000
        thread = threading.Thread(target=fetch)
        thread.start()
        wait_until(lambda: size_of_parts(scene.inbox.root) > 10_000_000)
        proxy.cut()
        thread.join(60)
        proxy.faults.bytes_per_second = 0
        kept = size_of_parts(scene.inbox.root)

        (found,) = fetcher.round()

    assert failure
    assert kept > 5_000_000
    assert found.state is Progressing.FETCHED
    assert trees.look(scene.accepted()[0].root) == trees.look(source)


def test_a_delivery_that_arrived_damaged_is_fetched_again(any_scene):
    scene = any_scene
    source = trees.plain_tree(scene.remote / SESSION)
    fetcher = scene.fetcher()
    (found,) = scene.settled(fetcher)
    victim = scene.inbox.root / f".lading/incoming/{found.delivery}/data/series-0/image-0000.dcm"
    victim.write_bytes(b"?" * victim.stat().st_size)
    with pytest.raises(Corrupted):
        scene.accepted()

    (again,) = fetcher.round()

    assert (again.state, again.delivery) == (Progressing.FETCHED, found.delivery)
    assert trees.look(scene.accepted()[0].root) == trees.look(source)


def test_a_change_after_the_fetch_is_told(scene):
    source = trees.plain_tree(scene.remote / SESSION)
    fetcher = scene.fetcher()
    scene.settled(fetcher)
    trees.write(source, {"late.dcm": b"late"})

    (found,) = fetcher.round()

    assert found.state is Progressing.CHANGED
    assert "changed-after-fetch" in {f.code for f in found.findings}


def test_what_is_as_it_was_fetched_again_is_not_called_changed(scene):
    # Seen: one short answer of a server, and the folder counted as unsafe for ever.
    source = trees.plain_tree(scene.remote / SESSION)
    fetcher = scene.fetcher()
    scene.settled(fetcher)
    (source / "series-0").rename(scene.folder / "away")
    (told,) = fetcher.round()
    (scene.folder / "away").rename(source / "series-0")

    (found,) = fetcher.round()

    assert told.state is Progressing.CHANGED
    assert (found.state, found.findings) == (Progressing.FETCHED, ())


def test_what_vanishes_before_it_was_fetched_is_told(any_scene):
    scene = any_scene
    source = trees.plain_tree(scene.remote / SESSION)
    fetcher = scene.fetcher()
    fetcher.round()
    shutil.rmtree(source)

    (found,) = fetcher.round()

    assert (found.state, [f.code for f in found.findings]) == (Progressing.HELD, ["vanished-before-fetch"])


def test_a_vanished_folder_that_comes_back_is_fetched(scene):
    source = trees.plain_tree(scene.remote / SESSION)
    fetcher = scene.fetcher()
    fetcher.round()
    source.rename(scene.folder / "away")
    fetcher.round()
    (scene.folder / "away").rename(source)

    scene.clock.now += 100
    assert [f.state for f in scene.settled(fetcher)] == [Progressing.FETCHED]


def test_what_is_held_is_judged_anew_when_it_is_named(scene):
    trees.plain_tree(scene.remote / "PROJ/sub-001/ MR1")
    (held,) = scene.settled(scene.fetcher())
    (still,) = scene.fetcher().round()
    (scene.remote / "PROJ/sub-001/ MR1").rename(scene.remote / SESSION)

    found = scene.settled(scene.fetcher())

    assert (held.state, {f.code for f in held.findings}) == (Progressing.HELD, {"label-invalid"})
    assert still == held
    assert [f.state for f in found if f.path == SESSION] == [Progressing.FETCHED]
    (again,) = scene.fetcher().round(only=SESSION)
    assert again.state is Progressing.FETCHED


def test_a_full_inbox_is_said_and_cured(scene):
    trees.plain_tree(scene.remote / SESSION)
    Inbox.create(scene.inbox.root, limits=InboxLimits(keep_free_bytes=1 << 60))
    scene.inbox = Inbox.open(scene.inbox.root)
    (full,) = scene.settled(scene.fetcher())

    Inbox.create(scene.inbox.root, limits=InboxLimits(keep_free_bytes=0))
    scene.inbox = Inbox.open(scene.inbox.root)
    (cured,) = scene.fetcher().round()

    assert (full.state, "free" in full.note) == (Progressing.FETCHING, True)
    assert cured.state is Progressing.FETCHED
    assert cured.delivery == full.delivery


def test_a_deadline_is_urgent_until_the_repository_has_the_data(scene):
    source = trees.plain_tree(scene.remote / SESSION)
    for path in source.rglob("*"):
        if path.is_file():
            os.utime(path, (scene.clock.now - 30 * DAY_S,) * 2)
    fetcher = scene.fetcher(deadline_days=40, warn_days=5)
    scene.settled(fetcher)
    (calm,) = fetcher.standings()
    scene.clock.now += 6 * DAY_S
    (late,) = fetcher.standings()

    parcel = scene.inbox.publish(scene.accepted()[0])
    scene.inbox.write_receipt(*proof(parcel), b"a key of the server")
    (safe,) = fetcher.standings()

    assert (calm.urgent, late.urgent, safe.urgent, safe.safe) == (False, True, False, True)
    assert late.due == pytest.approx(scene.clock.now + 4 * DAY_S, abs=3600)


def test_two_rounds_at_a_time_are_refused(scene):
    trees.plain_tree(scene.remote / SESSION)
    fetcher = scene.fetcher()
    fetcher.round()

    with contextlib.closing(sqlite3.connect(scene.state / "fetch" / "partner.lock", isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        with pytest.raises(Unreachable, match="another process"):
            fetcher.round()
    fetcher.round()
