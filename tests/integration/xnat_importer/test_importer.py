"""The XNAT importer as a whole: what an independent client sees, what it costs, over TLS, from several threads."""

import hashlib
import socket
import ssl
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
import pyxnat

from lading.delivery import Outcome, Parcel
from lading.errors import AccessDenied, Refused
from lading.sandbox.xnat import SandboxXnat
from lading.testing.importer_suite import NASTY, MemoryJournal, all_verified, by_path, carry_out
from lading.testing.xnat_world import AUTO, MANUAL, USERS, XnatWorld, running_sandbox
from xnat_importer.importer import XnatImporter


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxXnat]:
    with running_sandbox(tmp_path_factory.mktemp("xnat")) as running:
        yield running


@pytest.fixture
def world(sandbox: SandboxXnat, tmp_path: Path) -> Iterator[XnatWorld]:
    made = XnatWorld(sandbox, tmp_path, code=AUTO)
    yield made
    made.close()


def import_and_verify(importer: XnatImporter, parcel: Parcel) -> bool:
    return all_verified(by_path(importer.verify(parcel, carry_out(importer, parcel))), parcel)


def test_pyxnat_sees_the_same_session_and_the_same_bytes(world: XnatWorld, tmp_path: Path) -> None:
    parcel = world.parcel(companions=["physio/log.txt", "report.pdf"])
    assert import_and_verify(world.importer(), parcel)

    witness = pyxnat.Interface(server=world.sandbox.url, user="witness", password=USERS["witness"])
    try:
        session = witness.select.project(world.project).subject("sub-001").experiment("MR1")
        assert session.exists()
        images = list(session.scan("1").resource("DICOM").files())
        others = list(session.resource("COMPANIONS").files())
        seen = {hashlib.md5(Path(file.get(str(tmp_path / f"seen{n}"))).read_bytes()).hexdigest()
                for n, file in enumerate([*images, *others])}  # fmt: skip
    finally:
        witness.disconnect()

    assert seen == {entry.digests["md5"] for entry in parcel.manifest}


def test_a_tiny_delivery_costs_few_requests(world: XnatWorld) -> None:
    importer = world.importer()
    assert import_and_verify(importer, world.parcel("MR0"))
    before = Counter(world.sandbox.counts()["requests"])

    assert import_and_verify(importer, world.parcel("MR1"))

    asked = Counter(world.sandbox.counts()["requests"]) - before
    assert asked["GET /xapi/dicom/*"] >= 1
    # Following the import takes more on a busy machine. Besides that: archive and prearchive before (twice, when that look is
    # no longer fresh), the import, where it is now, the mark, the refresh, and one list of all files.
    assert asked.total() - asked["GET /xapi/dicom/*"] <= 9, asked


def test_one_importer_serves_several_threads(world: XnatWorld) -> None:
    importer = world.importer()
    parcels = [
        world.parcel(f"MR{number}", participant=f"sub-{number:03}", companions=["a.txt"]) for number in range(12)
    ]

    with ThreadPoolExecutor(4) as threads:
        results = list(threads.map(lambda parcel: import_and_verify(importer, parcel), parcels))

    assert all(results)
    assert world.sessions() == len(parcels)


def test_what_a_check_skips_stays_out_and_is_listed_with_its_reason(world: XnatWorld) -> None:
    parcel = world.parcel(images=4, companions=["a.txt"])
    importer = world.importer()

    plan = importer.plan(parcel, {"0002.dcm": "of another study"})
    record = importer.run(parcel, plan, MemoryJournal())
    outcomes = by_path(importer.verify(parcel, record))

    assert outcomes["0002.dcm"].outcome is Outcome.FILTERED
    assert outcomes["0002.dcm"].how == "of another study"
    assert [o.outcome for o in outcomes.values()].count(Outcome.VERIFIED) == 4
    assert sum(world.held(parcel).values()) == 4


def test_the_plan_tells_what_will_happen(sandbox: SandboxXnat, tmp_path: Path) -> None:
    world = XnatWorld(sandbox, tmp_path, code=MANUAL)
    parcel = world.parcel(companions=["a.txt"])

    plan = world.importer().plan(parcel)

    said = "; ".join(plan.steps)
    assert "3 DICOM files" in said
    assert "archive it" in said
    assert "1 other files into resource COMPANIONS" in said
    assert plan.target["session"] == "MR1"
    world.close()


