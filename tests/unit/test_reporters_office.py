"""When people are told: over the agent's drawer, with a clock of our own and a real mail server."""

import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import attrs
import pytest

from lading.agent.outbox import CANCELLED_THERE, Outbox, WatchReport
from lading.agent.reporting import OutboxDrawer, conditions, raised
from lading.config import Config, MailConfig, PeopleConfig
from lading.delivery import DeliveryId, Labels, Stage
from lading.doctor import pulse
from lading.errors import AccessDenied, OutOfSpace, ReporterAway, SourceChanged, Unreachable
from lading.findings import error
from lading.ports import Report
from lading.reporters import Place, places
from lading.reporters import office as office_module
from lading.reporters.office import Condition, Office, Posted
from lading.testing.mailserver import MailServer, mail_server
from lading.testing.servers import free_port

ADMIN = "admin@example.org"
ALICE = "alice@example.org"
EARLIER, LATER = datetime(2027, 1, 1, tzinfo=UTC), datetime(2027, 1, 2, tzinfo=UTC)
AWAY = Condition("repository/xnat", "xnat is not reachable", detail="3 deliveries wait for it.")


@dataclass
class Site:
    """An agent's memory, a clock that stands still until it is moved, and a mail server."""

    outbox: Outbox
    server: MailServer
    config: Config
    now: float = 1_800_000_000.0

    def office(self) -> Office:
        return Office(OutboxDrawer(self.outbox), self.config, program="agent", clock=self.outbox.clock)

    def hold(self, name: str, *, sender: str = "alice@scanner", why: str = "the key is refused") -> DeliveryId:
        labels = Labels("DEMO", "sub-001", name)
        item = self.outbox.take(self.outbox.home / name, "mri", labels, fingerprint=name, sender=sender)
        self.outbox.fail(item.id, Stage.HELD, AccessDenied(why, next_command=f"lading retry {item.id}"))
        return item.id

    def texts(self, address: str) -> list[str]:
        return [mail.get_content() for mail in self.server.to(address)]


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    with mail_server() as server:
        mail = MailConfig(
            server="127.0.0.1", port=server.port, security="plain", sender="lading@example.org", admin=(ADMIN,),
            quiet=60, longest=600, alarm_after=900, recovered_after=60,
        )  # fmt: skip
        config = Config(home=tmp_path, mail=mail, people=PeopleConfig(template="{sender}@example.org"))
        made = Site(Outbox(tmp_path / "home", clock=lambda: made.now), server, config)
        yield made
        made.outbox.close()


def test_one_mail_for_all_that_ended_close_together_and_never_again(site: Site) -> None:
    office = site.office()
    ids = []
    for number in range(5):
        ids.append(site.hold(f"MR{number}"))
        site.now += 30
        office.round([])
    assert site.server.mails == []

    site.now += 31
    office.round([])
    for _ in range(5):
        site.now += 1000
        office.round([])
        site.office().round([])

    (to_alice,), (to_admin,) = site.texts(ALICE), site.texts(ADMIN)
    assert all(to_alice.count(f"delivery {id_}") == 1 and f"lading retry {id_}" in to_admin for id_ in ids)
    assert "lading retry" not in to_alice
    assert site.server.to(ALICE)[0]["Subject"] == "[lading] 5 sessions held"


def test_a_stream_without_a_pause_is_cut_at_the_longest_wait(site: Site) -> None:
    office = site.office()
    for number in range(30):
        site.hold(f"MR{number}")
        site.now += 30
        office.round([])

    assert len(site.server.to(ALICE)) == 1
    assert site.server.to(ALICE)[0]["Subject"] == "[lading] 20 sessions held"


def test_what_moves_on_before_the_mail_leaves_is_not_told(site: Site) -> None:
    held = site.hold("MR1")
    office = site.office()
    office.round([])

    site.outbox.retry(held)
    site.now += 100
    office.round([])

    assert site.server.mails == []


