"""What every transport must do, proven over the real thing. Subclass `TransportSuite` and give it a `site`.

    class TestMyTransport(TransportSuite):
        @pytest.fixture
        def site(self, tmp_path):
            with my_real_server(tmp_path) as server:
                yield Site("my_package.my_module:MyTransport.from_settings", lambda inbox: {"url": server.url(inbox)})

The suite looks at the inbox with its own eyes: the inbox must be a folder that this process can read.
"""

import contextlib
import os
import time
from dataclasses import replace
from pathlib import Path

import pytest

from lading.errors import AccessDenied, Corrupted, LadingError, OutOfSpace, Rejected, SourceChanged, Unreachable
from lading.inbox import Inbox, InboxLimits
from lading.seal import PAPERS, is_sealed
from lading.testing import trees
from lading.testing.carrying import LABELS
from lading.testing.expecting import SOON_S, AtFirst, Told, calls_of, failure_of, raises_soon, receipt_for
from lading.testing.listing_suite import ListingSuite, cut_and_finished
from lading.testing.naming import kept_by_the_server, refused_by
from lading.testing.site import (
    Desk,
    Site,
    command_lines,
    does_not_apply,
    flip_a_byte,
    inodes,
    proxied,
    run,
    settle,
    small_disk,
    watch_until,
)


