"""Who is told, in which words, and how a mail leaves: against a real mail server on loopback."""

import json
import threading
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from lading.config import MailConfig, PeopleConfig
from lading.delivery import Delivery, Labels, Stage, new_delivery_id
from lading.desk import Account
from lading.errors import ConfigError, NoSuchRecipient, ReporterAway, ReportError
from lading.findings import error, note
from lading.ports import Report, Reporter
from lading.reporters import words
from lading.reporters.chat import AppriseReporter
from lading.reporters.mail import MailReporter
from lading.reporters.people import People
from lading.reporters.words import Story
from lading.testing.mailserver import PASSWORD, USER, MailServer, mail_server, make_certificate
from lading.testing.servers import free_port

NOW = datetime(2026, 5, 4, 18, 15, tzinfo=UTC)


def delivery(*, sender: str = "alice@scanner", stage: Stage = Stage.VERIFIED, participant: str = "sub-001") -> Delivery:
    labels = Labels("DEMO", participant, "MR1")
    return Delivery(new_delivery_id(NOW), "mri", labels, stage, files=3, bytes=4_200_000, sender=sender)


def report(subject: str = "hello", text: str = "one\ntwo\n", to: tuple[str, ...] = ("alice@example.org",)) -> Report:
    return Report("20260504.1", to, subject, text, NOW)


def settings(running: MailServer, **changes: object) -> MailConfig:
    known: dict[str, object] = {
        "server": "127.0.0.1", "port": running.port, "security": running.security, "sender": "lading@example.org", "timeout": 20.0,
    }  # fmt: skip
    return MailConfig(**(known | changes))  # type: ignore[arg-type]  # attrs says which there are


@pytest.fixture
def plain() -> Iterator[MailServer]:
    with mail_server() as server:
        yield server


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    return make_certificate(tmp_path_factory.mktemp("tls"))


# -- whose delivery it is ----------------------------------------------------------------------------------------------


def test_the_sender_comes_before_the_participant_and_the_project() -> None:
    people = People(PeopleConfig(addresses={"alice": "a@x.org", "sub-001": "s@x.org", "DEMO": "p@x.org"}))

    assert people.address_of(delivery()) == "a@x.org"
    assert people.address_of(delivery(sender="root@scanner")) == "s@x.org"
    assert people.address_of(delivery(sender="", participant="sub-2")) == "p@x.org"


def test_a_template_is_filled_from_sender_and_labels() -> None:
    assert People(PeopleConfig(template="{sender}@example.org")).address_of(delivery()) == "alice@example.org"
    assert People(PeopleConfig(template="{participant}@x.org")).address_of(delivery()) == "sub-001@x.org"


@pytest.mark.parametrize("sender", ["", "dropped", "a b@h", "a,b@h", "-v@h", "x\nBcc: y@h", "<x>@h", "é@h", "a" * 80])
def test_a_sender_that_is_no_plain_word_addresses_nobody(sender: str) -> None:
    assert People(PeopleConfig(template="{sender}@example.org")).address_of(delivery(sender=sender)) == ""


@pytest.mark.parametrize("template", ["{user}@x.org", "{sender}", "{sender", "{sender.__class__}@x.org", "{}@x.org"])
def test_a_template_that_cannot_be_filled_is_refused_at_the_start(template: str) -> None:
    with pytest.raises(ConfigError, match=r"people\.template"):
        People(PeopleConfig(template=template))


def test_an_address_that_is_none_is_refused_at_the_start() -> None:
    with pytest.raises(ConfigError, match="alice"):
        People(PeopleConfig(addresses={"alice": "alice at example"}))


# -- the words ---------------------------------------------------------------------------------------------------------


def story(stage: Stage, **about: object) -> Story:
    account = Account(delivery(stage=stage), NOW, ("server",), **about)  # type: ignore[arg-type]  # the dataclass says which
    return Story(account, "2 verified, 1 filtered", "https://xnat.example.org/data/experiments/E1")


def test_an_arrival_is_told_with_figures_and_link() -> None:
    subject, text = words.summary([story(Stage.VERIFIED)], {Stage.VERIFIED: 1}, labels=True)

    assert subject == "[lading] 1 session arrived"
    assert "DEMO/sub-001/MR1" in text
    assert "3 files, 4.2 MB: 2 verified, 1 filtered" in text
    assert "https://xnat.example.org/data/experiments/E1" in text


def test_a_refusal_is_told_with_its_finding_and_the_next_command() -> None:
    found = (error("label-invalid", "participant 'sub-O01' does not fit", hint="lading fix X --participant sub-001"),)

    subject, text = words.summary([story(Stage.REJECTED, findings=found)], {Stage.REJECTED: 1}, labels=True)

    assert subject == "[lading] 1 session refused"
    assert "participant 'sub-O01' does not fit" in text
    assert "next: lading fix X --participant sub-001" in text


