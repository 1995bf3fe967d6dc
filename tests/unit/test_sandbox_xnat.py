"""The stand-in XNAT's journal, its header reader and its router, each by itself."""

from dataclasses import dataclass
from pathlib import Path

import pydicom
import pytest
from pydicom.data import get_testdata_file
from pydicom.datadict import dictionary_VR, keyword_for_tag
from starlette.responses import Response

from lading.sandbox.xnat import headers
from lading.sandbox.xnat.answers import Refusal
from lading.sandbox.xnat.calls import Call, Route, Router, route
from lading.sandbox.xnat.headers import read_header
from lading.sandbox.xnat.store import Database, Table
from lading.testing.dicom import new_study, write_dicom


@dataclass(frozen=True)
class Fruit:
    name: str
    colour: str


def fruits(file: Path) -> tuple[Database, Table[Fruit]]:
    database = Database(file)
    return database, Table(database, Fruit, lambda row: row.name, lambda row: row.colour)


def test_a_journal_that_was_never_closed_knows_every_change_in_order(tmp_path: Path):
    _, table = fruits(tmp_path / "journal")
    table.put(Fruit("pear", "green"))
    table.put(Fruit("apple", "green"))
    table.put(Fruit("plum", "blue"))
    table.put(Fruit("pear", "yellow"))
    table.drop(Fruit("plum", "blue"))

    _, again = fruits(tmp_path / "journal")

    assert again.all() == [Fruit("pear", "yellow"), Fruit("apple", "green")]
    assert again.of("green") == [Fruit("apple", "green")]


def test_changes_that_belong_together_are_one_line_and_only_their_last_state_is_in_it(tmp_path: Path):
    database, table = fruits(tmp_path / "journal")

    with database.changing():
        table.put(Fruit("pear", "green"))
        table.put(Fruit("pear", "yellow"))
        table.put(Fruit("apple", "red"))
        inside = (tmp_path / "journal").read_bytes()

    assert inside == b""
    assert (tmp_path / "journal").read_bytes().count(b"\n") == 1
    assert b"green" not in (tmp_path / "journal").read_bytes()


def test_changes_are_kept_when_the_block_that_made_them_fails(tmp_path: Path):
    database, table = fruits(tmp_path / "journal")

    def fail() -> None:
        with database.changing():
            table.put(Fruit("pear", "green"))
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()

    assert fruits(tmp_path / "journal")[1].all() == table.all() == [Fruit("pear", "green")]


def test_a_line_that_was_cut_short_by_a_kill_is_as_if_it_had_not_been(tmp_path: Path):
    _, table = fruits(tmp_path / "journal")
    table.put(Fruit("pear", "green"))
    table.put(Fruit("pear", "brown"))
    whole = (tmp_path / "journal").read_bytes()
    (tmp_path / "journal").write_bytes(whole[:-5])

    _, again = fruits(tmp_path / "journal")
    again.put(Fruit("plum", "blue"))

    assert fruits(tmp_path / "journal")[1].all() == [Fruit("pear", "green"), Fruit("plum", "blue")]


class _FullAfter:
    """A file on a disk that takes `room` more bytes and then is full, until there is room again."""

    def __init__(self, file: Path, room: int) -> None:
        self._out, self.room = file.open("ab", buffering=0), room

    def write(self, content: bytes) -> int:
        if not self.room:
            raise OSError(28, "No space left on device")
        taken = self._out.write(content[: self.room])
        self.room -= taken
        return taken


def test_what_a_full_disk_cut_short_is_in_the_next_line(tmp_path: Path):
    database, table = fruits(tmp_path / "journal")
    table.put(Fruit("pear", "green"))
    disk = database._file = _FullAfter(tmp_path / "journal", room=10)  # type: ignore[assignment]
    with pytest.raises(OSError, match="No space left"):
        table.put(Fruit("apple", "red"))
    disk.room = 1000
    table.put(Fruit("plum", "blue"))

    assert fruits(tmp_path / "journal")[1].all() == table.all()
    assert len(table.all()) == 3


def test_a_journal_does_not_grow_with_what_is_gone(tmp_path: Path):
    _, table = fruits(tmp_path / "journal")
    for number in range(200):
        table.put(Fruit(f"pear {number}", "green"))
        table.drop(Fruit(f"pear {number}", "green"))
    grown = (tmp_path / "journal").stat().st_size

    fruits(tmp_path / "journal")

    assert grown > 10_000
    assert (tmp_path / "journal").stat().st_size == 0


def _by_pydicom(path: Path) -> dict[str, str] | None:
    first = path.read_bytes()[:200]
    try:
        return headers._by_pydicom(path, first, complete=first[128:132] == b"DICM")
    except Exception:  # noqa: BLE001 - whatever it is, the importer calls it unreadable
        return None


