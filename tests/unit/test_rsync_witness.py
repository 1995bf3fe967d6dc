"""rsync's own checksums, compared with the manifest before a delivery is sealed."""

import os
import shutil
import stat
import sys
from pathlib import Path

import pytest

from lading.delivery import Cargo, Delivery, DeliveryId, Labels, Slot
from lading.errors import SourceChanged
from lading.inbox import Inbox, InboxLimits
from lading.manifest import Entry, make
from lading.ports import NoProgress
from lading.seal import SEAL_NAME, seal
from lading.testing import trees
from lading.testing.carrying import FileJournal
from transport.rsync import RsyncConfig, RsyncTransport
from transport.rsync_run import Ended
from transport.rsync_witness import DIGEST, Witness

pytest.importorskip("xxhash", reason="xxhash is not installed (extra: xxhash)")
needs_rsync = pytest.mark.skipif(not shutil.which("rsync"), reason="rsync is not installed (Debian: rsync)")

FILES = {"a": b"1", "b/c d": trees.noise(1, 100_000), "b/new\nline": b"2", "empty": b""}
OLD_RSYNC = """#!/bin/sh
case "$*" in *--checksum-choice*) echo "unknown checksum name: xxh128" >&2; exit 4;; esac
exec rsync "$@"
"""


@pytest.fixture
def cargo(tmp_path: Path) -> Cargo:
    source = trees.write(tmp_path / "source", FILES)
    delivery = Delivery(DeliveryId("delivery-1"), "r", Labels("P", "s", "e"))
    return Cargo(delivery, source, tmp_path / "papers", algorithms=(DIGEST,))


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox.create(tmp_path / "inbox", limits=InboxLimits(keep_free_bytes=0))


def carry(cargo: Cargo, inbox: Inbox, tmp_path: Path, program: str = "rsync") -> None:
    transport = RsyncTransport(RsyncConfig(target=str(inbox.root), program=program), state=tmp_path / "state")
    transport.carry(cargo, Slot(cargo.delivery.id), FileJournal(tmp_path / "journal"), NoProgress())


def write_over(path: Path, content: bytes) -> None:
    """As `cp -p` does: size and time stay."""
    before = path.stat()
    path.write_bytes(content)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


@needs_rsync
@pytest.mark.parametrize("listed_first", [True, False])
def test_what_rsync_sent_is_what_was_listed(cargo: Cargo, inbox: Inbox, tmp_path: Path, listed_first: bool) -> None:
    if listed_first:
        cargo.papers.mkdir()
        seal(cargo.papers, cargo.delivery, make(cargo.root, cargo.papers, algorithms=cargo.algorithms))
    said: list[str] = []
    original = Witness.line

    def line(self: Witness, text: bytes) -> None:
        original(self, text)
        said.extend(self._said)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Witness, "line", line)
        carry(cargo, inbox, tmp_path)
    inbox.accept(cargo.delivery.id)
    assert set(said) == set(FILES), "rsync spoke of every file"


@needs_rsync
def test_a_file_that_changed_after_it_was_listed_is_found_before_the_seal(
    cargo: Cargo, inbox: Inbox, tmp_path: Path
) -> None:
    cargo.papers.mkdir()
    seal(cargo.papers, cargo.delivery, make(cargo.root, cargo.papers, algorithms=cargo.algorithms))
    write_over(cargo.root / "b" / "c d", trees.noise(2, 100_000))

    with pytest.raises(SourceChanged, match=f"c d was another file .* {DIGEST}"):
        carry(cargo, inbox, tmp_path)
    assert not (inbox.root / Slot(cargo.delivery.id).path / SEAL_NAME).exists()


@needs_rsync
@pytest.mark.skipif(sys.platform == "win32", reason="a shell script stands for an old rsync")
def test_an_rsync_that_knows_nothing_of_it_carries_all_the_same(cargo: Cargo, inbox: Inbox, tmp_path: Path) -> None:
    old = tmp_path / "rsync"
    old.write_text(OLD_RSYNC)
    old.chmod(old.stat().st_mode | stat.S_IXUSR)
    carry(cargo, inbox, tmp_path, program=str(old))
    inbox.accept(cargo.delivery.id)


def test_only_a_refusal_of_the_checksum_is_one() -> None:
    witness = Witness(wanted=True)
    assert not witness.is_refused(Ended(23, "checksum"))
    assert not witness.is_refused(Ended(4, "something else"))
    assert witness.options[0].startswith("--checksum-choice")
    assert witness.is_refused(Ended(4, "unknown checksum name: xxh128"))
    assert witness.options == ["--out-format=%i"]


def test_nobody_is_asked_who_has_nothing_to_compare_with() -> None:
    witness = Witness(wanted=False)
    witness.line(b"<f+++++++++ " + b"0" * 32 + b" a")
    witness.refuse_other(Path("/"), [Entry("a", 1, 0, {DIGEST: "1" * 32})])
