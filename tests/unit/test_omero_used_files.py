"""Which files form a fileset, without Java: rules, OME-Zarr, and what is certain by itself."""

from collections.abc import Callable
from pathlib import Path

import pytest

from lading.delivery import Parcel
from lading.errors import ConfigError
from lading.testing import real_images
from lading.testing.parcels import parcel_at
from omero_importer.file_rules import FilesetRule, FileSettings, checked
from omero_importer.filesets import FilesetsDecision
from omero_importer.used_files import UsedFiles

Deliver = Callable[[], Parcel]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def decide(data: Path, settings: FileSettings | None = None, skips: dict[str, str] | None = None) -> FilesetsDecision:
    papers = data.parent / f"papers-{len(list(data.parent.iterdir()))}"
    return UsedFiles(settings)(parcel_at(data, papers), skips or {})


def filesets(decision: FilesetsDecision) -> list[tuple[str, ...]]:
    return [plan.files for plan in decision.filesets]


def errors(decision: FilesetsDecision) -> list[tuple[str, str]]:
    return [(f.code, f.path) for f in decision.findings if f.severity == "error"]


def everywhere(decision: FilesetsDecision) -> list[str]:
    """Every file that the decision accounts for, with repetitions."""
    in_filesets = [path for plan in decision.filesets for path in plan.files]
    return sorted([*in_filesets, *decision.attachments, *decision.left_out])


def all_files(data: Path) -> list[str]:
    return sorted(path.relative_to(data).as_posix() for path in data.rglob("*") if path.is_file())


def write(data: Path, *paths: str, content: bytes = b"x") -> None:
    for path in paths:
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        (data / path).write_bytes(content)


def test_every_file_is_accounted_for_once(data: Path) -> None:
    real_images.png(data)
    real_images.tiff(data, "a/plain.tif")
    real_images.companion_set(data / "set")
    real_images.ome_zarr(data)
    write(data, "notes.txt", "protocol.pdf")

    decision = decide(data)

    assert errors(decision) == []
    assert everywhere(decision) == all_files(data)
    assert decision.attachments == ("notes.txt", "protocol.pdf")


def test_a_companion_set_is_one_fileset_with_the_companion_in_front(data: Path) -> None:
    expected = tuple(real_images.companion_set(data))

    assert filesets(decide(data)) == [expected]


def test_an_ome_tiff_set_is_one_fileset(data: Path) -> None:
    expected = tuple(real_images.ome_tiff_set(data))

    assert filesets(decide(data)) == [expected]


def test_a_pyramid_is_a_fileset_of_its_own(data: Path) -> None:
    expected = tuple(real_images.ome_tiff_pyramid(data))

    assert filesets(decide(data)) == [expected]


@pytest.mark.parametrize("gone", ["set_z1.ome.tif", "set.companion.ome"])
def test_a_set_with_a_member_missing_is_refused(data: Path, gone: str) -> None:
    real_images.companion_set(data)
    (data / gone).unlink()

    decision = decide(data)

    assert {code for code, _ in errors(decision)} == {"companion-missing"}
    assert any(gone in finding.message for finding in decision.findings)


def test_a_renamed_member_of_a_set_is_not_guessed_about(data: Path) -> None:
    real_images.ome_tiff_set(data, planes=2)
    (data / "multi_t0.ome.tiff").rename(data / "other.ome.tiff")

    decision = decide(data)

    assert ("companion-missing", "other.ome.tiff") in errors(decision)


def test_tiffs_beside_an_index_are_not_guessed_about(data: Path) -> None:
    real_images.pattern_series(data)
    real_images.tiff(data, "alone.tif")

    decision = decide(data)

    assert ("fileset-undecided", "series_t0.tif") in errors(decision)
    assert filesets(decision) == []


def test_an_index_says_nothing_about_a_neighbouring_folder(data: Path) -> None:
    real_images.pattern_series(data / "plate")
    real_images.tiff(data / "single")

    assert ("single/plain.tif",) in filesets(decide(data))


@pytest.mark.parametrize("name", ["scan.vsi", "unknown.dat", "noextension", "x.xml"])
def test_what_only_bio_formats_could_tell_is_a_finding(data: Path, name: str) -> None:
    write(data, name)

    decision = decide(data)

    assert errors(decision) == [("fileset-undecided", name)]
    assert "lading[bioformats]" in next(f.hint for f in decision.findings if f.code == "fileset-undecided")


def test_something_called_tiff_that_is_none_is_a_finding(data: Path) -> None:
    write(data, "text.tif", content=b"this is no TIFF")

    assert errors(decide(data)) == [("fileset-undecided", "text.tif")]


def test_a_czi_in_parts_is_one_fileset(data: Path) -> None:
    write(data, "a.czi", "a(1).czi", "a(2).czi", "b.czi", "c (1).czi")

    decision = decide(data)

    assert filesets(decision) == [("a.czi", "a(1).czi", "a(2).czi"), ("b.czi",)]
    assert errors(decision) == [("companion-missing", "c (1).czi")]


