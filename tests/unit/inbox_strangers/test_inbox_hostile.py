"""What lies in an inbox was put there by strangers: each of these is refused with a finding, and nothing is lost or left."""

import json
import os
import shutil
import socket
import sys
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path

import pytest

from lading.delivery import DeliveryId, Labels, new_delivery_id
from lading.errors import Corrupted, Rejected
from lading.inbox import Inbox, InboxLimits, read_seal
from lading.testing.deliveries import FILES, fill, send, slot_of, tree

pytestmark = pytest.mark.skipif(sys.platform == "win32", reason="links, pipes and devices of POSIX")


def refused(inbox: Inbox, delivery: DeliveryId) -> list[str]:
    """The codes of the refusal; afterwards the delivery lies in quarantine and nothing was published."""
    with pytest.raises(Rejected) as caught:
        inbox.publish(inbox.accept(delivery))
    inbox.quarantine(delivery, caught.value.findings)
    assert caught.value.findings
    assert not [p for p in inbox.root.iterdir() if p.name != ".lading"]
    assert os.path.lexists(inbox.root / ".lading/quarantine" / delivery)
    assert list(inbox.arrivals()) == []
    return sorted({f.code for f in caught.value.findings})


def reseal(slot: Path, **changes: object) -> None:
    """Write the seal again so that it fits the lists as they are now, with `changes` to its own keys."""
    raw = json.loads((slot / "manifest.json").read_text())
    for key, name in (("list_digest", "manifest.jsonl"), ("digest", "manifest-sha256.txt")):
        raw["summary"][key] = sha256((slot / name).read_bytes()).hexdigest()
    summary = changes.pop("summary", {})
    assert isinstance(summary, dict)
    raw["summary"].update(summary)
    raw.update(changes)
    (slot / "manifest.json").write_text(json.dumps(raw))


def list_in(slot: Path, path: str, content: bytes = b"first") -> None:
    """Make the lists name `path` instead of a.dcm, and the seal fit them."""
    lines = (slot / "manifest.jsonl").read_text().splitlines()
    entry = json.loads(lines[0]) | {"path": path, "size": len(content), "sha256": sha256(content).hexdigest()}
    (slot / "manifest.jsonl").write_text(json.dumps(entry) + "\n")
    (slot / "manifest-sha256.txt").write_text(f"{entry['sha256']}  {path}\n")
    reseal(slot, summary={"files": 1, "bytes": len(content)})


@pytest.mark.parametrize(
    "path", ["../escaped", "a/../../escaped", "/etc/passwd", "./a", "a//b", "C:\\x", "\\\\host\\share"]
)
def test_a_manifest_whose_paths_escape(inbox: Inbox, source: Path, path: str) -> None:
    delivery = send(inbox, source)
    list_in(slot_of(inbox, delivery.id), path)

    assert refused(inbox, delivery.id) == ["manifest-path-escapes"]


def make_link(place: Path, outside: Path) -> None:
    place.symlink_to(outside / "secret")


def make_folder_link(place: Path, outside: Path) -> None:
    place.symlink_to(outside, target_is_directory=True)


def make_fifo(place: Path, outside: Path) -> None:
    os.mkfifo(place)


def make_socket(place: Path, outside: Path) -> None:
    here = Path.cwd()
    os.chdir(place.parent)  # the name of a socket may not be longer than 107 bytes
    try:
        with socket.socket(socket.AF_UNIX) as server:
            server.bind(place.name)
    finally:
        os.chdir(here)


def make_device(place: Path, outside: Path) -> None:
    if os.geteuid() != 0:
        pytest.skip("needs root to make a device file")
    os.mknod(place, 0o666 | 0o020000, os.makedev(1, 3))


@pytest.mark.parametrize("make", [make_link, make_folder_link, make_fifo, make_socket, make_device])
@pytest.mark.parametrize("where", ["a.dcm", "unlisted"])
def test_links_pipes_sockets_and_devices(
    inbox: Inbox, source: Path, outside: Path, make: Callable[[Path, Path], None], where: str
) -> None:
    delivery = send(inbox, source)
    place = slot_of(inbox, delivery.id) / "data" / where
    place.unlink(missing_ok=True)
    make(place, outside)

    codes = refused(inbox, delivery.id)

    assert codes in (["symlink"], ["special-file"])
    assert tree(outside) == {"secret": b"keep out"}


def test_a_folder_of_the_data_that_is_a_link(inbox: Inbox, source: Path, tmp_path: Path) -> None:
    delivery = send(inbox, source)
    folder = slot_of(inbox, delivery.id) / "data/series 2"
    shutil.move(folder, tmp_path / "elsewhere")
    folder.symlink_to(tmp_path / "elsewhere", target_is_directory=True)

    assert "symlink" in refused(inbox, delivery.id)


