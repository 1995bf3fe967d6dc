"""The process that holds the stand-in's JVM: Bio-Formats, one question a line on its input, one answer a line.

Run as `python -m lading.sandbox.omero.bioformats_worker JAR MEGABYTES`. It ends when its input does.

    → {"read": "/abs/file"}                           ← {"reader", "format", "used_files", "series", "plates"}
    → {"required": ["loci.formats.in.X", [path, …]]}  ← {"directories": 1 | null}
    ← {"java_class", "message"}                       when Java raised it
"""

import json
import os
import queue
import sys
import threading
from collections.abc import Iterator
from typing import Any, BinaryIO

import jpype

# What jpype gives us has no types: it is Java's.
Java = Any
_MESSAGE_CHARS = 2000


def main() -> None:
    """Answer until nobody asks any more."""
    jar, megabytes = sys.argv[1:3]
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # some readers print; what they print must not end up among the answers
    requests = _requests_ahead(sys.stdin.buffer)
    jpype.startJVM(
        f"-Xmx{int(megabytes)}m",
        "-Djava.awt.headless=true",
        "-Dfile.encoding=UTF-8",
        "-Dsun.jnu.encoding=UTF-8",
        "-XX:+UseSerialGC",
        "-XX:+ExitOnOutOfMemoryError",
        f"-XX:ErrorFile={os.devnull}",
        classpath=[jar],
    )
    jpype.JClass("loci.common.DebugTools").setRootLevel("OFF")
    _tell(answers, {"version": str(jpype.JClass("loci.formats.FormatTools").VERSION)})
    while True:
        _tell(answers, _answer(json.loads(requests.get())))


def _requests_ahead(source: BinaryIO) -> "queue.SimpleQueue[bytes]":
    """The lines of the input, read by a thread: when the parent is gone this process ends, even from within Java."""
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        for line in source:
            requests.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return requests


def _tell(answers: BinaryIO, answer: object) -> None:
    answers.write(json.dumps(answer).encode("ascii") + b"\n")
    answers.flush()


def _answer(request: dict[str, Any]) -> dict[str, object]:
    try:
        if "required" in request:
            return {"directories": _required(*request["required"])}
        return _read(request["read"])
    except jpype.JException as error:
        name, message = str(error.getClass().getName()), str(error.getMessage())
        return {"java_class": name, "message": message[:_MESSAGE_CHARS]}


def _required(reader: str, paths: list[str]) -> int | None:
    try:
        return int(jpype.JClass(reader)().getRequiredDirectories(paths))
    except (TypeError, AttributeError):  # no such class, or not a reader: OMERO does without its help
        return None


def _read(path: str) -> dict[str, object]:
    reader = jpype.JClass("loci.formats.ImageReader")()
    factory = jpype.JClass("loci.common.services.ServiceFactory")()
    service = factory.getInstance(jpype.JClass("loci.formats.services.OMEXMLService"))
    metadata = service.createOMEXMLMetadata()
    reader.setMetadataStore(metadata)
    # As OMERO does it: the levels of a pyramid are one image.
    reader.setFlattenedResolutions(False)
    try:
        reader.setId(path)
        return {
            "reader": str(reader.getReader().getClass().getName()),
            "format": str(reader.getFormat()),
            "used_files": [str(name) for name in reader.getUsedFiles()],
            "series": [_series(reader, metadata, index) for index in range(reader.getSeriesCount())],
            "plates": list(_plates(metadata)),
        }
    finally:
        reader.close()


def _series(reader: Java, metadata: Java, index: int) -> dict[str, object]:
    reader.setSeries(index)
    sizes = {f"size_{axis}": int(getattr(reader, f"getSize{axis.upper()}")()) for axis in "xyzct"}
    return {
        **sizes,
        "name": _text(metadata.getImageName(index)),
        "description": _text(metadata.getImageDescription(index)),
        "pixels_type": str(jpype.JClass("loci.formats.FormatTools").getPixelTypeString(reader.getPixelType())),
        "dimension_order": str(reader.getDimensionOrder()),
        "channels": [_text(metadata.getChannelName(index, c)) for c in range(metadata.getChannelCount(index))],
        "physical_sizes": [_micrometres(getattr(metadata, f"getPixelsPhysicalSize{axis}")(index)) for axis in "XYZ"],
        "acquired": _milliseconds(metadata.getImageAcquisitionDate(index)),
    }


def _text(value: Java) -> str:
    return "" if value is None else str(value)


def _micrometres(length: Java) -> float | None:
    value = None if length is None else length.value(jpype.JClass("ome.units.UNITS").MICROMETER)
    return None if value is None else float(value)


def _milliseconds(timestamp: Java) -> int | None:
    instant = None if timestamp is None else timestamp.asInstant()
    return None if instant is None else int(instant.getMillis())


def _plates(metadata: Java) -> Iterator[dict[str, object]]:
    numbers = {str(metadata.getImageID(index)): index for index in range(metadata.getImageCount())}
    for plate in range(metadata.getPlateCount()):
        wells = []
        for well in range(metadata.getWellCount(plate)):
            refs = [
                metadata.getWellSampleImageRef(plate, well, n) for n in range(metadata.getWellSampleCount(plate, well))
            ]
            wells.append(
                {
                    "row": int(metadata.getWellRow(plate, well).getValue()),
                    "column": int(metadata.getWellColumn(plate, well).getValue()),
                    "series": [numbers[str(ref)] for ref in refs if ref is not None],
                }
            )
        yield {"name": _text(metadata.getPlateName(plate)), "wells": wells}


if __name__ == "__main__":
    main()
