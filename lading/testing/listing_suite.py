"""What a transport must do with a cargo that nobody has listed yet: a part of the TransportSuite.

One that has the trait `lists_on_the_way` makes the manifest from the read that it carries with. The others refuse.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from lading.errors import LadingError, SourceChanged, Unreachable
from lading.manifest import FILTERED_NAME, LIST_NAME, SUMS_NAME, make
from lading.ports import NoProgress, Settings
from lading.seal import is_sealed, read_seal
from lading.testing import trees
from lading.testing.carrying import Errand
from lading.testing.expecting import AtFirst, failure_of
from lading.testing.faultproxy import FaultProxy
from lading.testing.site import Desk, Site, does_not_apply, proxied, settle, watch_until


class ListingSuite:
    """See the module. The fixtures are the TransportSuite's."""

    def test_an_unsealed_cargo_is_listed_on_the_way_or_refused(self, desk: Desk) -> None:
        source = desk.plain()
        trees.write(source, {"empty": b"", "Thumbs.db": b"junk"})
        errand = desk.errand(source)

        if errand.transport().traits.lists_on_the_way:
            errand.carry()
            arrived = trees.look(desk.data(errand))
            assert arrived == {k: v for k, v in trees.look(source).items() if k != "Thumbs.db"}
            assert desk.inbox.accept(errand.slot.delivery).delivery.files == len(arrived)
        else:
            with pytest.raises(LadingError):
                errand.carry()
            assert not desk.data(errand).exists()

    def test_what_is_listed_on_the_way_is_what_would_have_been_listed_before(self, desk: Desk) -> None:
        source = desk.plain(files=30, size=30_000)
        trees.write(source, {"empty": b"", "a b/Thumbs.db": b"junk", "a b/c": b"c", "large": trees.noise(5, 9_500_001)})
        errand = _unlisted(desk, source)
        cargo = replace(errand.cargo(), algorithms=("md5", "sha1", "CRC-32"))

        errand.transport().carry(cargo, errand.slot, errand.journal, NoProgress())

        before = desk.folder / "before"
        before.mkdir()
        make(source, before, rules=cargo.rules, algorithms=cargo.algorithms)
        for name in (LIST_NAME, SUMS_NAME, FILTERED_NAME):
            assert (cargo.papers / name).read_bytes() == (before / name).read_bytes(), name
        desk.inbox.accept(errand.slot.delivery)

    def test_a_cut_carry_without_a_list_goes_on(self, desk: Desk, site: Site) -> None:
        with proxied(site) as (proxy, changes):
            source = desk.plain(files=2)
            trees.write(source, {"large": trees.noise(3, 30_000_000)})
            errand = _unlisted(desk, source, changes)

            cut_and_finished(desk, proxy, errand)

            assert read_seal(Path(errand.papers)).summary.files == len(trees.look(source))

    def test_a_killed_carry_without_a_list_is_finished_by_the_next(self, desk: Desk) -> None:
        source = desk.plain(files=40, size=200_000)
        trees.write(source, {"zz/large": trees.noise(7, 40_000_000)})
        whole = trees.look(source)
        errand = _killed(desk, source)

        errand.carry()

        assert trees.look(desk.data(errand)) == whole
        desk.inbox.accept(errand.slot.delivery)

    def test_a_source_that_changed_since_a_killed_carry_arrives_as_it_is_now(self, desk: Desk) -> None:
        source = desk.plain(files=40, size=200_000)
        trees.write(source, {"zz/large": trees.noise(7, 40_000_000)})
        errand = _killed(desk, source)
        first, second, third = sorted(path for path in source.rglob("*.dcm"))[:3]
        first.write_bytes(trees.noise(11, first.stat().st_size))  # as large as before
        os.utime(first, ns=(0, 1_500_000_000_000_000_000))
        second.unlink()
        third.rename(third.with_name("new.dcm"))

        failure = failure_of(errand.carry)
        assert failure is None or isinstance(failure, SourceChanged), failure
        if failure:  # so that the agent waits until it has come to rest
            assert not desk.is_sealed(errand)
            assert not is_sealed(Path(errand.papers))
            errand.carry()

        assert trees.look(desk.data(errand)) == trees.look(source)
        desk.inbox.accept(errand.slot.delivery)

    def test_a_source_that_changes_before_it_is_listed_is_not_sealed(self, desk: Desk) -> None:
        source = desk.plain(files=40, size=100_000)
        errand = _unlisted(desk, source)
        last = max(path for path in source.rglob("*") if path.is_file())

        def spoil() -> None:
            with last.open("ab") as out:
                out.write(b"more")

        transport, cargo = errand.transport(), errand.cargo()
        failure = failure_of(lambda: transport.carry(cargo, errand.slot, errand.journal, AtFirst(spoil)))

        assert failure is None or (isinstance(failure, SourceChanged) and not desk.is_sealed(errand)), failure
        if failure is None:  # the file had left before
            desk.inbox.accept(errand.slot.delivery)

    def test_a_file_that_is_written_over_while_it_is_read_is_not_sealed(self, desk: Desk) -> None:
        source = desk.plain(files=1)
        trees.write(source, {"large": trees.noise(13, 30_000_000)})
        errand = _unlisted(desk, source)
        large = source / "large"
        before = large.stat()

        def write_over() -> None:
            with large.open("r+b") as out:
                out.seek(15_000_000)
                out.write(trees.noise(17, 15_000_000))
            os.utime(large, ns=(0, before.st_mtime_ns))  # as `cp -p` and `rsync --inplace -t` do
            while large.stat().st_ctime_ns == before.st_ctime_ns:
                os.utime(large, ns=(0, before.st_mtime_ns))

        transport, cargo = errand.transport(), errand.cargo()
        failure = failure_of(lambda: transport.carry(cargo, errand.slot, errand.journal, _AfterAPiece(write_over)))

        assert isinstance(failure, SourceChanged), "half of it is old, half of it new"
        assert not desk.is_sealed(errand)


class _AfterAPiece:
    """Does something once, when a piece of a large file has been read and is on its way."""

    def __init__(self, do: Callable[[], None]) -> None:
        self._left = [do]

    def advance(self, *, files: int = 0, bytes: int = 0) -> None:  # noqa: A002, ARG002
        if bytes >= 1 << 18 and self._left:
            self._left.pop()()


def cut_and_finished(desk: Desk, proxy: FaultProxy, errand: Errand) -> None:
    """The first carry of a source with 30 MB in one file is cut after 20; the second brings what is missing, and not much more."""
    proxy.faults.cut_at = 20_000_000

    with pytest.raises(Unreachable):
        errand.carry()
    assert not desk.is_sealed(errand)
    settle(desk, errand)
    before = proxy.passed
    errand.carry()

    assert trees.look(desk.data(errand)) == trees.look(Path(errand.root))
    desk.inbox.accept(errand.slot.delivery)
    if errand.transport().traits.resumes:
        assert proxy.passed - before < 25_000_000, "the part that had arrived was sent again"


def _unlisted(desk: Desk, source: Path, changes: Settings | None = None) -> Errand:
    errand = desk.errand(source, changes) if changes else desk.errand(source)
    if not errand.transport().traits.lists_on_the_way:
        does_not_apply("it carries what a manifest lists")
    return errand


def _killed(desk: Desk, source: Path) -> Errand:
    """An errand whose first carry was killed before its end, and had brought something."""
    errand = _unlisted(desk, source)
    process = errand.start()
    seen = watch_until(desk, errand, trees.look(source), 20_000_000, process)
    process.kill()
    process.communicate()
    assert not seen, f"visible before it was whole: {seen}"
    settle(desk, errand)
    return errand
