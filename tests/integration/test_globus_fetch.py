"""Fetching from a Globus collection, over the stand-in that the unmodified globus-sdk takes for Globus."""

import json
import os
import time

import pytest

from lading.delivery import Labels
from lading.errors import AccessDenied, ConfigError, Unreachable
from lading.inbox import Inbox, InboxLimits
from lading.seal import read_seal
from lading.testing import trees

pytest.importorskip("globus_sdk", reason="globus-sdk is not installed (extra: globus)")
from lading.config import structure
from lading.testing.globus_stand_in import collection, fetch_settings_for, globus, until_well
from transport.fetch_ledger import Ledger, LedgerJournal, Progressing
from transport.fetching import FetchConfig, Fetcher, Fetching
from transport.globus_fetch import GlobusFetchConfig, GlobusSource
from transport.globus_tasks import TASK

SESSION = "2026-03/2026-03-DOE/sub-001/MR1"
TEMPLATE = "{month}/{month}-{project}/{participant}/{session}"


class Bench:
    """A facility's collection, an inbox that another collection shows, and a fetcher between them."""

    def __init__(self, server, folder):
        self.server, self.world, self.folder = server, server.world, folder
        self.facility = folder / "facility"
        self.source = trees.plain_tree(self.facility / SESSION)
        self.inbox = Inbox.create(folder / "inbox", limits=InboxLimits(keep_free_bytes=0))
        self.state = folder / "state"
        self.state.mkdir()
        collection(server, "Microscope").name = "APS:DM:32ID"
        self.now = time.time()

    def place(self, kind=GlobusSource, most_paths=10_000, **changes):
        settings = {**fetch_settings_for(self.server, self.folder), "patience": 0.5, **changes}
        config = structure(settings, GlobusFetchConfig, where="fetch")
        return kind(config, state=self.state, most_paths=most_paths)

    def fetcher(self, place=None, **changes):
        config = FetchConfig(template=TEMPLATE, quiet=60.0)
        setting = Fetching("aps", place or self.place(), config, self.inbox, self.state, algorithms=("md5",), **changes)
        return Fetcher(setting, clock=lambda: self.now)

    def settled(self, fetcher=None):
        """Two looks, far enough apart; what the second says of the one folder."""
        fetcher = fetcher or self.fetcher()
        fetcher.round()
        return self.again(fetcher)

    def again(self, fetcher=None):
        self.now += 100
        (folder,) = (fetcher or self.fetcher()).round()
        return folder

    def parcel(self):
        (delivery,) = list(self.inbox.arrivals())
        return self.inbox.accept(delivery)

    def submitted(self):
        return self.world.requests.count("POST /v0.10/transfer")

    def note(self, delivery):
        ledger = Ledger(self.state / "fetch" / "aps.sqlite", "")
        try:
            return json.loads(LedgerJournal(ledger, delivery).recall(TASK) or "{}")
        finally:
            ledger.close()


@pytest.fixture
def bench(tmp_path):
    (tmp_path / "facility").mkdir()
    with globus(tmp_path / "facility", tmp_path) as server:
        yield Bench(server, tmp_path)


# -- from the collection into the inbox --------------------------------------------------------------------------------


def test_a_pi_year_month_folder_becomes_a_delivery(bench):
    before = trees.look(bench.facility)
    fetcher = bench.fetcher()

    first = fetcher.round()
    fetched = bench.again(fetcher)

    assert [(folder.path, folder.state) for folder in first] == [(SESSION, Progressing.WAITING)]
    assert fetched.state is Progressing.FETCHED
    parcel = bench.parcel()
    assert parcel.delivery.labels == Labels("DOE", "sub-001", "MR1")
    assert trees.look(parcel.root) == trees.look(bench.source)
    assert trees.times(parcel.root) == trees.times(bench.source)
    assert "md5" in next(iter(parcel.manifest)).digests
    assert trees.look(bench.facility) == before, "the source is only read"
    assert bench.again(fetcher).delivery == fetched.delivery
    assert bench.submitted() == 1
    assert bench.note(fetched.delivery) == {}


def test_the_manifest_made_on_arrival_says_so(bench):
    bench.world.faults.tells_checksums = False

    fetched = bench.settled()

    seal = read_seal(bench.inbox.root / ".lading/incoming" / fetched.delivery)
    assert seal.origin == "arrival"
    assert "listed on arrival" in seal.note


def test_checksums_that_globus_compared_are_compared_again(bench):
    fetched = bench.settled()

    assert read_seal(bench.inbox.root / ".lading/incoming" / fetched.delivery).origin == "source"


def test_what_rots_after_globus_has_proven_it_is_noticed_and_fetched_again(bench):
    bench.world.faults.rot_next = 1

    damaged = bench.settled()
    mended = bench.again()

    assert damaged.state is Progressing.FETCHING
    assert "arrived damaged" in damaged.note
    assert mended.state is Progressing.FETCHED
    assert trees.look(bench.parcel().root) == trees.look(bench.source)


