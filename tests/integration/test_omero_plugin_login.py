"""`omero transport` as a person: the real `omero` command, its session store, and a stand-in OMERO on the real wire."""

import json
import shutil
import time
from collections.abc import Iterator

import pytest

from lading.agent.loop import has_carrier
from lading.sandbox.omero import SandboxOmero
from lading.testing.omero_command import OmeroCommand
from lading.testing.omero_facility import people

SETTINGS = """
home = "state"

[inboxes.main]
path = "inbox"
keep_free_gb = 0

[repositories.micro]
kind = "omero"
host = "{host}"
port = {port}
credentials = "env:NOBODY_SET_THIS"
ssl = {{ ca = "certificate.pem" }}
bioformats = {{ use = "never" }}
valve = {{ free_gb = 0.0 }}

[routes.microscopy]
repository = "micro"
transport = {{ kind = "local", path = "inbox" }}
digests = ["sha1"]
"""


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxOmero]:
    with SandboxOmero(tmp_path_factory.mktemp("omero"), people=people(), java=False) as sandbox:
        yield sandbox


@pytest.fixture
def omero(sandbox: SandboxOmero) -> Iterator[OmeroCommand]:
    """`omero` in a home with settings that name the stand-in, and no account but the person's own."""
    with OmeroCommand() as command:
        shutil.copyfile(sandbox.certificate, command.home / "certificate.pem")
        settings = SETTINGS.format(host=sandbox.host, port=sandbox.port)
        (command.home / "lading.toml").write_text(settings)
        yield command


def login(sandbox: SandboxOmero, user: str = "alice") -> list[str]:
    return ["-s", sandbox.host, "-p", str(sandbox.port), "-u", user, "-w", sandbox.password(user)]


def repository(answer: str) -> dict[str, str]:
    """What the doctor said about the repository."""
    (found,) = [d for d in json.loads(answer)["diagnoses"] if d["area"] == "repository micro"]
    return dict(found)


def test_the_doctor_reaches_omero_with_the_persons_own_session(omero: OmeroCommand, sandbox: SandboxOmero) -> None:
    seen = omero.run("transport", *login(sandbox), "doctor", "--json")

    assert repository(seen.stdout)["level"] == "ok", seen.stdout + seen.stderr
    assert "session for alice@" in seen.stderr


def test_without_a_session_the_same_settings_let_nobody_in(omero: OmeroCommand) -> None:
    # Proves that the test above did not pass by some other login.
    seen = omero.run("transport", "doctor", "--json")

    assert seen.returncode == 3, seen.stdout + seen.stderr
    assert json.loads(seen.stdout)["error"]["code"] == "access-denied"


def test_omeros_session_store_is_used_and_the_session_lives_on(omero: OmeroCommand, sandbox: SandboxOmero) -> None:
    assert omero.run("login", *login(sandbox, "bob")).returncode == 0

    first = omero.run("transport", "doctor", "--json")
    second = omero.run("transport", "doctor", "--json")

    assert repository(first.stdout)["level"] == "ok", first.stdout + first.stderr
    assert repository(second.stdout)["level"] == "ok", second.stdout + second.stderr
    assert "Using session for bob@" in first.stderr + second.stderr
    assert open_sessions(sandbox, "bob") == 1


def test_a_new_session_is_made_on_wish(omero: OmeroCommand, sandbox: SandboxOmero) -> None:
    assert omero.run("login", *login(sandbox, "bob")).returncode == 0
    before = open_sessions(sandbox, "bob")

    again = omero.run("transport", *login(sandbox, "bob"), "doctor", "--json")
    new = omero.run("transport", "-C", *login(sandbox, "bob"), "doctor", "--json")

    assert repository(again.stdout)["level"] == repository(new.stdout)["level"] == "ok", new.stdout + new.stderr
    assert "Using session for bob@" in again.stderr
    assert "Created session for bob@" in new.stderr
    assert open_sessions(sandbox, "bob") == before + 1


