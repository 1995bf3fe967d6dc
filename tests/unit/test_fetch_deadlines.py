"""A source that keeps data for so many days: who is told, when, how often. The clock is moved by hand, the mail server is real."""

import time
from datetime import UTC, datetime

import pytest

from lading.agent.outbox import Outbox
from lading.agent.reporting import OutboxDrawer
from lading.config import Config, InboxConfig, MailConfig, PeopleConfig, RouteConfig
from lading.delivery import FileOutcome, Labels, Outcome, Receipt, Stage, new_delivery_id
from lading.inbox import Inbox
from lading.pulling import deadline_notices, near_deadlines
from lading.reporters.office import Office
from lading.testing.mailserver import mail_server
from transport.fetch_deadlines import DAY_S, notices, step_at, steps, warnings_at
from transport.fetch_ledger import Ledger, Progressing, Remembered, changed
from transport.fetching import FetchConfig, Fetcher, Fetching
from transport.rsync_places import RsyncConfig
from transport.rsync_pull import RsyncSource

ADMIN = "admin@example.org"
START = 1_800_000_000.0


class Scene:
    """Folders that a route has seen, the end of their time, a clock, and an office that mails to the operators."""

    def __init__(self, folder, server, *, labels=True, **config):
        self.now, self.server = START, server
        self.state = folder / "state"
        self.inbox = Inbox.create(folder / "inbox")
        place = RsyncSource(RsyncConfig(target=str(folder)))
        setting = Fetching("aps", place, FetchConfig(**config), self.inbox, self.state)
        self.fetcher = Fetcher(setting, clock=lambda: self.now)
        self.ledger = Ledger(self.state / "fetch" / "aps.sqlite", setting.source)
        mail = MailConfig(
            server="127.0.0.1", port=server.port, security="plain", sender="lading@example.org", admin=(ADMIN,), labels=labels
        )  # fmt: skip
        self.config = Config(home=folder, mail=mail, people=PeopleConfig())
        self.outbox = Outbox(folder / "outbox", clock=lambda: self.now)

    def seen(self, name, *, newest=START, **values):
        return self.ledger.put(Remembered(name, first_seen=newest, newest=newest, **values))

    def round(self):
        """A fresh office each time: what it knows is in its drawer."""
        office = Office(OutboxDrawer(self.outbox), self.config, program="agent", clock=lambda: self.now)
        office.round([], notices(self.fetcher.near(), self.now))

    def until(self, days, *, every=0.5):
        """Let so many days pass since the start, a few looks a day."""
        while self.now < START + days * DAY_S:
            self.now += every * DAY_S
            self.round()

    def mails(self):
        return [mail.get_content() for mail in self.server.to(ADMIN)]

    def close(self):
        self.ledger.close()
        self.outbox.close()


@pytest.fixture
def scene_of(tmp_path):
    made = []
    with mail_server() as server:

        def make(**config):
            made.append(Scene(tmp_path, server, **config))
            return made[-1]

        yield make
        for scene in made:
            scene.close()


@pytest.mark.parametrize(
    ("days", "warn", "expected"),
    [
        (40, 0, (20, 3, 1, 0)),  # Diamond
        (14, 0, (7, 3, 1, 0)),  # BioKEM
        (7, 0, (3.5, 1, 0)),  # DESY: three days would follow close on three and a half
        (40, 30, (30, 3, 1, 0)),
        (2, 0, (1, 0)),
        (0, 0, ()),
    ],
)
def test_when_people_are_told(days, warn, expected):
    assert steps(days, warn) == expected


def test_the_step_that_counts_is_the_last_that_was_reached():
    when = steps(40)

    found = [step_at(left * DAY_S, when) for left in (21, 20, 4, 3, 0.5, 0, -7)]

    assert found == [None, 20, 20, 3, 1, 0, 0]


@pytest.mark.parametrize(
    ("left", "expected"),
    [
        (22, []),
        (20.9, [(20, True)]),
        (20, [(20, False)]),
        (3.9, [(20, False), (3, True)]),
        (1.4, [(3, False), (1, True)]),
        (0.2, [(1, False)]),
        (-0.5, [(1, False), (0, True)]),
        (-1, [(0, False)]),
    ],
)
def test_a_warning_waits_for_others_for_a_while(left, expected):
    assert warnings_at(left * DAY_S, steps(40)) == expected


