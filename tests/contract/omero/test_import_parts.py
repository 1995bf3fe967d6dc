"""The parts of the stand-in's repository that need no server: checksums, paths, slots, knobs, readers."""

import os
import threading
import time
from pathlib import Path

import pytest

pytest.importorskip("omero")

import numpy as np
import omero
import tifffile
import zarr
from PIL import Image

from lading.sandbox.omero.bioformats import BioFormats, missing_for_bioformats
from lading.sandbox.omero.checksums import ALGORITHMS, checksum
from lading.sandbox.omero.faults import EXCEPTIONS, Faults
from lading.sandbox.omero.images import CannotRead
from lading.sandbox.omero.paths import components, create_own_folder, joined, locate, safe
from lading.sandbox.omero.pixels import Images
from lading.sandbox.omero.slots import Background, Limits, Slots

SMALL = b"".join(b"fake%d" % number for number in range(100))
# From the unit tests of omero-common (ChecksumTestVector), by way of an implementation that passes all of them.
VECTORS = {
    "SHA1-160": ("da39a3ee5e6b4b0d3255bfef95601890afd80709", "a61d742dba0a4cd423de603e6c3890e0f856bb9c"),
    "MD5-128": ("d41d8cd98f00b204e9800998ecf8427e", "5e44e9bc9e91274731b8541e3e1fd687"),
    "Murmur3-128": ("0" * 32, "2858bd6075ed06228c0ba4ba75ae8ef9"),
    "Murmur3-32": ("0" * 8, "1c9036cf"),
    "CRC-32": ("0" * 8, "b063fbf0"),
    "Adler-32": ("01000000", "21c664bf"),
    "File-Size-64": ("0" * 16, "4e02000000000000"),
}
PATIENCE_S = 120.0


@pytest.mark.parametrize("name", ALGORITHMS)
def test_checksums_are_spelt_as_omero_spells_them(tmp_path: Path, name: str) -> None:
    (tmp_path / "empty").touch()
    (tmp_path / "small").write_bytes(SMALL)

    assert (checksum(tmp_path / "empty", name), checksum(tmp_path / "small", name)) == VECTORS[name]


@pytest.mark.parametrize("name", ALGORITHMS)
@pytest.mark.parametrize("block", [1, 7, 16, 1000])
def test_checksums_do_not_depend_on_the_blocks(name: str, block: int) -> None:
    hasher = ALGORITHMS[name]()
    for start in range(0, len(SMALL), block):
        hasher.update(SMALL[start : start + block])

    assert hasher.hexdigest() == VECTORS[name][1]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("plain.tif", "plain.tif"),
        ('a:b*c?"<>|\\.tif', "a;bxc%'[]!!.tif"),
        ("tab\there\x7f", "tab_here_"),
        ("con", "con_"),
        ("com1.txt", "_com1.txt"),
        ("$mft", "_$mft"),
        ("concert", "concert"),
        ("Größe µm", "Größe µm"),
    ],
)
def test_names_are_made_safe(name: str, expected: str) -> None:
    assert safe(name) == expected


def test_paths_never_lead_out() -> None:
    assert components("/../../a/./b/../c//d") == ("a", "c", "d")
    assert components("..") == ()


@pytest.mark.parametrize(
    ("required", "shared"),
    [(None, "own/c/d/e"), (0, "own"), (1, "own/e"), (9, "own/a/b/c/d/e")],
)
def test_the_clients_folders_are_trimmed(required: int | None, shared: str) -> None:
    paths = ["/a/b/c/d/e/f.tif", "/a/b/c/d/e/g/h.tif"]

    location = locate(("own",), paths, lambda _: required)

    assert joined(location.shared) == shared
    assert [joined(each) for each in location.used] == ["f.tif", "g/h.tif"]
    assert (location.template_prefix, joined(location.log)) == ("own/", "own.log")


def test_two_files_at_one_place_are_refused() -> None:
    with pytest.raises(omero.ValidationException):
        locate(("own",), ["a/b:.tif", "a/b;.tif"], lambda _: None)
    with pytest.raises(omero.ApiUsageException):
        locate(("own",), ["a.tif", "../"], lambda _: None)