def test_many_files_go_in_several_tasks(bench):
    fetched = bench.settled(bench.fetcher(bench.place(most_paths=5)))

    assert fetched.state is Progressing.FETCHED
    assert bench.submitted() == 3
    assert trees.look(bench.parcel().root) == trees.look(bench.source)


def test_a_link_and_an_empty_file_stay_with_a_finding(bench):
    (bench.source / "link").symlink_to("/etc/passwd")
    (bench.source / "nothing.dcm").write_bytes(b"")

    fetched = bench.settled()

    assert {"link-left", "empty-file"} <= {found.code for found in fetched.findings}
    names = {path.name for path in bench.parcel().root.rglob("*")}
    assert not names & {"link", "nothing.dcm"}


def test_a_name_with_a_line_break_is_held_and_nothing_is_handed_in(bench):
    (bench.source / "a\nb.dcm").write_bytes(b"x")

    held = bench.settled()

    assert held.state is Progressing.HELD
    assert held.findings
    assert bench.submitted() == 0


# -- what was asked is noted before it is waited for -------------------------------------------------------------------


def test_ids_are_noted_before_anybody_waits_and_the_task_is_found_again(bench):
    stuck = _held_up(bench, bench.fetcher())
    note = bench.note(stuck.delivery)
    fetched = bench.again()

    assert note["submission"]
    assert note["task"] in bench.world.tasks
    assert fetched.state is Progressing.FETCHED
    assert fetched.delivery == stuck.delivery
    assert bench.submitted() == 1
    assert trees.look(bench.parcel().root) == trees.look(bench.source)


def _held_up(bench, fetcher):
    """A round that ends while its task goes on: the personal endpoint at the source is switched off in the middle."""
    fetcher.round()
    bench.now += 100
    place = collection(bench.server, "APS:DM:32ID")
    bench.world.faults.away_for_tasks.add(place.id)
    (stuck,) = fetcher.round()
    bench.world.faults.away_for_tasks.clear()
    until_well(bench.server)
    assert "endpoint-offline" in stuck.note
    return stuck


def test_a_submission_that_globus_no_longer_knows_gets_a_new_id(bench):
    stuck = _held_up(bench, bench.fetcher())
    note = bench.note(stuck.delivery)
    bench.world.tasks[note["task"]].cancelled.set()
    bench.world.forget(note["task"])
    bench.world.submissions.clear()

    fetched = bench.again()

    assert fetched.state is Progressing.FETCHED
    assert bench.submitted() == 2
    assert trees.look(bench.parcel().root) == trees.look(bench.source)


def test_a_submission_noted_without_its_task_gets_a_new_id_when_it_is_forgotten(bench):
    stuck = _held_up(bench, bench.fetcher())
    note = bench.note(stuck.delivery)
    bench.world.tasks[note["task"]].cancelled.set()
    bench.world.forget(note["task"])
    bench.world.submissions.clear()
    ledger = Ledger(bench.state / "fetch" / "aps.sqlite", "")
    LedgerJournal(ledger, stuck.delivery).note(TASK, json.dumps({**note, "task": ""}))
    ledger.close()

    fetched = bench.again()

    assert fetched.state is Progressing.FETCHED
    assert trees.look(bench.parcel().root) == trees.look(bench.source)


def test_another_list_ends_the_task_of_the_one_before(bench):
    stuck = _held_up(bench, bench.fetcher())
    before = bench.note(stuck.delivery)["task"]
    trees.write(bench.source, {"late.dcm": b"late"})

    waiting = bench.again()
    fetched = bench.again()

    assert waiting.state is Progressing.WAITING
    assert fetched.state is Progressing.FETCHED
    assert not bench.world.tasks[before].active
    assert trees.look(bench.parcel().root) == trees.look(bench.source)


class Meddling(GlobusSource):
    """Does something right after Globus has brought the files, and before anybody here has looked at them."""

    after = staticmethod(lambda into: None)

    def hand_over(self, folder, files, into, journal, progress):
        theirs = super().hand_over(folder, files, into, journal, progress)
        self.after(into)
        return theirs


def _meddling(bench, after):
    place = bench.place(Meddling)
    place.after = after
    return place


def test_a_kill_between_arrival_and_the_first_look_asks_globus_nothing_new(bench):
    def killed(into):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        bench.settled(bench.fetcher(_meddling(bench, killed)))
    fetched = bench.again()

    assert fetched.state is Progressing.FETCHED
    assert bench.submitted() == 1
    assert trees.look(bench.parcel().root) == trees.look(bench.source)


