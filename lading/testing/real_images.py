"""Real image files of several formats, written by the libraries that people use (tifffile, zarr, Pillow), small and quick.

Every writer returns the files it made, as paths relative to its folder (POSIX), the one to open first in front.
"""

import json
import uuid
from pathlib import Path
from typing import Any

import numpy as np
import tifffile
import zarr
from numpy.typing import NDArray
from PIL import Image

_SCHEMA = "http://www.openmicroscopy.org/Schemas/OME/2016-06"


def pixels(*shape: int, seed: int = 1) -> NDArray[np.uint8]:
    """Noise on a ramp: it does not compress to nothing, and no two seeds are alike."""
    noise = np.random.default_rng(seed).integers(0, 64, shape, dtype=np.uint8)
    ramp = np.arange(shape[-1], dtype=np.uint8)
    mixed: NDArray[np.uint8] = noise + ramp
    return mixed


def png(folder: Path, name: str = "overview.png", *, size: int = 32, seed: int = 1) -> list[str]:
    """One PNG."""
    path = _made(folder, name)
    Image.fromarray(pixels(size, size, seed=seed)).save(path)
    return [name]


def tiff(folder: Path, name: str = "plain.tif", *, size: int = 32, seed: int = 1) -> list[str]:
    """One plain TIFF."""
    tifffile.imwrite(_made(folder, name), pixels(size, size, seed=seed), metadata=None)
    return [name]


def ome_tiff_pyramid(folder: Path, name: str = "pyramid.ome.tif", *, size: int = 128, levels: int = 3) -> list[str]:
    """One OME-TIFF with two channels and a pyramid in SubIFDs."""
    full = pixels(2, size, size)
    with tifffile.TiffWriter(_made(folder, name), ome=True) as writer:
        writer.write(full, subifds=levels - 1, tile=(32, 32), metadata={"axes": "CYX", "Name": "pyramid"})
        for level in range(1, levels):
            step = 2**level
            writer.write(full[:, ::step, ::step], subfiletype=1, tile=(16, 16))
    return [name]


def companion_set(folder: Path, name: str = "set", *, planes: int = 3, size: int = 32) -> list[str]:
    """An OME-TIFF set: `planes` TIFFs with BinaryOnly headers, and the companion that describes them."""
    companion = f"{name}.companion.ome"
    ids = [f"urn:uuid:{uuid.uuid4()}" for _ in range(planes + 1)]
    names = [f"{name}_z{number}.ome.tif" for number in range(planes)]
    data = "".join(
        f'<TiffData FirstZ="{z}" IFD="0" PlaneCount="1"><UUID FileName="{file}">{ids[z]}</UUID></TiffData>'
        for z, file in enumerate(names)
    )
    _made(folder, companion).write_text(
        f'<?xml version="1.0" encoding="UTF-8"?>\n<OME xmlns="{_SCHEMA}" UUID="{ids[-1]}"><Image ID="Image:0" Name="{name}">'
        f'<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="{size}" SizeY="{size}" SizeZ="{planes}" SizeC="1" '
        f'SizeT="1"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>{data}</Pixels></Image></OME>'
    )
    for z, file in enumerate(names):
        _binary_only(folder / file, ids[z], companion, ids[-1], pixels(size, size, seed=z))
    return [companion, *names]


