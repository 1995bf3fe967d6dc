"""Bench (b): a delivery over the rsync transport, against `rsync -a` plus a hash of both sides with the same library.

    python bench/rsync_delivery.py [--folder DIR] [--rounds N] [--scale F] [--ssh]

Ours: the carry, beside it the manifest (every file hashed at the source), and the inbox reading every byte back (`Inbox.accept`).
Theirs: hashlib's SHA-256 over the source on all cores, `rsync -a SOURCE/ TARGET/`, the same hash over the target. Both end in a
`sync`; the rounds alternate, the medians are compared. Aim: at most 1.1 times. `--ssh` goes through a real sshd on loopback.
"""

import argparse
import contextlib
import hashlib
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from local_delivery import compare, give_space_back, many_files, two_large

from lading.delivery import Cargo, Delivery, Labels, Slot, new_delivery_id
from lading.inbox import Inbox, InboxLimits
from lading.ports import NoProgress
from lading.testing.carrying import FileJournal
from lading.testing.servers import Sshd, sshd
from transport.rsync import RsyncConfig, RsyncTransport


def hash_all(folder: Path) -> dict[str, str]:
    def digest(path: Path) -> str:
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()

    paths = [Path(parent, name) for parent, _, names in os.walk(folder) for name in names]
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return dict(zip((str(p.relative_to(folder)) for p in paths), pool.map(digest, paths), strict=True))


def with_rsync(server: Sshd | None) -> Callable[[Path, Path], Callable[[], None]]:
    def prepare(source: Path, work: Path) -> Callable[[], None]:
        target = work / "rsync"
        shell = []
        if server:
            shell = ["-e", f"ssh -p {server.port} -i {server.identity} -o UserKnownHostsFile={server.known_hosts}"]
        address = f"{server.user}@127.0.0.1:{target}/" if server else f"{target}/"

        def run() -> None:
            before = hash_all(source)
            subprocess.run(["rsync", "-a", *shell, f"{source}/", address], check=True)
            assert hash_all(target) == before

        return run

    return prepare


def with_lading(server: Sshd | None) -> Callable[[Path, Path], Callable[[], None]]:
    def prepare(source: Path, work: Path) -> Callable[[], None]:
        inbox = Inbox.create(work / "inbox", limits=InboxLimits(keep_free_bytes=0))
        (work / "papers").mkdir()
        delivery = Delivery(new_delivery_id(), "bench", Labels("P", "s", "e"))
        cargo = Cargo(delivery, source, work / "papers")
        config = RsyncConfig(target=str(inbox.root))
        if server:
            config = RsyncConfig(
                target=f"{server.user}@127.0.0.1:{inbox.root}",
                port=server.port,
                identity=server.identity,
                known_hosts=server.known_hosts,
            )

        def run() -> None:
            begun = time.perf_counter()
            RsyncTransport(config, state=work).carry(
                cargo, Slot(delivery.id), FileJournal(work / "journal"), NoProgress()
            )
            carried = time.perf_counter()
            inbox.accept(delivery.id)
            print(
                f"    lading: list and carry {carried - begun:.2f} s, accept {time.perf_counter() - carried:.2f} s",
                file=sys.stderr,
            )

        return run

    return prepare


@contextlib.contextmanager
def maybe_sshd(folder: Path, *, wanted: bool) -> Iterator[Sshd | None]:
    if not wanted:
        yield None
        return
    with sshd(folder) as server:
        yield server


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's folder for temporary files)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="a fraction of the work, for a quick look")
    parser.add_argument("--ssh", action="store_true", help="through a real sshd on loopback")
    options = parser.parse_args()
    reached = []
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="lading-bench-") as name:
        folder = Path(name)
        with maybe_sshd(folder / "sshd", wanted=options.ssh) as server:
            for title, fill in (("5,000 files of 50-500 KB", many_files), ("2 files of 1 GiB", two_large)):
                source = folder / fill.__name__
                fill(source, options.scale)
                reached.append(
                    compare(
                        title,
                        source,
                        folder,
                        options.rounds,
                        1.1,
                        ours=with_lading(server),
                        theirs=with_rsync(server),
                        other="rsync -a and both sides hashed",
                    )
                )
                give_space_back(source)
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
