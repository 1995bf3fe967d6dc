"""What WebDAV servers do that they should not, and what only Nextcloud can: hostile lists, redirects, chunks, checksums."""

import hashlib

import pytest

from lading.errors import AccessDenied, ConfigError, Corrupted, OutOfSpace, UnexpectedFault, Unreachable
from lading.testing import trees
from lading.testing.certificates import certificates
from lading.testing.dav_servers import nextcloud, wsgidav
from lading.testing.s3_servers import secret_file
from lading.testing.scripted import Said, scripted
from transport.bodies import SmallBody
from transport.webdav import WebdavPlace

MIB = 1 << 20


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return certificates(tmp_path_factory.mktemp("tls"))


def _reach(server, tls, **changes):
    return WebdavPlace.from_settings(
        {"url": server.url, "user": server.user, "password": f"file:{server.password_file}", "ca": str(tls.ca)}
        | changes
    )


@pytest.fixture
def cloud(tmp_path, tls):
    """A folder, and a connection to the Nextcloud that serves it; chunks of 5 MiB."""
    served = tmp_path / "served"
    served.mkdir()
    with nextcloud(tmp_path / "nextcloud", served, tls) as server:
        yield served, _reach(server, tls, chunk_mib=5).connect(), tmp_path / "nextcloud" / "uploads"


def _scripted_place(tmp_path, url, **changes):
    secret = secret_file(tmp_path / "password", "a-secret-password")
    return WebdavPlace.from_settings({"url": url, "user": "lab", "password": f"file:{secret}"} | changes).connect()


class _Cut(SmallBody):
    """A body whose reader gives up after `good` bytes."""

    def __init__(self, content, good):
        super().__init__(content, 1_600_000_000.0)
        self._good = good

    def blocks(self, offset=0, length=None):
        for number, block in enumerate(super().blocks(offset, length)):
            if number * MIB >= self._good:
                raise Unreachable("cut")
            yield block


class TestNextcloud:
    def test_a_cut_upload_goes_on_with_the_chunks_that_are_missing(self, cloud):
        served, files, uploads = cloud
        content = trees.noise(1, 17 * MIB)
        with pytest.raises(Unreachable):
            files.place("large", _Cut(content, 12 * MIB))
        (upload,) = uploads.iterdir()
        # The server may not have noticed yet that the third is cut short: then it has another name still.
        before = sorted(path.name for path in upload.iterdir() if path.name.isdecimal())
        assert list(served.iterdir()) == []
        (upload / "00003").write_bytes(b"half a chunk")

        files.place("large", SmallBody(content, 1_600_000_000.0))

        assert before == ["00001", "00002"]
        assert (served / "large").read_bytes() == content
        assert int((served / "large").stat().st_mtime) == 1_600_000_000
        assert list(uploads.iterdir()) == []

    def test_a_chunk_that_was_damaged_meanwhile_is_found_by_the_servers_own_checksum(self, cloud):
        served, files, uploads = cloud
        content = trees.noise(1, 12 * MIB)
        with pytest.raises(Unreachable):
            files.place("large", _Cut(content, 8 * MIB))
        (upload,) = uploads.iterdir()
        (upload / "00001").write_bytes(trees.noise(2, 5 * MIB))

        with pytest.raises(Corrupted, match="SHA-256"):
            files.place("large", SmallBody(content))
        assert not (served / "large").exists()
        files.place("large", SmallBody(content))

        assert (served / "large").read_bytes() == content

    def test_checksums_are_computed_from_the_disk_not_remembered(self, cloud):
        served, files, _ = cloud
        files.place("file", SmallBody(b"content"))
        told = files.look("file").digests
        (served / "file").write_bytes(b"CONTENT")

        computed = files.digests("file", ("md5", "sha256"))

        assert told == {"sha256": hashlib.sha256(b"content").hexdigest()}
        assert computed == {"sha256": hashlib.sha256(b"CONTENT").hexdigest()}
        assert files.digests("nothing", ("sha256",)) == {}

    def test_it_says_what_room_is_left(self, cloud):
        assert cloud[1].free_bytes() > MIB

    def test_a_url_that_names_no_user_is_refused(self, tmp_path):
        with pytest.raises(ConfigError, match="dav/files/USER"):
            _scripted_place(tmp_path, "http://127.0.0.1/cloud", server="nextcloud")


