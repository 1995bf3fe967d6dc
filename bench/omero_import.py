"""(g) An import into OMERO, verified, against a plain sequential upload over Ice and against the loopback itself.

    python bench/omero_import.py [--only large|small|line] [--rounds N] [--scale F] [--round-trip MS] [--plain-wire] [--reread]
                                 [--profile FILE]

All three send the same bytes to this machine: one image of 1 GiB, and 2,000 files of 200 KB in filesets of 20. The loopback:
one socket, read and thrown away by another process. The plain upload: what a short script does with OMERO's API, one file
after the other, hashed while it is sent, one block on its way, one fileset after the other, and nothing read back. Ours: the
importer of the line, from the plan to the last verified file, each read back over a login of its own. Both over TLS into the
stand-in (`--plain-wire`: TCP), which stores and hashes, on one core; the manifest was made where the delivery began, as always.
On the loopback an answer takes no time on the way, which no instrument has: there it is only about processor time. So the small
files go once more (`line`) over a line with the round trip of a network in a building, for both; how long it really is is told.

The rounds alternate; the ratio is ours to the plain upload, of the medians in bytes per second. Aims: at least 0.8 for the
large image, at least 2 for the many, each time. Processor seconds, of the client and of the stand-in, say whose work it was;
the number of requests does not depend on the machine.
"""

import argparse
import cProfile
import hashlib
import os
import resource
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
import omero
import omero.all
import omero.callbacks
import omero.clients
import tifffile
from omero.rtypes import rbool, rstring
from round_trip import line_to, measured

from lading import manifest
from lading.delivery import Delivery, Labels, Outcome, Parcel, new_delivery_id
from lading.sandbox.omero import Accounts, SandboxOmero, User
from omero_importer.importer import OmeroImporter

USER, PASSWORD = "bench", "bench-of-this-machine"
FILESET = 20
RULES = {"filesets": [{"pattern": "*/entry.tif", "companions": ["*"]}]}


class NoJournal:
    """What the line would note; the importer finds its way without."""

    def note(self, key: str, value: str) -> None:
        """Do nothing."""

    def recall(self, key: str) -> str | None:
        """Nothing."""


@dataclass(frozen=True)
class Load:
    """One kind of bytes to send. `filesets`: the files of each, the one that is opened first in front."""

    title: str
    root: Path
    filesets: list[list[Path]]
    aim: float

    @property
    def size(self) -> int:
        """Bytes to send."""
        return sum(path.stat().st_size for files in self.filesets for path in files)


@dataclass(frozen=True)
class Cost:
    """Seconds on the clock, and of the processors; what was asked of the stand-in."""

    wall: float
    client: float
    server: float
    requests: int


def one_large(folder: Path, scale: float) -> Load:
    folder.mkdir()
    side = int(32768 * scale**0.5)
    pixels = tifffile.memmap(folder / "entry.tif", shape=(side, side), dtype=np.uint8)
    for row in range(0, side, 256):
        count = min(256, side - row)
        pixels[row : row + count] = np.frombuffer(os.urandom(side * count), np.uint8).reshape(count, side)
    pixels.flush()
    return Load("1 image of 1 GiB", folder, [[folder / "entry.tif"]], 0.8)


def many_small(folder: Path, scale: float) -> Load:
    filesets = []
    for number in range(int(2000 / FILESET * scale) or 1):
        place = folder / f"set-{number:03}"
        place.mkdir(parents=True)
        tifffile.imwrite(place / "entry.tif", np.frombuffer(os.urandom(447 * 447), np.uint8).reshape(447, 447))
        for plane in range(1, FILESET):
            (place / f"plane-{plane:02}.dat").write_bytes(os.urandom(200_000))
        filesets.append([place / "entry.tif", *sorted(place.glob("*.dat"))])
    return Load("2,000 files of 200 KB in filesets of 20", folder, filesets, 2.0)


# -- the three ways ---------------------------------------------------------------------------------------------------