def test_a_rule_makes_the_fileset(data: Path) -> None:
    write(data, "day 1/scan [a].vsi", "day 1/_scan [a]_/stack1/frame_t.ets", "day 1/_scan [b]_/stack1/frame_t.ets")
    rule = FilesetRule(pattern="*.VSI", companions=("_{stem}_/*",), reader="loci.formats.in.CellSensReader")

    decision = decide(data, FileSettings(filesets=(rule,)))

    assert filesets(decision) == [("day 1/scan [a].vsi", "day 1/_scan [a]_/stack1/frame_t.ets")]
    assert decision.filesets[0].reader == "loci.formats.in.CellSensReader"
    assert errors(decision) == [("fileset-undecided", "day 1/_scan [b]_/stack1/frame_t.ets")]


def test_a_rule_whose_companions_are_gone_refuses(data: Path) -> None:
    write(data, "scan.vsi")
    rule = FilesetRule(pattern="*.vsi", companions=("_{stem}_/*",))

    assert ("companion-missing", "scan.vsi") in errors(decide(data, FileSettings(filesets=(rule,))))


def test_an_index_without_its_folder_is_refused_whoever_decided(data: Path) -> None:
    write(data, "slide.mrxs")

    decision = decide(data, FileSettings(filesets=(FilesetRule(pattern="*.mrxs"),)))

    assert errors(decision) == [("companion-missing", "slide.mrxs")]


def test_two_rules_that_want_one_file_are_a_finding(data: Path) -> None:
    write(data, "a.idx", "b.idx", "shared.bin")
    rule = FilesetRule(pattern="*.idx", companions=("shared.bin",))

    decision = decide(data, FileSettings(filesets=(rule,)))

    assert ("filesets-overlap", "b.idx") in errors(decision)


def test_rules_attach_and_leave_out(data: Path) -> None:
    real_images.png(data)
    real_images.png(data, "thumbs/t.png")
    write(data, "raw.dat", "scratch.tmp")

    decision = decide(data, FileSettings(attach=("*.dat",), leave_out=("thumbs/*", "*.tmp")))

    assert filesets(decision) == [("overview.png",)]
    assert decision.attachments == ("raw.dat",)
    assert decision.left_out == {
        "thumbs/t.png": "left out by the rule 'thumbs/*'",
        "scratch.tmp": "left out by the rule '*.tmp'",
    }


@pytest.mark.parametrize(
    ("policy", "attachments", "left_out", "codes"),
    [
        ("attach", ("notes.txt",), {}, []),
        ("leave-out", (), {"notes.txt": "no image"}, []),
        ("refuse", (), {}, [("not-an-image", "notes.txt")]),
    ],
)
def test_what_happens_to_files_that_are_no_images(
    data: Path, policy: str, attachments: tuple[str, ...], left_out: dict[str, str], codes: list[tuple[str, str]]
) -> None:
    real_images.png(data)
    write(data, "notes.txt")

    decision = decide(data, FileSettings(non_images=policy))

    assert (decision.attachments, decision.left_out, errors(decision)) == (attachments, left_out, codes)


def test_a_delivery_without_an_image_is_worth_a_warning(data: Path) -> None:
    write(data, "notes.txt")

    assert [f.code for f in decide(data).findings] == ["no-images"]


def test_skipped_files_are_left_out_and_not_asked_about(data: Path) -> None:
    real_images.png(data)
    write(data, "broken.vsi")

    decision = decide(data, skips={"broken.vsi": "unreadable"})

    assert (errors(decision), decision.left_out) == ([], {"broken.vsi": "unreadable"})


def test_names_that_differ_by_case_are_refused_before_anything_is_looked_at(data: Path) -> None:
    write(data, "Image.TIF", "image.tif", "deep/A/x.png", "deep/a/y.png")

    decision = decide(data)

    assert errors(decision) == [("client-path-collides", "deep/a"), ("client-path-collides", "image.tif")]
    assert filesets(decision) == []


def test_folders_and_underscores_are_not_mixed_up(data: Path) -> None:
    real_images.png(data, "a/b_c.png")
    real_images.png(data, "a_b/c.png")

    assert filesets(decide(data)) == [("a/b_c.png",), ("a_b/c.png",)]


def test_a_thousand_findings_are_a_few_and_a_number(data: Path) -> None:
    write(data, *(f"{number:04}.dat" for number in range(1000)))

    found = decide(data).findings

    assert len(found) == 31
    assert found[-1].message == "and 970 more of the same"


@pytest.mark.parametrize(
    "settings",
    [
        FileSettings(non_images="ignore"),
        FileSettings(filesets=(FilesetRule(pattern=""),)),
        FileSettings(filesets=(FilesetRule(pattern="*.vsi", companions=("../{stem}/*",)),)),
        FileSettings(filesets=(FilesetRule(pattern="*.vsi", companions=("{folder}/*",)),)),
        FileSettings(filesets=(FilesetRule(pattern="/data/*.vsi"),)),
    ],
)
def test_rules_that_cannot_mean_anything_are_refused_at_start_up(settings: FileSettings) -> None:
    with pytest.raises(ConfigError, match=r"routes\.x\.import\.files"):
        checked(settings, "routes.x.import.files")
