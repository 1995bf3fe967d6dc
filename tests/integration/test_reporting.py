"""The server tells people: over the real database, from server processes that are killed, to a real mail server."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path

import pytest

from lading.config import Config, InboxConfig, MailConfig, PeopleConfig
from lading.delivery import Delivery, DeliveryId, Labels, Stage, new_delivery_id
from lading.engine import admission, database, deliveries
from lading.engine.database import Connection
from lading.engine.ledger import NotNow
from lading.engine.reporting import TableDrawer, conditions
from lading.inbox import Inbox
from lading.ports import Report
from lading.reporters.office import Audience, Office, Posted
from lading.testing.engine_site import EngineSite, bare_database, engine_site
from lading.testing.fakes import FolderParts
from lading.testing.mailserver import MailServer, mail_server

pytestmark = pytest.mark.timeout(180)

ADMIN = "admin@example.org"
TABLES = """
[mail]
server = "127.0.0.1"
port = {port}
security = "plain"
sender = "lading@example.org"
admin = ["{admin}"]
quiet = {quiet}
longest = 20
alarm_after = 1
recovered_after = 1
[people]
template = "{{sender}}@example.org"
"""


@contextmanager
def reporting_site(root: Path, server: MailServer, *, quiet: float = 1.0) -> Iterator[EngineSite]:
    with engine_site(root, more=TABLES.format(port=server.port, admin=ADMIN, quiet=quiet)) as site:
        yield site


@pytest.fixture
def server() -> Iterator[MailServer]:
    with mail_server() as made:
        yield made


@pytest.fixture(scope="module")
def dsn(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with bare_database(tmp_path_factory.mktemp("database")) as made:
        yield made


@pytest.fixture
def tables(dsn: str) -> Iterator[Connection]:
    connection = database.connect(dsn)
    connection.execute("TRUNCATE deliveries, reports, alarms, repositories CASCADE")
    yield connection
    connection.close()


def mail_config(server: MailServer, home: Path, **changes: object) -> Config:
    known: dict[str, object] = {
        "server": "127.0.0.1", "port": server.port, "security": "plain", "sender": "lading@example.org", "admin": (ADMIN,),
        "quiet": 0.0, "alarm_after": 0.0, "recovered_after": 0.0,
    }  # fmt: skip
    mail = MailConfig(**(known | changes))  # type: ignore[arg-type]  # attrs says which there are
    return Config(home=home, mail=mail, people=PeopleConfig(template="{sender}@example.org"))


def office(connection: Connection, config: Config) -> Office:
    drawer = TableDrawer()
    drawer.connection = connection
    return Office(drawer, config, program="server")


def put(connection: Connection, stage: Stage, *, sender: str = "alice@mr1", session: str = "MR1") -> DeliveryId:
    """A row that came to rest."""
    delivery = Delivery(new_delivery_id(), "mri", Labels("DEMO", "sub-001", session), sender=sender, files=3, bytes=900)
    deliveries.register(connection, "main", "repo", delivery, 0)
    row = deliveries.load(connection, delivery.id)
    assert row is not None
    error = {"code": "refused", "message": f"{session} is refused", "next": f"lading retry {row.id}"}
    change = deliveries.Change(error=error if stage is Stage.HELD else None)  # type: ignore[arg-type]  # a dict of str
    told = deliveries.Told("3 verified", 0.1)
    deliveries.advance(connection, row, stage, change, told)
    return delivery.id


# -- the drawer of tables ----------------------------------------------------------------------------------------------


def test_the_tables_give_no_report_of_a_resting_place_and_the_one_tried_last_comes_last(tables: Connection) -> None:
    drawer = TableDrawer()
    drawer.connection = tables
    at = datetime(2027, 1, 1, tzinfo=UTC)
    for number in range(101):
        drawer.post(Posted("chat", Report(f"20270101000000.{number:04}", (), "old", "old", at)))
    drawer.post(Posted("mail", Report("20270101000001.x", (ADMIN,), "new", "new", at)))
    first = drawer.due(())[0]

    drawer.put_off(first.report, 0.0, refused=False)

    assert first.report not in [posted.report for posted in drawer.due(())]
    assert [(posted.place, posted.attempts) for posted in drawer.due({"chat"})] == [("mail", 0)]


def test_five_hundred_that_fail_at_once_are_one_mail_each_to_sender_and_operators(
    tables: Connection, server: MailServer, tmp_path: Path
) -> None:
    with tables.transaction():
        for number in range(500):
            put(tables, Stage.HELD, session=f"MR{number}")

    made = office(tables, mail_config(server, tmp_path))
    for _ in range(3):
        made.round([])

    assert sorted(str(mail["To"]) for mail in server.mails) == [ADMIN, "alice@example.org"]
    assert set(server.subjects()) == {"[lading] 500 sessions held"}


def test_each_person_gets_what_is_theirs(tables: Connection, server: MailServer, tmp_path: Path) -> None:
    alices, bobs = put(tables, Stage.VERIFIED), put(tables, Stage.VERIFIED, sender="bob@mr1")

    office(tables, mail_config(server, tmp_path)).round([])

    (alice,), (bob,) = server.to("alice@example.org"), server.to("bob@example.org")
    assert f"delivery {alices}" in alice.get_content()
    assert bobs not in alice.get_content()
    assert f"delivery {bobs}" in bob.get_content()
    assert "3 verified" in bob.get_content()


def test_labels_stay_out_of_mails_when_the_settings_say_so(
    tables: Connection, server: MailServer, tmp_path: Path
) -> None:
    put(tables, Stage.HELD)

    office(tables, mail_config(server, tmp_path, labels=False)).round([])

    assert len(server.mails) == 2
    assert all("sub-001" not in mail.as_string() and "MR1" not in mail.get_content() for mail in server.mails)


def test_a_delivery_that_a_job_is_about_has_not_ended(tables: Connection, server: MailServer, tmp_path: Path) -> None:
    from lading.engine import jobs

    held = put(tables, Stage.HELD)
    jobs.queue(tables, jobs.Job(held, 1, "release"))
    made = office(tables, mail_config(server, tmp_path))
    made.round([])
    assert server.mails == []

    tables.execute("DELETE FROM procrastinate_jobs")
    made.round([])
    assert len(server.mails) == 2


def test_another_office_on_the_same_database_does_not_tell_twice(
    tables: Connection, dsn: str, server: MailServer, tmp_path: Path
) -> None:
    put(tables, Stage.VERIFIED)
    config = mail_config(server, tmp_path)
    second = database.connect(dsn)

    with tables.transaction():
        drawer = TableDrawer()
        drawer.connection = tables
        assert len(drawer.untold(Audience.PERSON)) == 1
        office(second, config).round([])
        assert server.mails == []
    office(second, config).round([])
    office(tables, config).round([])
    second.close()

    assert len(server.mails) == 1


def test_what_ended_before_there_were_reports_is_history(
    tables: Connection, server: MailServer, tmp_path: Path
) -> None:
    put(tables, Stage.VERIFIED)
    (folder,) = {Path(database.__file__).parent / "sql"}
    tables.execute(
        "DROP INDEX deliveries_untold_person, deliveries_untold_admin; DROP TABLE reports, alarms;"
        "ALTER TABLE deliveries DROP COLUMN told_person, DROP COLUMN told_admin; DROP FUNCTION lading_mark;"
    )
    tables.execute((folder / "0002_reports.sql").read_text(encoding="utf-8"))

    made = office(tables, mail_config(server, tmp_path))
    made.round([])
    assert server.mails == []

    put(tables, Stage.VERIFIED, session="MR2")
    made.round([])
    assert "MR2" in server.mails[0].get_content()
    assert "MR1" not in server.mails[0].get_content()


def test_what_the_server_finds_wrong(tables: Connection, server: MailServer, tmp_path: Path) -> None:
    Inbox.create(tmp_path / "there")
    (tmp_path / "empty").mkdir()
    inboxes = {"main": InboxConfig(path=tmp_path / "there"), "share": InboxConfig(path=tmp_path / "empty")}
    config = mail_config(server, tmp_path, expect={"mr1": 1.0, "mr2": 1.0})
    config = Config(home=tmp_path, inboxes=inboxes, mail=config.mail)
    admission.limit(tables, "xnat", 2)
    admission.has_failed(tables, "xnat", _now(tables), "502")
    put(tables, Stage.VERIFIED, sender="a@mr1")

    found = {c.key: c for c in conditions(tables, config, FolderParts(config))}

    assert set(found) == {"repository/xnat", "inbox/share", "sender/mr2"}
    assert found["repository/xnat"].since == pytest.approx(time.time(), abs=60)
    assert found["sender/mr2"].after == 3600
    tables.execute("UPDATE deliveries SET arrived_at = now() - interval '2 hours'")
    again = {c.key: c for c in conditions(tables, config, FolderParts(config))}
    assert again["sender/mr1"].after == 0


def _now(connection: Connection):  # type: ignore[no-untyped-def]  # the database's clock
    row = connection.execute("SELECT now()").fetchone()
    assert row is not None
    return row[0]


def wait_until(site: EngineSite, query: str, *, seconds: float = 120) -> None:
    """Until the server's database answers `query` with a row."""
    deadline = time.monotonic() + seconds
    with database.connect(site.dsn) as connection:
        while connection.execute(query).fetchone() is None:  # type: ignore[arg-type]  # our own text
            assert time.monotonic() < deadline, query
            time.sleep(0.05)