def test_one_mail_for_each_warning_however_many_folders(scene_of):
    scene = scene_of(deadline_days=40)
    for number in range(30):  # one beamtime: written over half a day
        scene.seen(f"visit/sub-{number:03}", newest=START + number * DAY_S / 60)

    scene.until(19)
    assert scene.mails() == []
    scene.until(60)

    mails = scene.mails()
    assert len(mails) == 4, "half-way, three days, a day, over"
    assert all(f"visit/sub-{number:03}" in mails[0] for number in range(30))
    assert "waiting" in mails[0]
    assert "lading fetch aps" in mails[0]
    assert "3.0 days more" in mails[1]
    assert "1.0 days more" in mails[2]
    assert mails[3].count("may have removed it") == 30


def test_nobody_is_told_of_what_the_repository_holds(scene_of):
    scene = scene_of(deadline_days=7)
    safe = scene.seen("a/b/safe", state=Progressing.FETCHED, delivery=new_delivery_id())
    scene.seen("a/b/not", state=Progressing.FETCHED, delivery=new_delivery_id())
    scene.seen("a/b/changed", state=Progressing.CHANGED, delivery=safe.delivery)
    scene.inbox.write_receipt(*_proof(safe.delivery), b"a key of the server")

    scene.until(4)

    (told,) = scene.mails()
    assert "a/b/not" in told
    assert "a/b/changed" in told
    assert "a/b/safe" not in told


def test_a_folder_that_comes_later_is_told_of_too(scene_of):
    scene = scene_of(deadline_days=40)
    scene.seen("first")
    scene.until(25)
    scene.seen("second", newest=START + 10 * DAY_S)

    scene.until(36)

    told = [("first" in mail, "second" in mail) for mail in scene.mails()]
    assert told == [(True, False), (False, True)]


def test_an_inbox_that_is_away_for_a_while_makes_nobody_hear_it_twice(scene_of):
    scene = scene_of(deadline_days=40)
    folder = scene.seen("first")
    scene.until(21)
    scene.ledger.forget("first")
    scene.until(22)

    scene.ledger.put(folder)
    scene.until(30)

    assert len(scene.mails()) == 1


def test_what_changes_at_the_source_has_more_time_again(scene_of):
    scene = scene_of(deadline_days=40)
    folder = scene.seen("first")
    scene.until(18)
    scene.ledger.put(changed(folder, newest=START + 17 * DAY_S))

    scene.until(36)
    assert scene.mails() == []
    scene.until(38)

    assert len(scene.mails()) == 1


def test_without_labels_only_the_number_of_the_delivery_is_told(scene_of):
    scene = scene_of(deadline_days=40, labels=False)
    folder = scene.seen("SECRET/sub-001/MR1", state=Progressing.HELD, delivery=new_delivery_id())

    scene.until(21)

    (told,) = scene.mails()
    assert "SECRET" not in told
    assert folder.delivery in told


def test_a_route_whose_inbox_is_away_hides_no_other(tmp_path, scene_of):
    scene = scene_of(deadline_days=7)
    scene.seen("a/b/c", newest=time.time() - 6.5 * DAY_S)
    (tmp_path / "unmounted").mkdir()
    fetch = {"kind": "rsync", "target": str(tmp_path), "deadline_days": 7}
    config = Config(
        home=scene.state,
        inboxes={"main": InboxConfig(path=scene.inbox.root), "share": InboxConfig(path=tmp_path / "unmounted")},
        routes={
            "aps": RouteConfig(inbox="main", fetch=fetch),
            "away": RouteConfig(inbox="share", fetch=fetch),
            "no-deadline": RouteConfig(inbox="main", fetch=fetch | {"deadline_days": 0}),
        },
    )

    (near,) = near_deadlines(config)

    assert (near.route, near.folder, near.step) == ("aps", "a/b/c", 1)
    assert "0.5 days more" in deadline_notices(config)[0].quoted


def _proof(delivery):
    outcome = FileOutcome("a", 1, "0" * 64, Outcome.VERIFIED)
    receipt = Receipt(
        delivery=delivery, route="aps", labels=Labels("A", "b", "c"), stage=Stage.VERIFIED, digest="0" * 64, files=1,
        bytes=1, counts={"verified": 1}, repository={"kind": "test"}, findings=(), files_digest="0" * 64,
        at=datetime.now(UTC).replace(microsecond=0),
    )  # fmt: skip
    return receipt, [outcome]
