"""What is special about FTPS: certificates, replies, names that are lines, parts that go on, and folders that may only be read."""

import os
import socket

import pytest

from lading.errors import (
    AccessDenied,
    ConfigError,
    LadingError,
    OutOfSpace,
    Rejected,
    UnexpectedFault,
    Unreachable,
)
from lading.inbox import Inbox, InboxLimits
from lading.testing import trees
from lading.testing.certificates import certificates
from lading.testing.faultproxy import FaultProxy
from lading.testing.ftp_servers import OTHER_ADDRESS, missing_for_ftp_servers, proftpd, vsftpd
from lading.testing.site import Desk, Site, small_disk
from transport.bodies import SmallBody
from transport.fetching import FetchConfig, Fetcher, Fetching
from transport.ftps import FtpsPlace, FtpsTransport
from transport.ftps_connection import Login, Session, connected, meaning
from transport.ftps_listing import machine_entry, unix_entry
from transport.remote import part_path

MIB = 1 << 20
needs_servers = pytest.mark.skipif(bool(missing_for_ftp_servers()), reason=missing_for_ftp_servers())


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return certificates(tmp_path_factory.mktemp("tls"), OTHER_ADDRESS)


@pytest.fixture(params=[proftpd, vsftpd])
def served(request, tmp_path, tls):
    """A folder, and the server that serves it."""
    folder = tmp_path / "served"
    folder.mkdir()
    with request.param(tmp_path / "server", folder, tls) as server:
        yield folder, server


def _settings(server, tls, **changes):
    return {
        "url": f"ftps://127.0.0.1:{server.port}{server.root}",
        "user": server.user,
        "password": f"file:{server.password_file}",
        "ca": str(tls.ca),
        "timeout": 20,
    } | changes


@pytest.fixture
def files(served, tls):
    """A connection."""
    connection = FtpsPlace.from_settings(_settings(served[1], tls)).connect()
    yield connection
    connection.close()


class _Counted(SmallBody):
    """A body that says from where it was sent, and whose reader gives up after `good` bytes."""

    def __init__(self, content, good=None):
        super().__init__(content, 1_600_000_000.0)
        self._good, self.begun_at = good, None

    def blocks(self, offset=0, length=None):
        if length is None:
            self.begun_at = offset
        for number, block in enumerate(super().blocks(offset, length)):
            if self._good is not None and length is None and number * MIB >= self._good:
                raise Unreachable("the source stopped")
            yield block


@needs_servers
def test_a_wrong_ca_first_then_a_cut_in_a_big_file_then_the_rest(tmp_path, tls):
    """S18."""
    folder = tmp_path / "partner"
    folder.mkdir()
    with (
        proftpd(tmp_path / "server", folder, tls) as server,
        FaultProxy(("127.0.0.1", server.port)) as proxy,
    ):
        url = f"ftps://{server.through(proxy)}/inbox"
        site = Site("transport.ftps:FtpsTransport.from_settings", lambda _: _settings(server, tls, url=url))
        desk = Desk(folder, site)
        source = trees.write(tmp_path / "source", {"small.h5": b"small", "big.h5": trees.noise(5, 40 * MIB)})

        with pytest.raises(AccessDenied) as caught:
            desk.errand(source, {"ca": str(tls.other_ca)}).sealed().carry()
        assert "CA" in caught.value.message
        assert "ca = PATH" in caught.value.next_command
        for word in ("verify", "insecure", "skip", "ignore"):
            assert word not in f"{caught.value.message} {caught.value.next_command}".lower()

        errand = desk.errand(source).sealed()
        proxy.faults.cut_at = proxy.passed + 25 * MIB
        with pytest.raises(Unreachable):
            errand.carry()
        before = proxy.passed
        errand.carry()

        assert proxy.passed - before < 30 * MIB, "what had arrived was sent again"
        assert trees.look(desk.data(errand)) == trees.look(source)
        desk.inbox.accept(errand.slot.delivery)