def plate_set(folder: Path, name: str = "plate", *, wells: int = 2, fields: int = 2, size: int = 32) -> list[str]:
    """A plate of a high-content screen: one OME-TIFF for each field of each well, and the companion that describes the plate."""
    companion, count = f"{name}.companion.ome", wells * fields
    ids = [f"urn:uuid:{uuid.uuid4()}" for _ in range(count + 1)]
    names = [f"{name}_w{number // fields}_f{number % fields}.ome.tif" for number in range(count)]
    samples = [
        f'<WellSample ID="WellSample:0:{n // fields}:{n % fields}" Index="{n}"><ImageRef ID="Image:{n}"/></WellSample>'
        for n in range(count)
    ]
    plate = "".join(
        f'<Well ID="Well:0:{well}" Row="0" Column="{well}">{"".join(samples[well * fields : (well + 1) * fields])}</Well>'
        for well in range(wells)
    )
    images = "".join(
        f'<Image ID="Image:{n}" Name="{file}"><Pixels ID="Pixels:{n}" DimensionOrder="XYZCT" Type="uint8" SizeX="{size}" '
        f'SizeY="{size}" SizeZ="1" SizeC="1" SizeT="1"><Channel ID="Channel:{n}:0" SamplesPerPixel="1"/>'
        f'<TiffData IFD="0" PlaneCount="1"><UUID FileName="{file}">{ids[n]}</UUID></TiffData></Pixels></Image>'
        for n, file in enumerate(names)
    )
    _made(folder, companion).write_text(
        f'<?xml version="1.0" encoding="UTF-8"?>\n<OME xmlns="{_SCHEMA}" UUID="{ids[-1]}"><Plate ID="Plate:0" Name="{name}" '
        f'Rows="1" Columns="{wells}">{plate}</Plate>{images}</OME>'
    )
    for number, file in enumerate(names):
        _binary_only(folder / file, ids[number], companion, ids[-1], pixels(size, size, seed=number))
    return [companion, *names]


def ome_tiff_set(folder: Path, name: str = "multi", *, planes: int = 3, size: int = 32) -> list[str]:
    """An OME-TIFF set without a companion: every file carries the XML that names all of them."""
    ids = [f"urn:uuid:{uuid.uuid4()}" for _ in range(planes)]
    names = [f"{name}_t{number}.ome.tiff" for number in range(planes)]
    data = "".join(
        f'<TiffData FirstT="{t}" IFD="0" PlaneCount="1"><UUID FileName="{file}">{ids[t]}</UUID></TiffData>'
        for t, file in enumerate(names)
    )
    for t, file in enumerate(names):
        xml = (
            f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{_SCHEMA}" UUID="{ids[t]}"><Image ID="Image:0" Name="{name}">'
            f'<Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint8" SizeX="{size}" SizeY="{size}" SizeZ="1" SizeC="1" '
            f'SizeT="{planes}"><Channel ID="Channel:0:0" SamplesPerPixel="1"/>{data}</Pixels></Image></OME>'
        )
        tifffile.imwrite(_made(folder, file), pixels(size, size, seed=t), description=xml, metadata=None)
    return names


def pattern_series(folder: Path, name: str = "series", *, planes: int = 4, size: int = 32) -> list[str]:
    """Plain TIFFs, one per time point, and the `.pattern` file that makes Bio-Formats read them as one image."""
    names = [f"{name}_t{number}.tif" for number in range(planes)]
    for number, file in enumerate(names):
        tifffile.imwrite(_made(folder, file), pixels(size, size, seed=number), metadata=None)
    (folder / f"{name}.pattern").write_text(f"{name}_t<0-{planes - 1}>.tif")
    return [f"{name}.pattern", *names]


def micro_manager(folder: Path, name: str = "Pos0", *, frames: int = 3, size: int = 32) -> list[str]:
    """A folder as Micro-Manager 1.4 writes it: `metadata.txt`, and a plain TIFF for each time point."""
    plane = {"Width": size, "Height": size, "PixelType": "GRAY8"}
    summary = {
        "Channels": 1,
        "ChNames": ["DAPI"],
        "Slices": 1,
        "Frames": frames,
        "Positions": 1,
        **plane,
        "BitDepth": 8,
    }
    metadata: dict[str, dict[str, object]] = {"Summary": {**summary, "PixelSize_um": 0.1, "Source": "Micro-Manager"}}
    names = [f"{name}/img_{frame:09d}_DAPI_000.tif" for frame in range(frames)]
    for frame, file in enumerate(names):
        tifffile.imwrite(_made(folder, file), pixels(size, size, seed=frame), metadata=None)
        indices = {
            "FrameIndex": frame,
            "SliceIndex": 0,
            "ChannelIndex": 0,
            "Exposure-ms": 10,
            "ElapsedTime-ms": 100 * frame,
        }
        # Bio-Formats reads the file line by line and takes the last character of each value for a comma.
        metadata[f"FrameKey-{frame}-0-0"] = {"FileName": Path(file).name, **indices, **plane}
    (folder / name / "metadata.txt").write_text(json.dumps(metadata, indent=2))
    return [f"{name}/metadata.txt", *names]


