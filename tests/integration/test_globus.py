"""Globus where the suite does not look: tasks that fail or get stuck (S16), crashes, log-ins, each trouble its own words."""

import json
import re
import shutil
import stat
import time
import urllib.request

import pytest

from lading.errors import AccessDenied, ConfigError, Corrupted, LadingError, Rejected, Unreachable
from lading.inbox import Inbox, InboxLimits
from lading.testing import trees
from lading.testing.carrying import Errand
from lading.testing.faultproxy import FaultProxy
from lading.testing.site import flip_a_byte

pytest.importorskip("globus_sdk", reason="globus-sdk is not installed (extra: globus)")
from lading.testing.globus_stand_in import collection, globus, settings_for, until_well
from transport.globus_tasks import TASK

FACTORY = "transport.globus:GlobusTransport.from_settings"
NATIVE = "4c5d6e7f-0000-4000-8000-000000001234"
WAIT_S = 60


class Bench:
    """An instrument, an inbox, a delivery between them."""

    def __init__(self, server, folder):
        self.server, self.world, self.folder = server, server.world, folder
        self.inbox = Inbox.create(folder / "inbox", limits=InboxLimits(keep_free_bytes=0))
        self.source = trees.plain_tree(folder / "run 1")
        self.state = folder / "state"
        self.state.mkdir()
        self.errand = self.with_settings()
        self.errand.sealed()

    def with_settings(self, **changes):
        settings = {**settings_for(self.server, self.folder, self.inbox.root), "patience": 0.5, **changes}
        return Errand(FACTORY, settings, str(self.source), str(self.folder / "papers"), str(self.state), "a-delivery")

    def personal(self):
        account = settings_for(self.server, self.folder, self.inbox.root)["account"]
        return self.with_settings(account={**account, "client": NATIVE, "secret": ""})

    def submitted(self):
        return self.world.requests.count("POST /v0.10/transfer")

    def arrived(self):
        parcel = self.inbox.accept(self.errand.slot.delivery)
        return trees.look(parcel.root) == trees.look(self.source)

    def sealed(self):
        return (self.inbox.root / self.errand.slot.path / "manifest.json").exists()


@pytest.fixture
def bench(tmp_path):
    with globus(tmp_path, tmp_path) as server:
        yield Bench(server, tmp_path)


def until(true):
    deadline = time.monotonic() + WAIT_S
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def paste(url):
    with urllib.request.urlopen(url) as page:
        return re.search(r"<code>(\w+)", page.read().decode())[1]


# -- S16: tasks that fail, get stuck, or are forgotten -----------------------------------------------------------------


def test_a_failed_task_is_a_failure_and_nothing_is_done_on_it(bench):
    before = trees.look(bench.source)
    bench.world.faults.fail_tasks.append(("ENDPOINT_ERROR", "the disk of the endpoint broke"))

    with pytest.raises(Unreachable, match=r"FAILED.*the disk of the endpoint broke"):
        bench.errand.carry()

    assert not bench.sealed()
    assert trees.look(bench.source) == before
    bench.errand.carry()
    assert bench.arrived()


def test_a_task_that_stays_active_on_a_missing_path_is_ended_and_its_cause_told(bench):
    settings = bench.errand.settings
    wrong = bench.with_settings(source={**settings["source"], "path": "/elsewhere"})

    with pytest.raises(Unreachable, match=r"does not get on.*root and path.*path-missing: FILE_NOT_FOUND") as caught:
        wrong.carry()

    assert caught.value.next_command
    assert not [task for task in bench.world.tasks.values() if task.active]
    assert not bench.sealed()
    bench.errand.carry()
    assert bench.arrived()


def test_a_task_that_globus_has_forgotten_is_handed_in_again(bench):
    bench.world.faults.hold.set()
    process = bench.errand.start()
    until(lambda: json.loads(bench.errand.journal.recall(TASK) or "{}").get("task"))
    process.kill()
    process.communicate()
    task_id = json.loads(bench.errand.journal.recall(TASK))["task"]
    bench.world.tasks[task_id].cancelled.set()
    until(lambda: not bench.world.tasks[task_id].active)
    bench.world.forget(task_id)
    bench.world.faults.hold.clear()

    bench.errand.carry()

    assert bench.arrived()


def test_a_task_is_found_again_after_a_crash_and_not_handed_in_twice(bench):
    bench.world.faults.hold.set()
    process = bench.errand.start()
    until(lambda: json.loads(bench.errand.journal.recall(TASK) or "{}").get("task"))
    process.kill()
    process.communicate()
    bench.world.faults.hold.clear()

    bench.errand.carry()

    assert bench.submitted() == 2, "one task for the files, one for the papers"
    assert bench.arrived()


def test_a_crash_before_the_task_id_was_noted_finds_the_same_task(bench):
    bench.world.faults.hold.set()
    process = bench.errand.start()
    until(lambda: json.loads(bench.errand.journal.recall(TASK) or "{}").get("task"))
    process.kill()
    process.communicate()
    note = json.loads(bench.errand.journal.recall(TASK))
    bench.errand.journal.note(TASK, json.dumps({**note, "task": ""}))
    bench.world.faults.hold.clear()

    bench.errand.carry()

    assert len(bench.world.tasks) == 2
    assert bench.arrived()


def test_a_crash_before_the_seal_was_noted_does_not_hide_that_the_delivery_came_back(bench):
    bench.errand.carry()
    digest = bench.errand.journal.recall("globus-sealed")
    note = {"list": digest, "step": "papers", "submission": "x", "task": list(bench.world.tasks)[-1]}
    bench.errand.journal.note("globus-sealed", "")
    bench.errand.journal.note(TASK, json.dumps(note))
    flip_a_byte(next((bench.inbox.root / bench.errand.slot.data).rglob("*.dcm")))
    with pytest.raises(Corrupted):
        bench.inbox.accept(bench.errand.slot.delivery)

    bench.errand.carry()

    assert bench.arrived()