@needs_servers
class TestParts:
    def test_a_part_goes_on_where_it_ended(self, served, files):
        content = trees.noise(1, 5 * MIB + 17)

        with pytest.raises(Unreachable, match="the source stopped"):
            files.place("a.dat", _Counted(content, 3 * MIB))
        assert not (served[0] / "a.dat").exists()
        rest = _Counted(content)
        files.place("a.dat", rest)

        assert 0 < rest.begun_at <= 3 * MIB
        assert (served[0] / "a.dat").read_bytes() == content
        assert os.listdir(served[0]) == ["a.dat"]

    def test_a_part_whose_end_is_not_ours_is_written_anew(self, served, files):
        body = _Counted(trees.noise(1, 3 * MIB))
        (served[0] / part_path("a.dat", body)).write_bytes(trees.noise(2, 2 * MIB))

        files.place("a.dat", body)

        assert body.begun_at == 0
        assert (served[0] / "a.dat").read_bytes() == trees.noise(1, 3 * MIB)

    def test_what_is_there_is_replaced_even_by_a_folder(self, served, files):
        (served[0] / "a.dat").write_bytes(b"old")
        trees.write(served[0], {"b.dat/inner/x": b"old"})

        for name in ("a.dat", "b.dat"):
            files.place(name, SmallBody(b"new", 1_600_000_000.0))

        assert [(served[0] / name).read_bytes() for name in ("a.dat", "b.dat")] == [b"new", b"new"]


@needs_servers
class TestLooking:
    def test_what_a_folder_holds_comes_out_as_it_is(self, served, files):
        folder = served[0]
        trees.write(folder, {"ordner ü/datei.dcm": b"x", " [a]*?/ -x": b"12", "top": b"abc", "empty": b""})
        (folder / "link").symlink_to("ordner ü")
        (folder / "gone").symlink_to("nowhere")

        seen = {(found.path, found.size, found.folder) for found in files.listed("")}

        assert seen - {("gone", -1, False)} == {
            ("ordner ü", 0, True),
            (" [a]*?", 0, True),
            ("top", 3, False),
            ("empty", 0, False),
            ("link", -1, False),
        }
        assert [found.path for found in files.listed(" [a]*?")] == [" [a]*?/ -x"]
        assert list(files.listed("nowhere")) == []
        assert files.look("nowhere/at all") is None
        assert files.look("top").size == 3
        assert files.look(" [a]*?").folder
        assert b"".join(files.read("ordner ü/datei.dcm")) == b"x"
        assert b"".join(files.read("empty")) == b""

    def test_reading_may_end_early_and_other_questions_follow(self, served, files):
        (served[0] / "large").write_bytes(trees.noise(1, 4 * MIB))

        blocks = files.read("large", 10)
        next(blocks)
        blocks.close()

        assert files.look("large").size == 4 * MIB
        assert b"".join(files.read("large", 4 * MIB - 3)) == trees.noise(1, 4 * MIB)[-3:]

    def test_checksums_come_from_the_server_where_it_computes_them(self, served, files):
        (served[0] / "a b.dat").write_bytes(b"hello")

        computed = files.digests("a b.dat", ("xxh128", "sha256"))

        wanted = {"sha256": "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824"}
        assert computed in (wanted, {})
        assert bool(computed) == ("HASH" in files._ftp.features)
        assert files.digests("nowhere", ("sha256",)) == {}

    def test_a_folder_with_a_name_that_ftp_cannot_say_is_left_with_a_word(self, served, files):
        trees.write(served[0], {"stale/with\nline break": b"x"})

        with pytest.raises(AccessDenied, match="line breaks"):
            files.remove("stale")

        assert (served[0] / "stale").is_dir()

    def test_a_link_is_removed_and_what_it_leads_to_stays(self, served, files):
        trees.write(served[0], {"other/precious": b"x", "stale/inner/x": b"x"})
        (served[0] / "link").symlink_to("other")
        (served[0] / "stale" / "link").symlink_to("../other")
        (served[0] / "file").symlink_to("other/precious")

        for path in ("link", "file", "stale", "nowhere", "no/where"):
            files.remove(path)

        assert os.listdir(served[0]) == ["other"]
        assert (served[0] / "other" / "precious").read_bytes() == b"x"

    def test_a_name_that_would_be_a_command_is_never_sent(self, served, files):
        trees.write(served[0], {"victim": b"x"})

        for call in (lambda: files.remove("a\r\nDELE victim"), lambda: list(files.read("a\nDELE victim"))):
            with pytest.raises(AccessDenied, match="line break"):
                call()
        with pytest.raises(AccessDenied):
            files.place("a\r\nDELE victim", SmallBody(b"x"))

        assert os.listdir(served[0]) == ["victim"]
        assert (served[0] / "victim").exists()
        assert files.look("victim").size == 1


