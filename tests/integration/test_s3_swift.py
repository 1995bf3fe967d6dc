"""The S3 transport over OpenStack Swift, which believes nothing: every checksum and signature is computed again."""

import base64
import hashlib

import pytest

from lading.errors import AccessDenied, Corrupted, Unreachable
from lading.testing import trees
from lading.testing.swift_server import missing_for_swift, swift_s3
from transport.bodies import SmallBody
from transport.s3 import S3Place

MIB = 1 << 20
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_for_swift()), reason=missing_for_swift()),
]


@pytest.fixture(scope="module")
def settings(tmp_path_factory):
    with swift_s3(tmp_path_factory.mktemp("swift")) as server:
        settings = {
            "endpoint": server.endpoint,
            "bucket": "bucket",
            "prefix": "in/box",
            "access_key": server.access_key,
            "secret_key": f"file:{server.secret_file}",
            "addressing": "path",
            "part_mib": 5,
            "parts_at_once": 2,
        }
        place = S3Place.from_settings(settings)
        place.connect()
        place._client.create_bucket(Bucket="bucket")
        yield settings | {"wrong": f"file:{server.wrong_secret_file}"}


def _place(settings, **changes):
    return S3Place.from_settings({key: value for key, value in settings.items() if key != "wrong"} | changes)


def test_names_come_back_exactly_control_characters_too(settings):
    files = _place(settings).connect()
    names = [name.decode() for name in trees.NASTY_NAMES if _is_utf8(name)]

    for name in names:
        files.place(f"nasty/{name}", SmallBody(name.encode()))

    assert {found.path for found in files.listed("nasty")} == {f"nasty/{name}" for name in names}
    assert all(b"".join(files.read(f"nasty/{name}")) == name.encode() for name in names)
    assert files.look("nasty").folder
    files.remove("nasty")
    assert files.look("nasty") is None


def test_an_upload_that_was_cut_goes_on_and_arrives_whole(settings):
    content = trees.noise(3, 17 * MIB)

    class Cut(SmallBody):
        def blocks(self, offset=0, length=None):
            for number, block in enumerate(super().blocks(offset, length)):
                if number == 12:
                    raise Unreachable("cut")
                yield block

    with pytest.raises(Unreachable):
        _place(settings).connect().place("large", Cut(content))
    files = _place(settings).connect()
    assert files.look("large") is None
    (upload,) = files._uploads._unfinished("in/box/large")

    files.place("large", SmallBody(content, 1_600_000_000.0))

    assert b"".join(files.read("large")) == content
    assert files._uploads._unfinished("in/box/large") == []
    assert upload["Key"] == "in/box/large"


def test_a_wrong_checksum_is_refused_by_the_server(settings):
    place = _place(settings)
    files = place.connect()
    other = base64.b64encode(hashlib.sha256(b"other").digest()).decode()

    with pytest.raises(Corrupted), files._answers.translating("put", "file"):
        place._client.put_object(Bucket="bucket", Key="in/box/file", Body=b"content", ChecksumSHA256=other)

    assert files.look("file") is None


def test_the_time_is_kept_with_the_object(settings):
    files = _place(settings).connect()

    files.place("timed", SmallBody(b"x", 1_600_000_000.25))

    assert files.look("timed").mtime == 1_600_000_000.25


def test_a_wrong_secret_is_refused(settings):
    with pytest.raises(AccessDenied):
        _place(settings, secret_key=settings["wrong"]).connect().look("file")


def _is_utf8(name):
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
