"""The process that holds the JVM: Bio-Formats answers one question a line on its input, one line on its output each.

Run as `python -m omero_importer.bioformats_worker JAR MEGABYTES IDLE_SECONDS`. It ends when its input does, or when nobody
asked for so long: an idle JVM keeps its memory. It is a process of its own because a hostile file can
crash, hang or fill a JVM, and a JVM can only be ended with its process.

    → {"path": "/abs/file"}
    ← {"reader", "files", "initialising", "required_dirs", "series", "plate"}   the first `initialising` files are entry points
    ← {"failure": "unknown-format" | "missing-library" | "unreadable", "message"}
"""

import json
import os
import queue
import sys
import threading
from typing import BinaryIO, Protocol

import jpype

# `zip` is out because OMERO's own importer takes it out, too.
_LEFT_OUT = ("loci.formats.in.ZipReader",)
_MESSAGE_CHARS = 500
_AS_SERIES = False  # the levels of a pyramid are one series, as in OMERO
_WITH_PIXELS = False  # noPixels: the files with pixels belong to it, too


class Reader(Protocol):
    """The part of loci.formats.ImageReader that is used here, as jpype shows it."""

    def setId(self, path: str) -> None: ...  # noqa: D102, N802
    def close(self) -> None: ...  # noqa: D102


def main() -> None:
    """Answer until nobody asks any more."""
    jar, megabytes, idle = sys.argv[1:4]
    answers = _private_output()
    requests = _requests_ahead(sys.stdin.buffer)
    reader = _start(jar, megabytes)
    _tell(answers, {"version": str(jpype.JClass("loci.formats.FormatTools").VERSION)})
    while True:
        try:
            request = requests.get(timeout=float(idle))
        except queue.Empty:
            os._exit(0)  # jpype would wait for Java's own threads
        _tell(answers, _answer(reader, str(json.loads(request)["path"])))


def _private_output() -> BinaryIO:
    # Some readers print; what they print must not end up among the answers.
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)
    return answers


def _requests_ahead(source: BinaryIO) -> "queue.SimpleQueue[bytes]":
    """The lines of the input, read by a thread: when the parent is gone the process ends, even from within a Java call."""
    requests: queue.SimpleQueue[bytes] = queue.SimpleQueue()

    def read() -> None:
        for line in source:
            requests.put(line)
        os._exit(0)

    threading.Thread(target=read, daemon=True).start()
    return requests


def _start(jar: str, megabytes: str) -> Reader:
    jpype.startJVM(
        f"-Xmx{int(megabytes)}m",
        "-Djava.awt.headless=true",
        "-Dfile.encoding=UTF-8",
        "-Dsun.jnu.encoding=UTF-8",
        "-XX:+ExitOnOutOfMemoryError",
        "-XX:-CreateCoredumpOnCrash",
        f"-XX:ErrorFile={os.devnull}",
        classpath=[jar],
    )
    jpype.JClass("loci.common.DebugTools").setRootLevel("OFF")
    image_reader = jpype.JClass("loci.formats.ImageReader")
    classes = image_reader.getDefaultReaderClasses()
    for name in _LEFT_OUT:
        classes.removeClass(jpype.JClass(name))
    reader = image_reader(classes)
    level = jpype.JClass("loci.formats.in.MetadataLevel").MINIMUM
    options = jpype.JClass("loci.formats.in.DynamicMetadataOptions")(level)
    # Without it a set with a member missing is read as blank planes: the loss would be noticed by nobody.
    options.setBoolean("ometiff.fail_on_missing_tiff", jpype.java.lang.Boolean.TRUE)
    reader.setMetadataOptions(options)
    reader.setFlattenedResolutions(_AS_SERIES)
    found: Reader = reader
    return found


def _answer(reader: Reader, path: str) -> dict[str, object]:
    try:
        reader.setId(path)
        return _described(reader)
    except jpype.JException as exc:
        return {"failure": _kind(exc), "message": str(exc).partition("\n")[0][:_MESSAGE_CHARS]}
    finally:
        try:
            reader.close()
        except jpype.JException:  # the next setId closes it again
            print(f"closing {path!r} failed", file=sys.stderr)  # noqa: T201 - our log, kept by the parent


def _described(reader: Reader) -> dict[str, object]:
    java = jpype.JObject(reader)
    inner = java.getReader()
    infos = [(str(info.filename), bool(info.usedToInitialize)) for info in java.getAdvancedUsedFiles(_WITH_PIXELS)]
    first = [name for name, initialising in infos if initialising]
    files = first + [name for name, initialising in infos if not initialising]
    return {
        "reader": str(inner.getClass().getName()),
        "files": files,
        "initialising": len(first),
        "required_dirs": int(inner.getRequiredDirectories(files)),
        "series": int(java.getSeriesCount()),
        "plate": "High-Content Screening (HCS)" in [str(domain) for domain in inner.getDomains()],
    }


def _kind(exc: jpype.JException) -> str:
    name = str(exc.getClass().getName())
    if name in ("loci.formats.UnknownFormatException", "loci.formats.UnsupportedCompressionException"):
        return "unknown-format"
    return "missing-library" if name == "loci.formats.MissingLibraryException" else "unreadable"


def _tell(answers: BinaryIO, answer: dict[str, object]) -> None:
    answers.write(json.dumps(answer).encode("ascii") + b"\n")
    answers.flush()


if __name__ == "__main__":
    main()
