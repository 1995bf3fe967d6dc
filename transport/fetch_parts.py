"""How far the part of a file that an interrupted fetch left may be believed.

Within one boot of this machine all of it: what a process wrote is there. After another one, a power cut may have come between: the
length is right then, and the last block, and in the middle are zeros. So only what was flushed before is gone on with: a landing
flushes now and then anyway, and a part is flushed when it is left. A disk that does not take it then (a full one behind a network
says so late) is like a power cut.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from lading.errors import EngineError
from transport.fetch_ledger import Ledger, PartNote, Row
from transport.landing import Arriving, Landing
from transport.remote import BLOCK


class Parts:
    """The parts of the files of one delivery, written in the boot `boot` from now on."""

    def __init__(self, landing: Landing, ledger: Ledger, delivery: str, boot: str) -> None:
        self._landing, self._ledger, self._delivery, self._boot = landing, ledger, delivery, boot

    def resume(self, row: Row, which: str) -> tuple[Arriving, int]:
        """See `Landing.resume`; what of an earlier part cannot be believed is cut off. Raises OSError, EngineError."""
        arriving, reader = self._landing.resume(row.path, which)
        try:
            sure = self._sure(row, which, arriving.length)
            if sure < arriving.length:
                arriving.restart(sure)
        except BaseException:
            os.close(reader)
            arriving.leave()
            raise
        return arriving, reader

    def grows(self, row: Row, which: str, arriving: Arriving) -> None:
        """What is there of it is believed, and more is written now."""
        if _is_compared_whole(row):
            return
        noted = self._ledger.part(self._delivery, row.path)
        before = noted.durable if noted and noted.which == which else 0
        durable = min(before, arriving.length)
        now = PartNote(which, self._boot, durable)
        if now != noted:
            # Taken back by a power cut, a greater length would make what is written now believed.
            self._ledger.note_part(self._delivery, row.path, now, durably=durable < before)
        self._landing.watch(arriving, self._noting(row, which))

    def leave(self, row: Row, which: str, arriving: Arriving) -> None:
        """Stop here; the next attempt may go on with what the disk took. Raises nothing: there is an error under way already."""
        self._landing.unwatch(arriving)
        try:
            with suppress(EngineError):
                noted = None if _is_compared_whole(row) else self._ledger.part(self._delivery, row.path)
                if noted and (noted.which, noted.boot) == (which, self._boot) and arriving.length > noted.durable:
                    self._ledger.note_part(self._delivery, row.path, _flushed(arriving, noted), durably=False)
        finally:
            with suppress(OSError):
                arriving.leave()

    def _sure(self, row: Row, which: str, length: int) -> int:
        """How much of a part of `length` bytes is as it was written."""
        if not length or _is_compared_whole(row):
            return length
        noted = self._ledger.part(self._delivery, row.path)
        if noted is None or noted.which != which:
            return 0
        return length if noted.boot == self._boot else min(length, noted.durable)

    def _noting(self, row: Row, which: str) -> Callable[[int], None]:
        def durable(length: int) -> None:
            with suppress(EngineError):  # it costs that much after a power cut; the fetch itself says what is wrong
                self._ledger.note_part(self._delivery, row.path, PartNote(which, self._boot, length), durably=False)

        return durable


def _flushed(arriving: Arriving, noted: PartNote) -> PartNote:
    """What is known of a part that is left."""
    length = arriving.length
    try:
        arriving.sync()
    except OSError:
        return replace(noted, boot="")
    return replace(noted, durable=length)


def _is_compared_whole(row: Row) -> bool:
    """Whether no byte of a part of it is believed: its last block is compared with the source, and it has no other."""
    return row.size <= BLOCK
