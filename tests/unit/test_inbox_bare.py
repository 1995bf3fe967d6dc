"""Folders that are dropped into an inbox without a seal."""

import os
from hashlib import md5, sha1, sha256
from pathlib import Path

import pytest

from lading.delivery import Delivery, Labels, new_delivery_id
from lading.errors import NotVerified, Rejected, SourceChanged
from lading.filters import FileRules
from lading.inbox import BareFolder, Inbox, read_seal
from lading.testing.deliveries import FILES, fill, prove, send, tree

LABELS = Labels("P", "s1", "e1")


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox.create(tmp_path / "inbox")


@pytest.fixture
def dropped(inbox: Inbox) -> Path:
    return fill(inbox.root / str(LABELS))


def complete(inbox: Inbox, now: float, *, quiet_s: float = 60, marker: str | None = None) -> list[BareFolder]:
    return list(inbox.bare(quiet_s=quiet_s, marker=marker, now=now))


def new_delivery(bare: BareFolder) -> Delivery:
    return Delivery(id=new_delivery_id(), route="mri", labels=bare.labels)


def take(inbox: Inbox, **more: object) -> Delivery:
    """Adopt the only bare folder."""
    complete(inbox, 0)
    (bare,) = complete(inbox, 60)
    delivery = new_delivery(bare)
    inbox.adopt(bare, delivery, **more)  # type: ignore[arg-type]
    return delivery


def test_a_dropped_folder_becomes_a_delivery_in_the_same_place(inbox: Inbox, dropped: Path) -> None:
    complete(inbox, 0)
    early = complete(inbox, 59)
    (bare,) = complete(inbox, 60)
    delivery = new_delivery(bare)

    inbox.adopt(bare, delivery, algorithms=("md5",))
    moved = not dropped.exists()
    arrived = list(inbox.arrivals())
    parcel = inbox.publish(inbox.accept(delivery.id))

    assert early == []
    assert bare == BareFolder(dropped, LABELS)
    assert moved
    assert arrived == [delivery.id]
    assert parcel.root == dropped
    assert tree(dropped) == FILES
    assert all("md5" in entry.digests for entry in parcel.manifest)
    assert [f.code for f in inbox.notes(delivery.id)] == ["unverified-at-source"]
    assert complete(inbox, 1000) == complete(inbox, 2000) == []


def test_a_folder_that_still_grows_is_not_taken(inbox: Inbox, dropped: Path) -> None:
    for minute in range(1, 4):
        complete(inbox, minute * 60)
        (dropped / "growing").write_bytes(b"x" * minute)
    complete(inbox, 240)
    os.utime(dropped / "a.dcm", ns=(1, 1))

    touched = complete(inbox, 300)
    waiting = inbox.bare_waiting
    quiet = complete(inbox, 360)

    assert touched == []
    assert waiting == {dropped: "quiet for 0 of 60 s"}
    assert [b.path for b in quiet] == [dropped]


def test_a_marker_that_comes_before_the_last_write_starts_nothing(inbox: Inbox, dropped: Path) -> None:
    complete(inbox, 0, marker="done.txt")
    without = complete(inbox, 100, marker="done.txt")
    (dropped / "done.txt").touch()
    marked = complete(inbox, 101, marker="done.txt")
    (dropped / "late").write_bytes(b"late")
    late = complete(inbox, 130, marker="done.txt")
    almost = complete(inbox, 189, marker="done.txt")
    ready = complete(inbox, 190, marker="done.txt")

    assert without == marked == late == almost == []
    assert [b.path for b in ready] == [dropped]


def test_an_unfinished_copy_in_it_makes_a_folder_wait(inbox: Inbox, dropped: Path) -> None:
    (dropped / "big.dcm.part").write_bytes(b"half")
    complete(inbox, 0)

    waiting = complete(inbox, 1000)
    why = inbox.bare_waiting[dropped]
    (dropped / "big.dcm.part").rename(dropped / "big.dcm")
    complete(inbox, 1001)

    assert waiting == []
    assert "big.dcm.part" in why
    assert len(complete(inbox, 1061)) == 1


def test_hidden_links_empty_and_shallow_folders_are_no_deliveries(inbox: Inbox, tmp_path: Path) -> None:
    outside = fill(tmp_path / "outside")
    fill(inbox.root, {"stray": b"x", "P/stray": b"x", "P/s1/stray": b"x", ".git/a/b/c": b"x", "P/.x/e/f": b"x"})
    (inbox.root / "P/s1/empty").mkdir()
    (inbox.root / "P/s1/link").symlink_to(outside)
    (inbox.root / "P/link").symlink_to(outside.parent)
    (inbox.root / "link").symlink_to(outside.parent)

    complete(inbox, 0)

    assert complete(inbox, 1000) == []


