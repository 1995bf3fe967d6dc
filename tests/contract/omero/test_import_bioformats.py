"""What an import finds in real files: only a server that reads with Bio-Formats knows.

LADING_TEST_OMERO_HOST, _PORT, _USER and _PASSWORD choose a real one; else it is the stand-in, where Java is.
"""

import io
import os
import uuid
from collections.abc import Iterator

import pytest

pytest.importorskip("omero")

import numpy as np
import omero
import omero.clients
import omero.model
import tifffile
from omero.rtypes import rstring

from lading.sandbox.omero import SandboxOmero
from lading.sandbox.omero.bioformats import missing_for_bioformats
from lading.testing.omero_import import Importing, log_in, path_of, rows
from lading.testing.omero_server import omero_server


@pytest.fixture(scope="module")
def client(tmp_path_factory) -> Iterator[omero.client]:
    folder = tmp_path_factory.mktemp("omero")
    if os.environ.get("LADING_TEST_OMERO_HOST"):
        with omero_server("ssl", folder) as found, found.login() as login:
            yield login.client
        return
    if missing_for_bioformats():
        pytest.skip(missing_for_bioformats())
    with SandboxOmero(folder, tls=False) as box:
        made = log_in(box.host, box.tcp_port, "alice", box.password("alice"))
        yield made
        made.closeSession()


def test_an_unknown_format_is_found_out_by_bio_formats(client) -> None:
    ended = Importing(client, {"in/no.txt": b"hello"}).carry_out()

    assert ended.error in ("error-on-init", "import-unknown-format")
    assert "UnknownFormatException" in ended.response.parameters["stacktrace"]


def test_sizes_types_and_physical_sizes_are_those_of_the_file(client) -> None:
    buffer = io.BytesIO()
    data = np.random.default_rng(1).integers(0, 99, (2, 3, 32, 40), dtype=np.uint16)
    tifffile.imwrite(buffer, data, ome=True, metadata={"axes": "CZYX", "PhysicalSizeX": 0.5, "PhysicalSizeXUnit": "µm"})

    ended = Importing(client, {"in/b.ome.tif": buffer.getvalue()}).carry_out()

    hql = (
        "select p.sizeX, p.sizeY, p.sizeZ, p.sizeC, p.sizeT, t.value from Pixels p join p.pixelsType t "
        "where p.image.id = :id"
    )
    assert rows(client, hql, ended.images[0].id.val) == [[40, 32, 3, 2, 1, "uint16"]]
    assert ended.response.pixels[0].physicalSizeX.getValue() == 0.5
    channels = rows(client, "select count(c) from Channel c where c.pixels.image.id = :id", ended.images[0].id.val)
    assert channels == [[2]]


def test_the_server_keeps_as_many_folders_as_the_reader_needs(client) -> None:
    contents = {"a/b/c/d/e.tif": tiff()}

    flat = Importing(client, contents, reader="loci.formats.in.TiffReader").carry_out()
    unknown = Importing(client, contents, reader="Unknown").carry_out()

    assert below_template(client, flat.fileset) == "e.tif"
    assert below_template(client, unknown.fileset) == "b/c/d/e.tif"


def below_template(client: omero.client, fileset: int) -> str:
    """The path of a Fileset's first file in its own folder."""
    ((prefix,),) = rows(client, "select f.templatePrefix from Fileset f where f.id = :id", fileset)
    return path_of(client, fileset).as_posix().partition(str(prefix))[2]


def tiff() -> bytes:
    buffer = io.BytesIO()
    tifffile.imwrite(buffer, np.frombuffer(os.urandom(64), np.uint8).reshape(8, 8))
    return buffer.getvalue()


def test_a_plate_goes_into_a_screen(client) -> None:
    screen = omero.model.ScreenI()
    screen.name = rstring("S " + uuid.uuid4().hex[:6])
    screen = client.sf.getUpdateService().saveAndReturnObject(screen)

    ended = Importing(
        client,
        {"in/p&plates=1&plateRows=2&plateCols=3&fields=2&sizeX=8&sizeY=8.fake": b""},
        settings={"userSpecifiedTarget": omero.model.ScreenI(screen.id.val, False)},
    ).carry_out()

    plates = [each for each in ended.response.objects if isinstance(each, omero.model.Plate)]
    assert (len(plates), len(ended.images)) == (1, 12)
    wells = "select w.row, w.column, s.image.id from Well w join w.wellSamples s where w.plate.id = :id order by s.id"
    found = rows(client, wells, plates[0].id.val)
    assert len({(row, column) for row, column, _ in found}) == 6
    assert {number for _, _, number in found} == {image.id.val for image in ended.images}
    linked = rows(client, "select l.child.id from ScreenPlateLink l where l.parent.id = :id", screen.id.val)
    assert linked == [[plates[0].id.val]]


def test_the_files_of_a_multi_file_image_are_found_by_the_first(client) -> None:
    contents = companion_set()

    ended = Importing(client, contents).carry_out()
    alone = Importing(client, {name: data for name, data in contents.items() if "companion" in name}).carry_out()

    assert len(ended.images) == 1
    assert alone.error, "an image came of a companion file without its planes"


def companion_set() -> dict[str, bytes]:
    """An OME companion file and the two planes it describes."""
    planes = {f"set/p{number}.ome.tif": _plane(number) for number in range(2)}
    blocks = "".join(
        f'<TiffData IFD="0" FirstZ="{number}" FirstC="0" FirstT="0" PlaneCount="1">'
        f'<UUID FileName="p{number}.ome.tif">urn:uuid:0000000{number}-0000-4000-8000-000000000000</UUID></TiffData>'
        for number in range(2)
    )
    text = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        'UUID="urn:uuid:00000009-0000-4000-8000-000000000000"><Image ID="Image:0" Name="both"><Pixels ID="Pixels:0" '
        'DimensionOrder="XYZCT" Type="uint8" SizeX="8" SizeY="8" SizeZ="2" SizeC="1" SizeT="1" BigEndian="false">'
        f'<Channel ID="Channel:0:0" SamplesPerPixel="1"/>{blocks}</Pixels></Image></OME>'
    )
    return {"set/both.companion.ome": text.encode(), **planes}


def _plane(number: int) -> bytes:
    buffer = io.BytesIO()
    binary_only = (
        '<?xml version="1.0" encoding="UTF-8"?><OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" '
        f'UUID="urn:uuid:0000000{number}-0000-4000-8000-000000000000"><BinaryOnly MetadataFile="both.companion.ome" '
        'UUID="urn:uuid:00000009-0000-4000-8000-000000000000"/></OME>'
    )
    tifffile.imwrite(buffer, np.full((8, 8), number, np.uint8), description=binary_only, metadata=None)
    return buffer.getvalue()
