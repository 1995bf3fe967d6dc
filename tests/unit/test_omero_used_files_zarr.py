"""OME-Zarr folders: one fileset each, however many chunks, and never through Java."""

import json
from pathlib import Path

import pytest

from lading.testing import real_images
from lading.testing.parcels import parcel_at
from omero_importer.file_rules import FileSettings
from omero_importer.filesets import FilesetsDecision
from omero_importer.used_files import UsedFiles


def decide(data: Path, settings: FileSettings | None = None) -> FilesetsDecision:
    return UsedFiles(settings)(parcel_at(data, data.parent / "papers"), {})


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def codes(decision: FilesetsDecision) -> list[str]:
    return [finding.code for finding in decision.findings]


def test_a_zarr_folder_is_one_fileset_and_its_attributes_come_first(data: Path) -> None:
    files = real_images.ome_zarr(data)

    decision = decide(data)

    (plan,) = decision.filesets
    assert (plan.entry, sorted(plan.files)) == (files[0], sorted(files))
    assert (plan.reader, plan.required_dirs) == ("loci.formats.in.ZarrReader", 1)
    assert codes(decision) == ["fileset-of-files"]


@pytest.mark.slow
def test_20000_chunks_are_one_fileset_with_their_names_unchanged(data: Path) -> None:
    files = real_images.ome_zarr(data, side=127)
    real_images.png(data, "a/b_c.png")
    real_images.png(data, "a_b/c.png")

    decision = decide(data)

    assert len(files) > 20_000
    assert [plan.entry for plan in decision.filesets] == ["a/b_c.png", "a_b/c.png", "image.ome.zarr/.zattrs"]
    assert sorted(decision.filesets[-1].files) == sorted(files)


def test_two_zarr_folders_and_a_neighbour_are_kept_apart(data: Path) -> None:
    first, second = real_images.ome_zarr(data, "x/a.zarr"), real_images.ome_zarr(data, "x/a.zarr2/b.zarr")
    real_images.png(data, "x/c.png")

    decision = decide(data)

    # The reader cuts at the first ".zarr" of a path: `a.zarr2` would be taken for the image.
    assert [plan.entry for plan in decision.filesets] == [first[0], "x/c.png"]
    assert "zarr-incomplete" in codes(decision)
    assert not set(second) & {path for plan in decision.filesets for path in plan.files}


def test_a_version_3_folder_is_imported_with_a_warning(data: Path) -> None:
    files = real_images.ome_zarr(data, version=3)

    decision = decide(data)

    assert decision.filesets[0].entry == files[0] == "image.ome.zarr/zarr.json"
    assert "zarr-v3" in codes(decision)


def test_a_folder_without_zarr_in_its_name_is_refused(data: Path) -> None:
    real_images.ome_zarr(data, "image")

    assert "zarr-name" in codes(decide(data))


def test_a_folder_copied_without_hidden_files_at_its_top_is_refused(data: Path) -> None:
    real_images.ome_zarr(data)
    for name in (".zattrs", ".zgroup"):
        (data / "image.ome.zarr" / name).unlink()

    decision = decide(data)

    assert codes(decision) == ["zarr-incomplete"]
    assert decision.filesets == ()


@pytest.mark.parametrize(
    ("content", "code"),
    [
        (b"{", "zarr-incomplete"),
        (b"[" * 200_000, "zarr-incomplete"),
        (b"\xff\xfe", "zarr-incomplete"),
        (b"[1]", "zarr-not-ome"),
        (b'{"other": 1}', "zarr-not-ome"),
    ],
)
def test_attributes_that_are_no_ome_attributes_are_refused(data: Path, content: bytes, code: str) -> None:
    real_images.ome_zarr(data)
    (data / "image.ome.zarr" / ".zattrs").write_bytes(content)

    assert code in codes(decide(data))


@pytest.mark.parametrize("key", ["plate", "bioformats2raw.layout"])
def test_plates_and_layouts_are_images_too(data: Path, key: str) -> None:
    real_images.ome_zarr(data)
    (data / "image.ome.zarr" / ".zattrs").write_text(json.dumps({key: 3}))

    assert "zarr-not-ome" not in codes(decide(data))


def test_a_rule_leaves_a_whole_folder_out(data: Path) -> None:
    files = real_images.ome_zarr(data, "labels.zarr")
    real_images.png(data)

    decision = decide(data, FileSettings(leave_out=("labels.zarr",)))

    assert sorted(decision.left_out) == sorted(files)
    assert [plan.entry for plan in decision.filesets] == ["overview.png"]
