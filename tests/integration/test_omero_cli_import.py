"""The engine `cli`: the real `omero import` of omero-py, with a stand-in for the JVM that it starts, into the stand-in OMERO."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("omero")

from lading.delivery import Outcome, Parcel
from lading.errors import ConfigError, LadingError, Refused
from lading.sandbox.omero import SandboxOmero
from lading.testing import java_double, real_images
from lading.testing.importer_suite import by_path, carry_out
from lading.testing.omero_command import OMERO
from lading.testing.omero_world import USERS, OmeroWorld, running_omero
from omero_importer.cli_command import OmeroImport, missing_for_cli
from omero_importer.importer import OmeroImporter
from omero_importer.session import Sessions, Who
from omero_importer.settings import repository_settings

# `omero` refuses root, which tests may be; it looks once, and this is what it then sees.
COMMAND = [
    sys.executable,
    "-c",
    f"import os, sys; os.geteuid = lambda: 1000; sys.argv[0] = {str(OMERO)!r}; from omero.main import main; sys.exit(main())",
]


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxOmero]:
    with running_omero(tmp_path_factory.mktemp("omero")) as running:
        yield running


@pytest.fixture
def java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path / "java"
    java_double.install(folder)
    monkeypatch.setenv("PATH", f"{folder}{os.pathsep}{os.environ['PATH']}")
    return folder


class CliWorld(OmeroWorld):
    """A project whose importers use `omero import`."""

    java: Path

    def repository(self, prefix: str) -> dict[str, object]:
        return {**super().repository(prefix), "cli": {"command": COMMAND, "client_dir": str(self.java / "libs")}}

    def carols_table(self) -> dict[str, object]:
        return self.repository(self.login("carol", USERS["carol"]))

    def importer_with(self, **server: object) -> OmeroImporter:
        made = OmeroImporter.from_settings(
            {**self.carols_table(), **server}, self._route, inbox_root=self.inbox.root, state=self.folder / "state"
        )
        self._importers.append(made)
        return made


@pytest.fixture
def world(sandbox: SandboxOmero, tmp_path: Path, java: Path) -> Iterator[CliWorld]:
    made = CliWorld(sandbox, tmp_path / "world", route={"engine": "cli"})
    made.java = java
    yield made
    made.close()


def verdicts(importer: OmeroImporter, parcel: Parcel) -> set[Outcome]:
    record = carry_out(importer, parcel)
    return {outcome.outcome for outcome in importer.verify(parcel, record)}


def filesets_of(world: CliWorld, parcel: Parcel) -> int:
    where = f"{parcel.root.absolute().as_posix().lstrip('/')}/%"
    return len(
        {row[0] for row in world.ask("select e.fileset.id from FilesetEntry e where e.clientPath like :p", p=where)}
    )


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except (FileNotFoundError, ProcessLookupError):
        return False


def parcel_with_a_set(world: CliWorld) -> Parcel:
    folder = world.folder / "made"
    names = real_images.ome_tiff_set(folder)
    return world.parcel(
        images=1, companions=["notes.txt"], files={f"set/{n}": (folder / n).read_bytes() for n in names}
    )


def test_a_parcel_is_imported_attached_and_proven(world: CliWorld, java: Path) -> None:
    parcel, importer = parcel_with_a_set(world), world.importer()

    record = carry_out(importer, parcel)
    outcomes = by_path(importer.verify(parcel, record))

    assert {path: one.outcome for path, one in outcomes.items()} == dict.fromkeys(outcomes, Outcome.VERIFIED)
    assert len(outcomes) == 5
    assert filesets_of(world, parcel) == 2
    assert len(java_double.calls(java)) == 1


def test_twice_is_once(world: CliWorld, java: Path) -> None:
    parcel, importer = world.parcel(images=2), world.importer()
    carry_out(importer, parcel)

    again = carry_out(importer, parcel)

    assert again.already_there
    assert filesets_of(world, parcel) == 2
    assert len(java_double.calls(java)) == 1


def test_no_secret_is_in_our_own_arguments(world: CliWorld, java: Path, tmp_path: Path) -> None:
    seen = tmp_path / "argv"
    spy = COMMAND[2].replace("import os, sys;", f"import os, sys; open({str(seen)!r}, 'w').write(repr(sys.argv));")
    importer = world.importer_with(cli={"command": [*COMMAND[:2], spy], "client_dir": str(java / "libs")})

    carry_out(importer, world.parcel(images=1))

    (key,) = {arguments[arguments.index("-k") + 1] for arguments in java_double.calls(java)}
    assert "--clientdir" in seen.read_text()
    assert key not in seen.read_text()


def test_an_exit_code_of_zero_is_not_believed(world: CliWorld, java: Path) -> None:
    java_double.faults(java, skip="0002.tif")
    parcel = world.parcel(images=3)

    with pytest.raises(Refused, match=r"plain/0002\.tif.*exit code 0.*1 errors"):
        carry_out(world.importer(), parcel)

    assert filesets_of(world, parcel) == 2
    assert [call[-1].rpartition("/")[2] for call in java_double.calls(java)] == ["0003.tif", "0002.tif"]


def test_silence_is_not_believed_either(world: CliWorld, java: Path) -> None:
    java_double.faults(java, silent=True)

    assert verdicts(world.importer(), world.parcel(images=2)) == {Outcome.VERIFIED}
    assert len(java_double.calls(java)) == 1


@pytest.mark.parametrize("fault", [pytest.param("die_before", marks=pytest.mark.slow), "die_after"])
def test_a_jvm_that_dies_takes_no_other_fileset_along_and_doubles_none(world: CliWorld, java: Path, fault: str) -> None:
    java_double.faults(java, **{fault: 1})
    parcel = world.parcel(images=3)

    assert verdicts(world.importer(), parcel) == {Outcome.VERIFIED}
    # In a process of its own each was the first, which this fault spares.
    assert filesets_of(world, parcel) == 3


def test_a_name_with_a_line_break_does_not_wait_for_itself(world: CliWorld, java: Path, tmp_path: Path) -> None:
    java_double.faults(java, die_after=1)
    world.valve |= {"slots": 1, "verify_wait": 0.5}
    (name,) = real_images.tiff(tmp_path, "the last\none.tif")  # which the Java process does not live to see
    parcel = world.parcel(images=2, files={name: (tmp_path / name).read_bytes()})

    assert verdicts(world.importer(), parcel) == {Outcome.VERIFIED}


def test_what_a_dead_importer_left_running_is_ended(world: CliWorld) -> None:
    settings, _ = repository_settings(world.carols_table())
    with Sessions(settings).fresh(Who(), "a test") as connection:
        ours = {**os.environ, "LADING_OMERO_IMPORT": f"{connection.server}/77"}
        left = subprocess.Popen(["sleep", "300"], env=ours, start_new_session=True)
        other = subprocess.Popen(["sleep", "300"], env=ours | {"LADING_OMERO_IMPORT": f"{connection.server}/7"})
        try:
            killed = OmeroImport(settings, connection, 77).end_leftovers()

            assert (killed, left.wait(30), other.poll()) == (1, -signal.SIGKILL, None)
        finally:
            for process in (left, other):
                process.kill()
                process.wait()


def test_an_import_that_takes_too_long_is_stopped_with_its_jvm(world: CliWorld, java: Path) -> None:
    (java / "java").write_text(
        f"#!{sys.executable}\nimport os, time\nopen({str(java / 'pid')!r}, 'w').write(str(os.getpid()))\ntime.sleep(300)\n"
    )
    importer = world.importer_with(import_timeout=3.0)

    with pytest.raises(LadingError, match="no end in sight"):
        carry_out(importer, world.parcel(images=1))

    # On a very slow machine the time is over before Java is there at all; then there is nothing to be left behind.
    deadline = time.monotonic() + 60
    while (java / "pid").exists() and is_alive(int((java / "pid").read_text() or "0")):
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_without_jars_nothing_is_downloaded(world: CliWorld, java: Path) -> None:
    importer = world.importer_with(cli={"command": COMMAND})

    with pytest.raises(ConfigError, match="client_dir"):
        carry_out(importer, world.parcel(images=1))

    assert java_double.calls(java) == []


def test_it_needs_tls(world: CliWorld) -> None:
    importer = world.importer_with(plain="loopback", port=world.sandbox.tcp_port, ssl={})

    with pytest.raises(ConfigError, match="TLS"):
        carry_out(importer, world.parcel(images=1))


def test_a_command_that_is_not_there_is_said(world: CliWorld, java: Path) -> None:
    importer = world.importer_with(cli={"command": ["no-such-omero"], "client_dir": str(java / "libs")})

    with pytest.raises(ConfigError, match="no-such-omero"):
        carry_out(importer, world.parcel(images=1))

    assert missing_for_cli(["no-such-omero"]) == "no-such-omero is not installed"