def over_the_loopback(load: Load) -> None:
    """To a process that only counts."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        child = os.fork()
        if child == 0:
            swallow(listener)
        with socket.create_connection(listener.getsockname()) as connection:
            for files in load.filesets:
                for path in files:
                    with path.open("rb") as source:
                        connection.sendfile(source)
            connection.shutdown(socket.SHUT_WR)
            received = int(connection.makefile("rb").read())
        os.waitpid(child, 0)
    assert received == load.size, f"{received} of {load.size} bytes arrived"


def swallow(listener: socket.socket) -> None:
    with suppress(BaseException):
        connection, _ = listener.accept()
        buffer, total = bytearray(1 << 20), 0
        while count := connection.recv_into(buffer):
            total += count
        connection.sendall(str(total).encode())
        connection.close()
    os._exit(0)


@dataclass
class Plainly:
    """A script over OMERO's API, with one login."""

    sandbox: SandboxOmero
    port: int
    tls: bool

    def __call__(self, load: Load) -> None:
        """Send everything."""
        client = omero.client(host=f"{'ssl' if self.tls else 'tcp'}://{self.sandbox.host}", port=self.port)
        try:
            session = client.createSession(USER, PASSWORD)
            dataset = omero.model.DatasetI()
            dataset.name = rstring(f"plain-{uuid4().hex[:8]}")
            dataset = session.getUpdateService().saveAndReturnObject(dataset)
            for files in load.filesets:
                self._import(client, files, omero.model.DatasetI(dataset.id.val, loaded=False))
        finally:
            client.closeSession()

    def _import(self, client: "omero.clients.BaseClient", files: list[Path], target: "omero.model.DatasetI") -> None:
        algorithm = omero.model.ChecksumAlgorithmI()
        algorithm.value = rstring("SHA1-160")
        settings = omero.grid.ImportSettings(
            doThumbnails=rbool(val=True),
            noStatsInfo=rbool(val=False),
            userSpecifiedTarget=target,
            checksumAlgorithm=algorithm,
        )
        fileset = omero.model.FilesetI()
        for path in files:
            entry = omero.model.FilesetEntryI()
            entry.clientPath = rstring(str(path))
            fileset.addFilesetEntry(entry)
        job = omero.model.UploadJobI()
        job.setVersionInfo([omero.model.NamedValue("bioformats.reader", "Unknown")])
        fileset.linkJob(job)
        process = client.getManagedRepository().importFileset(fileset, settings)
        block = client.getDefaultBlockSize()
        hashes = [self._send(process.getUploader(index), path, block) for index, path in enumerate(files)]
        handle = process.verifyUpload(hashes)
        process.close()
        callback = omero.callbacks.CmdCallbackI(client, handle)
        try:
            callback.loop(1200, 500)
            answer = callback.getResponse()
        finally:
            callback.close(True)  # noqa: FBT003 - OMERO's signature
        assert isinstance(answer, omero.grid.ImportResponse), answer

    def _send(self, store: "omero.api.RawFileStorePrx", path: Path, block: int) -> str:
        digest, offset = hashlib.sha1(), 0
        try:
            store.write(b"", 0, 0)  # as OMERO's own importer does, so that an empty file is there at all
            with path.open("rb") as source:
                while content := source.read(block):
                    digest.update(content)
                    store.write(content, offset, len(content))
                    offset += len(content)
        finally:
            store.close()
        return digest.hexdigest()


@dataclass
class WithLading:
    """The line's importer: what it cannot prove fails the benchmark."""

    sandbox: SandboxOmero
    port: int
    folder: Path
    tls: bool
    reread: bool

    def ready(self, load: Load) -> Callable[[], None]:
        """The delivery lies in the inbox, with its manifest, and the process has logged in before."""
        papers = self.folder / f"papers-{uuid4().hex[:8]}"
        papers.mkdir()
        delivery = Delivery(new_delivery_id(), "microscopy", Labels("BENCH", "s", uuid4().hex[:8]))
        parcel = Parcel(delivery, load.root, manifest.make(load.root, papers, algorithms=("sha1",)), published=True)
        repository: dict[str, object] = {
            "host": self.sandbox.host,
            "port": self.port,
            "credentials": "env:BENCH",
            "bioformats": {"use": "never"},
            "valve": {"free_gb": 0.0},
        }
        repository |= {"ssl": {"ca": str(self.sandbox.certificate)}} if self.tls else {"plain": "loopback"}
        importer = OmeroImporter.from_settings(
            repository, {"files": RULES, "reread": self.reread}, inbox_root=load.root, state=self.folder / "state"
        )

        def run() -> None:
            try:
                self._bring(importer, parcel)
            finally:
                importer.close()

        return run

    def _bring(self, importer: OmeroImporter, parcel: Parcel) -> None:
        began = time.perf_counter()
        plan = importer.plan(parcel)
        assert not any(finding.severity.value == "error" for finding in plan.findings), plan.findings
        planned = time.perf_counter()
        record = importer.run(parcel, plan, NoJournal())
        imported = time.perf_counter()
        outcomes = [one.outcome for one in importer.verify(parcel, record)]
        assert set(outcomes) == {Outcome.VERIFIED}, set(outcomes)
        assert len(outcomes) == parcel.manifest.summary.files
        print(
            f"    lading: plan {planned - began:.2f} s, import {imported - planned:.2f} s, "
            f"read back {time.perf_counter() - imported:.2f} s",
            file=sys.stderr,
        )