def test_what_was_published_by_a_delivery_is_not_taken_for_a_bare_one(inbox: Inbox, tmp_path: Path) -> None:
    inbox.publish(inbox.accept(send(inbox, fill(tmp_path / "source")).id))

    fresh = Inbox.open(inbox.root)  # a server that was restarted

    complete(fresh, 0)
    assert complete(fresh, 1000) == []


def test_what_is_dropped_again_is_taken_even_where_its_folder_has_the_number_of_the_withdrawn_one(
    inbox: Inbox, dropped: Path, tmp_path: Path
) -> None:
    old = take(inbox)
    parcel = inbox.publish(inbox.accept(old.id))
    prove(inbox, parcel)
    complete(inbox, 100)  # it is known as ours
    # The very same folder comes back, as a file system may give a new one the number of the one that went.
    dropped.rename(tmp_path / "aside")
    inbox.withdraw(old.id)
    (tmp_path / "aside").rename(dropped)

    complete(inbox, 200)

    assert [bare.path for bare in complete(inbox, 300)] == [dropped]


def test_a_changed_copy_that_cannot_be_put_back_is_kept_and_the_new_folder_is_taken(
    inbox: Inbox, dropped: Path
) -> None:
    old = take(inbox)
    parcel = inbox.publish(inbox.accept(old.id))
    prove(inbox, parcel)
    (dropped / "added").write_bytes(b"by somebody")
    kept = inbox.root / ".lading/withdrawn" / f"{old.id}.checking"
    dropped.rename(kept)  # killed here, while it withdrew
    fill(dropped, {"new.dcm": b"new"})

    with pytest.raises(NotVerified, match="another folder was dropped in its place") as told:
        inbox.withdraw(old.id)

    assert str(kept) in told.value.safe
    assert tree(kept) == FILES | {"added": b"by somebody"}
    new = take(inbox)
    inbox.publish(inbox.accept(new.id))
    assert tree(dropped) == {"new.dcm": b"new"}
    complete(inbox, 1000)
    assert complete(inbox, 2000) == []


def test_junk_is_kept_aside_and_not_published(inbox: Inbox, dropped: Path) -> None:
    fill(dropped, {"Thumbs.db": b"junk", "series 2/._b.dcm": b"junk"})
    delivery = take(inbox, rules=FileRules())

    parcel = inbox.publish(inbox.accept(delivery.id))

    assert tree(parcel.root) == FILES
    assert sorted(f.path for f in parcel.manifest.filtered()) == ["Thumbs.db", "series 2/._b.dcm"]
    assert tree(inbox.root / ".lading/accepted" / delivery.id / "filtered") == {
        "Thumbs.db": b"junk",
        "series 2/._b.dcm": b"junk",
    }


def coreutils(tool: str) -> str:
    lines = [f"{tool_hash(tool, content)}  {name}" for name, content in FILES.items()]
    return "\n".join(lines) + "\n"


def tool_hash(tool: str, content: bytes) -> str:
    return {"md5": md5, "sha1": sha1, "sha256": sha256}[tool](content).hexdigest()


CHECKSUM_FILES = {
    "MD5SUMS": coreutils("md5"),
    "SHA256SUMS": coreutils("sha256"),
    "files.sha1": coreutils("sha1").replace("  ", " *"),
    "windows.md5": coreutils("md5").replace("series 2/", "series 2\\").replace("\n", "\r\n").upper().replace(
        "A.DCM", "a.dcm").replace("SERIES 2\\B.DCM", "series 2\\b.dcm").replace("SERIES 2\\EMPTY", "series 2\\empty").replace(
        "NOTES.TXT", "notes.txt"),
    "bsd.sha256": "".join(f"SHA256 ({n}) = {tool_hash('sha256', c)}\n" for n, c in FILES.items()),
}  # fmt: skip


@pytest.mark.parametrize("name", CHECKSUM_FILES)
def test_checksum_files_that_came_along_prove_the_way(inbox: Inbox, dropped: Path, name: str) -> None:
    (dropped / name).write_bytes(CHECKSUM_FILES[name].encode())
    delivery = take(inbox)

    parcel = inbox.accept(delivery.id)

    assert "confirm all 4 files" in inbox.notes(delivery.id)[0].message
    assert parcel.delivery.files == 5


@pytest.mark.parametrize("name", CHECKSUM_FILES)
def test_a_file_that_differs_from_its_checksum_file_is_refused(inbox: Inbox, dropped: Path, name: str) -> None:
    (dropped / name).write_bytes(CHECKSUM_FILES[name].encode())
    (dropped / "series 2/b.dcm").write_bytes(b"flipped")

    delivery = take(inbox)

    with pytest.raises(Rejected) as caught:
        inbox.accept(delivery.id)

    assert [(f.code, f.path) for f in caught.value.findings] == [("checksum-file-mismatch", "series 2/b.dcm")]