def test_without_labels_nothing_that_could_quote_them_is_told() -> None:
    found = (error("label-invalid", "participant 'sub-O01' does not fit", hint="lading fix X --participant sub-001"),)
    refused = story(Stage.REJECTED, findings=found, error="in DEMO/sub-O01")

    subject, text = words.summary([refused], {Stage.REJECTED: 1}, labels=False)

    assert "sub-" not in subject + text
    assert "DEMO" not in text
    assert "label-invalid" in text
    assert f"next: lading show {refused.account.delivery.id}" in text


def test_an_addendum_is_told_and_other_notes_are_not() -> None:
    found = (note("addendum", "series 4 came later, into the same session"), note("filtered", "Thumbs.db is junk"))

    _, text = words.summary([story(Stage.VERIFIED, findings=found)], {Stage.VERIFIED: 1}, labels=True)

    assert "series 4 came later" in text
    assert "Thumbs.db" not in text


def test_a_long_night_fits_into_one_mail() -> None:
    many = [story(Stage.HELD) for _ in range(words.SHOWN)]

    subject, text = words.summary(many, {Stage.HELD: 500}, labels=True, to_admin=True)

    assert subject == "[lading] 500 sessions held"
    assert f"and {500 - words.SHOWN} more: lading list --stage HELD" in text
    assert len(text.splitlines()) < 300


# -- the mail ----------------------------------------------------------------------------------------------------------


def test_a_report_arrives_as_it_was_written(plain: MailServer) -> None:
    MailReporter(settings(plain)).send(report("Grüße", "line ü\n" + "x" * 3000 + "\n.\nend\n"))

    (mail,) = plain.mails
    assert mail["Subject"] == "Grüße"
    assert mail["To"] == "alice@example.org"
    assert mail["From"] == "lading@example.org"
    assert mail["Message-ID"] == "<lading.20260504.1@example.org>"
    assert mail["Auto-Submitted"] == "auto-generated"
    assert mail.get_content().splitlines() == ["line ü", "x" * 3000, ".", "end"]


def test_the_same_report_is_the_same_mail_again(plain: MailServer) -> None:
    reporter = MailReporter(settings(plain))

    reporter.send(report())
    reporter.send(report())

    first, second = plain.mails
    assert first["Message-ID"] == second["Message-ID"]
    assert first["Date"] == second["Date"]
    assert first.get_content() == second.get_content()


def test_labels_cannot_add_headers_recipients_or_a_second_mail(plain: MailServer) -> None:
    nasty = "MR1\r\nBcc: eve@evil.org\r\n\r\n<html>\x00\x1b[31m\u2028\udce9"

    MailReporter(settings(plain)).send(report(nasty, f"{nasty}\r\n.\r\nMAIL FROM:<eve@evil.org>\r\n"))

    (mail,) = plain.mails
    assert mail["Bcc"] is None
    assert "\n" not in mail["Subject"]
    assert not mail.is_multipart()
    assert "\x1b" not in mail.get_content()
    assert mail["To"] == "alice@example.org"