class TransportSuite(ListingSuite):
    """See the module. Every test is one promise of `lading.ports.Transport`."""

    @pytest.fixture
    def site(self) -> Site:
        """To be given by the subclass."""
        raise NotImplementedError

    @pytest.fixture
    def desk(self, tmp_path: Path, site: Site) -> Desk:
        folder = tmp_path / "desk"
        folder.mkdir()
        return Desk(folder, site)

    # -- everything arrives ------------------------------------------------------------------------------------------

    def test_every_file_arrives_with_its_papers_and_is_accepted(self, desk: Desk) -> None:
        source = desk.plain()
        errand = desk.errand(source).sealed()

        errand.carry()

        assert trees.look(desk.data(errand)) == trees.look(source)
        slot = desk.inbox.root / errand.slot.path
        assert sorted(os.listdir(slot)) == sorted([*PAPERS, "data"])
        assert all((slot / name).read_bytes() == Path(errand.papers, name).read_bytes() for name in PAPERS)
        assert desk.inbox.accept(errand.slot.delivery).delivery.labels == LABELS

    def test_every_nasty_name_that_is_not_refused_arrives_as_it_is(self, desk: Desk, site: Site) -> None:
        source = trees.nasty_tree(desk.folder / "nasty")
        errand = desk.errand(source)
        lost = {path for path in trees.look(source) if any(loses(path) for loses in site.loses.values())}
        for path in refused_by(errand.transport().traits.names, trees.look(source)) | lost:
            (source / path).unlink()

        errand.sealed().carry()

        assert trees.look(desk.data(errand)) == trees.look(source)
        assert desk.inbox.accept(errand.slot.delivery).delivery.files == len(trees.look(source))

    def test_names_that_the_target_cannot_hold_are_refused_before_anything_is_sent(self, desk: Desk) -> None:
        source = trees.nasty_tree(desk.folder / "nasty")
        errand = desk.errand(source).sealed()
        refused = refused_by(errand.transport().traits.names, trees.look(source))
        if not refused:
            does_not_apply("the target takes every name that a POSIX disk takes")

        with pytest.raises(Rejected) as caught:
            errand.carry()

        assert {finding.path for finding in caught.value.findings if finding.path in trees.look(source)} <= refused
        assert any(finding.path in refused for finding in caught.value.findings)
        assert all(finding.hint for finding in caught.value.findings)
        assert not desk.data(errand).exists()

    def test_no_name_is_refused_that_the_server_would_keep(self, desk: Desk, site: Site) -> None:
        kept = kept_by_the_server(desk, desk.errand(desk.plain()))

        allowed = frozenset[bytes]().union(*site.stricter.values())
        assert kept <= allowed, f"refused, and yet kept by the server: {sorted(kept - allowed)}"
        assert kept >= allowed, f"`stricter` of the site names what the server does not keep: {sorted(allowed - kept)}"

    def test_times_arrive(self, desk: Desk) -> None:
        source = desk.plain()
        for number, path in enumerate(sorted(source.rglob("*.dcm"))):
            os.utime(path, ns=(0, 1_000_000_000_123_456_789 + number * 86_400_000_000_000))
        errand = desk.errand(source).sealed()
        if not errand.transport().traits.keeps_mtime:
            does_not_apply("it keeps no times, and says so")

        errand.carry()

        assert trees.times(desk.data(errand)) == trees.times(source)

    @pytest.mark.slow
    def test_a_file_over_4_gib_arrives(self, desk: Desk) -> None:
        source = desk.folder / "huge"
        source.mkdir()
        with (source / "huge.dat").open("wb") as out:
            out.truncate((4 << 30) + 4097)
            out.seek(4 << 30)
            out.write(b"the end")
        errand = desk.errand(source).sealed()

        errand.carry()

        assert (desk.data(errand) / "huge.dat").stat().st_size == (4 << 30) + 4097
        desk.inbox.accept(errand.slot.delivery)

    def test_progress_adds_up(self, desk: Desk) -> None:
        source = desk.plain()
        errand = desk.errand(source).sealed()
        told = Told()

        errand.transport().carry(errand.cargo(), errand.slot, errand.journal, told)

        assert (told.files, told.bytes) == (12, sum(size for size, _ in trees.look(source).values()))

    # -- again -------------------------------------------------------------------------------------------------------

    def test_carrying_twice_is_harmless_and_moves_nothing(self, desk: Desk) -> None:
        errand = desk.errand(desk.plain()).sealed()
        errand.carry()
        before = inodes(desk.data(errand))

        errand.carry()

        assert inodes(desk.data(errand)) == before
        desk.inbox.accept(errand.slot.delivery)

    def test_a_delivery_that_the_inbox_took_is_left_alone(self, desk: Desk) -> None:
        errand = desk.errand(desk.plain()).sealed()
        errand.carry()
        desk.inbox.accept(errand.slot.delivery)
        before = trees.look(desk.inbox.root / ".lading")

        errand.carry()

        assert trees.look(desk.inbox.root / ".lading") == before

    def test_a_killed_carry_is_finished_by_the_next(self, desk: Desk) -> None:
        source = desk.plain(files=40, size=200_000)
        trees.write(source, {"zz/large": trees.noise(7, 40_000_000)})
        whole = trees.look(source)
        for seed in range(3):
            errand = desk.errand(source).sealed()
            at = int.from_bytes(trees.noise(seed, 4)) % 45_000_000

            process = errand.start()
            seen = watch_until(desk, errand, whole, at, process)
            process.kill()
            process.communicate()

            assert not seen, f"seed {seed}: visible before it was whole: {seen}"
            settle(desk, errand)
            errand.carry()
            assert trees.look(desk.data(errand)) == whole, f"seed {seed}"
            desk.inbox.accept(errand.slot.delivery)

    def test_what_an_earlier_attempt_left_does_not_stay(self, desk: Desk) -> None:
        source = desk.plain()
        errand = desk.errand(source).sealed()
        errand.carry()
        trees.write(
            desk.data(errand),
            {
                "series-0/.image-0000.dcm.Xy12Ab": b"part",
                "series-0/.rsync-partial/image-0000.dcm": b"part",
                ".in.0123456789ab": b"part",
                "stale folder/with\nnewline": b"stale",
            },
        )
        (source / "series-1" / "image-0001.dcm").unlink()
        (source / "series-1" / "image-0003.dcm").write_bytes(b"changed")

        errand.sealed().carry()

        assert trees.look(desk.data(errand)) == trees.look(source)
        desk.inbox.accept(errand.slot.delivery)

    # -- damage ------------------------------------------------------------------------------------------------------

    def test_only_the_damaged_file_is_sent_again(self, desk: Desk) -> None:
        source = desk.plain()
        errand = desk.errand(source).sealed()
        errand.carry()
        victim = desk.data(errand) / "series-1" / "image-0003.dcm"
        before = inodes(desk.data(errand))
        flip_a_byte(victim)

        with pytest.raises(Corrupted) as caught:
            desk.inbox.accept(errand.slot.delivery)
        errand.carry()

        assert caught.value.paths == ("series-1/image-0003.dcm",)
        assert trees.look(desk.data(errand)) == trees.look(source)
        after = inodes(desk.data(errand))
        assert {path for path in after if after[path] != before[path]} == {"series-1/image-0003.dcm"}
        desk.inbox.accept(errand.slot.delivery)

    def test_a_source_that_grew_is_source_changed(self, desk: Desk) -> None:
        source = desk.plain()
        errand = desk.errand(source).sealed()
        with (source / "series-1" / "image-0003.dcm").open("ab") as out:
            out.write(b"more")

        with pytest.raises(SourceChanged, match=r"image-0003\.dcm"):
            errand.carry()

        assert not desk.is_sealed(errand)

    def test_a_source_that_lost_a_file_is_source_changed(self, desk: Desk) -> None:
        source = desk.plain()
        errand = desk.errand(source).sealed()
        (source / "series-1" / "image-0003.dcm").unlink()

        with pytest.raises(SourceChanged, match=r"image-0003\.dcm"):
            errand.carry()

        assert not desk.is_sealed(errand)

    def test_a_source_that_changes_under_way_never_becomes_another_delivery(self, desk: Desk) -> None:
        source = desk.plain(files=40, size=100_000)
        errand = desk.errand(source).sealed()
        listed = trees.look(source)
        one, two = sorted(path for path in source.rglob("*") if path.is_file())[-2:]

        def spoil() -> None:
            two.unlink()
            with one.open("ab") as out:
                out.write(b"more")

        transport, cargo = errand.transport(), errand.cargo()
        failure = failure_of(lambda: transport.carry(cargo, errand.slot, errand.journal, AtFirst(spoil)))

        assert failure is None or (isinstance(failure, SourceChanged) and not desk.is_sealed(errand)), failure
        if failure is None:  # the two had left before
            with contextlib.suppress(Corrupted):
                assert trees.look(desk.inbox.accept(errand.slot.delivery).root) == listed

    def test_a_change_that_keeps_size_and_time_never_becomes_a_delivery(self, desk: Desk) -> None:
        source = desk.plain()
        errand = desk.errand(source).sealed()
        flip_a_byte(source / "series-1" / "image-0003.dcm")

        with pytest.raises(SourceChanged):  # noqa: PT012 - at once, or after the inbox has read it
            errand.carry()
            with pytest.raises(Corrupted):
                desk.inbox.accept(errand.slot.delivery)
            errand.carry()

        assert not desk.is_sealed(errand)

    def test_a_link_in_the_slot_is_not_followed(self, desk: Desk) -> None:
        errand = desk.errand(desk.plain()).sealed()
        outside = trees.write(desk.folder / "outside", {"image-0000.dcm": b"precious"})
        desk.data(errand).mkdir(parents=True)
        (desk.data(errand) / "series-0").symlink_to(outside)
        (desk.data(errand) / "series-1").mkdir()
        (desk.data(errand) / "series-1" / "image-0001.dcm").symlink_to(outside / "image-0000.dcm")

        with contextlib.suppress(LadingError):
            errand.carry()

        assert trees.look(outside) == {"image-0000.dcm": (8, trees.look(outside)["image-0000.dcm"][1])}
        assert (outside / "image-0000.dcm").read_bytes() == b"precious"

    # -- the wrong place, the wrong key, no place --------------------------------------------------------------------

    def test_a_place_without_a_sentinel_is_unreachable_and_stays_empty(self, desk: Desk) -> None:
        bare = desk.folder / "not mounted"
        bare.mkdir()
        errand = desk.errand(desk.plain(), inbox=bare).sealed()

        with pytest.raises(Unreachable):
            errand.transport().probe()
        with pytest.raises(Unreachable):
            errand.carry()

        assert trees.look(bare) == {}
        assert not list(bare.iterdir())

    def test_whoever_is_refused_hears_access_denied_soon(self, desk: Desk, site: Site) -> None:
        if not site.denied:
            does_not_apply("there are no credentials to be wrong")
        for reason, change in site.denied.items():
            for call in calls_of(desk.errand(desk.plain(), change).sealed()):
                raises_soon(AccessDenied, reason, call, site.secrets)

    def test_a_server_that_cannot_prove_who_it_is_gets_nothing(self, desk: Desk, site: Site) -> None:
        if not site.untrusted:
            does_not_apply("no server has to prove who it is")
        for reason, change in site.untrusted.items():
            for call in calls_of(desk.errand(desk.plain(), change).sealed()):
                told = raises_soon(AccessDenied, reason, call, site.secrets)
                words = f"{told.message} {told.next_command}".lower()
                assert not [word for word in ("insecure", "skip", "ignore", "disable", "no-verify") if word in words]
        assert not list((desk.inbox.root / ".lading" / "incoming").iterdir())

    def test_a_dead_host_is_unreachable_soon(self, desk: Desk, site: Site) -> None:
        if not site.unreachable:
            does_not_apply("there is no host to be dead")
        for reason, change in site.unreachable.items():
            for call in calls_of(desk.errand(desk.plain(), change).sealed()):
                raises_soon(Unreachable, reason, call, site.secrets)

    def test_a_full_disk_is_out_of_space_with_figures_and_can_be_cured(self, desk: Desk) -> None:
        with small_disk(desk.folder / "small", "8m") as disk:
            inbox = Inbox.create(disk / "inbox", limits=InboxLimits(keep_free_bytes=0))
            errand = desk.errand(desk.plain(files=40, size=500_000), inbox=inbox.root).sealed()

            with pytest.raises(OutOfSpace, match=r"[0-9]{2}") as caught:
                errand.carry()

            assert caught.value.__cause__ is None or isinstance(caught.value.__cause__, OSError)
            assert not is_sealed(inbox.root / errand.slot.path)
            run("mount", "-o", "remount,size=64m", str(disk))
            errand.carry()
            inbox.accept(errand.slot.delivery)

    def test_nothing_foreign_escapes(self, desk: Desk) -> None:
        gone = desk.errand(desk.plain()).sealed()
        gone = replace(gone, root=gone.root + "-gone")
        a_file = desk.folder / "a file"
        a_file.write_bytes(b"")
        nowhere = desk.errand(desk.plain(), inbox=a_file).sealed()

        for errand in (gone, nowhere):
            with pytest.raises(LadingError):
                errand.carry()
        with pytest.raises(LadingError):
            nowhere.transport().probe()

    # -- the line ----------------------------------------------------------------------------------------------------

    def test_a_cut_connection_is_unreachable_and_can_be_finished(self, desk: Desk, site: Site) -> None:
        with proxied(site) as (proxy, changes):
            source = desk.plain(files=2)
            trees.write(source, {"large": trees.noise(3, 30_000_000)})
            errand = desk.errand(source, changes).sealed()
            cut_and_finished(desk, proxy, errand)

    def test_a_line_that_only_we_still_believe_in_is_given_up_and_can_be_finished(self, desk: Desk, site: Site) -> None:
        with proxied(site) as (proxy, changes):
            source = desk.plain(files=2)
            # The rest goes into the buffers of the line: nobody notices by being unable to write.
            trees.write(source, {"large": trees.noise(3, 16_000_000)})
            errand = desk.errand(source, changes).sealed()
            proxy.faults.lose_at = 15_000_000

            start = time.monotonic()
            failure = failure_of(errand.carry)
            assert time.monotonic() - start < 2 * SOON_S
            assert failure is None or (isinstance(failure, Unreachable) and not desk.is_sealed(errand)), failure
            settle(desk, errand)
            errand.carry()

            assert trees.look(desk.data(errand)) == trees.look(source)
            desk.inbox.accept(errand.slot.delivery)

    def test_a_byte_flipped_on_the_way_does_no_harm(self, desk: Desk, site: Site) -> None:
        with proxied(site) as (proxy, changes):
            source = desk.plain(files=4, size=1_000_000)
            errand = desk.errand(source, changes).sealed()
            proxy.faults.flip_at = 2_000_000

            failure = failure_of(errand.carry)
            assert failure is None or (failure.retried and not desk.is_sealed(errand))
            settle(desk, errand)
            errand.carry()

            assert trees.look(desk.data(errand)) == trees.look(source)
            desk.inbox.accept(errand.slot.delivery)

    def test_a_stalled_line_is_unreachable(self, desk: Desk, site: Site) -> None:
        with proxied(site) as (proxy, changes):
            errand = desk.errand(desk.plain(), changes).sealed()
            proxy.faults.stall = True

            raises_soon(Unreachable, "stalled", errand.carry, site.secrets)

            proxy.faults.stall = False

    # -- plans, receipts, secrets ------------------------------------------------------------------------------------

    def test_a_plan_writes_nothing_and_says_what_would_move(self, desk: Desk) -> None:
        source = desk.plain()
        errand = desk.errand(source).sealed()
        before = trees.look(desk.inbox.root)

        plan = errand.transport().plan(errand.cargo(), errand.slot)

        assert trees.look(desk.inbox.root) == before
        assert (plan.files, plan.files_already_there) == (12, 0)
        assert plan.bytes == sum(size for size, _ in trees.look(source).values())
        assert set(plan.sample) <= set(trees.look(source))
        errand.carry()
        plan = errand.transport().plan(errand.cargo(), errand.slot)
        assert (plan.files, plan.files_already_there) == (0, 12)

    def test_a_plan_for_an_unsealed_cargo_needs_no_papers(self, desk: Desk) -> None:
        errand = desk.errand(desk.plain())

        plan = errand.transport().plan(errand.cargo(), errand.slot)

        assert plan.files == 12
        assert not Path(errand.papers).exists()

    def test_a_receipt_is_fetched_when_there_is_one(self, desk: Desk) -> None:
        errand = desk.errand(desk.plain()).sealed()
        transport = errand.transport()

        assert transport.fetch_receipt(errand.slot.delivery) is None
        written = desk.inbox.write_receipt(receipt_for(errand), [], b"a key of the server")

        assert transport.fetch_receipt(errand.slot.delivery) == written

    def test_probing_says_what_room_is_missing_where_it_can_be_known(self, desk: Desk) -> None:
        transport = desk.errand(desk.plain()).transport()
        before = trees.look(desk.inbox.root)

        transport.probe()
        transport.probe(1000)
        with contextlib.suppress(OutOfSpace):
            transport.probe(1 << 60)

        assert trees.look(desk.inbox.root) == before

    def test_no_secret_is_shown(self, desk: Desk, site: Site) -> None:
        errand = desk.errand(desk.plain()).sealed()
        shown = [repr(errand.transport()), str(errand.transport())]
        process = errand.start()
        while process.poll() is None:
            shown += command_lines()
            time.sleep(0.02)
        shown.append(process.communicate()[0].decode(errors="replace"))

        for secret in site.secrets:
            assert not [text for text in shown if secret in text]
