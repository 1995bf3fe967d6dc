"""Bench of DICOM: storing at nodes, reading back, and our receiver, against what a user would pick instead.

    python bench/dicom_nodes.py [--folder DIR] [--rounds N] [--images N] [--pynetdicom]

CT images of 512 x 512 (0.5 MB each), on loopback. Storing: dcmtk's storescu (with TCP_NODELAY=1, its fastest), and our importer
with one and with four associations; ours reads all headers, asks the node what it stores and what it has, and notes each image.
Into dcmtk's storescp and into Orthanc. Aims: at least as many images a second as storescu, and 500 on an idle machine.
Receiving: storescu, one and four at a time, into `lading dicom receive`, which flushes each image to the disk before it answers.
The rounds alternate; medians. Processor seconds of the sender, or of our receiver, are given beside them: they hold on a busy
machine, too.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import pydicom
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from pynetdicom import AE

from dicom_importer.importer import DicomImporter
from lading.delivery import Outcome, Parcel
from lading.testing.dicom_nodes import STORESCU, Node, storescp
from lading.testing.importer_suite import MemoryJournal
from lading.testing.orthanc_node import Orthanc
from lading.testing.parcels import parcel_at

FAST = {**os.environ, "TCP_NODELAY": "1"}


@dataclass
class Figures:
    """Seconds, and seconds of the processor, of each round."""

    seconds: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)

    def time(self, work: Callable[[], None], used: Callable[[], float]) -> None:
        """One round of `work`; `used` says how many seconds of the processor were spent so far."""
        began, before = time.perf_counter(), used()
        work()
        self.seconds.append(time.perf_counter() - began)
        self.processor.append(used() - before)

    def told(self, images: int) -> str:
        """For people."""
        rate, spent = images / statistics.median(self.seconds), statistics.median(self.processor) / images
        return f"{rate:5.0f} images/s, {spent * 1000:.2f} ms of the processor an image"


def make_images(folder: Path, count: int) -> None:
    """One series of noise, which no network compresses."""
    folder.mkdir()
    pixels = np.random.default_rng(1).integers(0, 4096, (512, 512), dtype=np.uint16).tobytes()
    study, series = generate_uid(), generate_uid()
    for number in range(count):
        image = Dataset()
        image.file_meta = FileMetaDataset()
        image.file_meta.MediaStorageSOPClassUID = image.SOPClassUID = CTImageStorage
        image.file_meta.MediaStorageSOPInstanceUID = image.SOPInstanceUID = generate_uid()
        image.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
        image.PatientID, image.PatientName, image.Modality = "sub-001", "sub-001", "CT"
        image.StudyDate, image.StudyTime = "20260101", "101500"
        image.StudyInstanceUID, image.SeriesInstanceUID, image.InstanceNumber = study, series, number
        image.Rows = image.Columns = 512
        image.BitsAllocated = image.BitsStored = 16
        image.HighBit, image.PixelRepresentation, image.SamplesPerPixel = 15, 0, 1
        image.PhotometricInterpretation = "MONOCHROME2"
        image.PixelData = pixels
        image["PixelData"].VR = "OW"
        image.save_as(folder / f"{number:04}.dcm", enforce_file_format=True)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's folder for temporary files)")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--images", type=int, default=400)
    parser.add_argument("--pynetdicom", action="store_true", help="also pynetdicom's own send_c_store, one association")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="lading-bench-") as name:
        folder = Path(name)
        make_images(folder / "images", options.images)
        parcel = parcel_at(folder / "images", folder / "papers")
        reached = [
            into_storescp(folder, parcel, options),
            into_orthanc(folder, parcel, options),
        ]
        receive(folder, parcel, options)
    return sum(not one for one in reached)


def into_storescp(folder: Path, parcel: Parcel, options: argparse.Namespace) -> bool:
    """A node that writes files, one process for each association."""
    with storescp(folder / "stored", "--fork") as port:

        def empty() -> None:
            for image in (folder / "stored").iterdir():
                image.unlink()

        return store("dcmtk storescp", folder, parcel, port, "STORE", empty, options)


def into_orthanc(folder: Path, parcel: Parcel, options: argparse.Namespace) -> bool:
    """A node with an index; then everything is read back, byte for byte."""
    with Orthanc(folder / "orthanc").running() as orthanc:

        def empty() -> None:
            for sop in orthanc.held():
                orthanc.forget(sop)

        reached = store("Orthanc", folder, parcel, orthanc.port, orthanc.title, empty, options)
        importer = make_importer(folder, orthanc.port, orthanc.title, 4)
        figures = Figures()
        record = importer.run(parcel, importer.plan(parcel), MemoryJournal())
        for _ in range(options.rounds):
            figures.time(lambda: prove(importer, parcel, record), ours)
        print(f"Orthanc, read back and compared (C-GET): {figures.told(options.images)}", flush=True)
        return reached


def prove(importer: DicomImporter, parcel: Parcel, record: "object") -> None:
    outcomes = [one.outcome for one in importer.verify(parcel, record)]  # type: ignore[arg-type]  # an ImportRecord
    assert set(outcomes) == {Outcome.VERIFIED}


def make_importer(folder: Path, port: int, called: str, associations: int) -> DicomImporter:
    state = Path(tempfile.mkdtemp(dir=folder))
    settings = {"host": "127.0.0.1", "port": port, "called": called, "tls": False, "associations": associations}
    return DicomImporter.from_settings(settings, {}, inbox_root=folder, state=state)


def store(  # noqa: PLR0917 - the legs share all of it
    node: str,
    folder: Path,
    parcel: Parcel,
    port: int,
    called: str,
    empty: Callable[[], None],
    options: argparse.Namespace,
) -> bool:
    """The legs in turn, each into a node that holds nothing. Whether four associations reach storescu."""

    def import_with(associations: int) -> Callable[[], None]:
        def work() -> None:
            importer = make_importer(folder, port, called, associations)
            record = importer.run(parcel, importer.plan(parcel), MemoryJournal())
            assert not record.already_there

        return work

    legs: dict[str, tuple[Callable[[], None], Callable[[], float]]] = {
        "storescu": (lambda: storescu(port, called, [parcel.root]), children),
        "lading, 1 association": (import_with(1), ours),
        "lading, 4 associations": (import_with(4), ours),
    }
    if options.pynetdicom:
        legs["pynetdicom, 1 association"] = (lambda: by_pynetdicom(port, called, parcel), ours)
    figures = {name: Figures() for name in legs}
    for _ in range(options.rounds):
        for name, (work, used) in legs.items():
            empty()
            figures[name].time(work, used)
    for name, one in figures.items():
        print(f"into {node}, {name}: {one.told(options.images)}", flush=True)
    theirs, best = figures["storescu"], figures["lading, 4 associations"]
    ratio = statistics.median(theirs.seconds) / statistics.median(best.seconds)
    print(f"into {node}: {ratio:.2f} x as many images a second as storescu (aim: at least 1.0)", flush=True)
    return ratio >= 1.0


def by_pynetdicom(port: int, called: str, parcel: Parcel) -> None:
    """What a script of a few lines does."""
    entity = AE("LADING")
    entity.add_requested_context(CTImageStorage, ExplicitVRLittleEndian)
    line = entity.associate("127.0.0.1", port, ae_title=called)
    for entry in parcel.manifest:
        assert line.send_c_store(pydicom.dcmread(parcel.root / entry.path)).Status == 0
    line.release()


def receive(folder: Path, parcel: Parcel, options: argparse.Namespace) -> None:
    """Our receiver: success is answered when an image is durable."""
    parts = [folder / f"part{number}" for number in range(4)]
    for part in parts:
        part.mkdir()
    for number, entry in enumerate(parcel.manifest):
        (parts[number % 4] / entry.path).hardlink_to(parcel.root / entry.path)
    figures = {"1 association": Figures(), "4 associations": Figures()}
    for number in range(options.rounds):
        for one, sources in zip(figures.values(), ([parcel.root], parts), strict=True):
            node = Node(folder / f"receiver-{number}-{len(sources)}")
            node.configure('projects = { LADING = "DEMO" }\nquiet = 600')
            with node.running() as process:
                one.time(lambda: storescu(node.port, "LADING", sources), lambda: of_process(process.pid))  # noqa: B023
            assert len(list((node.folder / ".dicom" / "receiving").glob("*/*.dcm"))) == options.images
    for name, one in figures.items():
        print(f"lading dicom receive, storescu with {name}: {one.told(options.images)}", flush=True)


def storescu(port: int, called: str, sources: list[Path]) -> None:
    argv = [STORESCU, "-aet", "LADING", "-aec", called, "+sd", "127.0.0.1", str(port)]
    running = [subprocess.Popen([*argv, str(source)], env=FAST) for source in sources]
    assert [process.wait() for process in running] == [0] * len(running)


def ours() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


def children() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def of_process(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    sys.exit(main())