# -- measuring --------------------------------------------------------------------------------------------------------


def timed(run: Callable[[], None], sandbox: SandboxOmero) -> Cost:
    os.sync()
    asked = requests(sandbox)
    client, server, wall = own_seconds(), sandbox.processor_seconds(), time.perf_counter()
    run()
    took = time.perf_counter() - wall
    cost = Cost(took, own_seconds() - client, sandbox.processor_seconds() - server, requests(sandbox) - asked)
    for path in (sandbox.root / "data" / "ManagedRepository").rglob("*"):
        if path.is_file() and not path.is_symlink():
            os.truncate(path, 0)  # see local_delivery.py
    return cost


def requests(sandbox: SandboxOmero) -> int:
    counts = sandbox.do("counts")
    assert isinstance(counts, dict)
    return sum(counts.values())


def own_seconds() -> float:
    return sum(sum(resource.getrusage(whose)[:2]) for whose in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))


def compare(
    title: str, load: Load, ways: dict[str, Callable[[], Callable[[], None]]], sandbox: SandboxOmero, rounds: int
) -> bool:
    costs: dict[str, list[Cost]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, make in ways.items():
            costs[name].append(cost := timed(make(), sandbox))
            print(
                f"  {name}: {cost.wall:.2f} s, processors: {cost.client:.2f} s here, {cost.server:.2f} s the stand-in, "
                f"{cost.requests} requests",
                file=sys.stderr,
            )
    speed = {name: load.size / 1e6 / statistics.median(cost.wall for cost in found) for name, found in costs.items()}
    used = {name: statistics.median(cost.client + cost.server for cost in found) for name, found in costs.items()}
    ratio = speed["lading"] / speed["plain"]
    told = ", ".join(f"{name} {speed[name]:.0f} MB/s (processors {used[name]:.1f} s)" for name in ways)
    print(f"{title}: {load.size / 1e9:.2f} GB; {told}: {ratio:.2f} x plain (aim: at least {load.aim} x)", flush=True)
    return ratio >= load.aim


@contextmanager
def profiled(file: Path | None) -> Iterator[None]:
    if file is None:
        yield
        return
    with cProfile.Profile() as profile:
        yield
    profile.dump_stats(file)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's folder for temporary files)")
    parser.add_argument("--only", choices=["large", "small", "line"])
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--scale", type=float, default=1.0, help="a fraction of the work, for a quick look")
    parser.add_argument("--round-trip", type=float, default=0.2, metavar="MS", help="what the line adds to each answer")
    parser.add_argument("--plain-wire", action="store_true", help="without TLS")
    parser.add_argument("--reread", action="store_true", help="ours also lets the server read its disk again")
    parser.add_argument("--profile", type=Path, help="where to write what cProfile sees of our main thread")
    wanted = parser.parse_args()
    os.environ |= {"BENCH_USER": USER, "BENCH_PASSWORD": PASSWORD}
    people = Accounts(
        {"root": User("root-of-this-machine", ("system",)), USER: User(PASSWORD, ("lab",))}, {"lab": "rwra--"}
    )
    reached = []
    with tempfile.TemporaryDirectory(dir=wanted.folder, prefix="lading-bench-") as name:
        folder = Path(name)
        with (
            SandboxOmero(folder / "omero", people=people, java=False, one_core=True) as sandbox,
            profiled(wanted.profile),
        ):
            for kind, make in (("large", one_large), ("small", many_small), ("line", many_small)):
                if wanted.only not in (None, kind):
                    continue
                seconds = wanted.round_trip / 1000 if kind == "line" else 0.0
                print(f"{kind}: a round trip takes {measured(seconds) * 1000:.2f} ms", file=sys.stderr)
                load = make(folder / kind, wanted.scale)
                with line_to(sandbox.tcp_port if wanted.plain_wire else sandbox.port, seconds) as port:
                    plainly = Plainly(sandbox, port, not wanted.plain_wire)
                    lading = WithLading(sandbox, port, folder, not wanted.plain_wire, wanted.reread)
                    ways = {
                        "loopback": lambda load=load: lambda: over_the_loopback(load),
                        "plain": lambda load=load, plainly=plainly: lambda: plainly(load),
                        "lading": lambda load=load, lading=lading: lading.ready(load),
                    }
                    reached.append(compare(f"{kind}, {load.title}", load, ways, sandbox, wanted.rounds))
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