def test_every_fileset_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    template = "%user%_%userId%//%year%-%month%/%day%/%time%"

    made = {create_own_folder(tmp_path, template, {"user": "al/ice", "userId": "2"}) for _ in range(50)}

    assert len(made) == 50
    assert all(own[0] == "al!ice_2" and tmp_path.joinpath(*own).is_dir() for own in made)
    with pytest.raises(omero.InternalException):
        create_own_folder(tmp_path, "%shoeSize%/%time%", {})


# -- slots ------------------------------------------------------------------------------------------------------------


def test_there_are_never_more_slots_taken_than_there_are() -> None:
    slots, now, most, lock = Slots(3), [0], [0], threading.Lock()

    def work() -> None:
        assert slots.take(PATIENCE_S)
        with lock:
            now[0] += 1
            most[0] = max(most[0], now[0])
        time.sleep(0.005)
        with lock:
            now[0] -= 1
        slots.give_back()

    threads = [threading.Thread(target=work) for _ in range(30)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    use = slots.use()
    assert (most[0], use.peak, use.busy, use.waiting, use.refused) == (3, 3, 0, 0, 0)


def test_who_waits_too_long_is_turned_away_and_the_next_ones_are_served() -> None:
    slots = Slots(1)
    assert slots.take(0)

    assert not slots.take(0.01)
    slots.give_back()

    assert slots.take(0)
    assert slots.use().refused == 1


def test_work_that_fails_gives_its_slot_and_its_connection_back() -> None:
    background, ran = Background(Limits(background_slots=1, database_connections=1)), threading.Event()

    def fail() -> None:
        raise ValueError

    background.submit(fail)
    background.submit(ran.set)

    assert ran.wait(PATIENCE_S)
    with background.connection():
        assert background.use()["database"].busy == 1
    background.close(PATIENCE_S)


def test_without_a_slot_or_a_connection_callers_are_told() -> None:
    limits = Limits(background_slots=1, background_timeout=0.01, database_connections=1, database_timeout=0.01)
    background, go = Background(limits), threading.Event()
    started = threading.Event()
    background.submit(lambda: (started.set(), go.wait(PATIENCE_S), None)[2])
    assert started.wait(PATIENCE_S)

    with pytest.raises(omero.InternalException, match="slot"):
        background.submit(lambda: None)
    with pytest.raises(omero.DatabaseBusyException) as busy, background.connection():
        pass
    assert busy.value.backOff == 1000

    go.set()
    background.close(PATIENCE_S)


# -- knobs ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "knobs",
    [
        {"no_such_knob": 1},
        {"disk_full": "yes"},
        {"import_errors": ["import-nothing"]},
        {"errors": ["write"]},
        {"errors": ["write=NoSuchException"]},
        {"slow": ["write=fast"]},
    ],
)
def test_a_knob_that_would_do_nothing_is_refused(knobs: dict[str, object]) -> None:
    faults = Faults()
    with pytest.raises((KeyError, TypeError, ValueError)):
        faults.update({"step_delay_s": 1.0, **knobs})
    assert faults == Faults()


def test_every_exception_that_can_be_asked_for_can_be_raised() -> None:
    from lading.sandbox.omero.spoiling import _exception

    for name in EXCEPTIONS:
        assert type(_exception(name, "write")).__name__ == name


def test_lists_are_used_up_in_order_and_counts_run_down() -> None:
    faults = Faults()
    faults.update({"errors": ["a=TryAgain", "b=LockTimeout", "a=ResourceError"], "disk_full": 2, "lost_finished": -1})

    assert [faults.pop("errors", "a") for _ in range(3)] == ["a=TryAgain", "a=ResourceError", ""]
    assert faults.errors == ["b=LockTimeout"]
    assert [faults.take("disk_full") for _ in range(3)] == [True, True, False]
    assert all(faults.take("lost_finished") for _ in range(5))


# -- readers ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=["java", "plain"])
def images(request) -> Images:
    if request.param == "java" and missing_for_bioformats():
        pytest.skip(missing_for_bioformats())
    made = Images(java=request.param == "java")
    yield made
    made.close()