def test_the_same_trouble_is_told_once_and_another_one_again(site: Site) -> None:
    held = site.hold("MR1")
    office = site.office()
    site.now += 61
    office.round([])
    for trouble in (AccessDenied("the key is refused again"), SourceChanged("no longer there")):
        site.outbox.retry(held)
        site.outbox.fail(held, Stage.HELD, trouble)
        site.now += 61
        office.round([])

    assert len(site.server.to(ALICE)) == 2
    assert "no longer there" in site.texts(ALICE)[1]


def test_what_the_server_cancelled_is_told_to_its_person_once(site: Site) -> None:
    labels = Labels("DEMO", "sub-001", "MR1")
    item = site.outbox.take(site.outbox.home / "MR1", "mri", labels, fingerprint="1", sender="alice@scanner")
    site.outbox.move(item.id, Stage.CANCELLED, error_code=CANCELLED_THERE, error="cancelled on the server")
    mine = site.outbox.take(site.outbox.home / "MR2", "mri", labels, fingerprint="2", sender="alice@scanner")
    site.outbox.cancel(mine.id)

    for _ in range(3):
        site.now += 61
        site.office().round([])

    (text,) = site.texts(ALICE)
    assert site.server.to(ALICE)[0]["Subject"] == "[lading] 1 session cancelled"
    assert "cancelled on the server" in text
    assert mine.id not in text
    assert site.texts(ADMIN) == []


def test_what_is_refused_for_nobody_known_goes_to_the_admins(site: Site) -> None:
    item = site.outbox.take(site.outbox.home / "x", "mri", Labels("P", "s", "l"), fingerprint="", sender="no body@h")
    site.outbox.record(item.id, (error("label-invalid", "participant 's' does not fit"),))
    site.outbox.move(item.id, Stage.REJECTED, "refused", error_code="rejected")
    site.now += 61
    site.office().round([])

    (text,) = site.texts(ADMIN)
    assert len(site.server.mails) == 1
    assert "participant 's' does not fit" in text


def test_a_night_without_the_mail_server_ends_in_two_mails_at_most(site: Site) -> None:
    port = site.server.port
    site.server.stop()
    ids = []
    for hour in range(8):
        ids.append(site.hold(f"MR{hour}"))
        site.now += 3600
        site.office().round([])  # a new one each time: as after a crash

    site.server.port = port
    site.server.start()
    for _ in range(3):
        site.office().round([])

    texts = site.texts(ALICE)
    assert len(texts) == 2
    assert [sum(f"delivery {id_}" in text for text in texts) for id_ in ids] == [1] * 8


def test_what_cannot_be_told_by_mail_is_told_by_status_until_it_can(site: Site) -> None:
    def complaints() -> list[str]:
        return [d.text for d in pulse(site.config) if d.area == "reports"]

    port = site.server.port
    site.server.stop()
    site.hold("MR1")
    site.now += 61
    office = site.office()
    office.round([])
    (said,) = complaints()
    assert "does not answer" in said

    site.server.port = port
    site.server.start()
    site.office().round([])
    assert complaints() == []
    assert len(site.server.mails) == 2


def test_an_alarm_is_raised_once_and_called_off_once(site: Site) -> None:
    site.office().round([AWAY])
    for _ in range(100):
        site.now += 300
        site.office().round([AWAY])
    assert site.server.subjects() == ["[lading] alarm: xnat is not reachable"]
    assert "since 2027-01-15 08:00 UTC" in site.texts(ADMIN)[0]
    assert "Nothing is lost" in site.texts(ADMIN)[0]
    assert "Next: lading status" in site.texts(ADMIN)[0]

    for _ in range(10):
        site.now += 50
        site.office().round([])

    assert site.server.subjects()[1:] == ["[lading] well again: xnat is not reachable"]


