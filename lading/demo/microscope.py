"""Plays the microscope: writes sessions of real images, with tifffile and Pillow, into a watched folder.

The pictures are made up (cells in a dish, always the same ones); the files are what instruments and their software write.
"""

import uuid
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from xml.sax.saxutils import quoteattr

import numpy as np
import numpy.typing as npt
import tifffile

Pixels = npt.NDArray[np.uint16]
SIDE = 512
_OME = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


@dataclass(frozen=True, slots=True)
class Scene:
    """One session at the microscope. `images`: how many OMERO shall show. `java`: it takes Bio-Formats to see one fileset in it."""

    path: str
    write: Callable[[Path], None]
    images: int
    story: str
    java: bool = False


def cells(seed: int, planes: int = 1) -> Pixels:
    """Made-up cells: uint16, shape (planes, SIDE, SIDE), the same for the same `seed`."""
    chance = np.random.default_rng(seed)
    y, x = np.mgrid[:SIDE, :SIDE]
    found = np.zeros((planes, SIDE, SIDE))
    for plane in range(planes):
        for _ in range(24):
            at_y, at_x = chance.uniform(0, SIDE, 2)
            width = chance.uniform(8, 20)
            found[plane] += np.exp(-((y - at_y) ** 2 + (x - at_x) ** 2) / (2 * width**2))
    return (found * 9_000 + chance.normal(400, 40, found.shape)).clip(0, 65_535).astype(np.uint16)


def pyramid(folder: Path) -> None:
    """An OME-TIFF of three channels with sub-resolutions, notes, and a table of key-values."""
    whole = cells(1, 3)
    details = {"axes": "CYX", "Channel": {"Name": ["DAPI", "GFP", "Cy5"]}, "PhysicalSizeX": 0.32, "PhysicalSizeY": 0.32}
    with tifffile.TiffWriter(folder / "slide.ome.tif", bigtiff=True) as file:
        file.write(whole, subifds=2, tile=(256, 256), compression="zlib", photometric="minisblack", metadata=details)
        for level in (2, 4):
            file.write(
                whole[:, ::level, ::level], subfiletype=1, tile=(256, 256), compression="zlib", photometric="minisblack"
            )
    (folder / "notes.txt").write_text("objective 20x, slide 7, operator alice\n", encoding="utf-8")
    (folder / "metadata.csv").write_text("key,value\nstain,DAPI\ngenotype,wild type\n", encoding="utf-8")


def snapshots(folder: Path) -> None:
    """Two images that have nothing to do with each other: a TIFF and a PNG; and what Windows leaves behind."""
    from PIL import Image  # noqa: PLC0415 - comes with omero-py, and only this half of the demo has that

    tifffile.imwrite(folder / "overview.tif", cells(2)[0], compression="zlib")
    Image.fromarray((cells(3)[0] >> 6).clip(0, 255).astype(np.uint8)).save(folder / "dish.png")
    (folder / "Thumbs.db").write_bytes(b"\xd0\xcf\x11\xe0" + bytes(508))


def companion_set(folder: Path) -> None:
    """One image of four planes in four TIFFs, which a companion file holds together: worth nothing one by one."""
    planes = cells(4, 4)
    index = folder / "stack.companion.ome"
    here = f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, 'lading/demo/companion')}"
    pieces = []
    for z, plane in enumerate(planes):
        name, mark = f"stack_z{z}.ome.tif", f"urn:uuid:{uuid.uuid5(uuid.NAMESPACE_URL, f'lading/demo/{z}')}"
        tifffile.imwrite(folder / name, plane, description=_binary_only(index.name, here, mark), metadata=None)
        pieces.append(
            f'<TiffData FirstZ="{z}" FirstC="0" FirstT="0" IFD="0" PlaneCount="1">'
            f"<UUID FileName={quoteattr(name)}>{mark}</UUID></TiffData>"
        )
    index.write_text(
        f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{_OME}" UUID="{here}"><Image ID="Image:0" Name="stack">'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" SizeX="{SIDE}" SizeY="{SIDE}" SizeZ="{len(planes)}" '
        f'SizeC="1" SizeT="1" BigEndian="false"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>{"".join(pieces)}'
        "</Pixels></Image></OME>",
        encoding="utf-8",
    )


def _binary_only(index: str, index_mark: str, own_mark: str) -> str:
    return (
        f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{_OME}" UUID="{own_mark}">'
        f'<BinaryOnly MetadataFile={quoteattr(index)} UUID="{index_mark}"/></OME>'
    )


SCENES = (
    Scene("DEMO/mouse-01/day-1", pyramid, 1, "an OME-TIFF with sub-resolutions, notes and key-values"),
    Scene("DEMO/mouse-02/day-1", snapshots, 2, "two single images, and a junk file"),
    Scene("DEMO/mouse-03/day-1", companion_set, 1, "one image in five files that belong together", java=True),
)


def acquire(scene: Scene, instrument: Path) -> Path:
    """Write the scene's session below `instrument`; returns the session folder.

    It is written beside it and appears at once: on a busy machine, making up an image can take longer than the quiet time
    after which the agent believes that a session is complete.
    """
    session, aside = instrument / scene.path, instrument.with_name("acquiring")
    aside.mkdir()
    scene.write(aside)
    session.parent.mkdir(parents=True, exist_ok=True)
    aside.rename(session)
    return session
