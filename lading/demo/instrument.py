"""Plays the scanner: writes four sessions of real DICOM (from pydicom's own package) into a watched folder.

The images are real MR and CT studies from pydicom's test data, which its wheel ships; nothing is downloaded.
"""

import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pydicom

BRAIN_MRA = "1.3.6.1.4.1.5962.1.1.0.0.0.1196533885.18148.0.1"
BRAIN = "1.3.6.1.4.1.5962.1.1.0.0.0.1196533885.18148.0.133"
CAROTIDS = "1.3.6.1.4.1.5962.1.1.0.0.0.1196533885.18148.0.427"
CT_ABDOMEN = "1.3.6.1.4.1.5962.1.1.0.0.0.1194734704.16302.0.1"
CT_HEAD = "1.3.6.1.4.1.5962.1.1.0.0.0.1196530851.28319.0.1"

PHYSIO_LOG = "".join(f"{2048 + (i * 37) % 211} {i % 40 == 0:d}\n" for i in range(2_000))
PROTOCOL_PDF = (
    b"%PDF-1.4\n1 0 obj<</Type/Catalog/Pages 2 0 R>>endobj\n2 0 obj<</Type/Pages/Kids[3 0 R]/Count 1>>endobj\n"
    b"3 0 obj<</Type/Page/Parent 2 0 R/MediaBox[0 0 300 80]/Contents 4 0 R/Resources<</Font<</F1<</Type/Font"
    b"/Subtype/Type1/BaseFont/Helvetica>>>>>>>>endobj\n4 0 obj<</Length 52>>stream\n"
    b"BT /F1 14 Tf 20 40 Td (Scan protocol, version 3) Tj ET\nendstream endobj\n"
    b"trailer<</Root 1 0 R>>\n%%EOF\n"
)


@dataclass(frozen=True, slots=True)
class Scene:
    """One session that the scanner writes: where, which studies, and what lies about beside the images."""

    path: str
    studies: tuple[str, ...]
    extras: tuple[tuple[str, bytes], ...] = ()
    story: str = ""


SCENES = (
    Scene("DEMO/sub-001/sub-001_MR1", (BRAIN_MRA,), story="a clean MR session"),
    Scene(
        "DEMO/sub-002/sub-002_CT1",
        (CT_ABDOMEN,),
        extras=(
            ("Thumbs.db", b"\xd0\xcf\x11\xe0" + bytes(508)),
            ("CT2N/._6293", b"\x00\x05\x16\x07" + bytes(60)),
            ("physio/respiration.log", PHYSIO_LOG.encode()),
            ("protocol.pdf", PROTOCOL_PDF),
        ),
        story="junk files, and companions that belong to the session",
    ),
    Scene("DEMO/sub-003/sub-003_MR1", (BRAIN, CAROTIDS), story="two studies in one session"),
    Scene("DEMO/sub-O04/sub-004_CT1", (CT_HEAD,), story="a mistyped participant: letter O for digit 0"),
)


def acquire(scene: Scene, folder: Path) -> Path:
    """Write the scene's session beside `folder` and let it appear there at once; returns the session folder.

    A scanner writes in place; here a busy machine could pause for longer than the demo's short quiet time.
    Raises RuntimeError when pydicom's package has not the images (a distribution that leaves its test data out).
    """
    session, aside = folder / scene.path, folder.with_name("acquiring")
    for study in scene.studies:
        images = list(images_of(study))
        if not images:
            raise RuntimeError("pydicom is installed without its test images; install it from its wheel")
        for image in images:
            series, name = image.parts[-2:]
            target = (
                aside / series / name if len(scene.studies) == 1 else aside / study.rsplit(".", 1)[-1] / series / name
            )
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(image, target)
    for path, content in scene.extras:
        (aside / path).parent.mkdir(parents=True, exist_ok=True)
        (aside / path).write_bytes(content)
    session.parent.mkdir(parents=True, exist_ok=True)
    aside.rename(session)
    return session


def images_of(study: str) -> Iterator[Path]:
    """The files of one study among pydicom's shipped test images."""
    root = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests"
    for path in sorted(root.rglob("*")):
        if path.is_file() and path.name != "DICOMDIR" and "TINY_ALPHA" not in path.parts:
            header = pydicom.dcmread(path, specific_tags=["StudyInstanceUID"], stop_before_pixels=True, force=True)
            if header.get("StudyInstanceUID") == study:
                yield path