def test_what_is_well_again_before_the_alarm_is_nobodys_business(site: Site) -> None:
    office = site.office()
    for _ in range(10):
        office.round([AWAY])
        site.now += 800
        office.round([])
        site.now += 800

    assert site.server.mails == []


def test_a_flicker_neither_calls_off_nor_raises_again(site: Site) -> None:
    office = site.office()
    office.round([AWAY])
    site.now += 901
    office.round([AWAY])
    for _ in range(10):
        site.now += 30
        office.round([])
        site.now += 30
        office.round([AWAY])

    assert len(site.server.mails) == 1


def test_the_last_failure_is_quoted_only_where_labels_may_be_heard(site: Site) -> None:
    told = Condition("k", "xnat is away", quoted="importing DEMO/sub-001/MR1: 502", after=0)
    site.office().round([told])
    assert "sub-001" in site.texts(ADMIN)[0]


def test_a_reader_whom_the_mail_server_refuses_is_given_up_and_the_admins_hear_of_it(site: Site) -> None:
    site.server.refusals[ALICE] = "550 no such user"
    site.hold("MR1")
    office = site.office()
    for _ in range(40):
        site.now += 61
        office.round([])

    assert site.server.to(ALICE) == []
    assert sorted(site.server.subjects()) == ["[lading] 1 session held", "[lading] a report could not be delivered"]


def test_a_reader_whose_mailbox_is_full_keeps_nobody_else_waiting_and_is_told_when_it_has_room(site: Site) -> None:
    site.server.refusals[ALICE] = "452 mailbox full"
    site.hold("MR1")
    office = site.office()
    for _ in range(40):
        site.now += 901
        office.round([])
    assert site.server.subjects() == ["[lading] 1 session held"]
    site.hold("MR2", sender="bob@scanner")
    site.now += 61
    office.round([])

    assert len(site.server.to("bob@example.org")) == 1
    assert site.server.to(ALICE) == []

    site.server.refusals.clear()
    for _ in range(3):
        site.now += 901
        office.round([])

    assert len(site.server.to(ALICE)) == 1
    assert len(site.server.to("bob@example.org")) == 1


@pytest.mark.parametrize("answer", ["451 I do not know you yet", "550 no such user"])
def test_one_admin_who_is_refused_costs_no_other_one_a_mail(site: Site, answer: str) -> None:
    other = "second@example.org"
    site.config = attrs.evolve(site.config, mail=attrs.evolve(site.config.mail, admin=(ADMIN, other)))
    site.server.refusals[other] = answer
    office = site.office()
    office.round([AWAY])
    site.now += 901
    office.round([AWAY])
    assert len(site.server.envelopes) == 1

    site.server.refusals.clear()
    for _ in range(3):
        site.now += 61
        office.round([AWAY])

    assert site.server.envelopes == [[ADMIN], [other]]


def test_two_admins_who_are_refused_are_not_told_of_each_other_for_ever(site: Site) -> None:
    other = "second@example.org"
    site.config = attrs.evolve(site.config, mail=attrs.evolve(site.config.mail, admin=(ADMIN, other)))
    site.server.refusals[other] = "550 no such user"
    office = site.office()
    office.round([AWAY])
    for _ in range(100):
        site.now += 901
        office.round([AWAY])

    assert site.server.subjects() == [
        "[lading] alarm: xnat is not reachable",
        "[lading] a report could not be delivered",
    ]
    assert site.server.envelopes == [[ADMIN], [ADMIN]]


def test_without_a_mail_server_alarms_stand_in_the_outbox_and_nothing_is_saved_up(site: Site) -> None:
    silent = Config(home=site.config.home)
    quiet = Office(OutboxDrawer(site.outbox), silent, program="agent", clock=site.outbox.clock)
    site.hold("MR1")
    site.outbox.report_watch(WatchReport(Path("/data"), site.now, "it is not mounted", "lading doctor"))
    for _ in range(3):
        site.now += 900
        quiet.round(conditions(site.outbox))

    assert [alarm.what for alarm in raised(site.outbox)] == ["the watched folder /data cannot be looked into"]
    site.now += 61
    site.office().round(conditions(site.outbox))
    assert site.server.mails == []


