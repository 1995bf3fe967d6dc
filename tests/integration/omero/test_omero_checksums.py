"""What the manifest has of OMERO's checksums is what OMERO is told: whichever of them the server wants, nothing is hashed twice."""

from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

pytest.importorskip("omero", reason="omero-py is not installed: make omero")

from lading.delivery import Outcome, Parcel
from lading.errors import Corrupted, TargetUnavailable
from lading.manifest import write
from lading.testing.importer_suite import all_verified, by_path, carry_out
from lading.testing.omero_world import OmeroWorld
from omero_importer import readback, uploads
from omero_importer.hashes import ALGORITHMS, MANIFEST_NAMES, NO_PROOF
from omero_importer.sources import Source

PROVING = sorted(ALGORITHMS.keys() - NO_PROOF)


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files of the parcel that were opened through their source, in order."""
    names: list[str] = []

    def noting(opening: Callable[..., object]) -> Callable[..., object]:
        return lambda *arguments: names.append(arguments[-1]) or opening(*arguments)

    @contextmanager
    def way(self: Source) -> Iterator[Callable[..., object]]:
        with way_there(self) as opening:
            yield noting(opening)

    way_there = Source.way
    monkeypatch.setattr(Source, "opened", noting(Source.opened))
    monkeypatch.setattr(Source, "way", way)
    return names


@pytest.fixture
def hashed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The digests that the importer began, in order."""
    names: list[str] = []

    def noting(name: str, begin: Callable[[], object]) -> Callable[[], object]:
        return lambda: names.append(name) or begin()

    noted = {name: noting(name, begin) for name, begin in ALGORITHMS.items()}
    for module in (uploads, readback):
        monkeypatch.setattr(module, "ALGORITHMS", noted)
        sha256 = noting("SHA-256", module.hashlib.sha256)
        monkeypatch.setattr(module, "hashlib", SimpleNamespace(sha256=sha256))
    return names


def hashes_in_omero(world: OmeroWorld, parcel: Parcel) -> dict[tuple[object, object], object]:
    rows = world.ask(
        "select e.clientPath, h.value, o.hash from FilesetEntry e join e.originalFile o join o.hasher h "
        "where e.clientPath like :p",
        p=f"{parcel.delivery.labels}/%",
    )
    return {(str(path).removeprefix(f"{parcel.delivery.labels}/"), hasher): value for path, hasher, value in rows}


@pytest.mark.parametrize("name", PROVING)
def test_what_the_server_wants_is_taken_from_the_manifest_and_the_file_is_read_once(
    world: OmeroWorld, opened: list[str], hashed: list[str], name: str
) -> None:
    ours = MANIFEST_NAMES[name]
    parcel = world.parcel(images=2, algorithms=[ours])
    world.sandbox.faults(checksums=[name])
    importer = world.importer(reread=False)

    outcomes = by_path(importer.verify(parcel, carry_out(importer, parcel)))

    assert all_verified(outcomes, parcel)
    assert {outcome.how for outcome in outcomes.values()} == {name}
    assert hashes_in_omero(world, parcel) == {(one.path, name): one.digests[ours] for one in parcel.manifest}
    assert hashed == []
    assert sorted(opened) == sorted(one.path for one in parcel.manifest)


def test_the_size_proves_nothing_so_the_content_is_proven_while_it_is_sent(
    world: OmeroWorld, opened: list[str], hashed: list[str]
) -> None:
    parcel = world.parcel(images=2, algorithms=["File-Size-64"])
    world.sandbox.faults(checksums=["File-Size-64"])
    importer = world.importer(reread=False, checksum="File-Size-64")

    outcomes = by_path(importer.verify(parcel, carry_out(importer, parcel)))

    assert {outcome.outcome for outcome in outcomes.values()} == {Outcome.UNVERIFIED}
    assert set(hashes_in_omero(world, parcel).values()) == {one.digests["File-Size-64"] for one in parcel.manifest}
    assert sorted(opened) == sorted(one.path for one in parcel.manifest)
    assert sorted(hashed) == ["File-Size-64"] * 2 + ["SHA-256"] * 2
    spoilt = world.parcel("MR2", images=1, algorithms=["File-Size-64"])
    (entry,) = spoilt.manifest
    content = bytearray((spoilt.root / entry.path).read_bytes())
    content[-1] ^= 1
    (spoilt.root / entry.path).chmod(0o644)
    (spoilt.root / entry.path).write_bytes(content)
    with pytest.raises(Corrupted, match="not what its manifest says"):
        carry_out(importer, spoilt)