@pytest.mark.parametrize("kind", ["nextcloud", "wsgidav"])
def test_names_and_content_come_back_exactly(tmp_path, tls, kind):
    served = tmp_path / "served"
    served.mkdir()
    names = [name.decode() for name in trees.NASTY_NAMES if _is_utf8(name) and len(name) <= 250]
    if kind == "nextcloud":
        names = [name for name in names if "\\" not in name and min(name) >= " "]
    else:
        # WsgiDAV 4.4 cuts the target of a move at ; and ? and drops line ends from it: more than Windows refuses.
        names = [name for name in names if not (set(name) & set(";?*\\") or min(name) < " ")]
    with (nextcloud if kind == "nextcloud" else wsgidav)(tmp_path / "server", served, tls) as server:
        files = _reach(server, tls).connect()
        files.make_folders("nasty ü/#deep %2F/er")

        for name in names:
            files.place(f"nasty ü/#deep %2F/er/{name}", SmallBody(name.encode()))

        folder = served / "nasty ü/#deep %2F/er"
        assert {path.name: path.read_bytes() for path in folder.iterdir()} == {name: name.encode() for name in names}
        listed = {found.path.rpartition("/")[2] for found in files.listed("nasty ü/#deep %2F/er")}
        assert listed == set(names)
        assert b"".join(files.read(f"nasty ü/#deep %2F/er/{names[0]}", 3)) == names[0].encode()[3:]
        files.remove("nasty ü")
        assert list(served.iterdir()) == []


def _multistatus(*hrefs, before=b""):
    inner = "".join(
        f"<d:response><d:href>{href}</d:href><d:propstat><d:prop><d:resourcetype/><d:getcontentlength>3</d:getcontentlength>"
        "</d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>"
        for href in hrefs
    )
    body = f'<d:multistatus xmlns:d="DAV:">{inner}</d:multistatus>'.encode()
    return Said(207, b'<?xml version="1.0"?>' + before + body, {"Content-Type": "application/xml"})


