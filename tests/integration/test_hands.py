"""Carrying with two processes: what the other one does is as if one had done it, and it never outlives the carry."""

import time
from dataclasses import replace

import pytest

from lading.config import relative_to
from lading.errors import LadingError, UnexpectedFault
from lading.manifest import LIST_NAME
from lading.ports import NoProgress
from lading.testing import trees
from lading.testing.expecting import AtFirst, Told
from lading.testing.folder_place import ERRORS, FolderTransport
from lading.testing.hands_world import SECRET, Carry, World, is_running, until
from lading.testing.two_handed import Folder
from transport.hands import Recipe
from transport.hands_errors import error_of, told
from transport.on_the_way import Load
from transport.throttled import Schedule, ThrottleConfig


@pytest.fixture
def world(tmp_path):
    return World(tmp_path)


@pytest.mark.parametrize("sealed", [False, True])
def test_both_carry_and_everything_arrives_listed_as_by_one(world, sealed):
    errand, alone = world.errand(), world.errand("lading.testing.folder_place:FolderTransport.from_settings")
    if sealed:
        errand.sealed()
    alone.carry()
    progress = Told()

    errand.transport().carry(errand.cargo(), errand.slot, errand.journal, progress)

    wanted = trees.look(world.source)
    assert trees.look(world.inbox.root / errand.slot.data) == wanted
    assert (progress.files, progress.bytes) == (60, sum(size for size, _ in wanted.values()))
    assert (errand.cargo().papers / LIST_NAME).read_bytes() == (alone.cargo().papers / LIST_NAME).read_bytes()
    assert world.placed()
    world.inbox.accept(errand.slot.delivery)
    assert not [pid for pid in world.helpers() if is_running(pid)]


def test_paths_that_are_relative_to_the_settings_file_are_so_there_too(world):
    errand = world.errand(folder="inbox")
    with relative_to(world.folder):
        transport = errand.transport()

    transport.carry(errand.cargo(), errand.slot, errand.journal, NoProgress())

    assert world.placed()
    assert trees.look(world.inbox.root / errand.slot.data) == trees.look(world.source)


def test_all_digests_that_a_route_wants_come_back(world):
    errand = world.errand()
    cargo = replace(errand.cargo(), algorithms=("md5", "sha1"))

    errand.transport().carry(cargo, errand.slot, errand.journal, NoProgress())

    assert world.placed()
    assert b'"md5"' in (cargo.papers / LIST_NAME).read_bytes()


def test_each_folder_is_made_once_by_one_of_them(world):
    errand = world.errand(pause_s=0.01)
    errand.carry()

    made = [path for who in ("owner", "helper") for path in world.said(who, "made") if "series-" in path]
    assert sorted(made) == sorted(f"{errand.slot.data}/series-{n}" for n in range(2))


def test_the_connections_are_never_more_than_the_place_allows(world):
    world.errand(pause_s=0.02).carry()

    assert len(world.said("helper", "connected")) == 2
    assert len(world.said("owner", "connected")) <= 2


def test_large_files_are_not_for_the_other_process(world):
    trees.write(world.source, {f"series-0/large-{n}": trees.noise(n, (1 << 20) + 1) for n in range(6)})
    errand = world.errand(pause_s=0.01)

    errand.carry()

    assert trees.look(world.inbox.root / errand.slot.data) == trees.look(world.source)
    assert not [path for path in world.said("helper", "placed") if "large" in path]


@pytest.mark.parametrize("fails", sorted(ERRORS))
def test_an_error_there_is_the_error_here(world, fails):
    carry = Carry(world.errand(fails=fails, pause_s=0.02, **{"in": "helper"}))
    error = carry.ended()

    meant = ERRORS[fails]
    if isinstance(meant, LadingError):
        assert type(error) is type(meant)
        assert error.message.startswith(meant.message)  # a full disk has its figures besides
        assert (error.safe, error.next_command) == (meant.safe, meant.next_command)
        assert getattr(error, "paths", ()) == getattr(meant, "paths", ())
    else:
        assert type(error) is UnexpectedFault
        assert error.message == "carrying to a folder failed: ValueError: a bug"
    assert not [pid for pid in world.helpers() if is_running(pid)]


def test_an_error_here_ends_the_other(world):
    error = Carry(world.errand(fails="full", pause_s=0.02, **{"in": "owner"})).ended()
    placed = world.placed()

    assert error.code == "out-of-space"
    assert not [pid for pid in world.helpers() if is_running(pid)]
    time.sleep(0.2)
    assert world.placed() == placed


def test_nothing_of_the_settings_is_in_its_arguments_or_environment(world):
    shown = []

    def look():
        for pid in world.helpers():
            for name in ("cmdline", "environ"):
                with open(f"/proc/{pid}/{name}", "rb") as file:
                    shown.append(file.read())

    carry = Carry(world.errand(pause_s=0.05))
    until(world.placed, "nobody helps")
    look()

    assert carry.ended() is None
    assert shown
    assert not [text for text in shown if SECRET.encode() in text]


def test_one_helps_at_a_time(world):
    first = Carry(world.errand(pause_s=0.05))
    until(world.placed, "nobody helps")

    world.errand().carry()

    assert len(world.helpers()) == 1
    assert first.ended() is None


def test_a_source_that_changes_is_seen_wherever_it_is_read(world):
    errand = world.errand(pause_s=0.02).sealed()
    for path in sorted(world.source.rglob("*.dcm"))[20:]:
        with path.open("ab") as out:
            out.write(b"more")

    error = Carry(errand).ended()

    assert error.code == "source-changed"
    assert not [pid for pid in world.helpers() if is_running(pid)]


def test_who_carries_slowly_carries_alone(world):
    errand = world.errand()
    transport = Folder.from_settings(errand.settings, state=world.folder).paced(Schedule(ThrottleConfig(mb_per_s=1000)))

    transport.carry(errand.cargo(), errand.slot, errand.journal, NoProgress())

    assert not world.helpers()


def test_few_files_and_large_ones_are_carried_alone(world):
    recipe = Recipe("module:Place", {})

    assert not recipe.suits(Load((), 499, 499))
    assert not recipe.suits(Load((), 500, 500 * (1 << 20) + 1))
    FolderTransport.from_settings(world.errand().settings, state=world.folder).carry(
        (errand := world.errand()).cargo(), errand.slot, errand.journal, AtFirst(lambda: None)
    )
    assert not world.helpers()


def test_errors_lose_nothing_on_their_way():
    for error in ERRORS.values():
        if isinstance(error, LadingError):
            assert told(error_of(told(error))) == told(error)