def wait_until_crossed_off(site: EngineSite) -> None:
    wait_until(site, "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM reports WHERE done_at IS NULL)")


# -- the whole server --------------------------------------------------------------------------------------------------


def test_a_refusal_is_told_then_what_became_of_it_and_no_more(tmp_path: Path, server: MailServer) -> None:
    with reporting_site(tmp_path, server) as site:
        refused = site.put("S1", participant="sub-O01")
        server.wait_for(1)
        assert "does not fit" in server.mails[0].get_content()

        site.ledger.fix(refused, Labels("P", "sub-001", "S1"))
        server.wait_for(2)
        assert "P/sub-001/S1" in server.mails[1].get_content()
        assert "3 verified" in server.mails[1].get_content()

        site.ledger.verify(refused)
        site.put("S2", participant="sub-002")
        server.wait_for(3)

    assert [str(mail["To"]) for mail in server.mails] == ["scanner@example.org"] * 3
    assert refused not in server.mails[2].get_content()


def test_a_kill_between_sending_and_crossing_off_repeats_the_same_mail_once(tmp_path: Path, server: MailServer) -> None:
    with reporting_site(tmp_path, server) as site:
        killed = threading.Event()

        def kill_once() -> None:
            if not killed.is_set():
                site.kill()  # the mail is taken, its sender never hears of it
                killed.set()

        server.on_mail = kill_once
        first = site.put("S1")
        server.wait_for(1)
        assert killed.wait(20)
        site.start()
        server.wait_for(2)
        wait_until_crossed_off(site)
        site.kill()
        site.start()
        site.put("S2", participant="sub-002")
        server.wait_for(3)

    one, again, other = server.mails
    assert one["Message-ID"] == again["Message-ID"] != other["Message-ID"]
    assert one.as_string() == again.as_string()
    assert first in one.get_content()
    assert first not in other.get_content()


