"""A remote tree behind a real sshd, an inbox here, and a fetcher between them: for the tests of fetching."""

import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

import attrs

from lading.delivery import FileOutcome, Labels, Outcome, Parcel, Receipt, Stage
from lading.inbox import Inbox, InboxLimits
from lading.testing.servers import Sshd
from transport.fetch_ledger import Remembered
from transport.fetching import FetchConfig, Fetcher, Fetching
from transport.remote import RemotePlace
from transport.rsync_places import RsyncConfig
from transport.rsync_pull import RsyncSource
from transport.sftp import SftpConfig, SftpPlace

LABELS = Labels("PROJ", "sub-001", "MR1")
SESSION = "PROJ/sub-001/MR1"


class Clock:
    """A clock that is set by hand."""

    def __init__(self) -> None:
        self.now = time.time()

    def __call__(self) -> float:
        return self.now


class Scene:
    """A remote tree behind an sshd, an inbox here, and a fetcher between them."""

    def __init__(self, folder: Path, server: Sshd) -> None:
        self.folder, self.server = folder, server
        self.remote = folder / "remote"
        self.remote.mkdir()
        self.inbox = Inbox.create(folder / "inbox", limits=InboxLimits(keep_free_bytes=0))
        self.state = folder / "state"
        self.state.mkdir()
        self.clock = Clock()
        self.kind = "sftp"

    def place(self, port: int = 0, **changes: object) -> RemotePlace:
        port = port or self.server.port
        if self.kind == "rsync":
            return RsyncSource(RsyncConfig(target=str(self.remote)))
        if self.kind == "rsync over ssh":
            return RsyncSource(
                RsyncConfig(
                    target=f"{self.server.user}@127.0.0.1:{self.remote}",
                    port=port,
                    identity=self.server.identity,
                    known_hosts=self.server.trusting(port, self.folder),
                )
            )
        config = SftpConfig(
            target=f"{self.server.user}@127.0.0.1:{self.remote}",
            port=port,
            identity=self.server.identity,
            known_hosts=self.server.trusting(port, self.folder),
        )
        return SftpPlace(attrs.evolve(config, **changes))  # type: ignore[arg-type]  # a test names settings

    def fetcher(self, place: RemotePlace | None = None, **config: object) -> Fetcher:
        setting = Fetching(
            "partner",
            place or self.place(),
            attrs.evolve(FetchConfig(quiet=60.0), **config),  # type: ignore[arg-type]  # likewise
            self.inbox,
            self.state,
            algorithms=("md5", "CRC-32"),
        )
        return Fetcher(setting, clock=self.clock)

    def settled(self, fetcher: Fetcher) -> list[Remembered]:
        """Two looks, far enough apart."""
        fetcher.round()
        self.clock.now += 100
        return fetcher.round()

    def accepted(self) -> Sequence[Parcel]:
        """What the inbox takes of what arrived."""
        return [self.inbox.accept(delivery) for delivery in list(self.inbox.arrivals())]


def proof(parcel: Parcel) -> tuple[Receipt, list[FileOutcome]]:
    """A receipt that proves every file, as if a repository had been read back."""
    outcomes = [FileOutcome(e.path, e.size, e.sha256, Outcome.VERIFIED, "test") for e in parcel.manifest]
    receipt = Receipt(
        delivery=parcel.delivery.id,
        route="partner",
        labels=parcel.delivery.labels,
        stage=Stage.VERIFIED,
        digest=parcel.delivery.digest,
        files=parcel.delivery.files,
        bytes=parcel.delivery.bytes,
        counts={"verified": parcel.delivery.files},
        repository={"kind": "test"},
        findings=(),
        files_digest="0" * 64,
        at=datetime.now(UTC).replace(microsecond=0),
    )
    return receipt, outcomes


def size_of_parts(root: Path) -> int:
    """Bytes of the files that are on their way below `root`."""
    return sum(path.stat().st_size for path in root.rglob(".in.*"))
