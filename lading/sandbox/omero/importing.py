"""The import itself: six steps in the background that make images of the files that were uploaded.

As in OMERO: only the *first* file of the fileset is opened, and its reader finds the others, or does not; the images
come into being in one step, all or none; a failure leaves the Fileset and its files where they are.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import omero
import omero.cmd
import omero.grid
import omero.model

from lading.sandbox.omero import graph, images, model, permissions
from lading.sandbox.omero.handles import Step, StepFailed
from lading.sandbox.omero.images import CannotRead, ImageFile, Plate, Series
from lading.sandbox.omero.permissions import Context
from lading.sandbox.omero.records import Quantity, Record, Ref, Value
from lading.sandbox.omero.spoiling import crash
from lading.sandbox.omero.store import milliseconds
from lading.sandbox.omero.stored_files import set_read_only

if TYPE_CHECKING:
    from lading.sandbox.omero.site import Site

AUTO_CLOSE = "openmicroscopy.org/omero/import/autoClose"
TARGET_TEMPLATE = "openmicroscopy.org/omero/import/targetTemplate"
_NAMED_ERRORS = {
    images.UNKNOWN_FORMAT: "import-unknown-format",
    images.MISSING_LIBRARY: "import-missing-library",
    images.MISSING_FILE: "import-file-exception",
    images.UNREADABLE: "import-file-exception",
}
_JAVA_OF_ERRORS = {name: java for java, name in _NAMED_ERRORS.items()}
_HOLD_S = 0.01
_STEPS = ("set-read-only", "metadata", "pixel-data", "thumbnails", "processing", "objects")


class Import:
    """What one handle does. `on_auto_close` is called at the end when the client asked for that."""

    def __init__(
        self,
        site: "Site",
        context: Context,
        settings: omero.grid.ImportSettings,
        *,
        fileset: int,
        files: Sequence[int],
        log: Record,
    ) -> None:
        self._site, self._context, self._settings = site, context, settings
        self._fileset, self._files, self._log = fileset, files, log
        self._found: ImageFile | None = None
        self._noted = False
        self._pixels: list[Record] = []
        self._images: list[Record] = []
        self._plates: list[Record] = []
        self.on_auto_close: Callable[[], None] = lambda: None

    def steps(self) -> list[Step]:
        """What the handle carries out, one after the other."""
        work = (self._open, self._save, self._nothing, self._nothing, self._nothing, self._respond)
        return [self._step(number, each) for number, each in enumerate(work)]

    def _step(self, number: int, work: Step) -> Step:
        def carry_out() -> omero.cmd.Response | None:
            faults = self._site.faults
            self._note(f"step {number} ({_STEPS[number]})")
            faults.wait(faults.step_delay_s)
            while str(number) in faults.hold_at:
                time.sleep(_HOLD_S)
            if faults.pop("crash_in_step", str(number)):
                crash()
            try:
                return work()
            except StepFailed as failure:
                self._note(f"failed: {failure.name}: {failure.parameters.get('message', '')}")
                raise

        return carry_out

    # -- the steps --------------------------------------------------------------------------------------------------

    def _open(self) -> None:
        """Let Bio-Formats look. In OMERO all that goes wrong here is an "error-on-init", an unknown format too."""
        wanted = self._site.faults.pop("import_errors")
        path = self._site.files.path(self._file(self._files[0]))
        if wanted:
            raise _failure(wanted, _JAVA_OF_ERRORS.get(wanted, "java.lang.RuntimeException"), "told to fail", str(path))
        try:
            self._found = self._site.images.read(path, self._site.files.root)
        except CannotRead as error:
            raise _failure("error-on-init", error.java_class, str(error), str(path)) from error
        self._note(f"File format: {self._found.format}; base reader: {self._found.reader}")
        for number in self._files:
            set_read_only(self._site.files.path(self._file(number)))

    def _save(self) -> None:
        """Images, pixels, channels, plates, links: one transaction."""
        if self._site.faults.take("no_images"):
            return
        assert self._found is not None
        with self._site.store.transaction():
            for number, series in enumerate(self._found.series):
                self._add_image(number, series)
            for plate in self._found.plates:
                self._add_plate(plate)
            self._link_target()
            self._annotate()
        self._note(f"{len(self._images)} images, {len(self._plates)} plates")

    def _nothing(self) -> None:
        """Pixel statistics, thumbnails and indexing are not made here."""

    def _respond(self) -> omero.cmd.Response:
        made = omero.grid.ImportResponse()
        builder = graph.Builder(self._site.store, self._context)
        plan: graph.Plan = {"image": {}}
        made.pixels = [builder.build(pixels, plan) for pixels in self._pixels]
        made.objects = [builder.build(each, {}) for each in (*self._plates, *self._images)]
        log = self._site.files.path(self._log)
        self._site.store.change(self._log, size=log.stat().st_size)
        for number in self._files:
            self._site.files.spoil(self._file(number))
        if any(_namespace(self._site, each) == AUTO_CLOSE for each in self._annotations()):
            self.on_auto_close()
        return made

    # -- what is made -----------------------------------------------------------------------------------------------

    def _create(self, cls: str, **fields: Value) -> Record:
        return self._site.store.create(cls, fields, owner=self._context.user, group=self._context.group)

    def _value(self, cls: str, value: str) -> Ref:
        return self._site.enumeration(cls, value, make=True)

    def _add_image(self, number: int, series: Series) -> None:
        assert self._found is not None
        description = _text(self._settings.userSpecifiedDescription) or series.description
        image = self._create(
            "Image",
            name=self._name(number, series),
            description=description or None,
            acquisitionDate=series.acquired or milliseconds(),
            archived=False,
            series=number,
            fileset=Ref("Fileset", self._fileset),
            format=self._value("Format", self._found.reader.rpartition(".")[2].removesuffix("Reader")),
        )
        sizes = self._settings.userSpecifiedPixels or ()
        physical = tuple(
            sizes[axis] if len(sizes) == 3 and sizes[axis] else series.physical_sizes[axis] for axis in range(3)
        )
        pixels = self._create(
            "Pixels",
            image=image.ref,
            sizeX=series.size_x,
            sizeY=series.size_y,
            sizeZ=series.size_z,
            sizeC=series.size_c,
            sizeT=series.size_t,
            sha1="Pending...",
            pixelsType=self._value("PixelsType", series.pixels_type),
            dimensionOrder=self._value("DimensionOrder", series.dimension_order),
            **{
                f"physicalSize{axis}": None if size is None else Quantity("LengthI", "MICROMETER", size)
                for axis, size in zip("XYZ", physical, strict=True)
            },
        )
        for channel in range(series.size_c):
            name = series.channels[channel] if channel < len(series.channels) else ""
            logical = self._create("LogicalChannel", name=name or None)
            self._create("Channel", pixels=pixels.ref, logicalChannel=logical.ref)
        self._images.append(image)
        self._pixels.append(pixels)

    def _name(self, number: int, series: Series) -> str:
        """The file's name or the one that was asked for; with the series' own where there are several."""
        assert self._found is not None
        base = _text(self._settings.userSpecifiedName) or self._file(self._files[0]).text("name")
        for plate in self._found.plates:
            for well in plate.wells:
                if number in well.series:
                    field = well.series.index(number) + 1
                    return f"{base} [Well {_row_name(well.row)}{well.column + 1}, Field {field}]"
        return base if len(self._found.series) == 1 else f"{base} [{series.name or number}]"

    def _add_plate(self, plate: Plate) -> None:
        name = _text(self._settings.userSpecifiedName) or plate.name or self._file(self._files[0]).text("name")
        made = self._create(
            "Plate",
            name=name,
            rows=max((well.row + 1 for well in plate.wells), default=0),
            columns=max((well.column + 1 for well in plate.wells), default=0),
        )
        for well in plate.wells:
            kept = self._create("Well", plate=made.ref, row=well.row, column=well.column)
            for number in well.series:
                self._create("WellSample", well=kept.ref, image=self._images[number].ref)
        self._plates.append(made)

    def _link_target(self) -> None:
        """Images go into a Dataset, plates into a Screen; anything else stays an orphan, and nobody is told."""
        wanted = self._settings.userSpecifiedTarget
        if wanted is None:
            return
        target = self._site.store.get(model.class_of(wanted), wanted.id.val)
        if target is None:
            raise _failure("import-request-failure", "java.lang.NullPointerException", f"no target {wanted.id.val}", "")
        children, cls = {
            "Dataset": ([] if self._plates else self._images, "DatasetImageLink"),
            "Screen": (self._plates, "ScreenPlateLink"),
        }.get(target.cls, ([], ""))
        for child in children:
            self._link(cls, target, child)

    def _annotate(self) -> None:
        """What the client gave to be linked: to the plates where there are any, else to the images."""
        for annotation in self._annotations():
            if _namespace(self._site, annotation) in (AUTO_CLOSE, TARGET_TEMPLATE):
                continue
            if annotation.id is None:
                self._site.save(annotation, self._context)
            kept = self._site.store.get("Annotation", annotation.id.val)
            if kept is None:
                raise _failure("import-request-failure", "java.lang.NullPointerException", "no such annotation", "")
            for parent in self._plates or self._images:
                self._link(f"{parent.cls}AnnotationLink", parent, kept)

    def _link(self, cls: str, parent: Record, child: Record) -> None:
        link = self._create(cls, parent=parent.ref, child=child.ref)
        try:
            permissions.check_creation(self._site.store, self._context, link)
        except omero.ServerError as error:
            raise _failure("import-request-failure", type(error).__name__, error.message, "") from error

    # -- helpers ----------------------------------------------------------------------------------------------------

    def _annotations(self) -> Iterator[omero.model.Annotation]:
        return (each for each in self._settings.userSpecifiedAnnotationList or () if each is not None)

    def _file(self, number: int) -> Record:
        record = self._site.store.get("OriginalFile", number)
        if record is None:
            raise _failure(
                "import-request-failure", "java.lang.NullPointerException", f"OriginalFile:{number} is gone", ""
            )
        return record

    def _note(self, what: str) -> None:
        """Add a line to the import log, a file of the repository that clients can read."""
        path = self._site.files.path(self._log)
        if not self._noted:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._noted = True
        line = f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S.%f} INFO [fileset {self._fileset}] {what}\n"
        with path.open("ab", buffering=0) as log:
            log.write(line.encode("utf-8"))


def _failure(name: str, java_class: str, message: str, path: str) -> StepFailed:
    trace = f"{java_class}: {message}\n\tat ome.services.blitz.repo.ManagedImportRequestI"
    return StepFailed(name, {"message": message, "stacktrace": trace, **({"filename": path} if path else {})})


def _namespace(site: "Site", annotation: omero.model.Annotation) -> str:
    if annotation.isLoaded():
        return _text(annotation.ns)
    kept = site.store.get("Annotation", annotation.id.val)
    return kept.text("ns") if kept else ""


def _text(value: omero.RString | None) -> str:
    return "" if value is None or value.val is None else str(value.val)


def _row_name(row: int) -> str:
    """A … Z, AA …"""
    return chr(ord("A") + row) if row < 26 else _row_name(row // 26 - 1) + _row_name(row % 26)
