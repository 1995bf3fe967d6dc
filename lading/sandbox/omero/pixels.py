"""Reads images as a server would: OME-Zarr by its JSON, all else with Bio-Formats where Java is, else plainly.

Plainly means Pillow and tifffile, as far as they are installed, and Bio-Formats' `.fake` names. It is enough for a
demonstration without Java; for formats of several files it is not, and they are then unknown formats.
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from lading.sandbox.omero.bioformats import BioFormats, missing_for_bioformats
from lading.sandbox.omero.images import (
    MISSING_FILE,
    UNKNOWN_FORMAT,
    UNREADABLE,
    CannotRead,
    ImageFile,
    Plate,
    Reading,
    Series,
    Well,
)

_FAKE_DEFAULTS = {"sizeX": 512, "sizeY": 512, "sizeZ": 1, "sizeC": 1, "sizeT": 1, "series": 1}
_ZARR_MARKS = (".zattrs", ".zgroup", ".zarray", "zarr.json")
_ZARR_TYPES = {"i1": "int8", "i2": "int16", "i4": "int32", "u1": "uint8", "u2": "uint16", "u4": "uint32", "f4": "float"}
_NUMPY_TYPES = {"float32": "float", "float64": "double", "bool": "bit"}


class Images:
    """Reads every kind of image that the stand-in can."""

    def __init__(self, *, java: bool | None = None) -> None:
        """`java`: use Bio-Formats; None where it is installed."""
        wanted = not missing_for_bioformats() if java is None else java
        self._other: Reading = BioFormats() if wanted else Plain()

    @property
    def with_java(self) -> bool:
        """Bio-Formats reads."""
        return isinstance(self._other, BioFormats)

    def read(self, path: Path, top: Path | None = None) -> ImageFile:
        """What is in the file. `top`: the folder above which nothing belongs to it. Raises CannotRead."""
        root = zarr_root(path, top)
        return self._other.read(path) if root is None else read_zarr(root)

    def required_directories(self, reader: str, paths: Sequence[str]) -> int | None:
        """How many parent folders of the files this reader needs; None when it is not known."""
        return self._other.required_directories(reader, paths)

    def close(self) -> None:
        """Let go of the JVM."""
        self._other.close()


class Plain:
    """Reads without Java."""

    def read(self, path: Path) -> ImageFile:
        """What is in the file. Raises CannotRead."""
        if not path.exists():
            raise CannotRead(MISSING_FILE, f"{path} (No such file or directory)")
        if path.suffix == ".fake":
            return _fake(path)
        for read in (_tiff, _pillow):
            found = read(path)
            if found is not None:
                return found
        raise CannotRead(UNKNOWN_FORMAT, f"Unknown file format: {path}")

    def required_directories(self, reader: str, paths: Sequence[str]) -> int | None:
        """Not known without Bio-Formats."""
        return None

    def close(self) -> None:
        """Nothing to let go of."""


def _fake(path: Path) -> ImageFile:
    """Bio-Formats' made-up images: `name&sizeX=20&series=3.fake`."""
    given = dict(re.findall(r"&(\w+)=(\w+)", path.stem))
    sizes = {key: int(given.get(key, default)) for key, default in _FAKE_DEFAULTS.items()}
    name = path.stem.partition("&")[0]
    count = sizes["series"]
    series = tuple(
        Series(
            name=name if count == 1 else f"{name} {number + 1}",
            size_x=sizes["sizeX"],
            size_y=sizes["sizeY"],
            size_z=sizes["sizeZ"],
            size_c=sizes["sizeC"],
            size_t=sizes["sizeT"],
            pixels_type=given.get("pixelType", "uint8"),
        )
        for number in range(count)
    )
    return ImageFile("loci.formats.in.FakeReader", "Simulated data", (str(path),), series)


def _tiff(path: Path) -> ImageFile | None:
    try:
        import tifffile  # noqa: PLC0415 - optional
    except ImportError:
        return None
    try:
        with tifffile.TiffFile(path) as file:
            found = tuple(_tiff_series(path, each) for each in file.series)
            ome = bool(file.is_ome)
    except (tifffile.TiffFileError, ValueError, OSError):
        return None
    if not found:
        raise CannotRead(UNREADABLE, f"no images in {path}")
    reader, kind = ("OMETiffReader", "OME-TIFF") if ome else ("TiffReader", "Tagged Image File Format")
    return ImageFile(f"loci.formats.in.{reader}", kind, (str(path),), found)


def _tiff_series(path: Path, series: Any) -> Series:
    sizes = dict(zip(series.axes, series.shape, strict=True))
    samples = sizes.get("S", 1)
    planes = 1
    for axis, size in sizes.items():
        planes *= 1 if axis in "XYSZC" else size
    kind = str(series.dtype)
    return Series(
        name=series.name or path.name,
        size_x=sizes.get("X", 1),
        size_y=sizes.get("Y", 1),
        size_z=sizes.get("Z", 1),
        size_c=sizes.get("C", 1) * samples,
        size_t=planes,
        pixels_type=_NUMPY_TYPES.get(kind, kind),
    )


