"""A part of a file that an interrupted fetch left: gone on with when it is of this very file, else thrown away."""

import os
import sqlite3
from contextlib import ExitStack, closing, suppress
from pathlib import Path

import pytest

from lading.errors import Unreachable
from lading.inbox import Inbox, InboxLimits
from lading.testing import trees
from lading.testing.certificates import certificates
from lading.testing.dav_servers import apache_dav, missing_for_apache
from lading.testing.fetching_scene import SESSION, size_of_parts
from lading.testing.ftp_servers import OTHER_ADDRESS, missing_for_ftp_servers, proftpd, vsftpd
from lading.testing.servers import missing_for_sshd, sshd
from lading.testing.smb_server import missing_for_smbd, smbd
from transport.fetch_ledger import Progressing
from transport.fetching import FetchConfig, Fetcher, Fetching
from transport.ftps import FtpsPlace
from transport.pacing import Unpaced
from transport.sftp import SftpPlace
from transport.smb import SmbPlace
from transport.webdav import WebdavPlace

MIB = 1 << 20
MISSING = {
    "sftp": missing_for_sshd,
    "smb": missing_for_smbd,
    "proftpd": missing_for_ftp_servers,
    "vsftpd": missing_for_ftp_servers,
    "webdav": missing_for_apache,
}


def served(kind, stack, folder, remote):
    """A place whose server has `remote`."""
    if kind == "sftp":
        server = stack.enter_context(sshd(folder))
        keys = {"identity": str(server.identity), "known_hosts": str(server.known_hosts)}
        return SftpPlace.from_settings({"target": f"{server.user}@127.0.0.1:{remote}", "port": server.port, **keys})
    if kind == "smb":
        server = stack.enter_context(smbd(folder, remote))
        login = {"user": server.user, "password": f"file:{server.password_file}"}
        return SmbPlace.from_settings({"share": "//127.0.0.1/inbox", "port": server.port, **login})
    tls = certificates(folder / "tls", OTHER_ADDRESS)
    if kind == "webdav":
        server = stack.enter_context(apache_dav(folder, remote, tls))
        url = server.url
    else:
        server = stack.enter_context((proftpd if kind == "proftpd" else vsftpd)(folder, remote, tls))
        url = f"ftps://127.0.0.1:{server.port}{server.root}"
    login = {"user": server.user, "password": f"file:{server.password_file}", "ca": str(tls.ca)}
    return (WebdavPlace if kind == "webdav" else FtpsPlace).from_settings({"url": url, **login})


class Cut(Unpaced):
    """The line breaks after so many bytes; counts what comes."""

    def __init__(self, after=1 << 60):
        self.came, self._after = 0, after

    def spend(self, count):
        if self.came + count > self._after:
            raise Unreachable("the line broke")
        self.came += count


class Fetch:
    """A session folder with one big file at a server, and what fetches it from there."""

    def __init__(self, folder: Path, remote: Path, place) -> None:
        self.big = remote / SESSION / "big.raw"
        self.inbox = Inbox.create(folder / "inbox", limits=InboxLimits(keep_free_bytes=0))
        self._place, self._state, self._now = place, folder / "state", 1_900_000_000.0
        self._state.mkdir()

    def round(self, pace, **changes):
        """Later than the last one by more than the quiet that is asked for."""
        self._now += 100
        setting = Fetching(
            "partner", self._place, FetchConfig(quiet=60.0), self.inbox, self._state, pace=pace, **changes
        )
        return Fetcher(setting, clock=lambda: self._now).round()

    def part(self):
        """The part of the file that a broken line leaves."""
        self.round(Cut())
        with suppress(Unreachable):
            self.round(Cut(after=5 * MIB))
        (part,) = self.inbox.root.rglob(".in.*")
        assert 2 * MIB < part.stat().st_size < 8 * MIB
        return part

    def forget_flushes(self):
        """As if the power had gone before the part was left."""
        with closing(sqlite3.connect(self._state / "fetch" / "partner.sqlite")) as ledger, ledger:
            ledger.execute("UPDATE parts SET durable = 0")

    def fetched(self):
        """What the inbox has of the file in the end."""
        for parcel in [self.inbox.accept(delivery) for delivery in list(self.inbox.arrivals())]:
            return (parcel.root / "big.raw").read_bytes()
        return None


@pytest.fixture(params=list(MISSING))
def fetch(request, tmp_path):
    if why := MISSING[request.param]():
        pytest.skip(why)
    remote = tmp_path / "remote"
    trees.write(remote / SESSION, {"big.raw": trees.noise(7, 8 * MIB)})
    os.utime(remote / SESSION / "big.raw", (1_750_000_000, 1_750_000_000))  # Apache trusts no file of this very second
    (tmp_path / "server").mkdir()
    with ExitStack() as stack:
        yield Fetch(tmp_path, remote, served(request.param, stack, tmp_path / "server", remote))


def test_a_part_is_gone_on_with(fetch):
    there = fetch.part().stat().st_size
    pace = Cut()

    (found,) = fetch.round(pace)

    assert found.state is Progressing.FETCHED
    assert pace.came == 8 * MIB - there
    assert fetch.fetched() == fetch.big.read_bytes()


def test_a_part_that_was_damaged_here_at_its_end_is_thrown_away(fetch):
    part = fetch.part()
    with part.open("r+b") as file:
        file.seek(-MIB // 2, os.SEEK_END)
        file.write(bytes(MIB // 2))  # as a power cut leaves it: the length is right

    (found,) = fetch.round(Cut())

    assert found.state is Progressing.FETCHED
    assert fetch.fetched() == fetch.big.read_bytes()


def test_a_part_of_another_boot_that_was_never_flushed_is_thrown_away(fetch):
    # Seen: where the server has no checksum, the zeros in the middle were listed, sealed and accepted.
    part = fetch.part()
    fetch.forget_flushes()
    with part.open("r+b") as file:
        file.seek(MIB // 2)
        file.write(bytes(MIB // 2))  # as a power cut leaves it: length and end are right

    (found,) = fetch.round(Cut(), boot="the next one")

    assert found.state is Progressing.FETCHED
    assert fetch.fetched() == fetch.big.read_bytes()


def test_a_part_of_another_content_under_the_same_size_and_time_is_thrown_away(fetch):
    fetch.part()
    times = fetch.big.stat()
    fetch.big.write_bytes(trees.noise(8, 8 * MIB))
    os.utime(fetch.big, ns=(times.st_atime_ns, times.st_mtime_ns))

    fetch.round(Cut())
    fetch.round(Cut())  # some servers tell it by a version; then it must be quiet first

    assert fetch.fetched() == fetch.big.read_bytes()


def test_a_part_of_an_older_file_is_thrown_away(fetch):
    fetch.part()
    with fetch.big.open("r+b") as file:
        file.write(b"begins otherwise, and ends as before")
    os.utime(fetch.big, (1_700_000_000, 1_700_000_000))
    pace = Cut()

    fetch.round(pace)
    (found,) = fetch.round(pace)  # most servers tell it in their listings; then it must be quiet first

    assert found.state is Progressing.FETCHED
    assert pace.came == 8 * MIB
    assert fetch.fetched() == fetch.big.read_bytes()
    assert size_of_parts(fetch.inbox.root) == 0
