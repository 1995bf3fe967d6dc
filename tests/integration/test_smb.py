"""What is special about SMB: its names, its protection, parts that go on, and the worker process."""

import os
import signal
import time

import pytest

from lading.errors import AccessDenied, ConfigError, LadingError, Rejected, Unreachable
from lading.manifest import NameLimits
from lading.testing import trees
from lading.testing.servers import free_port
from lading.testing.site import Desk, Site
from lading.testing.smb_server import missing_for_smbd, smbd
from transport.bodies import SmallBody
from transport.remote import part_path
from transport.smb import SmbPlace

MIB = 1 << 20
needs_smbd = pytest.mark.skipif(bool(missing_for_smbd()), reason=missing_for_smbd())


def _settings(server, **changes):
    return {
        "share": "//127.0.0.1/inbox",
        "port": server.port,
        "user": server.user,
        "password": f"file:{server.password_file}",
    } | changes


@pytest.fixture
def share(tmp_path):
    """The folder that Samba shares, and the server."""
    folder = tmp_path / "share"
    folder.mkdir()
    with smbd(tmp_path / "samba", folder) as server:
        yield folder, server


@pytest.fixture
def files(share):
    """A connection."""
    connection = SmbPlace.from_settings(_settings(share[1])).connect()
    yield connection
    connection.close()


class _Counted(SmallBody):
    """A body that counts what is sent of it, and whose reader gives up after `good` bytes."""

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


@needs_smbd
class TestParts:
    def test_a_part_goes_on_where_it_ended_over_the_same_connection(self, share, files):
        content = trees.noise(1, 5 * MIB + 17)

        with pytest.raises(Unreachable, match="the source stopped"):
            files.place("a.dat", _Counted(content, 3 * MIB))
        assert not (share[0] / "a.dat").exists()
        rest = _Counted(content)
        files.place("a.dat", rest)

        assert rest.begun_at == 3 * MIB
        assert (share[0] / "a.dat").read_bytes() == content
        assert os.listdir(share[0]) == ["a.dat"]

    def test_a_part_whose_end_is_not_ours_is_written_anew(self, share, files):
        body = _Counted(trees.noise(1, 3 * MIB))
        (share[0] / part_path("a.dat", body)).write_bytes(trees.noise(2, 2 * MIB))

        files.place("a.dat", body)

        assert body.begun_at == 0
        assert (share[0] / "a.dat").read_bytes() == trees.noise(1, 3 * MIB)

    @pytest.mark.parametrize("hole", [5, 6, 7])
    def test_a_part_with_a_hole_goes_on_where_the_hole_begins(self, share, files, hole):
        """Blocks that are on their way together are written in any order; a line may be cut between them."""
        body = _Counted(trees.noise(1, 10 * MIB))
        begun = bytearray(trees.noise(1, 10 * MIB)[: 8 * MIB])
        begun[hole * MIB : (hole + 1) * MIB] = bytes(MIB)
        (share[0] / part_path("a.dat", body)).write_bytes(begun)

        files.place("a.dat", body)

        assert body.begun_at == hole * MIB
        assert (share[0] / "a.dat").read_bytes() == trees.noise(1, 10 * MIB)

    def test_a_part_that_is_too_long_is_written_anew(self, share, files):
        body = _Counted(b"short")
        (share[0] / part_path("a.dat", body)).write_bytes(b"much longer")

        files.place("a.dat", body)

        assert (share[0] / "a.dat").read_bytes() == b"short"

    def test_what_is_there_is_replaced_even_by_a_folder(self, share, files):
        (share[0] / "a.dat").write_bytes(b"old")
        (share[0] / "b.dat").mkdir()

        for name in ("a.dat", "b.dat"):
            files.place(name, SmallBody(b"new", 1_600_000_000.0))

        assert [(share[0] / name).read_bytes() for name in ("a.dat", "b.dat")] == [b"new", b"new"]


SMALL = {"empty": b"", "one": b"1", "just 64 KiB": trees.noise(3, 1 << 16), "almost 1 MiB": trees.noise(4, MIB - 1)} | {
    f"{number:03}.dat": trees.noise(number, 3_000 + number) for number in range(60)
}


@needs_smbd
@pytest.mark.parametrize(
    ("protection", "changes"),
    [
        ("", {}),
        ("smb encrypt = off", {"encrypt": False}),
        # As these, smbclient writes; the others are packed by hand.
        ("msdfs root = yes", {}),
        ("server min protocol = SMB2_02\nserver max protocol = SMB2_02", {"encrypt": False}),
    ],
    ids=["encrypted", "signed", "of a distributed file system", "signed, SMB 2.0"],
)
class TestWriting:
    @pytest.fixture
    def files(self, tmp_path, protection, changes):
        folder = tmp_path / "share"
        folder.mkdir()
        with smbd(tmp_path / "samba", folder, protection=protection) as server:
            connection = SmbPlace.from_settings(_settings(server, **changes)).connect()
            yield connection
            connection.close()

    def test_many_small_files_arrive_with_their_times(self, files, tmp_path):
        (tmp_path / "share" / "one").write_bytes(b"something longer was there")
        (tmp_path / "share" / "empty").mkdir()

        files.place_many((name, SmallBody(content, 1_600_000_000.0)) for name, content in SMALL.items())

        arrived = {path.name: path.read_bytes() for path in (tmp_path / "share").iterdir()}
        assert arrived == SMALL
        assert {path.stat().st_mtime for path in (tmp_path / "share").iterdir()} == {1_600_000_000.0}

    def test_a_large_file_arrives_and_another_behind_it(self, files, tmp_path):
        content = trees.noise(1, 11 * MIB + 7)

        for name in ("a.dat", "b.dat"):
            files.place(name, SmallBody(content, 1_600_000_000.0))

        assert [(tmp_path / "share" / name).read_bytes() == content for name in ("a.dat", "b.dat")] == [True, True]
        assert (tmp_path / "share" / "b.dat").stat().st_mtime == 1_600_000_000.0
        assert b"".join(files.read("b.dat", 5 * MIB)) == content[5 * MIB :]

    def test_the_one_that_is_refused_is_told_and_the_others_arrive(self, files, tmp_path):
        content = {"a": b"1", "nowhere/b": b"2", "c": b"3"}

        with pytest.raises(LadingError, match="cannot write nowhere/b"):
            files.place_many((name, SmallBody(body, 1_600_000_000.0)) for name, body in content.items())
        files.place("d", SmallBody(b"4", 1_600_000_000.0))

        assert sorted(path.name for path in (tmp_path / "share").iterdir()) == ["a", "c", "d"]
        assert files.look("d").size == 1

    def test_a_source_that_fails_leaves_the_connection_in_order(self, files, tmp_path):
        for good in (0, MIB, 7 * MIB):
            with pytest.raises(Unreachable, match="the source stopped"):
                files.place("a.dat", _Counted(trees.noise(1, 9 * MIB), good))
        files.place("a.dat", SmallBody(b"new", 1_600_000_000.0))

        assert (tmp_path / "share" / "a.dat").read_bytes() == b"new"


