"""What every Importer must do, over a real server or a stand-in that has the real one's traps.

A test module subclasses `ImporterSuite` and offers a fixture `world` that returns a `World`. The suite looks at the repository
with its own eyes: through the world, never through the importer under test.
"""

import logging
import time
from collections import Counter
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

import pytest

from lading.delivery import FileOutcome, Outcome, Parcel
from lading.errors import AccessDenied, LadingError, Refused, TargetMissing, TargetUnavailable
from lading.ports import Importer, ImportRecord, Journal
from lading.testing.carrying import FileJournal
from lading.testing.importing import Errand

PASSWORD = "a-Pässword/that:must#not-show"  # noqa: S105 - of stand-ins only
NASTY = (
    "notes.txt",
    "physio/log #1.txt",
    "100% sure?.txt",
    "sub folder/ünïcödé & more.pdf",
    "-dash",
    "a+b=c;d,e.txt",
    "empty.txt",
    "deep/er/and/deeper/x.bin",
)


IMAGES = (".dcm", ".tif")
"""What a world's images are called; everything else is a companion."""


class World(Protocol):
    """A repository to import into, and what a test may do to it. Every test gets a fresh project."""

    def importer(self, **route: object) -> Importer:
        """A new importer with an account that may edit the project; `route` changes its `[routes.X.import]` table."""

    def importer_as(self, role: str) -> Importer:
        """One with other rights: "nobody" (wrong password), "reader" (may read the project only)."""

    def errand(self, parcel: Parcel) -> Errand:
        """The same import as a process of its own."""

    def parcel(
        self, session: str = "MR1", *, images: int = 3, companions: Iterable[str] = (), project: str = ""
    ) -> Parcel:
        """A published session with so many images and files; `project` "" is the fresh one."""

    def held(self, parcel: Parcel) -> Counter[str]:
        """SHA-256 of every file that the repository holds for the parcel's session, as it lies on the server's disk."""

    def sessions(self) -> int:
        """How many sessions the project has, wherever they are kept."""

    def changes(self) -> int:
        """How many requests so far could have changed something."""

    def logins_refused(self) -> int:
        """How many logins the server refused."""

    def go_down(self) -> None:
        """The server is away: nothing listens."""

    def come_back(self) -> None:
        """It is back, with what it had, and no login survived."""

    def show_no_digests(self) -> None:
        """From now on files are listed without any checksum, whatever the client asks for."""

    def lose(self, count: int) -> None:
        """The next import loses so many images without a word."""

    def damage(self, parcel: Parcel, name: str) -> None:
        """Flip a byte of a stored file on the server's disk."""

    def destroy(self, parcel: Parcel, name: str) -> None:
        """Remove a stored file from the server's disk, behind the server's back."""

    def lose_answers(self, count: int) -> None:
        """The next `count` changing requests are carried out, but the client gets an error."""

    def expire_login(self) -> None:
        """The login is lost at the next request."""


class MemoryJournal:
    """A journal that lasts as long as the test."""

    def __init__(self) -> None:
        self.notes: dict[str, str] = {}

    def note(self, key: str, value: str) -> None:
        """Remember."""
        self.notes[key] = value

    def recall(self, key: str) -> str | None:
        """The last value, or None."""
        return self.notes.get(key)


def carry_out(importer: Importer, parcel: Parcel, journal: Journal | None = None) -> ImportRecord:
    """Plan and run."""
    return importer.run(parcel, importer.plan(parcel), journal or MemoryJournal())


def bring_home(
    importer: Importer, parcel: Parcel, journal: Journal | None = None, *, attempts: int = 8
) -> dict[str, FileOutcome]:
    """What the engine does: run and verify until all is well, trying again after errors that say so."""
    journal = journal or MemoryJournal()
    outcomes: dict[str, FileOutcome] = {}
    for _ in range(attempts):
        try:
            outcomes = by_path(importer.verify(parcel, carry_out(importer, parcel, journal)))
        except LadingError as problem:
            if not problem.retried:
                raise
            time.sleep(0.05)
            continue
        if all(outcome.outcome is Outcome.VERIFIED for outcome in outcomes.values()):
            break
    return outcomes


def by_path(outcomes: Iterable[FileOutcome]) -> dict[str, FileOutcome]:
    """Outcomes by file; a file has one."""
    found: dict[str, FileOutcome] = {}
    for outcome in outcomes:
        assert outcome.path not in found, f"two outcomes for {outcome.path}"
        found[outcome.path] = outcome
    return found


def digests(parcel: Parcel) -> Counter[str]:
    """SHA-256 of every file of the parcel."""
    return Counter(entry.sha256 for entry in parcel.manifest)


def all_verified(outcomes: dict[str, FileOutcome], parcel: Parcel) -> bool:
    """Every file of the manifest, and each one proven."""
    return set(outcomes) == {entry.path for entry in parcel.manifest} and all(
        outcome.outcome is Outcome.VERIFIED for outcome in outcomes.values()
    )


