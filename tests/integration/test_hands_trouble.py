"""Carrying with two processes, when the other one does not start, dies, stands still, or says what nobody understands."""

import os
import signal
import threading
import time
from pathlib import Path

import pytest

import transport.hands as hands_module
from lading.errors import OutOfSpace, UnexpectedFault, Unreachable
from lading.ports import NoProgress
from lading.testing import trees
from lading.testing.folder_place import FolderPlace, FolderTransport
from lading.testing.hands_world import Carry, World, is_at_work, is_running, until
from lading.testing.two_handed import Always
from transport.hands_errors import error_of


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


def both_at_work(world, errand):
    """A carry in a process of its own, and the number of the one that helps it. Neither is the owner that the settings name."""
    process = errand.start()
    until(lambda: set(world.helpers()) > {process.pid}, "nobody helps")
    until(world.placed, "nothing is carried")
    return process, next(pid for pid in world.helpers() if pid != process.pid)


def test_the_other_process_killed_is_unreachable_and_the_next_carry_finishes(world):
    errand = world.errand(pause_s=0.05)
    carry = Carry(errand)
    until(world.placed, "nobody helps")

    os.kill(world.helpers()[0], signal.SIGKILL)

    assert isinstance(carry.ended(), Unreachable)
    assert not world.inbox.root.joinpath(errand.slot.path, "seal.json").exists()
    errand.carry()
    assert trees.look(world.inbox.root / errand.slot.data) == trees.look(world.source)
    world.inbox.accept(errand.slot.delivery)


def test_the_carry_killed_ends_the_other_at_once(world):
    errand = world.errand(pause_s=0.05)
    process, pid = both_at_work(world, errand)

    process.kill()
    process.wait()
    until(lambda: not is_at_work(pid), "the other process goes on")

    placed = world.placed()
    time.sleep(0.3)
    assert world.placed() == placed
    process.stdout.close()


def test_one_that_says_nothing_any_more_is_given_up(world, monkeypatch):
    monkeypatch.setattr(hands_module, "_SILENT_S", 4.0)
    carry = Carry(world.errand(pause_s=0.05))
    until(world.placed, "nobody helps")

    os.kill(world.helpers()[0], signal.SIGSTOP)

    assert isinstance(carry.ended(), Unreachable)
    assert not [pid for pid in world.helpers() if is_running(pid)]


@pytest.mark.parametrize("python", ["/nowhere/python", "/bin/false", ""])
def test_where_no_other_process_starts_the_carry_goes_on_alone(world, monkeypatch, python):
    monkeypatch.setattr(hands_module.sys, "executable", python)
    errand = world.errand(pause_s=0.01)

    errand.carry()

    assert not world.placed()
    assert trees.look(world.inbox.root / errand.slot.data) == trees.look(world.source)


def test_where_the_other_process_may_not_log_in_the_carry_goes_on_alone(world):
    errand = world.errand(helper_may_not=True, pause_s=0.01)

    errand.carry()

    assert not world.placed()
    assert trees.look(world.inbox.root / errand.slot.data) == trees.look(world.source)


def test_settings_that_cannot_be_said_are_not_said(world):
    errand = world.errand(extra=frozenset())

    errand.carry()

    assert not world.placed()
    world.inbox.accept(errand.slot.delivery)


@pytest.mark.parametrize("said", [None, {}, {"code": "of another version", "message": "m"}])
def test_an_error_that_nobody_knows_is_unexpected(said):
    assert type(error_of(said)) is UnexpectedFault


def patient(errand, **recipe):
    """The transport of `errand`, which does not wait for the other process."""
    place = f"{FolderPlace.__module__}:{FolderPlace.__qualname__}"
    return FolderTransport(FolderPlace.from_settings(errand.settings), recipe=Always(place, errand.settings, **recipe))


def test_one_that_comes_when_all_work_is_handed_out_helps_all_the_same(world):
    errand = world.errand(pause_s=0.1)  # 8 portions: as many as wait for 4 connections

    patient(errand).carry(errand.cargo(), errand.slot, errand.journal, NoProgress())

    assert world.placed()
    assert world.most_connections() <= 4


@pytest.mark.parametrize(
    "says", ["", "no frame, and long enough to be none at all", "J\\000\\000\\000\\377half a frame"]
)
def test_for_one_that_never_gets_ready_no_connection_waits_for_long(world, monkeypatch, tmp_path, says):
    program = tmp_path / "python"
    program.write_text(f"#!/bin/sh\nprintf '{says}'\nexec sleep 600\n")
    program.chmod(0o755)
    monkeypatch.setattr(hands_module.sys, "executable", str(program))
    monkeypatch.setattr(hands_module, "_READY_S", 1.0)
    errand = world.errand(pause_s=0.1)
    carry = Carry(errand, done=lambda: patient(errand).carry(errand.cargo(), errand.slot, errand.journal, NoProgress()))

    assert carry.ended() is None
    assert len(world.said("owner", "connected")) == 4
    assert trees.look(world.inbox.root / errand.slot.data) == trees.look(world.source)


def test_a_frozen_application_does_not_start_itself(world, monkeypatch):
    monkeypatch.setattr(hands_module.sys, "frozen", True, raising=False)
    monkeypatch.setattr(hands_module, "_started", lambda: pytest.fail("it was started"))

    world.errand().carry()


def test_another_installation_does_not_help(world, monkeypatch):
    monkeypatch.setattr(hands_module, "THIS_CODE", ("0.0.1", "/elsewhere"))
    errand = world.errand(pause_s=0.01)

    errand.carry()

    assert not world.placed()
    world.inbox.accept(errand.slot.delivery)


