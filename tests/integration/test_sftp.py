"""SFTP where the suite does not look: other servers, other logins, parts, lines that stall in the middle, hostile names."""

import asyncio
import os
import shlex
import shutil
import signal
import stat
import threading
import time
from pathlib import Path

import pytest

from lading.errors import AccessDenied, ConfigError, Unreachable
from lading.inbox import Inbox, InboxLimits
from lading.ports import NoProgress
from lading.testing import trees
from lading.testing.carrying import Errand
from lading.testing.faultproxy import FaultProxy
from lading.testing.servers import free_port, missing_for_sshd, sshd

asyncssh = pytest.importorskip("asyncssh", reason="asyncssh is not installed (extra: sftp)")
from transport.bodies import SmallBody  # noqa: E402 - needs asyncssh
from transport.remote import PART_PREFIX, part_path  # noqa: E402
from transport.sftp import SftpPlace, SftpTransport  # noqa: E402
from transport.throttled import Schedule, ThrottleConfig, Throttled  # noqa: E402

needs_sshd = pytest.mark.skipif(bool(missing_for_sshd()), reason=missing_for_sshd())
PASSWORD = "s3cret pässword"


class OtherServer:
    """asyncssh's own SFTP server in a thread: another implementation than OpenSSH's, and one that takes passwords."""

    def __init__(self, folder: Path, *, chroot: Path) -> None:
        self.port = free_port()
        self.host_key = asyncssh.generate_private_key("ssh-ed25519")
        self.known_hosts = folder / "other_known_hosts"
        public = self.host_key.export_public_key().decode().split()
        self.known_hosts.write_text(f"[127.0.0.1]:{self.port} {public[0]} {public[1]}\n")
        self.client_key = asyncssh.generate_private_key("ssh-ed25519")
        self.client_keys = folder / "client_keys"
        self.client_keys.write_bytes(self.client_key.export_public_key())
        self._chroot = chroot
        self._loop = asyncio.new_event_loop()
        self._ready = threading.Event()
        self._thread = threading.Thread(target=self._main, daemon=True)

    def __enter__(self) -> "OtherServer":
        self._thread.start()
        assert self._ready.wait(30)
        return self

    def __exit__(self, *_: object) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)

        class Passwords(asyncssh.SSHServer):
            def password_auth_supported(self) -> bool:
                return True

            def validate_password(self, username: str, password: str) -> bool:
                return (username, password) == ("lab", PASSWORD)

        self._loop.run_until_complete(
            asyncssh.listen(
                "127.0.0.1",
                self.port,
                server_host_keys=[self.host_key],
                server_factory=Passwords,
                authorized_client_keys=str(self.client_keys),
                sftp_factory=lambda channel: asyncssh.SFTPServer(channel, chroot=str(self._chroot).encode()),
            )
        )
        self._ready.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))


@pytest.fixture
def inbox(tmp_path) -> Inbox:
    return Inbox.create(tmp_path / "root" / "inbox", limits=InboxLimits(keep_free_bytes=0))


@pytest.fixture
def other(tmp_path, inbox):
    with OtherServer(tmp_path, chroot=inbox.root.parent) as server:
        yield server


def _errand(tmp_path: Path, name: str = "test-delivery-1", **settings: object) -> Errand:
    source = trees.nasty_tree(tmp_path / f"source {name}")
    state = tmp_path / "state"
    state.mkdir(exist_ok=True)
    factory = "transport.sftp:SftpTransport.from_settings"
    return Errand(factory, settings, str(source), str(tmp_path / name), str(state), name).sealed()


def test_a_password_opens_another_implementations_server(tmp_path, inbox, other, monkeypatch):
    monkeypatch.setenv("LADING_TEST_SFTP", PASSWORD)
    settings = {
        "target": "lab@127.0.0.1:/inbox",
        "port": other.port,
        "known_hosts": str(other.known_hosts),
        "password": "env:LADING_TEST_SFTP",
    }
    errand = _errand(tmp_path, **settings)

    errand.carry()
    errand.carry()

    assert trees.look(inbox.root / errand.slot.data) == trees.look(Path(errand.root))
    assert inbox.accept(errand.slot.delivery)
    monkeypatch.setenv("LADING_TEST_SFTP", "wrong")
    with pytest.raises(AccessDenied) as caught:
        errand.transport().probe()
    assert "wrong" not in str(caught.value)
    assert PASSWORD not in repr(errand.transport())