@needs_smbd
class TestConnection:
    def test_a_server_that_does_not_encrypt_is_refused(self, share, tmp_path):
        with (
            smbd(tmp_path / "plain", share[0], protection="smb encrypt = off") as server,
            pytest.raises(AccessDenied, match="protect the connection"),
        ):
            SmbPlace.from_settings(_settings(server)).connect()

    def test_a_guest_is_nobody(self, share, tmp_path):
        with (
            smbd(tmp_path / "open", share[0], protection="map to guest = Bad User") as server,
            pytest.raises(AccessDenied),
        ):
            SmbPlace.from_settings(_settings(server, user="somebody-unknown", encrypt=False)).connect()

    def test_a_share_that_is_not_there_is_named(self, share):
        for place in ("//127.0.0.1/elsewhere", "//127.0.0.1/inbox/elsewhere"):
            with pytest.raises((AccessDenied, Unreachable), match=r"no such share or folder|no share of that name"):
                SmbPlace.from_settings(_settings(share[1], share=place)).connect()

    def test_a_worker_that_was_killed_is_a_lost_connection(self, files):
        os.kill(files._line._process.pid, signal.SIGKILL)

        with pytest.raises(Unreachable):
            files.look("")

    def test_a_worker_ends_with_its_connection(self, files):
        files.close()

        assert files._line._process.returncode is not None
        with pytest.raises(Unreachable):
            files.look("")

    def test_nobody_listening_is_told_soon(self, share):
        start = time.monotonic()

        with pytest.raises(Unreachable):
            SmbPlace.from_settings(_settings(share[1], port=free_port(), connect_timeout=5)).connect()

        assert time.monotonic() - start < 60


@needs_smbd
class TestNames:
    def test_names_that_would_be_one_are_refused_before_anything_is_sent(self, share, tmp_path):
        server = share[1]
        reach = Site(
            "transport.smb:SmbTransport.from_settings",
            lambda inbox: _settings(server, share=f"//127.0.0.1/inbox/{inbox.relative_to(share[0]).as_posix()}"),
        )
        desk = Desk(share[0], reach)
        for number, names in enumerate((("a/Case.tif", "a/case.tif"), ("what?.dcm",), ("CON",), ("ends.",))):
            source = trees.write(tmp_path / f"source {number}", dict.fromkeys(names, b"x"))
            errand = desk.errand(source)

            with pytest.raises(Rejected):  # some by the manifest, for any target; the others by the transport
                errand.sealed().carry()

            assert not desk.data(errand).exists()

    def test_what_a_share_holds_comes_out_as_it_is(self, share, files):
        trees.write(share[0], {"ordner ü/datei.dcm": b"x", "ordner ü/leer": b"", "top": b"abc"})

        assert {(found.path, found.size, found.folder) for found in files.listed("")} == {
            ("ordner ü", 0, True),
            ("top", 3, False),
        }
        assert sorted(found.path for found in files.listed("ordner ü")) == ["ordner ü/datei.dcm", "ordner ü/leer"]
        assert list(files.listed("nowhere")) == []
        assert files.look("nowhere/at all") is None
        assert b"".join(files.read("ordner ü/datei.dcm")) == b"x"

    def test_many_files_are_listed_in_pages_and_removed(self, share, files):
        folder = trees.write(share[0], {f"many/{number}": b"" for number in range(603)})

        assert len(list(files.listed("many"))) == 603
        listing = files.listed("many")
        next(listing)
        listing.close()
        files.remove("many")

        assert not (folder / "many").exists()


class TestSettings:
    def test_what_cannot_be_meant_is_refused(self):
        good = {"share": "//server/share/folder", "user": "u", "password": "env:X"}
        for change in (
            {"share": "server/share"},
            {"share": "//server"},
            {"share": "//server/share/../other"},
            {"auth": "guess"},
            {"streams": 0},
            {"user": ""},
        ):
            with pytest.raises(ConfigError):
                SmbPlace.from_settings(good | change)

    def test_a_share_may_be_written_either_way(self):
        for share in ("//server/share/in box", "\\\\server\\share\\in box\\"):
            place = SmbPlace.from_settings({"share": share, "user": "u", "password": "env:X"})
            assert place.name == "//server/share/in box"
            assert place.traits.names is NameLimits.SMB