def test_a_picture_is_read(images: Images, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")

    found = images.read(tmp_path / "a.png")

    (series,) = found.series
    assert (series.size_x, series.size_y, series.size_c, series.pixels_type) == (64, 48, 3, "uint8")
    assert found.reader.startswith("loci.formats.in.")


def test_folders_above_the_repository_do_not_make_a_zarr_of_what_is_in_it(images: Images, tmp_path: Path) -> None:
    repository = tmp_path / "disk.zarr" / "ManagedRepository"
    repository.mkdir(parents=True)
    Image.new("RGB", (64, 48)).save(repository / "a.png")

    assert images.read(repository / "a.png", repository).series[0].size_x == 64


def test_a_picture_that_was_cut_off_cannot_be_read(images: Images, tmp_path: Path) -> None:
    Image.new("RGB", (64, 48)).save(tmp_path / "a.png")
    os.truncate(tmp_path / "a.png", 60)

    with pytest.raises(CannotRead):
        images.read(tmp_path / "a.png")


def test_a_pyramid_is_one_image(images: Images, tmp_path: Path) -> None:
    data = np.zeros((2, 64, 80), "uint16")
    with tifffile.TiffWriter(tmp_path / "p.ome.tif") as file:
        file.write(data, subifds=1, metadata={"axes": "CYX", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm"})
        file.write(data[:, ::2, ::2], subfiletype=1)

    (series,) = images.read(tmp_path / "p.ome.tif").series

    assert (series.size_x, series.size_y, series.size_c, series.pixels_type) == (80, 64, 2, "uint16")
    assert not images.with_java or series.physical_sizes[0] == 0.5


@pytest.mark.parametrize(
    ("name", "data", "kind"),
    [("no.txt", b"hello", "UnknownFormat"), ("cut.tif", b"II*\0\x08\0\0\0", ""), ("absent.png", None, "IOException")],
)
def test_what_is_no_image_cannot_be_read(
    images: Images, tmp_path: Path, name: str, data: bytes | None, kind: str
) -> None:
    if data is not None:
        (tmp_path / name).write_bytes(data)

    with pytest.raises(CannotRead) as caught:
        images.read(tmp_path / name)

    assert kind in caught.value.java_class


@pytest.mark.parametrize("version", [2, 3])
def test_an_ome_zarr_is_read_from_any_of_its_files(images: Images, tmp_path: Path, version: int) -> None:
    root = zarr.open_group(tmp_path / "i.ome.zarr", mode="w", zarr_format=version)
    root.create_array("0", data=np.zeros((3, 40, 50), "uint16"), chunks=(1, 20, 50))
    axes = [{"name": name} for name in "cyx"]
    scales = [{"name": "cells", "axes": axes, "datasets": [{"path": "0"}]}]
    root.attrs.update({"multiscales": scales} if version == 2 else {"ome": {"multiscales": scales}})
    chunk = next(path for path in (tmp_path / "i.ome.zarr" / "0").rglob("*") if path.is_file())

    for path in (tmp_path / "i.ome.zarr" / (".zattrs" if version == 2 else "zarr.json"), chunk):
        (series,) = images.read(path).series
        assert (series.name, series.size_x, series.size_y, series.size_c) == ("cells", 50, 40, 3)
        assert series.pixels_type == "uint16"


def test_a_zarr_that_is_not_whole_cannot_be_read(images: Images, tmp_path: Path) -> None:
    (tmp_path / "i.zarr").mkdir()
    (tmp_path / "i.zarr" / ".zattrs").write_text('{"multiscales": [{"datasets": [{"path": "0"}]}]}')

    with pytest.raises(CannotRead):
        images.read(tmp_path / "i.zarr" / ".zattrs")


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_for_bioformats()), reason=missing_for_bioformats() or "there")
def test_a_jvm_that_died_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "a&series=2.fake").touch()
    reader = BioFormats()
    try:
        assert len(reader.read(tmp_path / "a&series=2.fake").series) == 2
        os.kill(reader.pid, 9)

        with pytest.raises(CannotRead, match="JVM"):
            reader.read(tmp_path / "a&series=2.fake")
        assert len(reader.read(tmp_path / "a&series=2.fake").series) == 2
    finally:
        reader.close()
