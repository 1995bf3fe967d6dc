"""What a server finds in the files that it imports: series, plates, sizes, used files, or why it cannot read them."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

UNKNOWN_FORMAT = "loci.formats.UnknownFormatException"
MISSING_LIBRARY = "loci.formats.MissingLibraryException"
UNREADABLE = "loci.formats.FormatException"
MISSING_FILE = "java.io.IOException"


class CannotRead(Exception):
    """No image. `java_class` is the exception that Bio-Formats raises for it: one of the four above, or another."""

    def __init__(self, java_class: str, message: str) -> None:
        super().__init__(message)
        self.java_class = java_class


@dataclass(frozen=True, slots=True, kw_only=True)
class Series:
    """One image: pixels along x, y, z, channels, time. Physical sizes in micrometres; `acquired` in milliseconds."""

    name: str
    size_x: int
    size_y: int
    size_z: int = 1
    size_c: int = 1
    size_t: int = 1
    pixels_type: str = "uint8"
    dimension_order: str = "XYZCT"
    channels: tuple[str, ...] = ()
    physical_sizes: tuple[float | None, float | None, float | None] = (None, None, None)
    description: str = ""
    acquired: int | None = None


@dataclass(frozen=True, slots=True)
class Well:
    """One well of a plate; `series` are its fields. Rows and columns count from 0."""

    row: int
    column: int
    series: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Plate:
    """One plate of a high-content screen."""

    name: str
    wells: tuple[Well, ...]


@dataclass(frozen=True, slots=True)
class ImageFile:
    """What one file is the way into. `used_files` are absolute paths, `reader` is a Java class."""

    reader: str
    format: str
    used_files: tuple[str, ...]
    series: tuple[Series, ...]
    plates: tuple[Plate, ...] = ()


class Reading(Protocol):
    """Something that reads images."""

    def read(self, path: Path) -> ImageFile:
        """What is in the file. Raises CannotRead."""

    def required_directories(self, reader: str, paths: Sequence[str]) -> int | None:
        """How many parent folders of the files this reader (a Java class) needs; None when it is not known."""

    def close(self) -> None:
        """Let go of what was started."""
