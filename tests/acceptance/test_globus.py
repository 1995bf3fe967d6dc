"""S16 and the troubles of Globus, through the command line: what fails is said with its cause, and nothing is deleted anywhere."""

import json

import pytest

from lading.inbox import Inbox
from lading.testing import trees
from lading.testing.facility import Facility

pytest.importorskip("globus_sdk", reason="globus-sdk is not installed (extra: globus)")
from lading.testing.globus_stand_in import collection, fetch_settings_for, globus, settings_for

FETCHED = "2026-03/2026-03-DEMO/sub-001/MR1"
WAIT_S = 90


@pytest.fixture
def site(tmp_path):
    """An instrument, an inbox, and Globus between them; no repository: what counts here ends in the inbox."""
    made = Facility(tmp_path / "site")
    made.root.mkdir()
    (tmp_path / "facility").mkdir()
    with globus(tmp_path / "facility", tmp_path) as server:
        made.server, made.inbox_folder, made.far = server, tmp_path / "inbox", tmp_path / "facility"
        collection(server, "Microscope").root = tmp_path
        push = settings_for(server, tmp_path, tmp_path / "inbox") | {"patience": 1}
        far = collection(server, "Microscope")
        far_away = far.__class__("0c1f4a6e-0000-4000-8000-00000000aaaa", "APS:DM:32ID", tmp_path / "facility")
        server.world.collections[far_away.id] = far_away
        fetch = fetch_settings_for(server, tmp_path) | {"patience": 1}
        made.configure(
            inbox=str(tmp_path / "inbox"),
            url="http://127.0.0.1:9",
            transport=inline({"kind": "globus", **push}),
            checks="[routes.mri.fetch]\n"
            'kind = "globus"\ntemplate = "{month}/{month}-{project}/{participant}/{session}"\nquiet = 0.1\n'
            + "".join(f"{key} = {inline(value)}\n" for key, value in fetch.items()),
        )
        assert made.run("inbox", "create").returncode == 0
        try:
            yield made
        finally:
            made.close()


def inline(value):
    """A value as TOML on one line."""
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{key} = {inline(inner)}" for key, inner in value.items()) + " }"
    return json.dumps(value)


def sent(site, name):
    """A finished session on the instrument; its folder."""
    return trees.write(site.instrument / "DEMO" / "sub-001" / name, {"a.dat": name.encode() * 500, "b/c.dat": b"c"})


def account_of(site, name):
    """What `lading show` says about the session, or None before the agent has seen it."""
    for delivery in site.deliveries():
        if delivery["labels"]["session"] == name:
            return site.ask("show", delivery["id"])
    return None


def shown_until(site, name, true, why):
    """What `lading show` says about the session once `true` holds for it."""
    found = {}

    def holds():
        found.clear()
        found.update(account_of(site, name) or {})
        return bool(found) and true(found)

    site.until(holds, seconds=WAIT_S, why=why, every=0.3)
    return found


def has_arrived(account):
    return account["stage"] == "ARRIVED"


def said(account):
    return "\n".join([account["error"], *(event["note"] for event in account["events"])])


@pytest.mark.slow
def test_s16_failed_stuck_and_forgotten_tasks_are_told_and_nothing_is_deleted(site):
    world = site.server.world
    others = site.inbox_folder / "SOMEBODY" / "else.dat"
    trees.write(others.parent, {others.name: b"not ours"})
    site.start_agent()

    world.faults.fail_tasks.append(("ENDPOINT_ERROR", "the disk of the endpoint broke"))
    one = sent(site, "MR1")
    failed = shown_until(site, "MR1", has_arrived, "the failed task was handed in again")

    world.faults.stuck = ("PATH_NOT_FOUND", "No such file or directory: /D/data")
    two = sent(site, "MR2")
    stuck = shown_until(site, "MR2", lambda account: "PATH_NOT_FOUND" in account["error"], "the cause is told")
    still_active = [task for task in list(world.tasks.values()) if task.active]
    world.faults.stuck = None
    shown_until(site, "MR2", has_arrived, "it goes on once the path is there")

    world.faults.hold.set()
    three = sent(site, "MR3")
    site.until(lambda: any(task.active for task in list(world.tasks.values())), seconds=WAIT_S, why="a task is active")
    forgotten = next(task for task in list(world.tasks.values()) if task.active)
    world.forget(forgotten.id)
    forgotten.cancelled.set()
    site.until(lambda: any(task.active for task in list(world.tasks.values())), seconds=WAIT_S, why="it is asked again")
    world.faults.hold.clear()
    shown_until(site, "MR3", has_arrived, "the forgotten task was handed in again")

    assert "task-failed" in said(failed)
    assert "the disk of the endpoint broke" in said(failed)
    assert stuck["stage"] == "SENDING"
    assert "path-missing" in stuck["error"]
    assert stuck["next"]
    assert len(still_active) <= 1, "a task that cannot end is cancelled before the next attempt"
    inbox = Inbox.open(site.inbox_folder)
    arrived = [trees.look(inbox.accept(delivery).root) for delivery in list(inbox.arrivals())]
    wanted = [trees.look(folder) for folder in (one, two, three)]
    assert sorted(map(str, arrived)) == sorted(map(str, wanted)), "the sources are still there, and arrived"
    assert others.read_bytes() == b"not ours"
    assert "POST /v0.10/delete" not in world.requests