def test_a_data_folder_that_is_a_link(inbox: Inbox, source: Path, tmp_path: Path) -> None:
    delivery = send(inbox, source)
    data = slot_of(inbox, delivery.id) / "data"
    shutil.move(data, tmp_path / "elsewhere")
    data.symlink_to(tmp_path / "elsewhere", target_is_directory=True)

    assert refused(inbox, delivery.id) == ["symlink"]
    assert tree(tmp_path / "elsewhere") == FILES


def test_a_slot_that_is_a_link(inbox: Inbox, source: Path, tmp_path: Path) -> None:
    delivery = send(inbox, source)
    shutil.move(slot_of(inbox, delivery.id), tmp_path / "elsewhere")
    slot_of(inbox, delivery.id).symlink_to(tmp_path / "elsewhere", target_is_directory=True)
    before = tree(tmp_path / "elsewhere")

    assert refused(inbox, delivery.id) == ["symlink"]
    assert tree(tmp_path / "elsewhere") == before


@pytest.mark.parametrize("paper", ["manifest.jsonl", "manifest-sha256.txt", "manifest.json"])
@pytest.mark.parametrize("make", [make_link, make_fifo, make_folder_link])
def test_papers_that_are_no_files(
    inbox: Inbox, source: Path, outside: Path, paper: str, make: Callable[[Path, Path], None]
) -> None:
    delivery = send(inbox, source)
    place = slot_of(inbox, delivery.id) / paper
    place.unlink()
    make(place, outside)

    assert refused(inbox, delivery.id) in (["manifest-not-a-file"], ["seal-malformed"])
    assert tree(outside) == {"secret": b"keep out"}


def test_a_sparse_manifest_of_ten_gigabytes_is_not_read(inbox: Inbox, source: Path) -> None:
    delivery = send(inbox, source)
    with (slot_of(inbox, delivery.id) / "manifest.jsonl").open("ab") as file:
        file.truncate(10 << 30)

    assert refused(inbox, delivery.id) == ["manifest-too-large"]


def test_a_seal_that_claims_a_billion_files(inbox: Inbox, source: Path) -> None:
    delivery = send(inbox, source)
    reseal(slot_of(inbox, delivery.id), summary={"files": 10**9})

    assert refused(inbox, delivery.id) == ["delivery-too-large"]


def test_a_manifest_with_more_entries_than_the_inbox_takes(tmp_path: Path, source: Path) -> None:
    inbox = Inbox.create(tmp_path / "in", limits=InboxLimits(max_files=2, keep_free_bytes=0))
    delivery = send(inbox, source)
    reseal(slot_of(inbox, delivery.id), summary={"files": 2})

    assert refused(inbox, delivery.id) == ["manifest-too-large"]


def test_a_delivery_of_more_bytes_than_the_inbox_takes(tmp_path: Path, source: Path) -> None:
    inbox = Inbox.create(tmp_path / "in", limits=InboxLimits(max_bytes=100, keep_free_bytes=0))

    assert refused(inbox, send(inbox, source).id) == ["delivery-too-large"]


def test_a_seal_that_counts_other_files_than_its_list(inbox: Inbox, source: Path) -> None:
    delivery = send(inbox, source)
    reseal(slot_of(inbox, delivery.id), summary={"files": 3})

    assert refused(inbox, delivery.id) == ["manifest-differs-from-seal"]


@pytest.mark.parametrize(
    "damage",
    [
        b"",
        b"[]",
        b"null",
        b"{}",
        b"\xff\xfe",
        b"[" * 60_000,
        b"9" * 60_000,
        b'{"format": 1, "format": 1}',
        b'{"format": NaN}',
        b"{" + b" " * (64 << 10) + b"}",
    ],
)
def test_a_malformed_seal(inbox: Inbox, source: Path, damage: bytes) -> None:
    delivery = send(inbox, source)
    (slot_of(inbox, delivery.id) / "manifest.json").write_bytes(damage)

    assert refused(inbox, delivery.id) == ["seal-malformed"]