def test_a_session_key_is_enough_and_is_not_shown(omero: OmeroCommand, sandbox: SandboxOmero) -> None:
    assert omero.run("login", *login(sandbox, "carol")).returncode == 0
    key = omero.run("sessions", "key").stdout.strip()
    shutil.rmtree(omero.home / "omero" / "sessions")

    seen = omero.run("transport", "-k", key, "doctor", "--json")

    assert repository(seen.stdout)["level"] == "ok", seen.stdout + seen.stderr
    assert key not in seen.stdout + seen.stderr
    kept = [p for p in (omero.home / "state").rglob("*") if p.is_file() and key.encode() in p.read_bytes()]
    assert kept == []


def test_an_administrator_acts_for_somebody_else(omero: OmeroCommand, sandbox: SandboxOmero) -> None:
    place = ["-s", sandbox.host, "-p", str(sandbox.port)]

    seen = omero.run(
        "transport", *place, "--sudo", "root", "-u", "dave", "-w", sandbox.password("root"), "doctor", "--json"
    )

    assert repository(seen.stdout)["level"] == "ok", seen.stdout + seen.stderr
    assert "session for dave@" in seen.stderr


def test_what_a_person_sends_is_sent_as_that_person(omero: OmeroCommand, sandbox: SandboxOmero) -> None:
    session = omero.home / "session"
    session.mkdir()
    (session / "image.tif").write_bytes(b"pixels")
    assert omero.run("transport", "inbox", "create").returncode == 0

    sent = omero.run(
        "transport", *login(sandbox, "erin"), "send", "session", "--route", "microscopy",
        "--project", "P", "--participant", "mouse-1", "--session", "day-1", "--json",
    )  # fmt: skip

    assert sent.returncode == 0, sent.stdout + sent.stderr
    # Written last, by the carrier that `send` left behind; it ends by itself then.
    seal = omero.home / "inbox" / ".lading" / "incoming" / json.loads(sent.stdout)["id"] / "manifest.json"
    deadline = time.monotonic() + 90
    while (not seal.exists() or has_carrier(omero.home / "state")) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert json.loads(seal.read_text())["sender"] == f"erin@{sandbox.host}"


def test_a_wrong_password_leaves_with_the_exit_code_of_a_refusal(omero: OmeroCommand, sandbox: SandboxOmero) -> None:
    wrong = [*login(sandbox)[:-1], "wrong"]

    refused = omero.run("transport", *wrong, "status", "--json")

    assert refused.returncode == 3, refused.stdout + refused.stderr
    error = json.loads(refused.stdout)["error"]
    assert error["code"] == "access-denied"
    assert "wrong" not in error["message"]


def test_a_server_that_does_not_answer_is_told_from_a_refusal(omero: OmeroCommand, free_port: int) -> None:
    away = ["-s", "127.0.0.1", "-p", str(free_port), "-u", "alice", "-w", "any"]

    refused = omero.run("transport", *away, "doctor", "--json")

    assert refused.returncode == 5, refused.stdout + refused.stderr
    assert json.loads(refused.stdout)["error"]["code"] == "target-unavailable"


def test_a_command_that_needs_no_omero_does_not_log_in(omero: OmeroCommand) -> None:
    listed = omero.run("transport", "list", "--json")

    assert listed.returncode == 0, listed.stdout + listed.stderr
    assert not (omero.home / "omero" / "sessions").exists()


@pytest.fixture
def free_port() -> Iterator[int]:
    """A port that is taken and answers nobody: connections to it are refused."""
    import socket

    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        yield int(taken.getsockname()[1])


def open_sessions(sandbox: SandboxOmero, user: str) -> int:
    """How many sessions of the user the server knows."""
    found = sandbox.do("sessions")
    assert isinstance(found, dict)
    return int(found.get(user, 0))
