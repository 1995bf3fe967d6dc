"""How much of a part is gone on with after the machine was started again: what was flushed before, and nothing else."""

import errno
import os
import sys
from contextlib import suppress

import pytest

from lading.errors import Unreachable
from lading.ports import NoProgress
from lading.testing import trees
from lading.testing.folder_place import FolderPlace
from lading.testing.instrument import wait_until
from transport.boot import this_boot
from transport.fetch_files import Bringing
from transport.fetch_ledger import Ledger
from transport.landing import Landing
from transport.pacing import Unpaced
from transport.remote import RemoteFile

MIB = 1 << 20
SIZE = 8 * MIB
NAME = "big.raw"
DELIVERY = "test-delivery-1"


class Cut(Unpaced):
    """The line breaks after so many bytes, and not before `known`."""

    def __init__(self, after=SIZE, known=lambda: True):
        self.came, self._after, self._known = 0, after, known

    def spend(self, count):
        if self.came + count > self._after:
            wait_until(self._known)
            raise Unreachable("the line broke")
        self.came += count


class Bench:
    """One big file at a place without checksums, the ledger of what came of it, and where it lands."""

    def __init__(self, folder):
        remote, notes, self.slot = folder / "remote", folder / "notes", folder / "slot"
        for made in (notes, self.slot):
            made.mkdir()
        trees.write(remote, {NAME: trees.noise(7, SIZE)})
        self.source = (remote / NAME).read_bytes()
        self.place = FolderPlace({"folder": str(remote), "notes": str(notes), "owner": os.getpid()})
        self.ledger = Ledger(folder / "partner.sqlite", "a folder")
        self.ledger.list_files(DELIVERY, [RemoteFile(NAME, SIZE, (remote / NAME).stat().st_mtime)])

    def bring(self, pace, *, boot="one", flush_every=1 << 40, landing=Landing):
        with landing(self.slot, flush_every=flush_every) as place, suppress(Unreachable):
            Bringing(
                self.place, "", place, self.ledger, DELIVERY,
                algorithms=(), pace=pace, progress=NoProgress(), boot=boot,
            ).bring()  # fmt: skip
        return pace.came

    def durable(self):
        noted = self.ledger.part(DELIVERY, NAME)
        return noted.durable if noted else 0

    def power_cut(self, *, boot="one", flushed=0):
        """Five MiB came, some of them were flushed, and nothing was done after that: how much is known to be flushed."""
        noted = []

        def known():
            noted.append(self.ledger.part(DELIVERY, NAME))
            return noted[-1].durable >= flushed

        self.bring(Cut(5 * MIB, known), boot=boot, flush_every=MIB if flushed else 1 << 40)
        self.ledger.note_part(DELIVERY, NAME, noted[-1], durably=True)
        return self.durable()

    def hole(self, begin, end):
        (part,) = self.slot.glob(".in.*")
        with part.open("r+b") as file:
            file.seek(begin)
            file.write(bytes(end - begin))


@pytest.fixture
def bench(tmp_path):
    made = Bench(tmp_path)
    yield made
    made.ledger.close()


needs_syncfs = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="only Linux flushes on the way")


@needs_syncfs
def test_after_another_boot_what_was_flushed_is_gone_on_with_and_the_rest_is_not(bench):
    there = bench.power_cut(flushed=MIB)
    bench.hole(there, max(there, 4 * MIB))

    came = bench.bring(Cut(), boot="two")

    assert (bench.slot / NAME).read_bytes() == bench.source
    assert came == SIZE - there
    assert MIB <= there <= 5 * MIB


def test_in_the_same_boot_all_of_it_is_gone_on_with(bench):
    bench.bring(Cut(5 * MIB))

    assert bench.bring(Cut()) == 3 * MIB
    assert (bench.slot / NAME).read_bytes() == bench.source


def test_a_part_that_was_left_is_flushed_and_gone_on_with_in_every_boot(bench):
    bench.bring(Cut(5 * MIB))

    assert bench.bring(Cut(), boot="two") == 3 * MIB
    assert (bench.slot / NAME).read_bytes() == bench.source


class FullDisk(Landing):
    """Takes what is written, and says when it is flushed that it had no room for it."""

    def resume(self, path, which):
        arriving, reader = super().resume(path, which)
        arriving.sync = self._no_room
        return arriving, reader

    def _no_room(self):
        raise OSError(errno.ENOSPC, "no room")


def test_what_the_disk_did_not_take_is_not_gone_on_with_in_the_same_boot_either(bench):
    bench.bring(Cut(5 * MIB), landing=FullDisk)
    bench.hole(MIB, 3 * MIB)

    assert bench.bring(Cut()) == SIZE
    assert (bench.slot / NAME).read_bytes() == bench.source


def test_what_was_not_flushed_before_a_boot_stays_unknown_in_every_later_one(bench):
    bench.power_cut(boot="one")
    bench.power_cut(boot="two")
    bench.hole(MIB, 3 * MIB)

    assert bench.bring(Cut(), boot="three") == SIZE
    assert (bench.slot / NAME).read_bytes() == bench.source


def test_a_part_that_no_note_tells_of_is_begun_anew(bench, tmp_path):
    bench.bring(Cut(5 * MIB))
    files = [RemoteFile(row.path, row.size, row.mtime) for row in bench.ledger.files(DELIVERY)]
    bench.ledger.close()
    bench.ledger = Ledger(tmp_path / "another.sqlite", "a folder")  # as versions before left it
    bench.ledger.list_files(DELIVERY, files)

    assert bench.bring(Cut()) == SIZE


@needs_syncfs
def test_what_was_flushed_of_a_part_says_nothing_about_the_one_that_is_begun_after_it(bench):
    bench.power_cut(flushed=MIB)
    (part,) = bench.slot.glob(".in.*")
    part.unlink()
    bench.power_cut()
    bench.hole(MIB, 3 * MIB)

    bench.bring(Cut(), boot="two")

    assert (bench.slot / NAME).read_bytes() == bench.source


def test_no_note_is_left_of_what_is_whole_and_none_made_of_a_small_file(bench):
    bench.ledger.list_files(DELIVERY, [RemoteFile(NAME, SIZE)])
    bench.bring(Cut())
    (bench.slot.parent / "remote" / "small").write_bytes(bytes(MIB))
    bench.ledger.list_files(DELIVERY, [RemoteFile("small", MIB)])

    bench.bring(Cut(MIB // 2))

    assert bench.ledger.part(DELIVERY, NAME) is None
    assert bench.ledger.part(DELIVERY, "small") is None


def test_a_process_has_one_boot():
    assert this_boot() == this_boot() != ""