@pytest.mark.parametrize(
    "changes",
    [
        {"priority": True},
        {"priority": "high"},
        {"extra": 1},
        {"origin": "heaven"},
        {"created_at": "2026-05-04T18:15:00"},
        {"created_at": "yesterday"},
        {"created_at": "0001-01-01T00:00:00+14:00"},
        {"created_at": "9999-12-31T23:59:59+00:00"},
        {"labels": {"project": "P"}},
        {"labels": {"project": 1, "participant": "s", "session": "e"}},
        {"route": "x" * 1000},
        {"sender": "\x1b[2Jroot"},
        {"delivery": "../../../etc"},
        {"summary": {"files": -1}},
        {"summary": {"digest": "ABC"}},
        {"summary": {"algorithms": ["sha256"] * 100}},
    ],
)
def test_a_seal_with_wrong_values(inbox: Inbox, source: Path, changes: dict[str, object]) -> None:
    delivery = send(inbox, source)
    reseal(slot_of(inbox, delivery.id), **changes)

    assert refused(inbox, delivery.id) == ["seal-malformed"]


def test_a_seal_of_a_later_version(inbox: Inbox, source: Path) -> None:
    delivery = send(inbox, source)
    reseal(slot_of(inbox, delivery.id), format=2)

    assert refused(inbox, delivery.id) == ["seal-format-unknown"]


def test_two_deliveries_that_claim_one_id(inbox: Inbox, source: Path, tmp_path: Path) -> None:
    honest = send(inbox, source)
    thief = send(inbox, fill(tmp_path / "other", {"z": b"z"}))
    reseal(slot_of(inbox, thief.id), delivery=honest.id)

    with pytest.raises(Rejected) as caught:
        inbox.accept(thief.id)

    assert [f.code for f in caught.value.findings] == ["delivery-id-mismatch"]
    assert tree(inbox.publish(inbox.accept(honest.id)).root) == FILES


def test_a_file_that_is_not_in_the_manifest(inbox: Inbox, source: Path) -> None:
    delivery = send(inbox, source)
    fill(slot_of(inbox, delivery.id) / "data", {"series 2/planted.exe": b"MZ", ".hidden.abcdef": b"x"})

    with pytest.raises(Rejected) as caught:
        inbox.accept(delivery.id)

    assert sorted(f.path for f in caught.value.findings) == [".hidden.abcdef", "series 2/planted.exe"]
    assert {f.code for f in caught.value.findings} == {"extra-file"}


def test_a_wrong_digest_is_found_and_named(inbox: Inbox, source: Path) -> None:
    delivery = send(inbox, source)
    (slot_of(inbox, delivery.id) / "data/notes.txt").write_bytes(b"y" * 70_000)

    with pytest.raises(Corrupted) as caught:
        inbox.accept(delivery.id)

    assert caught.value.paths == ("notes.txt",)


@pytest.mark.parametrize(
    "label",
    [
        "",
        ".",
        "..",
        "../..",
        "a/b",
        "/abs",
        ".lading",
        ".LADING",
        ".hidden",
        "con",
        "NUL.txt",
        "COM1",
        "a\\b",
        "C:",
        "x ",
        " x",
        "x.",
        "a\nb",
        "a\x00b",
        "x" * 256,
        "\ud800",
    ],
)
@pytest.mark.parametrize("which", ["project", "participant", "session"])
def test_labels_that_escape_hide_or_name_a_device(inbox: Inbox, source: Path, label: str, which: str) -> None:
    delivery = send(inbox, source)
    labels = {"project": "P", "participant": "s", "session": "e"} | {which: label}
    reseal(slot_of(inbox, delivery.id), labels=labels)

    assert refused(inbox, delivery.id) in (["label-invalid"], ["seal-malformed"])


@pytest.mark.parametrize("labels", [Labels("..", "s", "e"), Labels("P", "", "e"), Labels("P", "s", ".lading")])
def test_an_operators_typo_cannot_escape_either(inbox: Inbox, source: Path, labels: Labels) -> None:
    delivery = send(inbox, source)
    inbox.accept(delivery.id)
    inbox.quarantine(delivery.id, [])

    with pytest.raises(Rejected):
        inbox.release(delivery.id, labels)


def test_strange_folder_names_among_the_slots_are_no_deliveries(inbox: Inbox, source: Path) -> None:
    for name in ("..x", "UPPER-CASE-ID", "x", "a b c d e f g h"):
        fill(inbox.root / ".lading/incoming" / name, {"manifest.json": b"{}"})
    delivery = send(inbox, source)

    assert list(inbox.arrivals()) == [delivery.id]


def test_a_seal_may_be_read_where_it_lies_without_trusting_its_folder(inbox: Inbox, source: Path) -> None:
    delivery = send(inbox, source)

    sealed = read_seal(slot_of(inbox, delivery.id))

    assert (sealed.delivery, sealed.labels, sealed.sender) == (delivery.id, delivery.labels, "anna@mr1")
    with pytest.raises(Rejected):
        read_seal(slot_of(inbox, new_delivery_id()))