def test_what_proves_nothing_is_never_agreed_upon(world: OmeroWorld) -> None:
    parcel = world.parcel(images=1, companions=["a.txt"], algorithms=["File-Size-64"])
    importer = world.importer(reread=False)

    outcomes = by_path(importer.verify(parcel, carry_out(importer, parcel)))

    assert all_verified(outcomes, parcel)
    assert {outcome.how for outcome in outcomes.values()} == {"SHA1-160"}


def test_what_the_manifest_has_not_is_computed_while_sending(world: OmeroWorld, hashed: list[str]) -> None:
    parcel = world.parcel(images=1, algorithms=["md5", "CRC-32"])
    world.sandbox.faults(checksums=["Adler-32"])
    importer = world.importer(reread=False)

    journal = carry_out(importer, parcel)

    assert sorted(hashed) == ["Adler-32", "SHA-256"]
    assert all_verified(by_path(importer.verify(parcel, journal)), parcel)


def test_the_server_chooses_among_those_of_the_manifest(world: OmeroWorld, hashed: list[str]) -> None:
    parcel = world.parcel(images=1, algorithms=["sha1", "md5", "CRC-32", "Adler-32"])
    world.sandbox.faults(checksums=["Murmur3-128", "Adler-32", "SHA1-160"])
    importer = world.importer(reread=False)

    outcomes = by_path(importer.verify(parcel, carry_out(importer, parcel)))

    assert {outcome.how for outcome in outcomes.values()} == {"Adler-32"}
    assert hashed == []


@pytest.mark.parametrize("name", PROVING)
def test_a_file_that_was_stored_otherwise_is_found_by_the_manifests_value_and_sent_again(
    world: OmeroWorld, opened: list[str], name: str
) -> None:
    parcel = world.parcel(images=2, companions=["a.txt"], algorithms=[MANIFEST_NAMES[name]])
    world.sandbox.faults(checksums=[name], damaged_uploads=1)
    before = world.sandbox.count("ManagedRepository.importFileset")
    importer = world.importer(reread=False)

    outcomes = by_path(importer.verify(parcel, carry_out(importer, parcel)))

    assert all_verified(outcomes, parcel)
    assert world.sandbox.count("ManagedRepository.importFileset") - before == 2
    assert max(Counter(opened).values()) > 1


@pytest.mark.parametrize("name", PROVING)
def test_a_wrong_value_in_the_manifest_is_found_before_the_import_and_after_it(
    world: OmeroWorld, tmp_path: Path, name: str
) -> None:
    ours = MANIFEST_NAMES[name]
    parcel = world.parcel(images=1, algorithms=[ours])
    (entry,) = parcel.manifest
    value = entry.digests[ours]
    (tmp_path / "wrong").mkdir()
    wrong = [replace(entry, digests=entry.digests | {ours: value[:-1] + ("0" if value[-1] != "0" else "1")})]
    misled = replace(parcel, manifest=write(tmp_path / "wrong", wrong, algorithms=[ours]))
    world.sandbox.faults(checksums=[name])
    importer = world.importer(reread=False)

    with pytest.raises(TargetUnavailable, match="other bytes"):
        carry_out(importer, misled)
    outcomes = by_path(importer.verify(misled, carry_out(importer, parcel)))

    assert {(one.outcome, one.how) for one in outcomes.values()} == {(Outcome.MISMATCH, name)}