class TestHostileServers:
    @pytest.mark.parametrize(
        "href", ["/inbox/f/..", "/inbox/f/%2e%2e", "/inbox/f/a%2Fb", "/etc/passwd", "/inbox/f/a/b", "x%00"]
    )
    def test_what_does_not_lie_in_the_folder_is_not_passed_on(self, tmp_path, href):
        with scripted(lambda asked: _multistatus("/inbox/f/", "/inbox/f/good", href)) as server:
            files = _scripted_place(tmp_path, f"{server.url}/inbox")

            with pytest.raises(UnexpectedFault):
                list(files.listed("f"))

    def test_a_list_with_links_to_another_host_is_read_as_a_list(self, tmp_path):
        answer = _multistatus("http://elsewhere.example/inbox/f/", "http://elsewhere.example/inbox/f/a%20b")
        with scripted(lambda asked: answer) as server:
            found = list(_scripted_place(tmp_path, f"{server.url}/inbox").listed("f"))

        assert [(file.path, file.size) for file in found] == [("f/a b", 3)]

    def test_an_xml_bomb_does_not_go_off(self, tmp_path):
        bomb = b'<!DOCTYPE x [<!ENTITY a "aaaaaaaaaa"><!ENTITY b "&a;&a;&a;&a;&a;&a;&a;&a;">]>'
        with scripted(lambda asked: _multistatus("/inbox/&b;", before=bomb)) as server:
            files = _scripted_place(tmp_path, f"{server.url}/inbox")

            with pytest.raises(UnexpectedFault, match="bomb"):
                list(files.listed(""))

    def test_an_endless_property_is_cut_short(self, tmp_path):
        with scripted(lambda asked: _multistatus("/inbox/" + "a" * 200_000)) as server:
            files = _scripted_place(tmp_path, f"{server.url}/inbox")

            with pytest.raises(UnexpectedFault, match="property"):
                list(files.listed(""))

    def test_half_a_list_is_no_list(self, tmp_path):
        whole = _multistatus("/inbox/", "/inbox/a")
        with scripted(lambda asked: Said(207, whole.body[:-30])) as server:
            files = _scripted_place(tmp_path, f"{server.url}/inbox")

            with pytest.raises(Unreachable):
                list(files.listed(""))

    def test_the_login_does_not_follow_a_redirect_to_another_host(self, tmp_path):
        with (
            scripted(lambda asked: Said(200)) as thief,
            scripted(lambda asked: Said(302, headers={"Location": f"{thief.url}/inbox/file"})) as server,
        ):
            files = _scripted_place(tmp_path, f"{server.url}/inbox")
            for call in (
                lambda: files.place("file", SmallBody(b"content")),
                lambda: files.look("file"),
                lambda: list(files.read("file")),
            ):
                with pytest.raises(AccessDenied) as caught:
                    call()
                assert "a-secret-password" not in str(caught.value)

        assert thief.asked == []

    def test_a_redirect_within_the_server_is_followed_when_reading(self, tmp_path):
        def answer(asked):
            return Said(200, b"abc") if asked.path == "/real/file" else Said(301, headers={"Location": "/real/file"})

        with scripted(answer) as server:
            assert b"".join(_scripted_place(tmp_path, f"{server.url}/inbox").read("file")) == b"abc"

    def test_a_server_that_ignores_ranges_is_understood(self, tmp_path):
        with scripted(lambda asked: Said(200, b"0123456789")) as server:
            assert b"".join(_scripted_place(tmp_path, f"{server.url}/inbox").read("file", 4)) == b"456789"

    def test_a_body_that_ends_early_is_not_a_file(self, tmp_path):
        said = Said(200, b"01234", {"Content-Length": "10", "Connection": "close"})
        with scripted(lambda asked: said) as server, pytest.raises(Unreachable):
            list(_scripted_place(tmp_path, f"{server.url}/inbox", timeout=2).read("file"))

    @pytest.mark.parametrize(
        ("status", "kind"),
        [
            (401, AccessDenied),
            (403, AccessDenied),
            (405, AccessDenied),
            (409, Unreachable),
            (413, OutOfSpace),
            (423, Unreachable),
            (429, Unreachable),
            (500, Unreachable),
            (503, Unreachable),
            (507, OutOfSpace),
            (418, UnexpectedFault),
        ],
    )
    def test_a_refusal_is_translated(self, tmp_path, status, kind):
        with (
            scripted(lambda asked: Said(status, b"<html><b>because</b></html>")) as server,
            pytest.raises(kind) as caught,
        ):
            _scripted_place(tmp_path, f"{server.url}/inbox").place("file", SmallBody(b"content"))

        assert str(status) in str(caught.value)
        assert "because" in str(caught.value)
        assert "<" not in str(caught.value)


class TestSettings:
    @pytest.mark.parametrize(
        ("changes", "word"),
        [
            ({"url": "http://cloud.example.org/dav"}, "https"),
            ({"url": "https://me:secret@cloud.example.org/dav"}, "login"),
            ({"url": "https://cloud.example.org/dav?x=1"}, "url"),
            ({"user": "me"}, "password"),
            ({"server": "owncloud9"}, "server"),
            ({"names": "dos"}, "names"),
            ({"chunk_mib": 1}, "chunk_mib"),
            ({"ca": "/does/not/exist"}, "ca"),
        ],
    )
    def test_what_cannot_work_is_refused_at_the_start(self, changes, word):
        with pytest.raises(ConfigError, match=word) as caught:
            WebdavPlace.from_settings({"url": "https://cloud.example.org/dav"} | changes)

        assert "secret@" not in str(caught.value)

    @pytest.mark.parametrize(
        ("url", "whole", "windows"),
        [
            ("https://c.example.org/remote.php/dav/files/me/Inbox", True, False),
            ("https://c.example.org/dav", False, False),
            ("https://c.example.org/seafdav/lib", False, True),
        ],
    )
    def test_the_kind_of_server_decides_what_is_promised(self, url, whole, windows):
        kind = {"server": "seafile"} if windows else {}

        traits = WebdavPlace.from_settings({"url": url, **kind}).traits

        assert (traits.whole, traits.resumes, traits.keeps_mtime, traits.names.windows) == (
            whole,
            whole,
            whole,
            windows,
        )


def _is_utf8(name):
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