def test_the_elements_are_called_as_the_standard_calls_them():
    standard = {tag: (keyword_for_tag(tag), dictionary_VR(tag).encode()) for tag in headers._ELEMENTS}

    assert standard == headers._ELEMENTS


@pytest.mark.filterwarnings("ignore")
def test_the_walk_through_a_header_says_what_pydicom_says_of_every_file_that_pydicom_ships():
    walked = 0
    for path in Path(str(get_testdata_file("MR_small.dcm"))).parent.glob("*.dcm"):
        with path.open("rb") as content:
            first = content.read(8192)
            found = headers._walked(content.fileno(), first) if first[128:132] == b"DICM" else None
        if found is not None:
            walked += 1
            assert found == _by_pydicom(path), path.name

    assert walked > 30


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize(
    ("keyword", "value"),
    [
        ("PatientName", "Doe^Jane"),
        ("PatientName", "Doe^Jane^^^"),
        ("PatientName", "Yamada^Tarou=YAMADA^TAROU"),
        ("PatientName", "Müller^Jörg"),
        ("PatientID", "two\\values"),
        ("PatientID", "ends with spaces   "),
        ("PatientID", "   begins with spaces"),
        ("SeriesNumber", "0"),
        ("SeriesNumber", "007"),
        ("SeriesNumber", "-3"),
        ("SeriesNumber", ""),
        ("SeriesDescription", "a~b"),
        ("PatientComments", "Project: P Subject: S\r\nSession: E"),
        ("PatientComments", "x" * 3000),
        ("StudyDate", ""),
        ("StudyTime", "120000.123"),
    ],
)
def test_a_header_reads_the_same_whoever_reads_it(keyword: str, value: str, tmp_path: Path):
    path = tmp_path / "image.dcm"
    write_dicom(path, study=new_study(), series=new_study(), header={"SpecificCharacterSet": "ISO_IR 192"})
    dataset = pydicom.dcmread(path)
    setattr(dataset, keyword, value)
    dataset.save_as(path)

    assert read_header(path, "image.dcm").values == _by_pydicom(path)


@pytest.mark.filterwarnings("ignore")
def test_a_file_that_is_cut_in_its_header_is_unreadable_or_what_pydicom_makes_of_it(tmp_path: Path):
    path = tmp_path / "image.dcm"
    write_dicom(path, study=new_study(), series=new_study())
    whole = path.read_bytes()

    for length in range(0, len(whole), 7):
        path.write_bytes(whole[:length])
        expected = _by_pydicom(path)
        if expected and expected["SOPInstanceUID"] and expected["SOPClassUID"]:
            assert read_header(path, "image.dcm").values == expected
        else:
            with pytest.raises(Refusal, match=r"unable to read DICOM object image\.dcm"):
                read_header(path, "image.dcm")


def _say(text: str) -> list[Route[None]]:
    methods, _, path = text.partition(" ")
    return route(methods.replace("+", " "), path, lambda _site, call: Response(f"{text} {dict(call.args)}"))


ROUTER = Router(
    [
        *_say("GET things"),
        *_say("GET things/special"),
        *_say("GET+PUT things/{thing}"),
        *_say("GET things/{thing}/files"),
        *_say("GET things/{thing}/files/{path*}"),
        *_say("DELETE things/special/files/{path*}"),
    ]
)


@pytest.mark.parametrize(
    ("method", "path", "answered"),
    [
        ("GET", "things", "GET things {}"),
        ("HEAD", "things", "GET things {}"),
        ("GET", "things/special", "GET things/special {}"),
        ("PUT", "things/special", "GET+PUT things/{thing} {'thing': 'special'}"),
        ("GET", "things/a%2Fb", "GET+PUT things/{thing} {'thing': 'a/b'}"),
        ("GET", "things/special/files", "GET things/{thing}/files {'thing': 'special'}"),
        ("GET", "things/x/files/a/b//c", "GET things/{thing}/files/{path*} {'thing': 'x', 'path': 'a/b//c'}"),
        ("GET", "things/special/files/a", "GET things/{thing}/files/{path*} {'thing': 'special', 'path': 'a'}"),
        ("DELETE", "things/special/files/a", "DELETE things/special/files/{path*} {'path': 'a'}"),
    ],
)
def test_a_path_leads_to_the_route_that_names_most_of_it(method: str, path: str, answered: str):
    found, args = ROUTER.find(method, path)

    assert found.answer(None, Call(method, path, (), args=args)).body.decode() == answered


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "things", 405),
        ("PUT", "things/x/files/a", 405),
        ("GET", "nothing", 404),
        ("GET", "", 404),
        ("GET", "things/", 404),
        ("GET", "things//files", 404),
        ("GET", "things/x/files/", 404),
        ("GET", "things/x/y", 404),
    ],
)
def test_a_path_that_leads_nowhere_is_refused(method: str, path: str, status: int):
    with pytest.raises(Refusal) as refused:
        ROUTER.find(method, path)

    assert refused.value.status == status
