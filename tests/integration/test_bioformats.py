"""Bio-Formats in its worker process: real files of real libraries, and what hostile ones do to it."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.errors import ConfigError
from lading.testing import real_images
from lading.testing.parcels import parcel_at
from omero_importer.bioformats import (
    BioFormats,
    BioFormatsSettings,
    Failure,
    NoReading,
    Reading,
    bioformats,
    missing_for_bioformats,
)
from omero_importer.file_rules import FilesetRule, FileSettings
from omero_importer.filesets import FilesetsDecision
from omero_importer.used_files import UsedFiles

pytestmark = pytest.mark.skipif(bool(missing_for_bioformats()), reason=missing_for_bioformats())

# Its name says that it has more series than any heap can describe: the JVM runs out of memory while it opens it.
FATAL = "fatal&series=2000000000.fake"


@pytest.fixture(scope="module")
def shared() -> Iterator[BioFormats]:
    with BioFormats() as found:
        yield found


def names(reading: Reading | NoReading, folder: Path) -> list[str]:
    assert isinstance(reading, Reading), reading
    return [Path(name).relative_to(folder).as_posix() for name in reading.files]


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def wait_until_gone(pid: int) -> None:
    deadline = time.monotonic() + 60
    while is_alive(pid):
        assert time.monotonic() < deadline, f"process {pid} is still there"
        time.sleep(0.02)


def test_every_member_of_a_companion_set_names_the_whole_set(shared: BioFormats, tmp_path: Path) -> None:
    files = real_images.companion_set(tmp_path)

    for file in files:
        assert names(shared.read(tmp_path / file), tmp_path) == files


def test_a_pyramid_is_one_series_with_its_reader_named(shared: BioFormats, tmp_path: Path) -> None:
    (file,) = real_images.ome_tiff_pyramid(tmp_path)

    reading = shared.read(tmp_path / file)

    assert isinstance(reading, Reading)
    assert (reading.reader, reading.series, reading.initialising) == ("loci.formats.in.OMETiffReader", 1, 1)


def test_a_set_with_a_member_missing_is_unreadable_and_not_half_read(shared: BioFormats, tmp_path: Path) -> None:
    files = real_images.companion_set(tmp_path)
    (tmp_path / files[-1]).unlink()

    answer = shared.read(tmp_path / files[0])

    assert isinstance(answer, NoReading)
    assert answer.failure is Failure.UNREADABLE


def test_names_of_all_kinds_are_found(shared: BioFormats, tmp_path: Path) -> None:
    for name in ("ümlaut 日本 😀.tif", "-dash.tif", "new\nline.tif", "a" * 240 + ".tif", "quote'\".tif"):
        real_images.tiff(tmp_path, name)

        assert names(shared.read(tmp_path / name), tmp_path) == [name]


def test_what_is_no_image_is_an_unknown_format(shared: BioFormats, tmp_path: Path) -> None:
    (tmp_path / "x.dat").write_bytes(os.urandom(1000))

    answer = shared.read(tmp_path / "x.dat")

    assert isinstance(answer, NoReading)
    assert answer.failure is Failure.UNKNOWN_FORMAT


def test_the_jvm_stays_warm(shared: BioFormats, tmp_path: Path) -> None:
    (file,) = real_images.png(tmp_path)
    shared.read(tmp_path / file)
    first = shared.pid

    shared.read(tmp_path / file)

    assert shared.pid == first != 0


def test_a_file_that_hangs_the_jvm_is_named_and_the_worker_is_gone(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "hangs.tif")
    with BioFormats(BioFormatsSettings(file_timeout=3)) as ours:
        assert ours.version
        worker = ours.pid

        answer = ours.read(tmp_path / "hangs.tif")

        assert isinstance(answer, NoReading)
        assert answer.failure is Failure.TIMEOUT
        wait_until_gone(worker)


def test_a_worker_that_died_in_the_meantime_accuses_nobody(tmp_path: Path) -> None:
    (file,) = real_images.png(tmp_path)
    with BioFormats() as ours:
        assert ours.version
        os.kill(ours.pid, signal.SIGKILL)

        assert names(ours.read(tmp_path / file), tmp_path) == [file]


def test_an_idle_worker_ends_and_comes_back(tmp_path: Path) -> None:
    (file,) = real_images.png(tmp_path)
    with BioFormats(BioFormatsSettings(idle=0.3)) as ours:
        assert ours.version
        wait_until_gone(ours.pid)

        assert names(ours.read(tmp_path / file), tmp_path) == [file]


def test_closing_ends_the_worker(tmp_path: Path) -> None:
    ours = BioFormats()
    assert ours.version
    worker = ours.pid

    ours.close()

    wait_until_gone(worker)
    assert ours.pid == 0


def test_the_worker_sees_none_of_our_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OMERO_PASSWORD", "s3cret")
    with BioFormats() as ours:
        assert ours.version

        environment = Path(f"/proc/{ours.pid}/environ").read_bytes()

    assert b"s3cret" not in environment


def test_a_missing_jar_is_said_at_once(tmp_path: Path) -> None:
    settings = BioFormatsSettings(use="always", jar=str(tmp_path / "no.jar"))

    with pytest.raises(ConfigError, match="there is no"):
        bioformats(settings)


def test_a_broken_jar_is_a_settings_error_and_leaves_no_process(tmp_path: Path) -> None:
    (tmp_path / "broken.jar").write_bytes(b"PK nonsense")
    with BioFormats(BioFormatsSettings(jar=str(tmp_path / "broken.jar"))) as ours:
        with pytest.raises(ConfigError, match="starting Java for Bio-Formats"):
            ours.read(tmp_path / "broken.jar")

        assert ours.pid == 0


def test_never_means_never() -> None:
    assert bioformats(BioFormatsSettings(use="never")) is None
    with pytest.raises(ConfigError, match=r"bioformats\.use"):
        bioformats(BioFormatsSettings(use="sometimes"))


# What a whole delivery comes to.


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    folder.mkdir()
    return folder


def decide(data: Path, using: BioFormats, settings: FileSettings | None = None) -> FilesetsDecision:
    return UsedFiles(settings, using)(parcel_at(data, data.parent / "papers"), {})


def problems(decision: FilesetsDecision) -> list[tuple[str, str]]:
    return [(finding.code, finding.path) for finding in decision.findings if finding.severity == "error"]


def test_a_mixed_session_is_sorted_out(shared: BioFormats, data: Path) -> None:
    expected = [
        ("a/b_c.png",),
        ("a_b/c.png",),
        tuple(real_images.pattern_series(data)),
        ("pyramid.ome.tif",),
        tuple(f"set/{name}" for name in real_images.companion_set(data / "set")),
        tuple(real_images.ome_zarr(data, "z.ome.zarr")),
    ]
    real_images.png(data, "a/b_c.png")
    real_images.png(data, "a_b/c.png")
    real_images.ome_tiff_pyramid(data)
    (data / "metadata.csv").write_text("file,stain\nset/set_z1.ome.tif,DAPI\n")
    (data / "notes.bin").write_bytes(b"\0" * 100)

    decision = decide(data, shared)

    assert problems(decision) == []
    assert sorted(plan.files for plan in decision.filesets) == sorted(expected)
    assert decision.attachments == ("metadata.csv", "notes.bin")
    assert decision.file_values == {"set/set.companion.ome": (("stain", "DAPI"),)}


def test_a_reader_that_leaves_the_delivery_is_refused(shared: BioFormats, data: Path) -> None:
    real_images.pattern_series(data.parent / "other")
    (data / "thief.pattern").write_text(f"{data.parent}/other/series_t<0-3>.tif")

    assert problems(decide(data, shared)) == [("fileset-leaves-delivery", "thief.pattern")]


def test_a_fileset_that_needs_a_file_left_out_is_refused(shared: BioFormats, data: Path) -> None:
    real_images.companion_set(data)

    decision = decide(data, shared, FileSettings(leave_out=("*_z1*",)))

    assert ("fileset-file-absent", "set.companion.ome") in problems(decision)


def test_an_ome_tiff_that_bio_formats_takes_for_a_plain_one_is_worth_a_warning(shared: BioFormats, data: Path) -> None:
    whole = real_images.ome_tiff_pyramid(data.parent / "whole")[0]
    (data / "cut.ome.tif").write_bytes((data.parent / "whole" / whole).read_bytes()[:400])

    assert [(f.code, f.path) for f in decide(data, shared).findings] == [("ome-tiff-without-ome-xml", "cut.ome.tif")]


def test_half_an_overlap_is_refused(shared: BioFormats, data: Path) -> None:
    real_images.pattern_series(data)
    (data / "part.pattern").write_text("series_t<0-1>.tif")

    assert ("filesets-overlap", "series.pattern") in problems(decide(data, shared))


def test_a_rule_wins_over_bio_formats(shared: BioFormats, data: Path) -> None:
    real_images.tiff(data, "a_1.tif")
    real_images.tiff(data, "a_2.tif")
    rule = FilesetRule(pattern="a_1.tif", companions=("a_*.tif",))

    decision = decide(data, shared, FileSettings(filesets=(rule,)))

    assert [plan.files for plan in decision.filesets] == [("a_1.tif", "a_2.tif")]


def test_images_that_are_damaged_or_kill_the_jvm_are_findings_and_the_rest_is_decided(data: Path) -> None:
    (data / FATAL).touch()
    (data / "empty.tif").touch()
    whole = real_images.ome_tiff_pyramid(data.parent / "whole")[0]
    (data / "cut.ome.tif").write_bytes((data.parent / "whole" / whole).read_bytes()[:50])
    real_images.png(data)
    with BioFormats(BioFormatsSettings(memory_mb=64)) as ours:
        decision = decide(data, ours)

    assert [plan.files for plan in decision.filesets] == [("overview.png",)]
    assert sorted(path for _, path in problems(decision)) == ["cut.ome.tif", "empty.tif", FATAL]
    assert ("bioformats-crashed", FATAL) in problems(decision)  # asked before the PNG, which a fresh JVM has read


def test_without_bio_formats_the_certain_part_is_the_same(shared: BioFormats, data: Path) -> None:
    real_images.companion_set(data / "set")
    real_images.ome_tiff_set(data / "multi")
    real_images.ome_tiff_pyramid(data)
    real_images.png(data)
    parcel = parcel_at(data, data.parent / "papers")

    alone, asked = UsedFiles()(parcel, {}), UsedFiles(bioformats=shared)(parcel, {})

    assert [plan.files for plan in alone.filesets] == [plan.files for plan in asked.filesets]


def test_the_worker_outlives_nobody(tmp_path: Path) -> None:
    script = tmp_path / "parent.py"
    script.write_text(
        "import os, signal, sys\nfrom omero_importer.bioformats import BioFormats\n"
        "b = BioFormats(); b.version; print(b.pid, flush=True); os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    parent = subprocess.run([sys.executable, str(script)], stdout=subprocess.PIPE, timeout=120)
    worker = int(parent.stdout)

    wait_until_gone(worker)