def test_a_recipient_that_is_no_address_is_never_handed_on(plain: MailServer) -> None:
    with pytest.raises(ConfigError):
        MailReporter(settings(plain)).send(report(to=("alice@example.org>\r\nRCPT TO:<eve@evil.org",)))
    assert plain.mails == []


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_over_tls_with_a_login_from_the_environment(
    security: str, certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LADING_MAIL_USER", USER)
    monkeypatch.setenv("LADING_MAIL_PASSWORD", PASSWORD)
    with mail_server(security=security, certificate=certificate, login=True) as server:
        reporter = MailReporter(settings(server, server="localhost", ca_file=certificate[0], credentials="env"))

        reporter.probe()
        assert server.mails == []
        reporter.send(report())

        assert len(server.mails) == 1
        assert server.logins == ["good", "good"]


@pytest.mark.parametrize("security", ["starttls", "tls"])
def test_a_certificate_of_an_unknown_authority_is_refused_and_no_login_leaves(
    security: str, certificate: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LADING_MAIL_USER", USER)
    monkeypatch.setenv("LADING_MAIL_PASSWORD", PASSWORD)
    other, _ = make_certificate(tmp_path / "other")
    with mail_server(security=security, certificate=certificate, login=True) as server:
        for ca_file in (None, other):
            reporter = MailReporter(settings(server, server="localhost", ca_file=ca_file, credentials="env"))
            with pytest.raises(ReportError, match="certificate") as caught:
                reporter.send(report())
            assert "ca_file" in caught.value.next_command
            assert not caught.value.retried
        assert server.logins == []
        assert server.mails == []


def test_a_certificate_for_another_name_is_refused(tmp_path: Path) -> None:
    files = make_certificate(tmp_path / "a", "mail.example.org")
    with (
        mail_server(security="starttls", certificate=files) as server,
        pytest.raises(ReportError, match="certificate"),
    ):
        MailReporter(settings(server, server="localhost", ca_file=files[0])).probe()


def test_a_wrong_password_is_the_operators_and_stays_secret(certificate: tuple[Path, Path], tmp_path: Path) -> None:
    secret = tmp_path / "mail.toml"
    secret.write_text(f'user = "{USER}"\npassword = "wr0ng-secret"\n')
    secret.chmod(0o600)
    with mail_server(security="starttls", certificate=certificate, login=True) as server:
        reporter = MailReporter(
            settings(server, server="localhost", ca_file=certificate[0], credentials=f"file:{secret}")
        )
        with pytest.raises(ReportError, match="refused the login") as caught:
            reporter.probe()

    assert "wr0ng-secret" not in f"{caught.value!r} {caught.value.as_dict()} {reporter!r}"
    assert not isinstance(caught.value, ReporterAway)


def test_a_password_file_that_others_may_read_is_not_used(plain: MailServer, tmp_path: Path) -> None:
    secret = tmp_path / "mail.toml"
    secret.write_text('user = "u"\npassword = "p"\n')
    secret.chmod(0o640)

    with pytest.raises(ReportError, match="can be read by others") as caught:
        MailReporter(settings(plain, credentials=f"file:{secret}")).probe()
    assert caught.value.next_command == f"chmod 600 {secret}"
    assert plain.connections == 0


def test_a_server_without_starttls_gets_no_mail_in_the_clear(plain: MailServer) -> None:
    with pytest.raises(ReportError, match="STARTTLS"):
        MailReporter(settings(plain, security="starttls")).send(report())
    assert plain.mails == []


def test_in_the_clear_only_to_this_machine(plain: MailServer) -> None:
    with pytest.raises(ConfigError, match="this machine"):
        MailReporter(settings(plain, server="mail.example.org"))


def test_a_server_that_is_away_is_worth_another_try(plain: MailServer) -> None:
    with pytest.raises(ReporterAway, match="does not answer"):
        MailReporter(settings(plain, port=free_port())).send(report())


@pytest.mark.parametrize(("answer", "lasting"), [("550 no such user", True), ("452 mailbox full", False)])
def test_what_the_server_says_about_a_recipient(plain: MailServer, answer: str, lasting: bool) -> None:
    plain.refusals["alice@example.org"] = answer

    with pytest.raises(NoSuchRecipient, match=answer) as caught:
        MailReporter(settings(plain)).send(report())
    assert (caught.value.readers, caught.value.lasting) == ((), lasting)


def test_a_server_that_ends_the_conversation_is_away(plain: MailServer) -> None:
    plain.refusals["alice@example.org"] = "421 going down"

    with pytest.raises(ReporterAway, match="421"):
        MailReporter(settings(plain)).send(report())


def test_one_of_two_readers_who_is_refused_is_named(plain: MailServer) -> None:
    plain.refusals["bob@example.org"] = "451 later"

    with pytest.raises(NoSuchRecipient, match="451 later") as caught:
        MailReporter(settings(plain)).send(replace(report(), to=("alice@example.org", "bob@example.org")))

    assert caught.value.readers == ("bob@example.org",)
    assert len(plain.mails) == 1


@pytest.mark.parametrize(
    "changes", [{"sender": "nobody"}, {"sender": ""}, {"admin": ("x",)}, {"security": "ssl"}, {"credentials": "pass"}]
)
def test_settings_that_cannot_be_used_are_named(plain: MailServer, changes: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        MailReporter(settings(plain, **changes)).probe()


def test_the_mail_reporter_fills_its_role(plain: MailServer) -> None:
    assert isinstance(MailReporter(settings(plain)), Reporter)
    assert isinstance(AppriseReporter.from_settings({"urls": "env:X"}, where="reporters.chat"), Reporter)


def test_a_chat_hears_the_report(monkeypatch: pytest.MonkeyPatch) -> None:
    heard: list[dict[str, str]] = []

    class Chat(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            heard.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    chat = HTTPServer(("127.0.0.1", 0), Chat)
    threading.Thread(target=chat.serve_forever, daemon=True).start()
    monkeypatch.setenv("CHAT", f"json://127.0.0.1:{chat.server_port}")
    reporter = AppriseReporter.from_settings({"urls": "env:CHAT"}, where="reporters.chat")
    reporter.probe()
    assert heard == []

    reporter.send(report("[lading] alarm: xnat is not reachable"))
    chat.shutdown()
    chat.server_close()

    assert [(h["title"], h["message"].strip()) for h in heard] == [
        ("[lading] alarm: xnat is not reachable", "one\ntwo")
    ]
    with pytest.raises(ReporterAway):
        reporter.send(report())


def test_a_chat_address_in_the_settings_is_refused_unquoted() -> None:
    with pytest.raises(ConfigError) as caught:
        AppriseReporter.from_settings({"urls": "slack://t0ken/secret"}, where="reporters.chat")
    assert "t0ken" not in str(caught.value)
