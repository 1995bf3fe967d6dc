"""Puts objects: small ones in one request, large ones in parts that a later attempt can go on with.

Every request carries the MD5 of its bytes, which every server checks, and a CRC-32 ahead of them; the finished object is
closed with the CRC-32 of the whole, so that a part in the wrong place is refused. An ETag is only ever used to recognise a
part of our own.
"""

import base64
import hashlib
import threading
import zlib
from collections.abc import Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

from botocore import exceptions as boto

from lading.errors import AccessDenied, Corrupted, LadingError, SourceChanged, UnexpectedFault, Unreachable
from transport.foreign import shown
from transport.remote import BLOCK, Body
from transport.s3_crc import joined
from transport.s3_errors import Answers, code_of, is_absent
from transport.s3_stale import Stale

MIB = 1 << 20
SMALLEST_PART = 5 * MIB
_MOST_PARTS = 10_000


@dataclass(frozen=True, slots=True)
class _Upload:
    """An unfinished upload, by its id; `parts`: what the server had of it, as it lists them."""

    path: str
    key: str
    id: str
    parts: Mapping[int, Mapping[str, Any]]


class _Part:
    """A piece of a body. Its checksums are computed by whoever asks first: the thread that sends it."""

    def __init__(self, number: int, data: bytes) -> None:
        self.number, self.data = number, data

    @cached_property
    def md5(self) -> bytes:
        return hashlib.md5(self.data, usedforsecurity=False).digest()

    @cached_property
    def crc(self) -> int:
        return zlib.crc32(self.data)


@dataclass(frozen=True, slots=True)
class _Sent:
    """A part that the server has, as it told us, and what it is made of."""

    answer: Mapping[str, Any]
    crc: int
    size: int


class _OtherContentError(Exception):
    """An unfinished upload of the same key holds something else."""


