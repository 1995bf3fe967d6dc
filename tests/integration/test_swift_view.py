"""What shows a bucket of Swift as a folder: the suite over Swift is worth as much as this sees."""

import pytest

from lading.testing import trees
from lading.testing.certificates import certificates
from lading.testing.naming import TOO_LONG
from lading.testing.site import flip_a_byte, inodes
from lading.testing.swift_server import missing_for_swift, swift_with_back_door
from lading.testing.swift_view import SwiftView
from transport.bodies import SmallBody
from transport.s3 import S3Place

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(bool(missing_for_swift()), reason=missing_for_swift()),
]


@pytest.fixture(scope="module")
def swift(tmp_path_factory):
    tls = certificates(tmp_path_factory.mktemp("tls"))
    with swift_with_back_door(tmp_path_factory.mktemp("swift"), tls) as server:
        yield server


@pytest.fixture
def view(swift, request):
    view = SwiftView(swift.back_door, request.node.name.replace("_", "-")[:60].strip("-"))
    with view.shown():
        yield view


@pytest.fixture
def files(swift, view):
    settings = {
        "endpoint": swift.s3.endpoint,
        "bucket": view.bucket,
        "prefix": "in/box",
        "access_key": swift.s3.access_key,
        "secret_key": f"file:{swift.s3.secret_file}",
        "addressing": "path",
        "part_mib": 5,
    }
    return S3Place.from_settings(settings).connect()


@pytest.fixture
def folder(tmp_path, view):
    folder = trees.write(tmp_path / "shown", {"put/by the test": b"content"})
    view.show("in/box", folder)
    return folder


def test_each_side_follows_what_the_other_did(view, files, folder):
    assert b"".join(files.read("put/by the test")) == b"content"
    files.place("a/large", SmallBody(trees.noise(1, 12 << 20), 1_600_000_000.0))
    files.place("a/line\nend", SmallBody(b"x"))

    view.look()

    assert (folder / "a/large").read_bytes() == trees.noise(1, 12 << 20)
    assert (folder / "a/large").stat().st_mtime == 1_600_000_000.0
    assert view.unseen(folder / "a") == 12 << 20
    flip_a_byte(folder / "a/large")
    (folder / "put/by the test").unlink()
    files.remove("a/line\nend")
    view.look()
    assert trees.look(folder).keys() == {"a/large"}
    assert b"".join(files.read("a/large")) == (folder / "a/large").read_bytes() != trees.noise(1, 12 << 20)
    assert files.look("put/by the test") is None


def test_what_was_put_again_is_another_file_though_its_content_is_the_same(view, files, folder):
    files.place("again", SmallBody(b"x", 1_600_000_000.0))
    files.place("once", SmallBody(b"x", 1_600_000_000.0))
    view.look()
    before = inodes(folder)

    files.place("again", SmallBody(b"x", 1_600_000_000.0))
    view.look()

    after = inodes(folder)
    assert {path for path in after if after[path] != before[path]} == {"again"}


def test_a_name_that_no_folder_can_hold_is_left_out(view, files, folder):
    files.place(f"a/{TOO_LONG.decode()}", SmallBody(b"x"))
    files.place("a/b", SmallBody(b"x"))

    view.look()

    assert trees.look(folder).keys() == {"put/by the test", "a/b"}


def test_what_changed_on_both_sides_is_an_error(view, files, folder):
    files.place("put/by the test", SmallBody(b"from there"))
    (folder / "put/by the test").write_bytes(b"from here")

    with pytest.raises(RuntimeError, match="by the test"):
        view.look()
