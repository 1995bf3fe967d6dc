"""What a route or a repository sets is what the server gets to see: keep-alive, statistics, previews, what is sent again."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pytest

pytest.importorskip("omero", reason="omero-py is not installed: make omero")

from lading.testing import real_images
from lading.testing.importer_suite import all_verified, bring_home, carry_out
from lading.testing.omero_world import GROUP, USERS, OmeroWorld
from omero_importer.importer import OmeroImporter
from omero_importer.session_in_hand import KEY, SessionInHand

PATIENCE_S = 120.0


def until(true: Callable[[], bool], why: str) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < deadline, f"not within {PATIENCE_S:.0f} s: {why}"
        time.sleep(0.05)


@pytest.mark.parametrize(
    ("user", "route"),
    [
        ("root", {"owner": "dave"}),
        pytest.param("carol", {}, marks=pytest.mark.slow),
        pytest.param("carol", {"group": GROUP}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_a_session_that_does_nothing_is_kept_alive(world: OmeroWorld, user: str, route: dict[str, object]) -> None:
    table = world.repository(world.login(user, USERS[user])) | {"keep_alive": 5.0}
    importer = OmeroImporter.from_settings(
        table, {"create": "all", **route}, inbox_root=world.inbox.root, state=world.folder / "state"
    )
    importer.plan(world.parcel(images=1))  # which logs in, as whoever the data shall belong to
    before = world.sandbox.count("ServiceFactory.keepAlive")

    until(lambda: world.sandbox.count("ServiceFactory.keepAlive") > before, "a sign of life")

    importer.close()


@pytest.mark.parametrize(("stats", "thumbnails"), [(True, False), (False, True)])
def test_statistics_and_previews_are_the_routes_choice(world: OmeroWorld, stats: bool, thumbnails: bool) -> None:
    parcel = world.parcel(images=1)
    world.sandbox.faults(hold_at=["1"])
    with ThreadPoolExecutor(1) as other, world.client("carol") as client:
        # In one session with it: to others an import under way tells nothing.
        session = SessionInHand(world.sandbox.host, "carol", GROUP, client.getSessionId(), world.sandbox.tcp_port)
        importer = OmeroImporter.from_settings(
            {**world.repository("UNUSED"), KEY: session},
            {"stats": stats, "thumbnails": thumbnails},
            inbox_root=world.inbox.root,
            state=world.folder / "state",
        )
        done = other.submit(carry_out, importer, parcel)
        try:
            repository = client.getManagedRepository()
            until(lambda: done.done() or bool(repository.listImports()), "the import is under way")
            (process,) = repository.listImports()
            settings = process.getImportSettings()
        finally:
            world.sandbox.faults()
        done.result(PATIENCE_S)
        importer.close()

    assert (settings.noStatsInfo.val, settings.doThumbnails.val) == (not stats, thumbnails)


def test_of_a_fileset_of_many_files_only_the_bad_one_is_sent_again(world: OmeroWorld) -> None:
    made = world.folder / "made"
    made.mkdir()
    names = real_images.ome_zarr(made, side=3)
    parcel = world.parcel(images=0, files={name: (made / name).read_bytes() for name in names})
    importer = world.importer()
    carry_out(world.importer(), world.parcel("other", images=1))  # so that what follows counts uploads only
    world.sandbox.faults(damaged_uploads=1)
    before = {name: world.sandbox.count(name) for name in COUNTED}

    assert all_verified(bring_home(importer, parcel), parcel)

    assert {name: world.sandbox.count(name) - number for name, number in before.items()} == {
        "ManagedRepository.importFileset": 1,
        "ImportProcess.getUploader": len(names) + 1,
        "ImportProcess.verifyUpload": 2,
    }


COUNTED = ("ManagedRepository.importFileset", "ImportProcess.getUploader", "ImportProcess.verifyUpload")


@pytest.mark.parametrize("route", [{}, {"group": GROUP}], ids=str)
def test_a_session_whose_connection_broke_is_joined_again(world: OmeroWorld, route: dict[str, object]) -> None:
    world.sandbox.do("end-sessions", user="carol")
    parcel = world.parcel(images=2)
    importer = world.importer(**route)
    importer.probe_project(world.project)
    ((before,),) = sessions_of(world, "carol")
    world.sandbox.faults(cut_calls=["importFileset"])

    carry_out(importer, parcel)

    assert sessions_of(world, "carol") == [[before]]


def test_a_session_that_cannot_be_joined_again_is_replaced(world: OmeroWorld) -> None:
    parcel = world.parcel(images=1)
    importer = world.importer()
    importer.probe()
    world.sandbox.faults(cut_calls=["importFileset"], errors=["createSession=PermissionDeniedException"])

    assert all_verified(bring_home(importer, parcel), parcel)


def sessions_of(world: OmeroWorld, user: str) -> list[list[object]]:
    """The sessions of the user that are open."""
    return world.ask("select s.id from Session s where s.closed is null and s.owner.omeName = :user", user=user)