def ome_zarr(
    folder: Path, name: str = "image.ome.zarr", *, side: int = 4, chunk: int = 8, version: int = 2
) -> list[str]:
    """An OME-Zarr (specification 0.4, or 0.5 with `version=3`) with side² chunks at full resolution and a smaller level."""
    group = zarr.create_group(store=folder / name, zarr_format=3 if version == 3 else 2, overwrite=True)
    _zarr_image(group, name, pixels(side * chunk, side * chunk), chunk)
    return _zarr_files(folder, name)


def ome_zarr_plate(folder: Path, name: str = "plate.ome.zarr", *, version: int = 2) -> list[str]:
    """A plate as OME-Zarr (specification 0.4, or 0.5 with `version=3`): the wells A1 and B2, with two fields each."""
    plate = zarr.create_group(store=folder / name, zarr_format=3 if version == 3 else 2, overwrite=True)
    wells = [
        {"path": f"{row}/{row_index + 1}", "rowIndex": row_index, "columnIndex": row_index}
        for row_index, row in enumerate("AB")
    ]
    for seed, well in enumerate(wells):
        group = plate.create_group(str(well["path"]).partition("/")[0]).create_group(
            str(well["path"]).partition("/")[2]
        )
        for field in range(2):
            _zarr_image(
                group.create_group(str(field)), f"{well['path']}/{field}", pixels(16, 16, seed=2 * seed + field), 8
            )
        _describe(group, {"well": {"images": [{"path": str(field), "acquisition": 0} for field in range(2)]}})
    table: dict[str, Any] = {"name": name, "field_count": 2, "acquisitions": [{"id": 0}], "wells": wells}
    table |= {"rows": [{"name": row} for row in "AB"], "columns": [{"name": column} for column in "12"]}
    _describe(plate, {"plate": table})
    return _zarr_files(folder, name)


def _zarr_image(group: "zarr.Group", name: str, full: NDArray[np.uint8], chunk: int) -> None:
    """An image in two resolutions."""
    keys: dict[str, Any] = {"name": "v2" if group.metadata.zarr_format == 2 else "default", "separator": "/"}
    for level, data in enumerate((full, full[::2, ::2])):
        array = group.create_array(
            str(level),
            shape=data.shape,
            chunks=(chunk, chunk),
            dtype="uint8",
            compressors=None,
            chunk_key_encoding=keys,
        )
        array[...] = data
    scales = [
        {"path": str(level), "coordinateTransformations": [{"type": "scale", "scale": [2.0**level, 2.0**level]}]}
        for level in range(2)
    ]
    axes = [{"name": axis, "type": "space", "unit": "micrometer"} for axis in "yx"]
    _describe(group, {"multiscales": [{"name": name, "version": "0.4", "axes": axes, "datasets": scales}]})


def _describe(group: "zarr.Group", keys: dict[str, Any]) -> None:
    """Put OME's keys where its version of the specification has them."""
    if group.metadata.zarr_format == 2:
        group.attrs.update(
            {key: value | {"version": "0.4"} if isinstance(value, dict) else value for key, value in keys.items()}
        )
    else:
        group.attrs["ome"] = {"version": "0.5", **keys}


def _zarr_files(folder: Path, name: str) -> list[str]:
    entry = f"{name}/.zattrs" if (folder / name / ".zattrs").exists() else f"{name}/zarr.json"
    others = sorted(path.relative_to(folder).as_posix() for path in (folder / name).rglob("*") if path.is_file())
    return [entry, *(path for path in others if path != entry)]


def _binary_only(path: Path, own: str, companion: str, of_companion: str, data: NDArray[np.uint8]) -> None:
    """A TIFF that says only in which companion it is described."""
    xml = (
        f'<?xml version="1.0" encoding="UTF-8"?><OME xmlns="{_SCHEMA}" UUID="{own}">'
        f'<BinaryOnly MetadataFile="{companion}" UUID="{of_companion}"/></OME>'
    )
    tifffile.imwrite(path, data, description=xml, metadata=None)


def _made(folder: Path, name: str) -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    return path
