"""Bench (a): a local delivery, from hand-over to sealed and verified, against a plain, unverified `rsync -a`.

    python bench/local_delivery.py [--folder DIR] [--rounds N] [--scale F]

Ours: one read at the source gives the hashes and the copy, the papers are sealed, and the inbox reads every byte back
(`Inbox.accept`). Theirs: `rsync -a SOURCE/ TARGET/`, which proves nothing. Both end in a `sync`; the rounds alternate, and the
medians are compared. Aims: at most 0.9 times rsync's time for 5,000 files of 50 to 500 KB, at most 1.1 times for 2 files of 1 GiB.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from lading.delivery import Cargo, Delivery, Labels, Slot, new_delivery_id
from lading.inbox import Inbox, InboxLimits
from lading.ports import NoProgress
from lading.testing.carrying import FileJournal
from transport.local import LocalConfig, LocalTransport


def many_files(folder: Path, scale: float) -> None:
    source = random.Random(1)
    pool = os.urandom(1_000_000)
    for number in range(int(5000 * scale)):
        series = folder / f"series-{number // 500:02}"
        series.mkdir(parents=True, exist_ok=True)
        start, size = source.randrange(500_000), source.randrange(50_000, 500_000)
        (series / f"image-{number:05}.dcm").write_bytes(number.to_bytes(8) + pool[start : start + size])


def two_large(folder: Path, scale: float) -> None:
    folder.mkdir(parents=True)
    for number in range(2):
        with (folder / f"large-{number}.dat").open("wb") as out:
            for _ in range(int(1024 * scale)):
                out.write(os.urandom(1 << 20))


def with_rsync(source: Path, work: Path) -> Callable[[], None]:
    target = work / "rsync"

    def run() -> None:
        subprocess.run(["rsync", "-a", f"{source}/", f"{target}/"], check=True)

    return run


def with_lading(source: Path, work: Path) -> Callable[[], None]:
    inbox = Inbox.create(work / "inbox", limits=InboxLimits(keep_free_bytes=0))
    delivery = Delivery(new_delivery_id(), "bench", Labels("P", "s", "e"))
    cargo = Cargo(delivery, source, work / "papers")
    slot = Slot(delivery.id)

    def run() -> None:
        transport = LocalTransport(LocalConfig(path=inbox.root))
        begun = time.perf_counter()
        transport.carry(cargo, slot, FileJournal(work / "journal"), NoProgress())
        carried = time.perf_counter()
        inbox.accept(delivery.id)
        print(
            f"    lading: carry {carried - begun:.2f} s, accept {time.perf_counter() - carried:.2f} s", file=sys.stderr
        )

    return run


def timed(make: Callable[[Path, Path], Callable[[], None]], source: Path, folder: Path) -> float:
    work = Path(tempfile.mkdtemp(dir=folder))
    try:
        run = make(source, work)
        os.sync()
        begun = time.perf_counter()
        run()
        os.sync()
        return time.perf_counter() - begun
    finally:
        give_space_back(work)
        os.sync()


def give_space_back(work: Path) -> None:
    """Empty the files and leave them there until the end.

    ext4 does not reuse an inode for minutes after its deletion and searches on, so that deleting here would slow down
    the creation of files in the next round by a factor of ten, at random for either side.
    """
    for folder, _, names in os.walk(work):
        for name in names:
            os.truncate(Path(folder, name), 0)


def compare(
    title: str,
    source: Path,
    folder: Path,
    rounds: int,
    aim: float,
    *,
    ours: Callable[[Path, Path], Callable[[], None]],
    theirs: Callable[[Path, Path], Callable[[], None]],
    other: str,
) -> bool:
    our_times, their_times = [], []
    for _ in range(rounds):
        their_times.append(timed(theirs, source, folder))
        our_times.append(timed(ours, source, folder))
        print(f"  round: {other} {their_times[-1]:.2f} s, lading {our_times[-1]:.2f} s", file=sys.stderr)
    ratio = statistics.median(our_times) / statistics.median(their_times)
    size = sum(path.stat().st_size for path in source.rglob("*") if path.is_file())
    print(
        f"{title}: {size / 1e9:.2f} GB; lading (verified) {statistics.median(our_times):.2f} s, "
        f"{other} {statistics.median(their_times):.2f} s: {ratio:.2f} x (aim: at most {aim} x)",
        flush=True,
    )
    return ratio <= aim


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's folder for temporary files)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="a fraction of the work, for a quick look")
    options = parser.parse_args()
    reached = []
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="lading-bench-") as name:
        folder = Path(name)
        for title, make, aim in (
            ("5,000 files of 50-500 KB", many_files, 0.9),
            ("2 files of 1 GiB", two_large, 1.1),
        ):
            source = folder / make.__name__
            make(source, options.scale)
            reached.append(
                compare(
                    title,
                    source,
                    folder,
                    options.rounds,
                    aim,
                    ours=with_lading,
                    theirs=with_rsync,
                    other="rsync -a (unverified)",
                )
            )
            give_space_back(source)
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