def test_a_listed_file_that_is_missing_is_refused(inbox: Inbox, dropped: Path) -> None:
    (dropped / "MD5SUMS").write_text(CHECKSUM_FILES["MD5SUMS"])
    (dropped / "notes.txt").unlink()

    delivery = take(inbox)

    with pytest.raises(Rejected) as caught:
        inbox.accept(delivery.id)

    assert [f.path for f in caught.value.findings] == ["notes.txt"]


def test_a_checksum_beside_its_file_covers_that_file_alone(inbox: Inbox, dropped: Path) -> None:
    (dropped / "a.dcm.md5").write_text(md5(b"first").hexdigest() + "\n")
    delivery = take(inbox)

    inbox.accept(delivery.id)

    assert "unverified at source" in inbox.notes(delivery.id)[0].message
    assert "confirm 1 of 4 files" in inbox.notes(delivery.id)[0].message


def test_a_bag_is_checked_by_its_payload_manifest(inbox: Inbox) -> None:
    bag = {"bagit.txt": b"BagIt-Version: 1.0\n", "data/a.dcm": b"first", "data/per%cent": b"p"}
    listed = "".join(
        f"{sha256(bag[n]).hexdigest()}   {n.replace('%', '%25')}\n" for n in ("data/a.dcm", "data/per%cent")
    )
    root = fill(inbox.root / str(LABELS), bag | {"manifest-sha256.txt": listed.encode()})
    good = take(inbox)
    inbox.publish(inbox.accept(good.id))
    note = inbox.notes(good.id)[0].message
    inbox.quarantine(good.id, [])
    fill(root, bag | {"manifest-sha256.txt": listed.encode(), "data/a.dcm": b"fisrt"})

    delivery = take(inbox)

    with pytest.raises(Rejected) as caught:
        inbox.accept(delivery.id)

    assert "confirm 2 of 3" in note  # bagit.txt itself is in no payload manifest
    assert [f.path for f in caught.value.findings] == ["data/a.dcm"]


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="POSIX")
def test_a_dropped_folder_with_a_link_is_refused_and_kept(inbox: Inbox, dropped: Path, tmp_path: Path) -> None:
    secret = fill(tmp_path / "out", {"secret": b"s"}) / "secret"
    (dropped / "link").symlink_to(secret)
    (dropped / "x.md5").symlink_to(secret)
    complete(inbox, 0)
    (bare,) = complete(inbox, 60)
    delivery = new_delivery(bare)

    inbox.adopt(bare, delivery)
    told = read_seal(inbox.root / ".lading/incoming" / delivery.id)
    again = complete(inbox, 120)
    arrived = list(inbox.arrivals())
    with pytest.raises(Rejected) as caught:
        inbox.accept(delivery.id)
    inbox.quarantine(delivery.id, caught.value.findings)

    assert again == []
    assert (arrived, told.labels, told.route) == ([delivery.id], LABELS, "mri")
    assert {f.path for f in caught.value.findings if f.code == "symlink"} == {"link", "x.md5"}
    assert tree(inbox.root / ".lading/quarantine" / delivery.id / "data").items() >= FILES.items()
    (inbox.root / ".lading/quarantine" / delivery.id / "data/link").unlink()
    (inbox.root / ".lading/quarantine" / delivery.id / "data/x.md5").unlink()
    inbox.release(delivery.id)
    assert tree(inbox.publish(inbox.accept(delivery.id)).root) == FILES


def test_a_folder_that_vanished_meanwhile_is_said_so(inbox: Inbox, dropped: Path) -> None:
    complete(inbox, 0)
    (bare,) = complete(inbox, 60)
    dropped.rename(dropped.with_name("renamed"))

    with pytest.raises(SourceChanged):
        inbox.adopt(bare, new_delivery(bare))


def test_adopting_again_finds_its_work_done(inbox: Inbox, dropped: Path) -> None:
    complete(inbox, 0)
    (bare,) = complete(inbox, 60)
    delivery = new_delivery(bare)

    inbox.adopt(bare, delivery)
    inbox.adopt(bare, delivery)
    inbox.publish(inbox.accept(delivery.id))
    inbox.adopt(bare, delivery)

    assert tree(dropped) == FILES


def test_a_program_that_still_writes_after_the_move_is_noticed(inbox: Inbox, dropped: Path) -> None:
    with (dropped / "a.dcm").open("ab") as still_open:
        delivery = take(inbox)
        still_open.write(b"more")
        still_open.flush()
        with pytest.raises(SourceChanged):
            inbox.accept(delivery.id)

    parcel = inbox.publish(inbox.accept(delivery.id))

    assert tree(parcel.root) == FILES | {"a.dcm": b"firstmore"}