@needs_servers
def test_the_end_of_a_file_does_not_wait_for_an_acknowledgement(served, tls):
    """With Nagle's algorithm, it did: 40 ms for most files of 100 KB."""
    server = served[1]
    login = Login(
        name="the server",
        host="127.0.0.1",
        port=server.port,
        user=server.user,
        password=server.password,
        ca=tls.ca,
        connect_s=20,
        silence_s=20,
    )
    session = Session(login)
    session.begin(login)

    data = session.transfercmd(f"STOR {server.root}/x")

    assert data.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
    data.unwrap().close()
    session.voidresp()
    session.close()


@needs_servers
def test_names_with_line_breaks_are_refused_before_anything_is_sent(tmp_path, tls):
    folder = tmp_path / "served"
    folder.mkdir()
    with proftpd(tmp_path / "server", folder, tls) as server:
        url = f"ftps://127.0.0.1:{server.port}/inbox"
        site = Site("transport.ftps:FtpsTransport.from_settings", lambda _: _settings(server, tls, url=url))
        desk = Desk(folder, site)
        for number, name in enumerate(("new\r\nDELE x", "tab\there")):
            errand = desk.errand(trees.write(tmp_path / f"source {number}", {name: b"x"})).sealed()

            with pytest.raises(Rejected):
                errand.carry()

            assert not desk.data(errand).exists()


@needs_servers
def test_a_folder_that_may_only_be_read_is_fetched(tmp_path, tls):
    session = "PROJ/sub-001/MR1"
    folder = tmp_path / "served"
    source = trees.plain_tree(folder / session)
    inbox = Inbox.create(tmp_path / "inbox", limits=InboxLimits(keep_free_bytes=0))
    (tmp_path / "state").mkdir()
    now = [1_900_000_000.0]
    with vsftpd(tmp_path / "server", folder, tls, writable=False) as server:
        place = FtpsPlace.from_settings(_settings(server, tls))
        setting = Fetching("partner", place, FetchConfig(quiet=60.0), inbox, tmp_path / "state")
        fetcher = Fetcher(setting, clock=lambda: now[0])
        fetcher.round()
        now[0] += 100
        fetcher.round()
        with pytest.raises(LadingError):
            place.connect().place("x", SmallBody(b"x"))

    (parcel,) = [inbox.accept(delivery) for delivery in list(inbox.arrivals())]
    assert trees.look(parcel.root) == trees.look(source)
    assert not (folder / "x").exists()


@needs_servers
def test_a_plain_server_gets_no_password(tmp_path, tls):
    folder = tmp_path / "served"
    folder.mkdir()
    with (
        proftpd(tmp_path / "server", folder, tls, secure=False) as server,
        pytest.raises(LadingError) as caught,
    ):
        FtpsPlace.from_settings(_settings(server, tls)).connect()

    assert "no TLS" in caught.value.message