def test_what_a_library_prints_there_is_no_answer(world):
    errand = world.errand(pause_s=0.01, helper_prints="DeprecationWarning: all of it\n")

    errand.carry()

    assert world.placed()
    world.inbox.accept(errand.slot.delivery)


def test_a_service_that_is_told_to_end_is_not_left_by_its_helper(world):
    errand = world.errand(pause_s=0.05)
    carry = Carry(errand)
    until(world.placed, "nobody helps")

    for number in (signal.SIGTERM, signal.SIGINT):
        os.kill(world.helpers()[0], number)

    assert carry.ended() is None
    assert trees.look(world.inbox.root / errand.slot.data) == trees.look(world.source)


class _Refusing:
    """Hears of no progress from the other process."""

    def __init__(self, error):
        self.error = error

    def advance(self, *, files=0, bytes=0):  # noqa: A002
        if threading.current_thread().name == "lading-hands":
            raise self.error


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (OutOfSpace("the outbox is full"), OutOfSpace),
        (ValueError("a bug"), UnexpectedFault),
        (SystemExit(1), UnexpectedFault),
    ],
)
def test_a_progress_that_cannot_be_told_ends_the_carry(world, error, kind):
    errand = world.errand(pause_s=0.02)
    carry = Carry(
        errand, done=lambda: errand.transport().carry(errand.cargo(), errand.slot, errand.journal, _Refusing(error))
    )

    assert type(carry.ended()) is kind
    assert not [pid for pid in world.helpers() if is_running(pid)]


@pytest.mark.parametrize("lost", [{}, {"sha256": "0" * 64}, {"sha256": "0" * 64, "md5": "", "crc": ""}, None, "x"])
def test_digests_that_are_not_all_there_are_no_digests(lost):
    whole = {"sha256": "0" * 64, "md5": "0" * 32}
    answer = {"digests": [whole, lost]}

    with pytest.raises(UnexpectedFault):
        hands_module._digests(answer, 2, ("sha256", "md5"))
    with pytest.raises(UnexpectedFault):
        hands_module._digests({"digests": [whole]}, 2, ("sha256", "md5"))
    with pytest.raises(UnexpectedFault):
        hands_module._digests({}, 2, ("sha256", "md5"))


def test_a_connection_is_given_back_before_another_is_made(world):
    trees.write(world.source, {f"series-0/large-{n}": trees.noise(n, (1 << 20) + 1) for n in range(24)})
    errand = world.errand(pause_s=0.1, close_s=0.5)

    errand.carry()

    assert len(world.said("owner", "connected")) > 2
    assert world.most_connections() <= 4


def test_secrets_of_the_environment_are_known_there_too(world, monkeypatch):
    monkeypatch.setenv("LADING_TEST_PASSWORD", "a secret")

    world.errand(pause_s=0.01, password="env:LADING_TEST_PASSWORD").carry()

    assert world.placed()


def test_where_only_this_process_knows_the_key_ring_the_carry_goes_on_alone(world, monkeypatch):
    monkeypatch.setattr("transport.logins.from_keyring", lambda _service, _user: "a secret")
    errand = world.errand(pause_s=0.01, password="keyring:service/user")

    errand.carry()

    assert not world.placed()
    world.inbox.accept(errand.slot.delivery)


def test_what_hangs_on_to_our_pipes_does_not_keep_the_other_process_alive(world):
    errand = world.errand(pause_s=0.05)
    process, pid = both_at_work(world, errand)
    pipes = [fd for fd in Path(f"/proc/{process.pid}/fd").iterdir() if str(fd.readlink()).startswith("pipe:")]
    held = [os.open(fd, os.O_RDWR | os.O_NONBLOCK) for fd in pipes]

    process.kill()
    process.wait()
    until(lambda: not is_at_work(pid), "the other process goes on")

    for fd in held:
        os.close(fd)
    process.stdout.close()


def test_a_progress_that_is_told_slowly_is_not_the_silence_of_the_other_process(world, monkeypatch):
    monkeypatch.setattr(hands_module, "_SILENT_S", 2.5)

    class Slow:
        slept = False

        def advance(self, *, files=0, bytes=0):  # noqa: A002
            if threading.current_thread().name == "lading-hands" and not self.slept:
                self.slept = True
                time.sleep(5.0)

    errand, progress = world.errand(pause_s=0.5), Slow()
    errand.transport().carry(errand.cargo(), errand.slot, errand.journal, progress)

    assert progress.slept
    world.inbox.accept(errand.slot.delivery)


@pytest.mark.parametrize("what", ["more", "gone", "replaced"])
def test_a_source_that_changes_is_the_same_error_as_with_one_process_and_leaves_nothing_false(world, what):
    names = sorted(path.relative_to(world.source).as_posix() for path in world.source.rglob("*.dcm"))
    was = {name: (world.source / name).read_bytes() for name in names}
    both = world.errand(pause_s=0.02).sealed()
    alone = world.errand("lading.testing.folder_place:FolderTransport.from_settings").sealed()
    for name in names[30:]:
        path = world.source / name
        if what == "gone":
            path.unlink()
        else:
            path.write_bytes(was[name] + b"more" if what == "more" else bytes(len(was[name])))

    errors = [Carry(errand).ended() for errand in (both, alone)]

    assert type(errors[0]) is type(errors[1])
    assert errors[0].code == "source-changed"
    for errand in (both, alone):
        data = world.inbox.root / errand.slot.data
        there = [path for path in data.rglob("*") if path.is_file() and not path.name.startswith(".in.")]
        assert not [path for path in there if path.read_bytes() != was[path.relative_to(data).as_posix()]]
        assert not (world.inbox.root / errand.slot.path / "seal.json").exists()