TROUBLES = [
    ("Inbox", {"needs_consent": True}, "consent-missing", "lading globus login"),
    ("Inbox", {"online": False}, "endpoint-offline", "Globus Connect"),
    ("Inbox", {"paused": True}, "collection-paused", "ask the collection's manager"),
    ("Inbox", {"readable": False}, "permission-denied", "manager for access"),
]


@pytest.mark.slow
def test_each_trouble_has_its_own_code_and_next_command_in_a_delivery(site):
    told = {}
    for where, change, code, _ in TROUBLES:
        place = collection(site.server, where)
        before = {name: getattr(place, name) for name in change}
        for name, value in change.items():
            setattr(place, name, value)
        # It is tried at once; a busy machine takes a while for that.
        site.run("send", str(sent(site, code)), "-r", "mri", "--wait", "--timeout", "5")
        (told[code],) = [one for one in site.deliveries() if one["labels"]["session"] == code]
        for name, value in before.items():
            setattr(place, name, value)

    for _, _, code, command in TROUBLES:
        assert f"({code})" in told[code]["error"]
        assert command in told[code]["next"]
        assert told[code]["stage"] != "ARRIVED"
    assert "POST /v0.10/transfer" not in site.server.world.requests


def test_each_trouble_has_its_own_code_and_next_command_in_a_fetch(site):
    trees.write(site.far / FETCHED, {"a.dat": b"a"})
    place = collection(site.server, "APS:DM:32ID")
    done = {}
    for _, change, code, _ in TROUBLES:
        before = {name: getattr(place, name) for name in change}
        for name, value in change.items():
            setattr(place, name, value)
        done[code] = site.run("fetch", "mri")
        for name, value in before.items():
            setattr(place, name, value)

    for _, _, code, command in TROUBLES:
        assert done[code].returncode == 3, done[code].stdout + done[code].stderr
        assert code in done[code].stderr.replace("\n", " ")
        assert command in done[code].stderr.replace("\n", " ")


def test_a_killed_fetch_finds_its_task_again(site):
    world = site.server.world
    source = trees.plain_tree(site.far / FETCHED)
    world.faults.hold.set()
    site.start("fetch", "fetch", "mri", "--wait")
    site.until(lambda: len(world.tasks) == 1, seconds=WAIT_S, why="the task is handed in")

    site.kill("fetch")
    world.faults.hold.clear()
    fetched = site.ask("fetch", "mri", "--wait", "--timeout", str(WAIT_S))

    (folder,) = fetched["folders"]
    assert folder["state"] == "fetched"
    assert len(world.tasks) == 1, "asked about, not asked again"
    inbox = Inbox.open(site.inbox_folder)
    assert trees.look(inbox.accept(folder["delivery"]).root) == trees.look(source)


def test_a_fetch_that_does_not_get_on_says_why_and_what_to_type(site):
    world = site.server.world
    source = trees.plain_tree(site.far / FETCHED)
    world.faults.stuck = ("PATH_NOT_FOUND", "No such file or directory: /2026-03")

    stuck = site.run("fetch", "mri", "--wait", "--timeout", "3")
    world.faults.stuck = None
    world.faults.fail_tasks.append(("ENDPOINT_ERROR", "the tape robot is down"))
    failed = site.run("fetch", "mri")
    fetched = site.ask("fetch", "mri", "--wait", "--timeout", str(WAIT_S))

    assert stuck.returncode == failed.returncode == 7
    assert "path-missing: PATH_NOT_FOUND" in stuck.stdout
    assert "task-failed: ENDPOINT_ERROR: the tape robot is down" in failed.stdout
    assert "next: lading" in failed.stdout
    (folder,) = fetched["folders"]
    assert folder["state"] == "fetched"
    inbox = Inbox.open(site.inbox_folder)
    assert trees.look(inbox.accept(folder["delivery"]).root) == trees.look(source)
    assert "POST /v0.10/delete" not in world.requests