def test_ipv6_is_tried_before_ipv4_and_both_are_tried(monkeypatch):
    with socket.socket() as four:
        four.bind(("127.0.0.1", 0))
        four.listen()
        port = four.getsockname()[1]
        addresses = [
            (socket.AF_INET, socket.SOCK_STREAM, 6, "", ("127.0.0.1", port)),
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
        ]
        monkeypatch.setattr(socket, "getaddrinfo", lambda *_, **__: addresses)
        with connected("both.example", port, 5) as line:
            assert line.family == socket.AF_INET
        if not socket.has_ipv6:
            return
        try:
            six = socket.create_server(("::1", port), family=socket.AF_INET6)
        except OSError:
            pytest.skip("no IPv6 on this machine")
        with six, connected("both.example", port, 5) as line:
            assert line.family == socket.AF_INET6


@pytest.mark.parametrize(
    ("said", "kind"),
    [
        ("421 Too many connections", Unreachable),
        ("425 Can't open data connection", Unreachable),
        ("450 file busy", Unreachable),
        ("451 Failure writing to local file.", OutOfSpace),
        ("452 no", OutOfSpace),
        ("552 over quota", OutOfSpace),
        ("530 Login incorrect.", AccessDenied),
        ("530 Too many users, try again later", Unreachable),
        ("550 Permission denied.", AccessDenied),
        ("550 x: No such file or directory", Unreachable),
        ("550 x: No space left on device", OutOfSpace),
        ("553 Could not create file.", AccessDenied),
        ("522 SSL connection failed; session reuse required", AccessDenied),
        ("500 Unknown command", UnexpectedFault),
        ("hello", Unreachable),
    ],
)
def test_what_replies_mean(said, kind):
    error = meaning(said, "cannot write x")

    assert type(error) is kind
    assert error.message.startswith("cannot write x")


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("-rw-r--r--    1 0  0      1234 Jan 01 12:30  two  blanks ", (" two  blanks ", 1234, False)),
        ("drwxr-xr-x    2 ftp ftp   4096 Dec 31  2024 a folder", ("a folder", 0, True)),
        ("lrwxrwxrwx    1 0  0         3 Jan 01 12:30 link -> /etc", ("link", -1, False)),
        ("crw-rw-rw-    1 0  0    1,   3 Jan 01 12:30 null", ("null", -1, False)),
        ("drwxr-xr-x    2 0  0      4096 Jan 01 12:30 ..", None),
        ("-rw-r--r--    1 0  0         3 Jan 01 12:30 ../../etc/passwd", None),
        ("total 12", None),
    ],
)
def test_listings_for_people(line, expected):
    found = unix_entry(line, "")

    assert (found and (found.path, found.size, found.folder)) == expected


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("type=file;size=12;modify=20200102030405.5; a name", ("in/a name", 12, False)),
        ("Type=dir;Modify=20200102030405; d", ("in/d", 0, True)),
        ("type=cdir; .", None),
        ("type=file;size=1; ../x", None),
        ("type=OS.unix=slink:/etc; l", ("in/l", -1, False)),
        ("type=file;size=many; x", ("in/x", -1, False)),
        ("nonsense", None),
    ],
)
def test_listings_for_programs(line, expected):
    found = machine_entry(line, "in/")

    assert (found and (found.path, found.size, found.folder)) == expected


def test_settings_that_cannot_be_meant_are_refused():
    good = {"url": "ftps://server/in", "user": "u", "password": "env:X"}
    for change in (
        {"url": "server/in"},
        {"url": "ftps://u:secret@server/in"},
        {"url": "ftps://server/a/../b"},
        {"url": "ftps://server:99999/in"},
        {"url": "ftps://server/a\r\nDELE x"},
        {"streams": 0},
    ):
        with pytest.raises(ConfigError) as caught:
            FtpsTransport.from_settings(good | change, state=None)
        assert "secret" not in str(caught.value)


@needs_servers
def test_a_full_disk_is_called_so_wherever_the_last_write_ends(tmp_path, tls, served):
    with small_disk(served[0] / "disk", "1m") as disk:
        files = FtpsPlace.from_settings(_settings(served[1], tls)).connect()
        for size in (1 * MIB + 1, 3 * MIB + 4097):
            with pytest.raises(OutOfSpace):
                files.place("disk/large", SmallBody(trees.noise(size, size)))
            for left in disk.iterdir():
                left.unlink()
        files.close()
