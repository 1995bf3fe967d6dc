"""Servers that are no XNAT, or a broken one: whatever they answer, only errors of ours come out, and none too late."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from lading.delivery import Labels, Outcome, Parcel
from lading.errors import ConfigError, LadingError
from lading.inbox import Inbox
from lading.ports import ImportPlan, ImportRecord
from lading.testing.dicom import new_study, write_series
from lading.testing.importer_suite import MemoryJournal
from lading.testing.parcels import publish, read_files
from xnat_importer.importer import XnatImporter

JSON, HTML, TEXT = "application/json", "text/html", "text/plain"
ANSWERS = {
    "empty": (200, TEXT, b""),
    "a word": (200, TEXT, b"ok"),
    "a page": (200, HTML, b"<!DOCTYPE html><html><body>Welcome to our portal</body></html>"),
    "an empty object": (200, JSON, b"{}"),
    "a list": (200, JSON, b"[1, 2, 3]"),
    "a number": (200, JSON, b"17"),
    "null": (200, JSON, b"null"),
    "a table without rows": (200, JSON, b'{"ResultSet": {"Result": null}}'),
    "a table of nonsense": (200, JSON, b'{"ResultSet": {"Result": [{"nonsense": null}, {}]}}'),
    "an item without fields": (200, JSON, b'{"items": [{"data_fields": {}}]}'),
    "half a table": (200, JSON, b'{"ResultSet": {"Result": [{"ID": "XNA'),
    "bytes": (200, "application/octet-stream", bytes(range(256))),
    "no content": (204, TEXT, b""),
    "a teapot": (418, TEXT, b"I am a teapot"),
    "a redirect": (302, TEXT, b""),
    "not allowed": (403, HTML, b"<html><h3>No</h3></html>"),
    "too many": (429, TEXT, b"slow down"),
    "an inner error": (500, HTML, b"<html><h3>java.lang.NullPointerException</h3></html>"),
    "maintenance": (503, HTML, b"<html><title>Down for maintenance</title></html>"),
}


@contextmanager
def answering(status: int, kind: str, body: bytes, *, length: int | None = None, login: bool = True) -> Iterator[str]:
    """A server that logs everybody in and gives one and the same answer to everything else."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length", 0)))
            path = self.path.split("?")[0]
            if login and path == "/data/JSESSION":
                self._send(200, TEXT, b"0123456789ABCDEF", None)
            elif login and path == "/data/auth":
                self._send(200, TEXT, b"User 'carol' is logged in", None)
            else:
                self._send(status, kind, body, length)

        def _send(self, status: int, kind: str, body: bytes, length: int | None) -> None:
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(body) if length is None else length))
            if status == 302:
                self.send_header("Location", "https://elsewhere.example.org/")
            self.end_headers()
            self.wfile.write(body)
            self.close_connection = length is not None

        do_GET = do_PUT = do_POST = do_DELETE = _answer  # noqa: N815 - the library's names

        def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the library's name
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def parcel(tmp_path: Path) -> Parcel:
    write_series(tmp_path / "made", 2, study=new_study())
    files = read_files(tmp_path / "made") | {"a.txt": b"a", "empty.txt": b""}
    return publish(Inbox.create(tmp_path / "inbox"), Labels("P", "sub-001", "MR1"), files)


def importer_for(url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, route: str) -> XnatImporter:
    monkeypatch.setenv("LADING_XNAT_USER", "carol")
    monkeypatch.setenv("LADING_XNAT_PASSWORD", "secret-word")
    settings = {"url": url, "patience": 0.3, "grace": 0.1, "read_timeout": 3.0}
    return XnatImporter.from_settings(
        settings, {"route": route}, inbox_root=tmp_path / "inbox", state=tmp_path / "state"
    )


def plan_for(parcel: Parcel) -> ImportPlan:
    labels = parcel.delivery.labels
    target = {
        "project": labels.project, "subject": labels.participant, "session": labels.session, "study": "1.2.3",
        "server_path": str(parcel.root),
    }  # fmt: skip
    return ImportPlan((), target)


@pytest.mark.parametrize("route", ["inbox", "upload"])
@pytest.mark.parametrize("what", list(ANSWERS))
def test_any_answer_ends_in_an_error_of_ours(
    what: str, route: str, parcel: Parcel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(*ANSWERS[what]) as url:
        importer = importer_for(url, tmp_path, monkeypatch, route)

        with pytest.raises(LadingError) as caught:
            importer.run(parcel, plan_for(parcel), MemoryJournal())
        said = caught.value

        try:
            outcomes = list(importer.verify(parcel, ImportRecord(plan_for(parcel).target)))
        except LadingError:
            outcomes = []

    assert said.message
    assert "secret-word" not in str(said.as_dict())
    assert Outcome.VERIFIED not in {outcome.outcome for outcome in outcomes}


def test_an_answer_that_breaks_off_is_an_error_of_ours(
    parcel: Parcel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(200, JSON, b'{"ResultSet"', length=5000) as url:
        importer = importer_for(url, tmp_path, monkeypatch, "inbox")

        for step in (lambda: importer.plan(parcel), lambda: importer.run(parcel, plan_for(parcel), MemoryJournal())):
            with pytest.raises(LadingError):
                step()


@pytest.mark.parametrize("what", list(ANSWERS))
def test_a_server_that_does_not_log_us_in_is_an_error_of_ours(
    what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with answering(*ANSWERS[what], login=False) as url, pytest.raises(LadingError) as caught:
        importer_for(url, tmp_path, monkeypatch, "inbox").probe()

    assert caught.value.next_command
    assert "secret-word" not in str(caught.value)


def test_an_address_that_leads_on_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        answering(*ANSWERS["a redirect"], login=False) as url,
        pytest.raises(ConfigError, match=r"elsewhere\.example\.org"),
    ):
        importer_for(url, tmp_path, monkeypatch, "inbox").probe()