def test_an_unreachable_inbox_is_one_condition_for_all_that_wait(site: Site) -> None:
    for number in range(40):
        item = site.outbox.take(site.outbox.home / f"{number}", "mri", Labels("P", "s", "l"), fingerprint=str(number))
        site.outbox.fail(item.id, Stage.READY, Unreachable("sentinel missing"), again_in=5)

    (found,) = conditions(site.outbox)

    assert found.what == "the inbox of route mri is not reachable"
    assert found.detail.startswith("40 deliveries wait")


def test_a_full_inbox_is_one_alarm_and_no_mail_about_each_that_waits(site: Site) -> None:
    for number in range(5):
        labels = Labels("P", "s", str(number))
        item = site.outbox.take(site.outbox.home / f"{number}", "mri", labels, fingerprint="", sender="alice@scanner")
        site.outbox.fail(item.id, Stage.HELD, OutOfSpace("9 bytes are missing"), again_in=60, resume=Stage.READY)
    for _ in range(4):
        site.office().round(conditions(site.outbox))
        site.now += 500

    assert site.server.subjects() == ["[lading] alarm: the inbox of route mri is full"]
    assert "5 deliveries wait" in site.texts(ADMIN)[0]


def test_a_mail_server_that_is_down_is_not_asked_at_every_round(tmp_path: Path) -> None:
    outbox = Outbox(tmp_path)
    mail = MailConfig(
        server="127.0.0.1", port=free_port(), security="plain", sender="l@x.org", admin=(ADMIN,), alarm_after=0
    )
    office = Office(OutboxDrawer(outbox), Config(home=tmp_path, mail=mail), program="agent")
    office.round([AWAY])
    with mail_server() as server:
        server.stop()
        server.port = mail.port
        server.start()
        office.round([AWAY])
        office.round([AWAY])
        assert server.connections == 0
    outbox.close()


class Chat:
    """A place of reports that never takes what has `refuses` in its subject."""

    def __init__(self, refuses: str) -> None:
        self.refuses = refuses
        self.heard: list[str] = []

    def probe(self) -> None:
        """Nothing to ask."""

    def send(self, report: Report) -> None:
        if self.refuses in report.subject:
            raise ReporterAway("the chat did not take the report")
        self.heard.append(report.subject)


def test_a_hundred_reports_for_a_chat_that_is_dead_keep_no_mail_waiting(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = {"chat": Place(Chat("lading"), (), labels=False), **places(site.config)}
    monkeypatch.setattr(office_module, "places", lambda _: found)
    made, drawer = site.office(), OutboxDrawer(site.outbox)
    for number in range(100):
        drawer.post(Posted("chat", Report(f"20270101000000.{number:04}", (), "[lading] old", "old", EARLIER)))
    drawer.post(Posted("mail", Report("20270101000001.x", (ADMIN,), "[lading] new", "new", LATER)))

    made.round([])

    assert site.server.subjects() == ["[lading] new"]


def test_a_report_that_its_place_never_takes_lets_the_others_go_first(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    chat = Chat("poison")
    monkeypatch.setattr(office_module, "places", lambda _: {"chat": Place(chat, (), labels=False)})
    monkeypatch.setattr(office_module, "_FIRST_WAIT_S", 0.001)
    made, drawer = site.office(), OutboxDrawer(site.outbox)
    drawer.post(Posted("chat", Report("20270101000000.a", (), "[lading] poison", "old", EARLIER)))
    for number in range(3):
        drawer.post(Posted("chat", Report(f"20270101000001.{number}", (), f"[lading] {number}", "new", LATER)))

    for _ in range(3):
        made.round([])
        site.now += 1
        time.sleep(0.01)

    assert chat.heard == ["[lading] 0", "[lading] 1", "[lading] 2"]
