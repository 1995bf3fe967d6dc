"""A route whose place is changed: what was fetched from one source says nothing about another, whatever it is called there."""

import json
import sqlite3

import pytest

from lading.inbox import Inbox, InboxLimits
from lading.testing import trees
from lading.testing.carrying import Errand
from lading.testing.servers import missing_for_sshd

pytest.importorskip("asyncssh", reason="asyncssh is not installed (extra: sftp)")
from lading.testing.fetching_scene import SESSION
from transport.fetch_ledger import Progressing

pytestmark = pytest.mark.skipif(bool(missing_for_sshd()), reason=missing_for_sshd())


def moved(scene, name):
    """The route's place is the folder `name` from now on."""
    scene.remote = scene.folder / name
    scene.remote.mkdir(exist_ok=True)
    return scene.remote


def test_what_has_the_same_name_at_another_source_is_fetched(any_scene):
    # Seen: it was called "changed" after a fetch that never was one, or fetched, and stayed where it was.
    scene = any_scene
    trees.plain_tree(scene.remote / SESSION, files=2)
    (one,) = scene.settled(scene.fetcher())
    (first,) = scene.accepted()
    here = trees.look(first.root)
    other = trees.write(moved(scene, "other") / SESSION, {"other.dcm": b"of somebody else"})

    (two,) = scene.settled(scene.fetcher())

    assert (two.state, two.findings) == (Progressing.FETCHED, ())
    assert two.delivery != one.delivery
    (second,) = [parcel for parcel in scene.accepted() if parcel.delivery.id == two.delivery]
    assert trees.look(second.root) == trees.look(other)
    assert trees.look(first.root) == here


def test_what_is_not_at_another_source_is_not_called_vanished(scene):
    trees.plain_tree(scene.remote / SESSION, files=2)
    scene.fetcher().round()
    moved(scene, "other")

    assert scene.fetcher().round() == []
    assert scene.fetcher().standings() == []


def test_a_place_that_is_written_otherwise_or_comes_back_is_the_same_source(scene):
    trees.plain_tree(scene.remote / SESSION, files=2)
    (one,) = scene.settled(scene.fetcher())
    moved(scene, "other")
    scene.fetcher().round()
    moved(scene, "remote")

    (back,) = scene.settled(scene.fetcher())
    (slashed,) = scene.fetcher(scene.place(target=f"{scene.server.user}@127.0.0.1:{scene.remote}/")).round()

    assert (back.state, back.delivery) == (Progressing.FETCHED, one.delivery)
    assert (slashed.state, slashed.delivery) == (Progressing.FETCHED, one.delivery)


def test_what_an_older_version_remembered_is_of_the_source_that_is_fetched_from(scene):
    trees.plain_tree(scene.remote / SESSION, files=2)
    (one,) = scene.settled(scene.fetcher())
    as_an_older_version_left_it(scene.state / "fetch" / "partner.sqlite")

    (still,) = scene.settled(scene.fetcher())
    moved(scene, "other")

    assert still == one
    assert scene.fetcher().round() == []


def as_an_older_version_left_it(path):
    with sqlite3.connect(path) as ledger:
        records = ledger.execute("SELECT path, record FROM seen").fetchall()
        ledger.execute("DROP TABLE seen")
        ledger.execute("DROP TABLE parts")
        ledger.execute("CREATE TABLE folders (path TEXT PRIMARY KEY, record TEXT NOT NULL) WITHOUT ROWID")
        ledger.executemany("INSERT INTO folders VALUES (?, ?)", records)
    ledger.close()


def test_what_a_sender_is_to_be_asked_is_asked_nowhere_else(scene):
    Inbox.create(scene.remote, limits=InboxLimits(keep_free_bytes=0))
    errand = Errand(
        "transport.local:LocalTransport.from_settings",
        {"path": str(scene.remote)},
        str(trees.plain_tree(scene.folder / "source", files=2)),
        str(scene.folder / "errand"),
        str(scene.state),
        "test-delivery-1",
    ).sealed()
    errand.carry()
    victim = next((scene.remote / errand.slot.data).rglob("*.dcm"))
    victim.write_bytes(b"?" * victim.stat().st_size)
    fetcher = scene.fetcher(Broken(scene.place()), waypoint=True)
    with pytest.raises(RuntimeError):
        fetcher.round()
    Inbox.create(moved(scene, "other"), limits=InboxLimits(keep_free_bytes=0))

    scene.fetcher(waypoint=True).round()
    told = list((scene.remote / ".lading/receipts").iterdir())
    moved(scene, "remote")
    scene.fetcher(waypoint=True).round()

    assert told == []
    assert json.loads((scene.remote / ".lading/receipts/test-delivery-1.json").read_text())["stage"] == "SENDING"


class Broken:
    """A place, or a connection to it, that lets nothing be removed: as if killed at that."""

    def __init__(self, real):
        self._real = real

    def __getattr__(self, name):
        return getattr(self._real, name)

    def connect(self):
        return Broken(self._real.connect())

    def remove(self, path):
        raise RuntimeError(path)