class Uploads:
    """Puts objects into one bucket. Safe to share between threads."""

    def __init__(
        self,
        client: Any,
        bucket: str,
        answers: Answers,
        hands: ThreadPoolExecutor,
        *,
        parts_at_once: int,
        part_bytes: int,
        with_checksum: bool,
        extra: Mapping[str, str],
        stale_prefix: str,
        stale: Stale,
    ) -> None:
        self._client, self._bucket, self._answers, self._hands = client, bucket, answers, hands
        self._part_bytes, self._with_checksum, self._extra = part_bytes, with_checksum, extra
        # Bounds memory: a part is in memory from its first byte until the server has it.
        self._room = threading.BoundedSemaphore(parts_at_once)
        self._stale_prefix, self._stale = stale_prefix, stale

    def put(self, path: str, key: str, body: Body) -> None:
        """`key` is the body, whole. `path` is for messages."""
        with self._stale.putting(key):
            self._abort_stale()
            self._put(path, key, body)

    def _put(self, path: str, key: str, body: Body) -> None:
        if body.size <= self._part_bytes:
            with self._room:
                self._put_whole(path, key, body)
            return
        begun = self._own_upload(path, key)
        if begun:
            try:
                self._put_parts(begun, body)
            except _OtherContentError:
                self._abort(key, begun.id)
            else:
                return
        self._put_parts(self._begin(path, key, body), body)

    def abort(self, prefix: str, *, below: bool = False) -> None:
        """Give up the unfinished uploads of one key or, with `below`, of all keys that begin so."""
        for item in self._unfinished(prefix):
            if below or item["Key"] == prefix:
                self._abort(item["Key"], item["UploadId"])

    # -- in one request ----------------------------------------------------------------------------------------------

    def _put_whole(self, path: str, key: str, body: Body) -> None:
        data = b"".join(body.blocks())
        md5 = hashlib.md5(data, usedforsecurity=False).digest()
        sha256 = {"ChecksumSHA256": _base64(_sha256_of(body, data))} if self._with_checksum else {}
        with self._answers.translating("put", path):
            self._client.put_object(
                Bucket=self._bucket,
                Key=key,
                Body=data,
                ContentMD5=_base64(md5),
                Metadata=_metadata(body),
                **sha256,
                **self._extra,
            )

    # -- in parts ----------------------------------------------------------------------------------------------------

    def _put_parts(self, upload: _Upload, body: Body) -> None:
        try:
            parts, crc = self._send_parts(upload, body)
            self._finish(upload, body, parts, crc)
        except (SourceChanged, Corrupted):
            self._abort(upload.key, upload.id)
            raise

    def _begin(self, path: str, key: str, body: Body) -> _Upload:
        checksum = {"ChecksumAlgorithm": "CRC32", "ChecksumType": "FULL_OBJECT"} if self._with_checksum else {}
        with self._answers.translating("begin an upload of", path):
            answer = self._client.create_multipart_upload(
                Bucket=self._bucket, Key=key, Metadata=_metadata(body), **checksum, **self._extra
            )
        return _Upload(path, key, str(answer["UploadId"]), {})

    def _own_upload(self, path: str, key: str) -> _Upload | None:
        """The latest unfinished upload of `key` and the parts that the server has of it; others are given up."""
        own = sorted((item for item in self._unfinished(key) if item["Key"] == key), key=_begun_at)
        for older in own[:-1]:
            self._abort(key, older["UploadId"])
        if not own:
            return None
        upload = str(own[-1]["UploadId"])
        parts = self._parts_there(path, key, upload)
        return None if parts is None else _Upload(path, key, upload, parts)

    def _parts_there(self, path: str, key: str, upload: str) -> Mapping[int, Mapping[str, Any]] | None:
        """The parts that the server has of an upload; None when there is no such upload any more."""
        try:
            with self._answers.translating("look at the parts of", path):
                pages = self._client.get_paginator("list_parts").paginate(Bucket=self._bucket, Key=key, UploadId=upload)
                return {int(part["PartNumber"]): part for page in pages for part in page.get("Parts", ())}
        except Unreachable as exc:
            if isinstance(exc.__cause__, boto.ClientError) and code_of(exc.__cause__) == "NoSuchUpload":
                return None
            raise

    def _send_parts(self, upload: _Upload, body: Body) -> tuple[list[Mapping[str, Any]], int]:
        """Every part of the body, in order, as the server has it now; and the CRC-32 of the whole."""
        sending: dict[int, Future[_Sent]] = {}
        done: dict[int, _Sent] = {}
        try:
            for part in self._parts(body):
                if part.number in upload.parts:
                    self._room.release()
                    done[part.number] = _Sent(_same(upload.parts[part.number], part), part.crc, len(part.data))
                    continue
                future = self._hands.submit(self._send_part, upload, part)
                future.add_done_callback(lambda _: self._room.release())
                sending[part.number] = future
                for number in [number for number, other in sending.items() if other.done()]:
                    done[number] = sending.pop(number).result()
            done.update({number: future.result() for number, future in sending.items()})
        finally:
            for future in sending.values():
                future.cancel()
            # What is on its way still arrives: it counts next time, and would outlive the end of its upload.
            wait(sending.values())
        crc = 0
        for number in sorted(done):
            crc = joined(crc, done[number].crc, done[number].size)
        return [_listed(number, done[number].answer) for number in sorted(done)], crc

    def _parts(self, body: Body) -> Iterator[_Part]:
        """The body cut into parts. Room is taken for each; whoever takes the part gives it back."""
        size = max(self._part_bytes, -(-body.size // _MOST_PARTS))
        blocks, number, rest = body.blocks(), 0, b""
        while True:
            self._room.acquire()
            try:
                pieces, missing = [rest[:size]], size - len(rest)
                rest = rest[size:]
                while missing > 0 and (block := next(blocks, b"")):
                    pieces.append(block[:missing])
                    rest = block[missing:]
                    missing -= len(block)
                data = b"".join(pieces)
                del pieces
            except BaseException:
                self._room.release()
                raise
            if not data:
                self._room.release()
                return
            number += 1
            yield _Part(number, data)

    def _send_part(self, upload: _Upload, part: _Part) -> "_Sent":
        checksum = {"ChecksumCRC32": _crc(part.crc)} if self._with_checksum else {}
        with self._answers.translating(f"put part {part.number} of", upload.path):
            answer: Mapping[str, Any] = self._client.upload_part(
                Bucket=self._bucket,
                Key=upload.key,
                UploadId=upload.id,
                PartNumber=part.number,
                Body=part.data,
                ContentMD5=_base64(part.md5),
                **checksum,
            )
        return _Sent(answer, part.crc, len(part.data))

    def _finish(self, upload: _Upload, body: Body, parts: list[Mapping[str, Any]], crc: int) -> None:
        checksum = {"ChecksumCRC32": _crc(crc), "ChecksumType": "FULL_OBJECT"} if self._with_checksum else {}
        try:
            with self._answers.translating("finish", upload.path):
                answer = self._client.complete_multipart_upload(
                    Bucket=self._bucket,
                    Key=upload.key,
                    UploadId=upload.id,
                    MultipartUpload={"Parts": parts},
                    **checksum,
                )
        except (Unreachable, UnexpectedFault) as exc:
            code = code_of(exc.__cause__) if isinstance(exc.__cause__, boto.ClientError) else ""
            if code == "InvalidPart":  # some servers lose a part that was sent once more because its answer was late
                raise Corrupted(
                    f"{shown(upload.path)} is not whole: the server has lost one of its parts", paths=[upload.path]
                ) from exc
            if code != "NoSuchUpload":
                raise
            # The answer to a first try may have been lost, and the upload is the object now. Or it was given up by somebody
            # else, and what is there is of another delivery.
            if not self._is_there(upload, body.size, crc):
                raise Unreachable(
                    f"the upload of {shown(upload.path)} is gone before it was finished", safe="it is sent once more"
                ) from exc
            return
        with self._answers.translating("look at", upload.path):
            head = self._client.head_object(Bucket=self._bucket, Key=upload.key)
        told = str(answer.get("ChecksumCRC32") or _crc(crc))
        is_whole_crc = "-" not in told and answer.get("ChecksumType", "FULL_OBJECT") == "FULL_OBJECT"
        if int(head["ContentLength"]) != body.size or (is_whole_crc and self._with_checksum and told != _crc(crc)):
            self._client.delete_object(Bucket=self._bucket, Key=upload.key)
            raise Corrupted(
                f"{shown(upload.path)} arrived with {head['ContentLength']:,} bytes and CRC-32 {told}, "
                f"not {body.size:,} and {_crc(crc)}",
                paths=[upload.path],
            )

    def _is_there(self, upload: _Upload, size: int, crc: int) -> bool:
        """Whether the object, read back, has that size and CRC-32."""
        found_crc = found_size = 0
        with self._answers.translating("read back", upload.path):
            try:
                stream = self._client.get_object(Bucket=self._bucket, Key=upload.key)["Body"]
            except boto.ClientError as exc:
                if is_absent(exc):
                    return False
                raise
            with closing(stream):
                while found_size <= size and (block := stream.read(BLOCK)):
                    found_crc = zlib.crc32(block, found_crc)
                    found_size += len(block)
        return (found_size, found_crc) == (size, crc)

    # -- what others left --------------------------------------------------------------------------------------------

    def _abort_stale(self) -> None:
        """At the first object, and then once a day: parts of uploads that nobody will finish cost money and are in no listing."""
        if not self._stale.is_due():
            return
        # Some accounts may put but not list uploads: that is the bucket's life-cycle rule's work then.
        with suppress(LadingError):
            for item in self._unfinished(self._stale_prefix):
                if self._is_stale(item):
                    with self._stale.sparing(item["Key"]) as free:
                        if free:
                            self._abort(item["Key"], item["UploadId"])

    def _is_stale(self, item: Mapping[str, Any]) -> bool:
        """Whether it was begun long ago, and no part has come for as long: one large file may take another sender a week."""
        if not self._stale.is_old(_begun_at(item)):
            return False
        try:
            parts = self._parts_there(item["Key"], item["Key"], item["UploadId"])
        except AccessDenied:  # of another account, whose upload is not ours to give up
            return False
        return parts is not None and all(
            self._stale.is_old(_moment(part.get("LastModified"))) for part in parts.values()
        )

    def _unfinished(self, prefix: str) -> list[Mapping[str, Any]]:
        with self._answers.translating("list the unfinished uploads of", prefix):
            try:
                answer = self._client.list_multipart_uploads(Bucket=self._bucket, Prefix=prefix)
            except boto.ClientError as exc:
                if code_of(exc) == "NoSuchUpload":  # how rclone says that there are none
                    return []
                raise
        return [item for item in answer.get("Uploads", ()) if str(item["Key"]).startswith(prefix)]

    def _abort(self, key: str, upload: str) -> None:
        with suppress(LadingError), self._answers.translating("give up the upload of", key):
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload)


def _same(there: Mapping[str, Any], part: _Part) -> Mapping[str, Any]:
    """The server's part, if it is ours. With a KMS key an ETag is no MD5: then the checksum, where it is kept, tells.

    Raises _OtherContentError: not every server lets a part be replaced.
    """
    is_md5 = str(there.get("ETag", "")).strip('"') == part.md5.hex()
    if int(there.get("Size", -1)) == len(part.data) and (is_md5 or there.get("ChecksumCRC32") == _crc(part.crc)):
        return there
    raise _OtherContentError


def _listed(number: int, part: Mapping[str, Any]) -> Mapping[str, Any]:
    checksum = {"ChecksumCRC32": part["ChecksumCRC32"]} if part.get("ChecksumCRC32") else {}
    return {"PartNumber": number, "ETag": part["ETag"], **checksum}


def _sha256_of(body: Body, data: bytes) -> bytes:
    """Of `data`, all that `body` is; as the body must have it where that is known: whatever happens from here on is noticed."""
    known = body.digests.get("sha256")
    return bytes.fromhex(known) if known else hashlib.sha256(data).digest()


def _metadata(body: Body) -> Mapping[str, str]:
    """Kept with the object, under the name that rclone uses: its time."""
    return {"mtime": f"{body.mtime:.9f}"}


def _begun_at(item: Mapping[str, Any]) -> datetime:
    return _moment(item.get("Initiated"))


def _moment(told: object) -> datetime:
    """A time as a server tells it. What it does not tell is now: nothing is given up for that."""
    if not isinstance(told, datetime):
        return datetime.now(UTC)
    return told if told.tzinfo else told.replace(tzinfo=UTC)


def _crc(value: int) -> str:
    return _base64(value.to_bytes(4, "big"))


def _base64(digest: bytes) -> str:
    return base64.b64encode(digest).decode("ascii")