def test_without_an_inbox_path_the_files_are_uploaded(sandbox: SandboxXnat, tmp_path: Path) -> None:
    world = XnatWorld(sandbox, tmp_path, code=AUTO)
    made = world.importer()
    settings = {"url": sandbox.url, "credentials": made._server.credentials}
    importer = XnatImporter.from_settings(settings, {}, inbox_root=sandbox.inbox, state=tmp_path / "s")
    parcel = world.parcel(companions=NASTY)

    try:
        assert importer.plan(parcel).target["route"] == "upload"
        assert import_and_verify(importer, parcel)
    finally:
        importer.close()
        world.close()


def test_a_folder_outside_the_servers_inbox_is_refused_with_a_hint(sandbox: SandboxXnat, tmp_path: Path) -> None:
    world = XnatWorld(sandbox, tmp_path, code=AUTO)
    settings = {
        "url": sandbox.url,
        "credentials": world.importer()._server.credentials,
        "inbox_path": "/somewhere/else",
    }
    importer = XnatImporter.from_settings(settings, {"route": "inbox"}, inbox_root=sandbox.inbox, state=tmp_path / "s")

    try:
        with pytest.raises(Refused, match="inbox_path"):
            carry_out(importer, world.parcel())
    finally:
        importer.close()
        world.close()


# TLS


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for localhost that is its own authority; the key lies beside it."""
    folder = tmp_path_factory.mktemp("tls")
    request = "req -x509 -newkey rsa:2048 -nodes -days 2 -subj /CN=localhost -addext subjectAltName=DNS:localhost"
    subprocess.run(
        ["openssl", *request.split(), "-keyout", str(folder / "key.pem"), "-out", str(folder / "ca.pem")],
        check=True,
        capture_output=True,
    )
    return folder / "ca.pem"


@contextmanager
def tls_before(sandbox: SandboxXnat, certificate: Path) -> Iterator[str]:
    """An https address that leads to the stand-in."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_name("key.pem"))
    target = ("127.0.0.1", int(sandbox.url.rpartition(":")[2]))
    with closing(socket.create_server(("127.0.0.1", 0))) as listening:

        def serve() -> None:
            with suppress(OSError):
                while True:
                    plain, _ = listening.accept()
                    threading.Thread(target=_carry, args=(context, plain, target), daemon=True).start()

        threading.Thread(target=serve, daemon=True).start()
        yield f"https://localhost:{listening.getsockname()[1]}"
        with suppress(OSError):
            listening.shutdown(socket.SHUT_RDWR)


def _carry(context: ssl.SSLContext, plain: socket.socket, target: tuple[str, int]) -> None:
    with (
        suppress(OSError),
        closing(plain),
        context.wrap_socket(plain, server_side=True) as client,
        socket.create_connection(target) as server,
    ):
        back = threading.Thread(target=_pump, args=(server, client), daemon=True)
        back.start()
        _pump(client, server)
        back.join()


def _pump(source: socket.socket, sink: socket.socket) -> None:
    with suppress(OSError):
        while block := source.recv(1 << 16):
            sink.sendall(block)
    with suppress(OSError):
        sink.shutdown(socket.SHUT_WR)


def test_the_sites_own_authority_is_trusted_when_told_so(world: XnatWorld, certificate: Path, tmp_path: Path) -> None:
    login = world.importer()._server.credentials
    with tls_before(world.sandbox, certificate) as url:
        known = {"url": url, "credentials": login, "ca_bundle": str(certificate)}
        importer = XnatImporter.from_settings(known, {}, inbox_root=world.sandbox.inbox, state=tmp_path / "s")

        assert import_and_verify(importer, world.parcel())

        importer.close()


def test_an_unknown_authority_is_refused_before_any_password_is_sent(
    world: XnatWorld, certificate: Path, tmp_path: Path
) -> None:
    login = world.importer()._server.credentials
    before = world.logins_refused()
    with tls_before(world.sandbox, certificate) as url:
        importer = XnatImporter.from_settings(
            {"url": url, "credentials": login}, {}, inbox_root=world.sandbox.inbox, state=tmp_path / "s"
        )

        with pytest.raises(AccessDenied, match="ca_bundle"):
            importer.probe()

    assert world.logins_refused() == before