# -- each trouble has its own words ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("where", "change", "kind", "words"),
    [
        ("Inbox", {"online": False}, Unreachable, "offline"),
        ("Inbox", {"paused": True}, Unreachable, "paused by its manager"),
        ("Inbox", {"readable": False}, AccessDenied, "ACL"),
        ("Inbox", {"needs_consent": True}, AccessDenied, "consent"),
        ("Inbox", {"writable": False}, AccessDenied, "PERMISSION_DENIED"),
        ("Microscope", {"online": False}, Unreachable, "GC_NOT_CONNECTED"),
        ("Microscope", {"paused": True}, Unreachable, "PAUSED_BY_ADMIN"),
    ],
)
def test_each_trouble_of_a_collection_is_named_and_can_be_cured(bench, where, change, kind, words):
    place = collection(bench.server, where)
    before = {name: getattr(place, name) for name in change}
    for name, value in change.items():
        setattr(place, name, value)

    with pytest.raises(kind, match=words) as caught:
        bench.errand.carry()

    assert caught.value.next_command
    assert not bench.sealed()
    for name, value in before.items():
        setattr(place, name, value)
    until_well(bench.server)
    bench.errand.carry()
    assert bench.arrived()


def test_a_deadline_that_passes_is_told(bench):
    bench.world.faults.hold.set()

    with pytest.raises(Unreachable, match="deadline"):
        bench.with_settings(deadline_hours=0.0003).carry()


def test_passing_errors_of_the_service_are_waited_out(bench):
    bench.world.faults.http["/v0.10/task/"] = [503, 2]

    bench.errand.carry()

    assert bench.arrived()


def test_a_damaged_copy_is_found_by_globus_and_sent_again(bench):
    bench.world.faults.corrupt_next = 1

    bench.errand.carry()

    assert bench.arrived()


def test_a_collection_is_found_by_its_very_name(bench):
    source = bench.errand.settings["source"]
    collection(bench.server, "Microscope").name = "APS:DM:32ID"

    bench.with_settings(source={**source, "collection": "APS:DM:32ID"}).carry()
    with pytest.raises(ConfigError, match="no collection is called"):
        bench.with_settings(inbox={"collection": "APS:DM", "path": "/inbox"}).carry()

    assert bench.arrived()


def test_a_delivery_without_files_is_refused(bench):
    empty = bench.folder / "empty"
    empty.mkdir()
    errand = Errand(FACTORY, bench.errand.settings, str(empty), str(bench.folder / "p"), str(bench.state), "empty-one")

    with pytest.raises((Rejected, LadingError)):
        errand.sealed().carry()

    assert bench.submitted() == 0


def test_the_bytes_do_not_pass_through_the_caller(bench):
    trees.write(bench.source, {"large": trees.noise(1, 8_000_000)})
    with FaultProxy(("127.0.0.1", bench.server.server_address[1])) as proxy:
        url = f"http://127.0.0.1:{proxy.port}/"
        account = {**bench.errand.settings["account"], "auth_url": url, "transfer_url": url}

        bench.with_settings(account=account).sealed().carry()

        assert 0 < proxy.passed < 500_000
    assert bench.arrived()


# -- logging in --------------------------------------------------------------------------------------------------------


def test_a_person_logs_in_once_by_a_link_and_a_code(bench):
    errand = bench.personal()
    with pytest.raises(AccessDenied, match="nobody has logged in") as caught:
        errand.carry()
    assert "lading globus login" in caught.value.next_command

    errand.transport().login(paste)
    bench.server.tokens.forget()
    errand.carry()

    (store,) = (bench.state / "globus").iterdir()
    assert stat.S_IMODE(store.stat().st_mode) == 0o600
    assert bench.arrived()


def test_a_missing_consent_is_given_by_logging_in_again(bench):
    errand = bench.personal()
    collection(bench.server, "Inbox").needs_consent = True
    errand.transport().login(paste)
    with pytest.raises(AccessDenied, match="consent") as caught:
        errand.carry()
    assert "--consent" in caught.value.next_command

    errand.transport().login(paste, consent=True)
    errand.carry()

    assert bench.arrived()


def test_a_revoked_login_and_an_open_token_file_are_refused(bench):
    errand = bench.personal()
    errand.transport().login(paste)
    bench.server.tokens.forget(also_refresh=True)

    with pytest.raises(AccessDenied, match="refuses the log-in"):
        errand.transport().probe()
    (store,) = (bench.state / "globus").iterdir()
    store.chmod(0o644)
    with pytest.raises(AccessDenied, match="read by others"):
        errand.transport().probe()


def test_a_wrong_code_is_refused(bench):
    with pytest.raises(AccessDenied, match="refuses the log-in"):
        bench.personal().transport().login(lambda _: "not-the-code")
    assert not (bench.state / "globus").exists()


def test_a_slot_that_was_emptied_behind_a_finished_task_is_filled_again(bench):
    bench.world.faults.hold.set()
    process = bench.errand.start()
    until(lambda: json.loads(bench.errand.journal.recall(TASK) or "{}").get("task"))
    process.kill()
    process.communicate()
    task = json.loads(bench.errand.journal.recall(TASK))["task"]
    bench.world.faults.hold.clear()
    until(lambda: not bench.world.tasks[task].active)
    shutil.rmtree(bench.inbox.root / bench.errand.slot.path)

    bench.errand.carry()

    assert bench.arrived()
