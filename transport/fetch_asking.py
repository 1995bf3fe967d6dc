"""Gives a delivery in a waypoint back to its sender, who then sends what is damaged once more; as an inbox does."""

import hashlib
import tempfile
from collections.abc import Callable
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

from lading.delivery import Receipt, Slot, Stage
from lading.disk import write_durably
from lading.errors import Corrupted
from lading.findings import error
from lading.inbox import parse_receipt, receipt_json
from lading.seal import SEAL_NAME, read_seal
from transport.bodies import SmallBody
from transport.foreign import TARGET, translating
from transport.stalling import Watched

_RECEIPTS = ".lading/receipts"
_NAMED = 200


class Asking:
    """What is to be asked of the senders of one route; noted in `folder` before anything is done about it.

    Each `source` has a folder of its own in it: where the route fetches from now, nobody is told what is in another place.

    The seal goes before the receipt comes: an agent that heard first would find its own seal, and take the delivery for carried.
    """

    def __init__(self, folder: Path, source: str, files: Watched, clock: Callable[[], float]) -> None:
        word = hashlib.blake2b(source.encode("utf-8", "surrogatepass"), digest_size=12).hexdigest()
        self._before, self._folder = folder, folder / word
        self._files, self._clock = files, clock

    def note(self, seal: bytes, damage: Corrupted, route: str) -> None:
        """The delivery that `seal` seals has damaged files. Durable on return."""
        with translating(f"cannot write into {self._folder}", TARGET):
            self._folder.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryDirectory(dir=self._before.parent, prefix="papers-") as folder:
                (Path(folder) / SEAL_NAME).write_bytes(seal)
                sealed = read_seal(Path(folder))
            below = f"{Slot(sealed.delivery).data}/"
            paths = [path.partition(below)[2] or path for path in damage.paths[:_NAMED]]
            receipt = Receipt(
                delivery=sealed.delivery,
                route=route,
                labels=sealed.labels,
                stage=Stage.SENDING,
                digest=sealed.summary.digest,
                files=sealed.summary.files,
                bytes=sealed.summary.bytes,
                counts={},
                repository={},
                findings=tuple(
                    error("corrupted", "differs from the manifest", path=path, hint="is sent again") for path in paths
                ),
                files_digest=hashlib.sha256(b"").hexdigest(),
                at=self._now(),
            )
            write_durably(self._folder / f"{sealed.delivery}.json", receipt_json(receipt).encode("ascii"), mode=0o600)

    def tell(self) -> None:
        """Ask what is noted. Again after a crash: a sender that is asked twice compares twice, and sends nothing more."""
        with translating(f"cannot read {self._folder}", TARGET):
            # Notes directly in it are older than the sources' own folders, and of the one that is fetched from.
            noted = [file for place in (self._before, self._folder) for file in sorted(place.glob("*.json"))]
        for file in noted:
            receipt = parse_receipt(file.read_text(encoding="ascii"))
            self._files.remove(f"{Slot(receipt.delivery).path}/{SEAL_NAME}")
            # Of now: an agent has done with a receipt that it has read.
            fresh = receipt_json(replace(receipt, at=self._now())).encode("ascii")
            self._files.make_folders(_RECEIPTS)
            self._files.place(f"{_RECEIPTS}/{receipt.delivery}.json", SmallBody(fresh, self._clock()))
            with translating(f"cannot remove {file}", TARGET):
                file.unlink(missing_ok=True)

    def _now(self) -> datetime:
        return datetime.fromtimestamp(self._clock(), UTC)
