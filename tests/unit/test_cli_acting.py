"""What commands answer when one of several things fails, or nothing happened."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from lading.cleaning import Cleaned
from lading.cli.context import App
from lading.cli.in_person import Seen
from lading.cli.main import lading
from lading.delivery import Delivery, DeliveryId, FileOutcome, Labels, Outcome, Stage
from lading.desk import Account, Desk
from lading.errors import TargetMissing

FIRST, SECOND, THIRD = (DeliveryId(f"20260101-0000000{number}") for number in (1, 2, 3))


class Held:
    """A memory of three deliveries; the second one cannot be tried again."""

    def __init__(self) -> None:
        self.retried: list[DeliveryId] = []
        self.asked: list[tuple[str, str]] = []

    def starting_with(self, prefix: str) -> list[DeliveryId]:
        return [one for one in (FIRST, SECOND, THIRD) if one.startswith(prefix) or one.endswith(prefix)]

    def account(self, delivery: DeliveryId) -> Account:
        about = Delivery(delivery, "mri", Labels("DEMO", "sub-001", "MR1"), stage=Stage.HELD)
        return Account(about, datetime.now(UTC), ("server",))

    def recent(self, **_: object) -> list[Account]:
        return []

    def retry(self, delivery: DeliveryId) -> None:
        if delivery == SECOND:
            raise TargetMissing("it is cancelled")
        self.retried.append(delivery)

    def pause(self, target: str) -> None:
        self.asked.append(("pause", target))

    def resume(self, target: str) -> None:
        self.asked.append(("resume", target))


@pytest.fixture
def held(monkeypatch: pytest.MonkeyPatch) -> Held:
    memory = Held()

    @contextmanager
    def desk(_: App) -> Iterator[Desk]:
        yield Desk(server=memory)  # type: ignore[arg-type]  # as much of a memory as is asked for

    monkeypatch.setattr(App, "desk", desk)
    return memory


def call(*words: str) -> Result:
    return CliRunner().invoke(lading, list(words))


def test_retry_of_several_answers_with_one_document(held: Held) -> None:
    ran = call("retry", FIRST, THIRD, FIRST, "--json")

    assert ran.exit_code == 0
    assert [row["id"] for row in json.loads(ran.stdout)["deliveries"]] == [FIRST, THIRD]
    assert held.retried == [FIRST, THIRD]


def test_retry_of_one_answers_as_ever(held: Held) -> None:
    assert json.loads(call("retry", FIRST, "--json").stdout) == {"id": FIRST, "done": "is tried again"}
    assert held.retried == [FIRST]


@pytest.mark.parametrize("as_json", [True, False])
def test_one_that_cannot_be_retried_keeps_none_of_the_others_and_is_told(held: Held, as_json: bool) -> None:
    ran = call("retry", FIRST, SECOND, THIRD, *(["--json"] if as_json else []))

    assert ran.exit_code == TargetMissing.exit_code
    assert held.retried == [FIRST, THIRD]
    if as_json:
        rows = json.loads(ran.stdout)["deliveries"]
        assert [("error" in row, "done" in row) for row in rows] == [(False, True), (True, False), (False, True)]


def test_a_slip_of_the_pen_retries_nothing(held: Held) -> None:
    ran = call("retry", FIRST, "no-such-delivery", "--json")

    assert ran.exit_code == 2
    assert "error" in json.loads(ran.stdout)
    assert held.retried == []


TWO_ROUTES = """
home = "home"
[inboxes.main]
path = "inbox"
[repositories.xnat]
kind = "xnat"
url = "https://xnat.example.org"
[routes.mri]
inbox = "main"
repository = "xnat"
[routes.ct]
inbox = "main"
repository = "xnat"
"""


@pytest.mark.parametrize("as_json", [True, False])
@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_without_a_name_nothing_is_paused_or_resumed(held: Held, tmp_path: Path, verb: str, as_json: bool) -> None:
    # Seen: who forgot the name stopped the whole facility.
    (tmp_path / "lading.toml").write_text(TWO_ROUTES)

    ran = call("--config", str(tmp_path / "lading.toml"), verb, *(["--json"] if as_json else []))

    assert ran.exit_code == 2
    assert held.asked == []
    said = json.loads(ran.stdout)["error"]["message"] if as_json else ran.stderr
    assert f"{verb} what? Name a delivery (its id), a route (ct, mri), a repository (xnat)" in said
    assert f"lading {verb} all" in said


@pytest.mark.parametrize("verb", ["pause", "resume"])
def test_all_is_everything_and_a_name_is_one(held: Held, verb: str) -> None:
    assert call(verb, "all").exit_code == 0
    assert call(verb, FIRST).exit_code == 0
    assert held.asked == [(verb, "all"), (verb, FIRST)]


def test_files_of_which_nothing_was_said_are_not_seen() -> None:
    seen = Seen(2)
    assert not seen.whole

    seen.collect([FileOutcome("a.dcm", 1, "0" * 64, Outcome.VERIFIED)], None)
    assert not seen.whole
    assert seen.untold == 1

    seen.collect([FileOutcome("b.dcm", 1, "0" * 64, Outcome.VERIFIED)], None)
    assert seen.whole


@pytest.mark.parametrize("as_json", [True, False])
def test_what_was_removed_before_cleaning_failed_is_told(
    held: Held, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, as_json: bool
) -> None:
    def cleaning(*_: object, **__: object) -> Iterator[Cleaned]:
        yield Cleaned(FIRST, "source removed", 3, 300, "/data/MR1")
        raise TargetMissing("the inbox is away")

    (tmp_path / "lading.toml").write_text('home = "home"\n')
    monkeypatch.setattr("lading.cli.acting.cleaning", cleaning)

    ran = call("--config", str(tmp_path / "lading.toml"), "clean", *(["--json"] if as_json else []))

    assert ran.exit_code == TargetMissing.exit_code
    if as_json:
        document = json.loads(ran.stdout)
        assert [line["id"] for line in document["cleaned"]] == [FIRST]
        assert document["error"]["message"] == "the inbox is away"
    else:
        assert FIRST in ran.stdout
        assert "the inbox is away" in ran.stderr


def test_a_named_delivery_of_which_nothing_was_cleaned_is_named(held: Held, tmp_path: Path) -> None:
    (tmp_path / "lading.toml").write_text('home = "home"\n')

    ran = call("--config", str(tmp_path / "lading.toml"), "clean", FIRST, "--json")

    (line,) = json.loads(ran.stdout)["cleaned"]
    assert (line["id"], line["files"], line["why"]) == (FIRST, 0, "it is HELD")


class Empty:
    """A place where nothing is ready."""

    quiet = 0.0

    def round(self, **_: object) -> list[object]:
        return []


@pytest.mark.parametrize(("words", "code"), [((), 0), (("20260101-00000001",), 4)])
def test_fetching_by_name_what_is_not_there_is_no_success(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, words: tuple[str, ...], code: int
) -> None:
    (tmp_path / "lading.toml").write_text('home = "home"\n')
    monkeypatch.setattr("lading.cli.fetching.make_fetcher", lambda *_: Empty())

    ran = call("--config", str(tmp_path / "lading.toml"), "fetch", "partner", *words, "--json")

    assert ran.exit_code == code
    assert ("error" in json.loads(ran.stdout)) == (code != 0)