def test_a_key_with_a_passphrase_opens_and_a_wrong_passphrase_is_told(tmp_path, inbox, other):
    identity, secret = tmp_path / "identity", tmp_path / "passphrase"
    identity.write_bytes(
        other.client_key.export_private_key(passphrase="open sesame", rounds=1, ignore_few_rounds=True)
    )
    secret.write_text("open sesame\n")
    for path in (identity, secret):
        path.chmod(0o600)
    settings = {
        "target": "lab@127.0.0.1:/inbox",
        "port": other.port,
        "known_hosts": str(other.known_hosts),
        "identity": str(identity),
        "passphrase": f"file:{secret}",
    }
    transport = SftpTransport.from_settings(settings, state=tmp_path)

    transport.probe()

    secret.write_text("wrong\n")
    with pytest.raises(AccessDenied, match="cannot be used"):
        SftpTransport.from_settings(settings, state=tmp_path).probe()
    del settings["passphrase"]
    with pytest.raises(AccessDenied, match="passphrase"):
        SftpTransport.from_settings(settings, state=tmp_path).probe()


@pytest.mark.parametrize(
    ("settings", "said"),
    [
        ({"target": "host"}, "user@host:/path"),
        ({"target": "-oProxyCommand=x:/y"}, "user@host:/path"),
        ({"target": "h:/x", "file_mode": "rw"}, "octal"),
        ({"target": "h:/x", "names": "vms"}, "vms"),
        ({"target": "h:/x", "streams": 0}, "streams"),
        ({"target": "h:/x", "identity": "k", "password": "env:X"}, "which one"),
        ({"target": "h:/x", "pasword": "env:X"}, "password"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(settings, said):
    with pytest.raises(ConfigError, match=said):
        SftpPlace.from_settings(settings)


# -- over sshd ---------------------------------------------------------------------------------------------------------


@pytest.fixture
def server(tmp_path):
    with sshd(tmp_path / "ssh d") as running:
        yield running


def _reach(server, inbox: Inbox, tmp_path: Path, port: int = 0) -> dict[str, object]:
    return {
        "target": f"{server.user}@127.0.0.1:{inbox.root}",
        "port": port or server.port,
        "identity": str(server.identity),
        "known_hosts": str(server.trusting(port or server.port, tmp_path)),
    }


def _noted_ssh(tmp_path: Path) -> tuple[Path, Path]:
    """An ssh that notes its arguments, one line per run; and the note."""
    program, note = tmp_path / "ssh", tmp_path / "ssh.log"
    program.write_text(
        f'#!/bin/sh\necho "$*" >> {shlex.quote(str(note))}\nexec {shlex.quote(shutil.which("ssh") or "")} "$@"\n'
    )
    program.chmod(0o755)
    note.touch()
    return program, note


@needs_sshd
def test_ssh_encrypts_where_it_is_installed_and_the_library_where_it_is_not(tmp_path, inbox, server):
    program, note = _noted_ssh(tmp_path)
    for number, how in enumerate((str(program), "no-such-program", "")):
        errand = _errand(tmp_path, f"test-delivery-{number}", **_reach(server, inbox, tmp_path), ssh=how)

        errand.carry()

        assert trees.look(inbox.root / errand.slot.data) == trees.look(Path(errand.root))
    sessions = [line for line in note.read_text().splitlines() if line.endswith("-s -- 127.0.0.1 sftp")]
    assert sessions
    assert all("StrictHostKeyChecking=yes" in line and "-F none" in line for line in sessions)
    assert server.log.read_text().count("Accepted publickey") > len(sessions), "the library logged in too"


def test_ssh_is_not_asked_to_use_a_secret(tmp_path, other, monkeypatch):
    monkeypatch.setenv("LADING_TEST_SFTP", PASSWORD)
    program, note = _noted_ssh(tmp_path)
    settings = {"target": "lab@127.0.0.1:/inbox", "port": other.port, "known_hosts": str(other.known_hosts)}

    SftpTransport.from_settings(
        {**settings, "password": "env:LADING_TEST_SFTP", "ssh": str(program)}, state=tmp_path
    ).probe()

    assert not note.read_text()


@needs_sshd
@pytest.mark.parametrize("how", ["ssh", ""])
@pytest.mark.parametrize(
    ("command", "told"),
    [
        ("echo Welcome to the cluster", (AccessDenied, "no SFTP server")),
        ("exit 1", (Unreachable, "connection was lost")),
    ],
)
def test_an_account_without_sftp_is_told_so(tmp_path, inbox, how, command, told):
    error, said = told
    with sshd(tmp_path / "forced", forced_command=command) as server:
        place = SftpPlace.from_settings({**_reach(server, inbox, tmp_path), "ssh": how})

        with pytest.raises(error, match=said):
            place.connect()


@needs_sshd
@pytest.mark.parametrize("how", ["ssh", ""])
def test_a_server_that_takes_the_connection_and_says_nothing_is_given_up(tmp_path, inbox, server, how):
    with FaultProxy(("127.0.0.1", server.port)) as proxy:
        proxy.faults.stall = True
        settings = _reach(server, inbox, tmp_path, proxy.port) | {"connect_timeout": 2, "ssh": how}

        with pytest.raises(Unreachable, match="cannot log in"):
            SftpPlace.from_settings(settings).connect()


@needs_sshd
def test_an_ssh_that_dies_is_a_connection_that_is_lost(tmp_path, inbox, server):
    program = tmp_path / "ssh"
    program.write_text(f'#!/bin/sh\necho $$ > {shlex.quote(str(tmp_path / "pid"))}\nexec ssh "$@"\n')
    program.chmod(0o755)
    files = SftpPlace.from_settings({**_reach(server, inbox, tmp_path), "ssh": str(program)}).connect()
    try:
        assert files.free_bytes()
        os.kill(int((tmp_path / "pid").read_text()), signal.SIGKILL)
        with pytest.raises(Unreachable, match="lost"):
            _place_for_ever(files)
    finally:
        files.close()


@needs_sshd
def test_a_line_that_stalls_in_the_middle_of_a_file_is_unreachable_and_finished_later(tmp_path, inbox, server):
    with FaultProxy(("127.0.0.1", server.port)) as proxy:
        settings = _reach(server, inbox, tmp_path, proxy.port) | {"timeout": 3, "connect_timeout": 10}
        errand = _errand(tmp_path, **settings)
        trees.write(Path(errand.root), {"large": trees.noise(3, 30_000_000)})
        errand = errand.sealed()
        failed: list[BaseException] = []

        def carry() -> None:
            try:
                errand.carry()
            except Unreachable as exc:
                failed.append(exc)

        proxy.faults.bytes_per_second = 20_000_000
        thread = threading.Thread(target=carry)
        thread.start()
        _until(lambda: proxy.passed > 10_000_000)
        proxy.faults.stall = True
        thread.join(60)
        proxy.faults.stall = False
        proxy.faults.bytes_per_second = 0
        proxy.cut()

        assert failed
        before = proxy.passed
        errand.carry()

        assert trees.look(inbox.root / errand.slot.data) == trees.look(Path(errand.root))
        assert proxy.passed - before < 25_000_000, "what had arrived was sent again"


@needs_sshd
def test_a_part_with_a_damaged_end_is_begun_anew_and_a_link_in_its_place_is_not_followed(tmp_path, inbox, server):
    precious = trees.write(tmp_path / "outside", {"precious": b"precious"}) / "precious"
    content = trees.noise(5, 3_000_000)
    files = SftpPlace.from_settings(_reach(server, inbox, tmp_path)).connect()
    body = SmallBody(content, 1e9)
    part = inbox.root / part_path("file", body)
    try:
        part.write_bytes(content[:1_000_000] + b"\0" * 500_000)
        files.place("file", body)
        assert (inbox.root / "file").read_bytes() == content
        part.symlink_to(precious)
        files.place("file", body)
        files.place_many([("file", body)])
        part.symlink_to(precious)
        files.place_many([("small", SmallBody(b"small")), ("file", body)])
    finally:
        files.close()

    assert precious.read_bytes() == b"precious"
    assert (inbox.root / "file").read_bytes() == content
    assert (inbox.root / "small").read_bytes() == b"small"
    assert not list(inbox.root.glob(f"{PART_PREFIX}*"))
    assert not (inbox.root / "file").is_symlink()


@needs_sshd
def test_a_server_that_allows_one_session_only_gets_the_small_files_one_by_one(tmp_path, inbox):
    with sshd(tmp_path / "one", extra="MaxSessions 1") as server:
        errand = _errand(tmp_path, **_reach(server, inbox, tmp_path))

        errand.carry()

    assert trees.look(inbox.root / errand.slot.data) == trees.look(Path(errand.root))


@needs_sshd
def test_files_and_folders_get_the_modes_that_let_the_server_take_them_over(tmp_path, inbox, server):
    errand = _errand(tmp_path, **_reach(server, inbox, tmp_path))

    errand.carry()

    slot = inbox.root / errand.slot.path
    modes = {(path.is_dir(), stat.S_IMODE(path.stat().st_mode)) for path in [slot, *slot.rglob("*")]}
    assert modes == {(True, 0o2770), (False, 0o660)}


@needs_sshd
def test_reading_from_the_middle_listing_and_looking(tmp_path, inbox, server):
    content = trees.noise(5, 3_000_000)
    trees.write(inbox.root, {"f/file": content, "f/odd\nname": b"x"})
    (inbox.root / "f" / "link").symlink_to("file")
    (inbox.root / "f" / os.fsdecode(b"bytes \xff")).write_bytes(b"y")
    files = SftpPlace.from_settings(_reach(server, inbox, tmp_path)).connect()
    try:
        assert b"".join(files.read("f/file", 1_234_567)) == content[1_234_567:]
        assert {(f.path, f.size, f.folder) for f in files.listed("f")} == {
            ("f/file", 3_000_000, False),
            ("f/odd\nname", 1, False),
            ("f/link", -1, False),
            (os.fsdecode(b"f/bytes \xff"), 1, False),
        }
        assert files.look("f/none") is None
        assert files.look("none/none") is None
        assert list(files.listed("none")) == []
        with pytest.raises(AccessDenied):
            list(files.read("f/link"))
        files.remove("f")
        files.remove("f")
        assert not (inbox.root / "f").exists()
        assert files.free_bytes()
    finally:
        files.close()
    with pytest.raises(Unreachable):
        files.look("f")


@needs_sshd
def test_a_throttled_carry_keeps_to_its_pace_and_leaves_no_thread_behind(tmp_path, inbox, server):
    transport = SftpTransport.from_settings(_reach(server, inbox, tmp_path), state=tmp_path)
    paced = Throttled(transport, Schedule(ThrottleConfig(mb_per_s=5)))
    errand = _errand(tmp_path, **_reach(server, inbox, tmp_path))
    trees.write(Path(errand.root), {"large": trees.noise(3, 8_000_000)})
    errand = errand.sealed()

    start = time.monotonic()
    paced.carry(errand.cargo(), errand.slot, errand.journal, NoProgress())

    assert time.monotonic() - start > 1.0
    assert trees.look(inbox.root / errand.slot.data) == trees.look(Path(errand.root))
    _until(lambda: not [t for t in threading.enumerate() if t.name.startswith(("lading-ssh", "lading-carry"))])


def _place_for_ever(files) -> None:
    while True:
        files.place("file", SmallBody(b"x" * 100_000))


def _until(true, seconds: float = 120.0) -> None:
    deadline = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < deadline
        time.sleep(0.01)