def _pillow(path: Path) -> ImageFile | None:
    try:
        from PIL import Image, UnidentifiedImageError  # noqa: PLC0415 - optional
    except ImportError:
        return None
    try:
        with Image.open(path) as image:
            series = Series(name=path.name, size_x=image.width, size_y=image.height, size_c=len(image.getbands()))
            kind = str(image.format)
            image.verify()  # so that a file that was cut off is noticed, as by Bio-Formats
    except UnidentifiedImageError:
        return None
    except (OSError, ValueError, SyntaxError) as error:
        raise CannotRead(UNREADABLE, f"{path}: {error}") from error
    return ImageFile(f"loci.formats.in.{kind}Reader", kind, (str(path),), (series,))


# -- OME-Zarr ---------------------------------------------------------------------------------------------------------


def zarr_root(path: Path, top: Path | None = None) -> Path | None:
    """The outermost folder around the file, and below `top`, that is a Zarr group, when the file is part of one."""
    found = None
    for folder in path.parents:
        if folder == top:
            break
        if folder.suffix in (".zarr", ".ngff") or any((folder / mark).is_file() for mark in _ZARR_MARKS):
            found = folder
        elif found is not None:
            break
    return found


def read_zarr(root: Path) -> ImageFile:
    """An OME-Zarr of version 0.4 or 0.5: one image, several (bioformats2raw), or a plate. Raises CannotRead."""
    try:
        plate = _attributes(root).get("plate")
        folders = list(_plate_folders(root, plate)) if plate else list(_image_folders(root))
        series = tuple(_zarr_series(folder) for folder in folders)
    except (KeyError, IndexError, TypeError, ValueError, OSError) as error:
        raise CannotRead(UNREADABLE, f"{root} is not a whole OME-Zarr: {error!r}") from error
    if not series:
        raise CannotRead(UNKNOWN_FORMAT, f"Unknown file format: {root}")
    plates = (_zarr_plate(root, plate, folders),) if plate else ()
    return ImageFile("loci.formats.in.ZarrReader", "Zarr", (str(root),), series, plates)


def _attributes(folder: Path) -> Mapping[str, Any]:
    """The attributes of a group, of either version of Zarr; OME's since 0.5 are under "ome"."""
    newer = folder / "zarr.json"
    if newer.is_file():
        attributes: Mapping[str, Any] = json.loads(newer.read_bytes()).get("attributes", {})
        ome: Mapping[str, Any] = attributes.get("ome", attributes)
        return ome
    older = folder / ".zattrs"
    found: Mapping[str, Any] = json.loads(older.read_bytes()) if older.is_file() else {}
    return found


def _image_folders(root: Path) -> Iterator[Path]:
    if "multiscales" in _attributes(root):
        yield root
        return
    number = 0
    while "multiscales" in _attributes(root / str(number)):
        yield root / str(number)
        number += 1


def _plate_folders(root: Path, plate: Mapping[str, Any]) -> Iterator[Path]:
    for well in plate["wells"]:
        folder = root / well["path"]
        for image in _attributes(folder)["well"]["images"]:
            yield folder / image["path"]


def _zarr_plate(root: Path, plate: Mapping[str, Any], folders: list[Path]) -> Plate:
    wells = []
    for well in plate["wells"]:
        folder = root / well["path"]
        fields = tuple(number for number, image in enumerate(folders) if image.parent == folder)
        wells.append(Well(int(well["rowIndex"]), int(well["columnIndex"]), fields))
    return Plate(str(plate.get("name") or root.name), tuple(wells))


def _zarr_series(folder: Path) -> Series:
    attributes = _attributes(folder)
    scales = attributes["multiscales"][0]
    shape, kind = _array(folder / scales["datasets"][0]["path"])
    axes = [axis["name"] if isinstance(axis, dict) else axis for axis in scales.get("axes", "tczyx")]
    sizes = dict(zip(axes, shape, strict=True))
    channels = tuple(str(each.get("label", "")) for each in attributes.get("omero", {}).get("channels", ()))
    return Series(
        name=str(scales.get("name") or folder.name),
        size_x=sizes["x"],
        size_y=sizes["y"],
        size_z=sizes.get("z", 1),
        size_c=sizes.get("c", 1),
        size_t=sizes.get("t", 1),
        pixels_type=kind,
        channels=channels,
    )


def _array(folder: Path) -> tuple[list[int], str]:
    """Shape and pixel type of an array, of either version of Zarr."""
    newer = folder / "zarr.json"
    if newer.is_file():
        described = json.loads(newer.read_bytes())
        kind = str(described["data_type"])
        return described["shape"], _NUMPY_TYPES.get(kind, kind)
    described = json.loads((folder / ".zarray").read_bytes())
    return described["shape"], _ZARR_TYPES.get(described["dtype"].lstrip("<>|"), "double")