class ImporterSuite:
    """Subclass it, offer `world`, and every test here is about your importer.

    `kills_every`: 1 kills it at each of its requests; more leaves some out, where another class kills at each.
    """

    kills_every = 1

    @pytest.fixture
    def world(self) -> World:
        raise NotImplementedError

    def test_every_file_arrives_unchanged_and_is_verified(self, world: World) -> None:
        parcel = world.parcel(images=4, companions=NASTY)
        importer = world.importer()

        record = carry_out(importer, parcel)
        outcomes = by_path(importer.verify(parcel, record))

        assert all_verified(outcomes, parcel)
        assert not digests(parcel) - world.held(parcel)
        assert all(outcome.where for outcome in outcomes.values())

    def test_planning_changes_nothing(self, world: World) -> None:
        parcel = world.parcel(companions=["a.txt"])
        importer = world.importer()
        importer.probe()
        before = world.changes()

        plan = importer.plan(parcel)

        assert plan.steps
        assert world.changes() == before
        assert world.sessions() == 0

    def test_importing_twice_is_harmless(self, world: World) -> None:
        parcel = world.parcel(companions=["a.txt"])
        importer, journal = world.importer(), MemoryJournal()
        carry_out(importer, parcel, journal)
        held = world.held(parcel)

        again = carry_out(importer, parcel, journal)

        assert again.already_there
        assert world.sessions() == 1
        assert world.held(parcel) == held

    def test_another_machine_without_any_memory_finds_the_work_done(self, world: World) -> None:
        parcel = world.parcel(companions=["a.txt"])
        carry_out(world.importer(), parcel)
        held = world.held(parcel)

        importer = world.importer()
        again = carry_out(importer, parcel)

        assert again.already_there
        assert world.held(parcel) == held
        assert all_verified(by_path(importer.verify(parcel, again)), parcel)

    @pytest.mark.slow
    @pytest.mark.timeout(900)
    @pytest.mark.parametrize("after_the_answer", [False, True], ids=["before-each-request", "after-each-answer"])
    def test_killed_at_any_request_the_next_run_finishes_the_work(
        self, world: World, *, after_the_answer: bool
    ) -> None:
        lives = 0
        for at in range(1, 80, self.kills_every):
            parcel = world.parcel(f"MR{at}", images=2, companions=["a.txt"])
            errand = replace(world.errand(parcel), die_at=at, die_after_the_answer=after_the_answer)
            code = errand.run()
            assert code in (0, -9)

            outcomes = bring_home(world.importer(), parcel, FileJournal(errand.journal))

            lives += 1
            assert all_verified(outcomes, parcel), f"killed at request {at}: {outcomes}"
            assert world.sessions() == lives
            held = world.held(parcel)
            assert {digest: held[digest] for digest in digests(parcel)} == dict(digests(parcel))
            if code == 0:
                break
        assert lives > 3

    def test_a_server_that_is_away_is_unavailable_and_nothing_is_lost(self, world: World) -> None:
        parcel = world.parcel(companions=["a.txt"])
        importer, journal = world.importer(), MemoryJournal()
        plan = importer.plan(parcel)
        world.go_down()
        began = time.monotonic()

        for step in (importer.probe, lambda: importer.plan(parcel), lambda: importer.run(parcel, plan, journal)):
            with pytest.raises(TargetUnavailable):
                step()
        assert (
            time.monotonic() - began < 60
        )  # the worlds ask for the patience of a few seconds; else it is a quarter of an hour

        world.come_back()
        assert all_verified(bring_home(importer, parcel, journal), parcel)
        assert world.sessions() == 1

    def test_a_server_that_goes_away_before_the_reading_back_is_unavailable(self, world: World) -> None:
        parcel = world.parcel()
        importer = world.importer()
        record = carry_out(importer, parcel)
        world.go_down()

        with pytest.raises(TargetUnavailable):
            list(importer.verify(parcel, record))

        world.come_back()
        assert all_verified(by_path(importer.verify(parcel, record)), parcel)

    def test_a_project_that_is_not_there_is_named(self, world: World) -> None:
        parcel = world.parcel(project="NOWHERE")

        with pytest.raises(TargetMissing, match="NOWHERE") as caught:
            carry_out(world.importer(), parcel)

        assert caught.value.next_command

    def test_an_account_that_may_only_read_is_told_so_before_anything_is_sent(self, world: World) -> None:
        parcel = world.parcel()
        before = world.changes()

        with pytest.raises(TargetMissing):
            carry_out(world.importer_as("reader"), parcel)

        assert world.changes() == before
        assert world.sessions() == 0

    def test_a_wrong_password_is_denied_and_not_tried_over_and_over(self, world: World) -> None:
        importer = world.importer_as("nobody")
        before = world.logins_refused()

        with pytest.raises(AccessDenied):
            importer.probe()

        assert world.logins_refused() - before <= 2

    def test_no_secret_shows(self, world: World, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        importer, wrong = world.importer(), world.importer_as("nobody")
        parcel = world.parcel()
        record = carry_out(importer, parcel)
        with pytest.raises(AccessDenied) as caught:
            wrong.probe()

        said = [repr(importer), repr(wrong), repr(record), repr(caught.value), str(caught.value.as_dict()), caplog.text]

        assert not [text for text in said if PASSWORD in text or "wrong-" + PASSWORD in text]

    def test_a_file_without_a_digest_is_unverified(self, world: World) -> None:
        parcel = world.parcel(companions=["a.txt", "b.txt"])
        importer = world.importer()
        world.show_no_digests()

        outcomes = by_path(importer.verify(parcel, carry_out(importer, parcel)))

        assert {outcomes[name].outcome for name in ("a.txt", "b.txt")} == {Outcome.UNVERIFIED}
        assert Outcome.VERIFIED not in {outcome.outcome for outcome in outcomes.values()}

    def test_files_lost_without_a_word_are_named_and_then_only_they_are_sent(self, world: World) -> None:
        parcel = world.parcel(images=5)
        importer, journal = world.importer(), MemoryJournal()
        world.lose(2)
        record = carry_out(importer, parcel, journal)
        first = by_path(importer.verify(parcel, record))
        assert Counter(outcome.outcome for outcome in first.values()) == {Outcome.VERIFIED: 3, Outcome.MISSING: 2}

        again = carry_out(importer, parcel, journal)

        assert not again.already_there
        assert all_verified(by_path(importer.verify(parcel, again)), parcel)
        assert world.sessions() == 1
        assert {digest: world.held(parcel)[digest] for digest in digests(parcel)} == dict(digests(parcel))

    def test_a_label_that_holds_another_session_is_refused_and_left_alone(self, world: World) -> None:
        first = world.parcel("MR1")
        carry_out(world.importer(), first)
        held = world.held(first)
        other = world.parcel("MR1")

        with pytest.raises(Refused, match="MR1"):
            carry_out(world.importer(), other)

        assert world.held(first) == held
        assert world.sessions() == 1

    def test_a_file_damaged_on_the_server_is_a_mismatch(self, world: World) -> None:
        parcel = world.parcel(companions=["a.txt"])
        importer = world.importer()
        record = carry_out(importer, parcel)
        image = min(entry.path for entry in parcel.manifest if entry.path.endswith(IMAGES))
        world.damage(parcel, "a.txt")
        world.damage(parcel, image)

        outcomes = by_path(importer.verify(parcel, record))

        assert {path for path, outcome in outcomes.items() if outcome.outcome is Outcome.MISMATCH} == {"a.txt", image}

    def test_a_file_that_is_gone_from_the_servers_disk_is_missing_and_sent_again(self, world: World) -> None:
        parcel = world.parcel(companions=["a.txt", "b.txt"])
        importer, journal = world.importer(), MemoryJournal()
        record = carry_out(importer, parcel, journal)
        image = min(entry.path for entry in parcel.manifest if entry.path.endswith(IMAGES))
        world.destroy(parcel, "a.txt")
        world.destroy(parcel, image)

        outcomes = by_path(importer.verify(parcel, record))
        again = carry_out(importer, parcel, journal)

        assert {path for path, outcome in outcomes.items() if outcome.outcome is Outcome.MISSING} == {"a.txt", image}
        assert all_verified(by_path(importer.verify(parcel, again)), parcel)
        assert world.sessions() == 1

    def test_an_answer_that_got_lost_is_not_taken_for_a_failure(self, world: World) -> None:
        parcel = world.parcel(companions=["a.txt"])
        importer = world.importer()
        importer.probe()
        world.lose_answers(3)

        outcomes = bring_home(importer, parcel)

        assert all_verified(outcomes, parcel)
        assert world.sessions() == 1
        assert {digest: world.held(parcel)[digest] for digest in digests(parcel)} == dict(digests(parcel))

    def test_a_login_that_expires_is_renewed(self, world: World) -> None:
        parcel = world.parcel(companions=["a.txt"])
        importer = world.importer()
        importer.probe()
        world.expire_login()

        record = carry_out(importer, parcel)
        world.expire_login()

        assert all_verified(by_path(importer.verify(parcel, record)), parcel)

    def test_a_session_without_images_arrives_as_well(self, world: World) -> None:
        parcel = world.parcel(images=0, companions=["a.nii.gz", "b/c.json"])
        importer = world.importer()

        record = carry_out(importer, parcel)

        assert all_verified(by_path(importer.verify(parcel, record)), parcel)
        assert world.sessions() == 1