def test_what_globus_brought_before_this_machine_was_started_again_is_asked_for_once_more(bench):
    # Seen: where Globus tells no checksums, what a power cut had left was listed and sealed.
    def power_cut(into):
        victim = next(into.rglob("*.dcm"))
        info = victim.stat()
        victim.write_bytes(bytes(info.st_size))
        os.utime(victim, ns=(info.st_mtime_ns,) * 2)
        raise KeyboardInterrupt

    bench.world.faults.tells_checksums = False
    with pytest.raises(KeyboardInterrupt):
        bench.settled(bench.fetcher(_meddling(bench, power_cut)))
    fetched = bench.again(bench.fetcher(boot="the next one"))

    assert fetched.state is Progressing.FETCHED
    assert bench.submitted() == 2
    assert trees.look(bench.parcel().root) == trees.look(bench.source)


def test_a_file_that_is_lost_here_before_anybody_looked_is_asked_for_again(bench):
    def lose(into):
        next(into.rglob("*.dcm")).unlink()

    lost = bench.settled(bench.fetcher(_meddling(bench, lose)))
    fetched = bench.again()

    assert lost.state is Progressing.WAITING
    assert fetched.state is Progressing.FETCHED
    assert bench.submitted() == 2
    assert trees.look(bench.parcel().root) == trees.look(bench.source)


# -- each trouble has its own words ------------------------------------------------------------------------------------


def test_a_failed_task_is_told_with_its_cause_and_nothing_is_sealed_or_deleted(bench):
    bench.world.faults.fail_tasks.append(("ENDPOINT_ERROR", "the tape robot is down"))
    before = trees.look(bench.facility)

    said = _trouble(bench)
    assert "task-failed" in said
    assert "the tape robot is down" in said
    assert not list(bench.inbox.arrivals())
    assert trees.look(bench.facility) == before

    assert bench.again().state is Progressing.FETCHED
    assert "POST /v0.10/delete" not in bench.world.requests


def test_a_task_that_stays_active_on_a_missing_path_is_ended_with_its_cause(bench):
    bench.world.faults.stuck = ("PATH_NOT_FOUND", "No such file or directory: /2026-03")

    said = _trouble(bench)
    assert "path-missing" in said
    assert "PATH_NOT_FOUND" in said
    assert not [task for task in bench.world.tasks.values() if task.active]

    bench.world.faults.stuck = None
    assert bench.again().state is Progressing.FETCHED


def _trouble(bench):
    """What is said about the one folder when it could not be brought, with what to do next."""
    folder = bench.settled()
    assert folder.state is Progressing.FETCHING
    return folder.note


@pytest.mark.parametrize(
    ("where", "change", "kind", "words"),
    [
        ("APS:DM:32ID", {"online": False}, Unreachable, "endpoint-offline"),
        ("APS:DM:32ID", {"paused": True}, Unreachable, "collection-paused"),
        ("APS:DM:32ID", {"readable": False}, AccessDenied, "permission-denied"),
        ("APS:DM:32ID", {"needs_consent": True}, AccessDenied, "consent-missing"),
    ],
)
def test_each_trouble_of_the_source_is_named(bench, where, change, kind, words):
    for name, value in change.items():
        setattr(collection(bench.server, where), name, value)

    with pytest.raises(kind, match=words) as caught:
        bench.fetcher().round()

    assert caught.value.next_command
    assert not bench.submitted()


def test_a_folder_that_is_not_there_is_an_error_not_an_empty_list(bench):
    source = {**fetch_settings_for(bench.server, bench.folder)["source"], "path": "/2026-04"}

    with pytest.raises(Unreachable, match="path-missing"):
        bench.fetcher(bench.place(source=source)).round()


def test_an_inbox_that_the_collection_does_not_show_is_noticed_before_anything_moves(bench):
    inbox = {**fetch_settings_for(bench.server, bench.folder)["inbox"], "path": "/elsewhere"}

    wrong = bench.settled(bench.fetcher(bench.place(inbox=inbox)))

    assert "inbox.root and inbox.path" in wrong.note
    assert "path-missing" in wrong.note
    assert bench.submitted() == 0
    assert not (bench.folder / "elsewhere").exists()


def test_a_collection_of_another_name_is_not_taken(bench):
    source = {**fetch_settings_for(bench.server, bench.folder)["source"], "collection": "APS:DM:32"}

    with pytest.raises(ConfigError, match="no collection is called"):
        bench.fetcher(bench.place(source=source)).round()


def test_a_task_that_moved_nothing_is_no_success(bench):
    bench.world.faults.moves_nothing = True

    said = _trouble(bench)

    assert "no file" in said
    assert not list(bench.inbox.arrivals())


def test_the_deadline_of_a_folder_counts_from_its_last_change(bench):
    old = bench.now - 20 * 86_400
    for path in bench.source.rglob("*"):
        os.utime(path, (old, old))
    config = FetchConfig(template=TEMPLATE, quiet=60.0, deadline_days=40)
    fetcher = Fetcher(Fetching("aps", bench.place(), config, bench.inbox, bench.state), clock=lambda: bench.now)

    fetcher.round()
    (standing,) = fetcher.standings()

    assert standing.due == pytest.approx(old + 40 * 86_400, abs=2)