def test_mail_that_could_not_leave_leaves_when_its_server_is_back(tmp_path: Path, server: MailServer) -> None:
    with reporting_site(tmp_path, server) as site:
        server.stop()
        ids = [site.put(f"S{number}", participant=f"sub-{number}") for number in range(3)]
        site.until(Stage.VERIFIED)
        wait_until(site, "SELECT 1 FROM reports")
        ids.append(site.put("S9", participant="sub-9"))
        site.until(Stage.VERIFIED)
        site.kill()
        server.start()
        site.start()
        server.wait_for(2)
        site.stop()

    texts = [mail.get_content() for mail in server.mails]
    assert len(texts) == 2
    assert [sum(f"delivery {id_}" in text for text in texts) for id_ in ids] == [1] * 4


def test_a_repository_that_is_away_is_one_alarm_and_one_all_clear(tmp_path: Path, server: MailServer) -> None:
    with reporting_site(tmp_path, server, quiet=2) as site:
        (site.repo / "down").touch()
        ids = [site.put(f"S{number}", participant=f"sub-{number}") for number in range(5)]
        server.wait_for(1)
        time.sleep(4)  # for what must not come
        assert server.subjects() == ["[lading] alarm: repo is not reachable"]
        (site.repo / "down").unlink()
        with suppress(NotNow):  # it may be trying again of its own accord
            site.ledger.retry(ids[0])
        site.until(Stage.VERIFIED)
        wait_until(site, "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM alarms)")
        wait_until(site, "SELECT 1 WHERE NOT EXISTS (SELECT 1 FROM deliveries WHERE told_person = '')")
        wait_until_crossed_off(site)

    to_admin, to_sender = server.to(ADMIN), server.to("scanner@example.org")
    assert [mail["Subject"] for mail in to_admin] == [
        "[lading] alarm: repo is not reachable",
        "[lading] well again: repo is not reachable",
    ]
    assert "deliveries wait for it" in to_admin[0].get_content()
    assert [sum(f"delivery {id_}" in mail.get_content() for mail in to_sender) for id_ in ids] == [1] * 5


def test_settings_for_mail_that_cannot_be_used_stop_the_server_at_the_start(tmp_path: Path, server: MailServer) -> None:
    tables = TABLES.format(port=server.port, admin="not an address", quiet=1)
    with engine_site(tmp_path, more=tables) as site:
        assert site.process is not None
        assert site.process.wait(60) != 0
        assert "not an address" in (tmp_path / "log").read_text()
