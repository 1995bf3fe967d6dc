"""A bucket as folders and files: keys are paths, and a folder is what keys have in common."""

import base64
import binascii
from collections.abc import Iterator, Mapping
from contextlib import closing, suppress
from datetime import datetime
from typing import Any

from botocore import exceptions as boto

from lading.errors import AccessDenied, Corrupted, UnexpectedFault
from transport.foreign import shown
from transport.remote import BLOCK, Body, RemoteFile
from transport.s3_errors import Answers, code_of, is_absent
from transport.s3_uploads import Uploads

_CHECKSUMS = {"sha256": "ChecksumSHA256", "sha1": "ChecksumSHA1", "crc32": "ChecksumCRC32"}
_NO_BATCHES = frozenset({"InvalidRequest", "MalformedXML", "MethodNotAllowed", "MissingContentMD5", "NotImplemented"})


class S3Files:
    """See the role `RemoteFiles`. Connections are the client's own affair."""

    def __init__(
        self, client: Any, bucket: str, prefix: str, answers: Answers, uploads: Uploads, *, trust_checksums: bool
    ) -> None:
        self._client, self._bucket, self._prefix, self._answers, self._uploads = (
            client,
            bucket,
            prefix,
            answers,
            uploads,
        )
        self._trust_checksums = trust_checksums

    def look(self, path: str) -> RemoteFile | None:
        """See the role. The time is the one that the object was placed with, if it was."""
        with self._answers.translating("look at", path):
            if path:
                try:
                    head = self._client.head_object(Bucket=self._bucket, Key=self._key(path))
                except boto.ClientError as exc:
                    if not is_absent(exc):
                        raise
                else:
                    mtime = _kept_time(head.get("Metadata", {})) or _seconds(head.get("LastModified"))
                    return RemoteFile(path, int(head["ContentLength"]), mtime, version=str(head.get("ETag", "")))
            listing = self._client.list_objects_v2(Bucket=self._bucket, Prefix=self._folder_key(path), MaxKeys=1)
            return RemoteFile(path, 0, folder=True) if listing.get("KeyCount") or not path else None

    def listed(self, folder: str) -> Iterator[RemoteFile]:
        """See the role. No times: a listing only knows when an object was put there."""
        prefix = self._folder_key(folder)
        asking = {"Bucket": self._bucket, "Prefix": prefix, "Delimiter": "/"}
        while True:
            with self._answers.translating("list", folder):
                page = self._client.list_objects_v2(**asking)
            for common in page.get("CommonPrefixes", ()):
                yield RemoteFile(self._below(folder, prefix, common["Prefix"].removesuffix("/")), 0, folder=True)
            for item in page.get("Contents", ()):
                if item["Key"] != prefix:  # consoles put an empty object where people make a folder
                    path = self._below(folder, prefix, item["Key"])
                    yield RemoteFile(path, int(item["Size"]), version=str(item.get("ETag", "")))
            token = page.get("NextContinuationToken")
            if not page.get("IsTruncated") or not token or token == asking.get("ContinuationToken"):
                return
            asking["ContinuationToken"] = token

    def make_folders(self, path: str) -> None:
        """Nothing to do: a bucket has no folders."""

    def place(self, path: str, body: Body) -> None:
        """See the role. Continues the upload in parts that an earlier attempt began."""
        self._uploads.put(path, self._key(path), body)

    def read(self, path: str, offset: int = 0) -> Iterator[bytes]:
        """See the role. The whole object is compared with the checksum that the server keeps, if it keeps one."""
        # Not for a range: some servers answer it with the checksum of the whole.
        how = {"Range": f"bytes={offset}-"} if offset else {"ChecksumMode": "ENABLED"}
        with self._answers.translating("read", path):
            try:
                answer = self._client.get_object(Bucket=self._bucket, Key=self._key(path), **how)
            except boto.ClientError as exc:
                if code_of(exc) in {"InvalidRange", "416"}:
                    return
                if is_absent(exc):
                    raise Corrupted(f"{shown(path)} is no longer in {self._bucket}", paths=[path]) from exc
                raise
        expected, got = int(answer["ContentLength"]), 0
        with closing(answer["Body"]) as stream:
            while True:
                with self._answers.translating("read", path):
                    block = stream.read(BLOCK)
                if not block:
                    break
                got += len(block)
                yield block
        if got != expected:
            raise Corrupted(f"{shown(path)} ended after {got:,} of {expected:,} bytes", paths=[path])

    def digests(self, path: str, algorithms: tuple[str, ...]) -> Mapping[str, str]:
        """See the role. Only full-object checksums, never an ETag, and only of a server whose checksums are proofs."""
        if not self._trust_checksums or not set(algorithms) & set(_CHECKSUMS):
            return {}
        with self._answers.translating("look at", path):
            head = self._client.head_object(Bucket=self._bucket, Key=self._key(path), ChecksumMode="ENABLED")
        if head.get("ChecksumType", "FULL_OBJECT") != "FULL_OBJECT":
            return {}
        found = {name: _hex(head.get(_CHECKSUMS[name], "")) for name in algorithms if name in _CHECKSUMS}
        return {name: value for name, value in found.items() if value}

    def rename(self, old: str, new: str) -> None:
        """There is no such thing in S3."""
        raise UnexpectedFault(f"cannot rename {shown(old)} to {shown(new)}: objects of S3 cannot be renamed")

    def remove(self, path: str) -> None:
        """See the role. Unfinished uploads go too."""
        key = self._key(path)
        self._uploads.abort(key)
        found = self.look(path)
        if found is None:
            return
        if not found.folder:
            with self._answers.translating("remove", path):
                self._client.delete_object(Bucket=self._bucket, Key=key)
            return
        self._uploads.abort(f"{key}/", below=True)
        before: list[str] = []
        while keys := self._some_keys(f"{key}/"):
            if keys == before:
                raise AccessDenied(f"cannot remove {shown(path)} in {self._bucket}: the server says yes, and keeps it")
            with self._answers.translating("remove", path):
                self._delete(keys)
            before = keys

    def free_bytes(self) -> int | None:
        """S3 does not say."""
        return None

    def close(self) -> None:
        """The client is shared and stays."""

    def _some_keys(self, prefix: str) -> list[str]:
        with self._answers.translating("list", prefix):
            page = self._client.list_objects_v2(Bucket=self._bucket, Prefix=prefix)
        return [item["Key"] for item in page.get("Contents", ())]

    def _delete(self, keys: list[str]) -> None:
        # XML has no control characters, and makes another of a carriage return: such a batch would not name these keys.
        together = [key for key in keys if min(key) >= " "]
        one_by_one = [key for key in keys if min(key) < " "]
        if together:
            wanted = {"Objects": [{"Key": key} for key in together], "Quiet": True}
            try:
                answer = self._client.delete_objects(Bucket=self._bucket, Delete=wanted)
            except boto.ClientError as exc:
                if code_of(exc) not in _NO_BATCHES:
                    raise
                one_by_one = keys
            else:
                # One by one it either works or says why.
                one_by_one += [failed["Key"] for failed in answer.get("Errors", ())]
        for key in one_by_one:
            self._client.delete_object(Bucket=self._bucket, Key=key)

    def _key(self, path: str) -> str:
        return self._prefix + path

    def _folder_key(self, folder: str) -> str:
        return f"{self._prefix}{folder}/" if folder else self._prefix

    def _below(self, folder: str, prefix: str, key: str) -> str:
        """The path of a listed key. Keys are free text: what could not be a name in a folder is not passed on as one."""
        name = key.removeprefix(prefix)
        if not key.startswith(prefix) or "/" in name or "\0" in name or name in {"", ".", ".."}:
            raise UnexpectedFault(
                f"the bucket {self._bucket} has a key that cannot be a path: {shown(key)!r:.300}",
                safe="nothing was read or changed",
                next_command="rename or remove that object",
            )
        return f"{folder}/{name}" if folder else name


def _kept_time(metadata: Mapping[str, str]) -> float | None:
    with suppress(ValueError):
        return float(metadata.get("mtime", "")) or None
    return None


def _seconds(moment: object) -> float | None:
    return moment.timestamp() if isinstance(moment, datetime) else None


def _hex(checksum: str) -> str:
    """Base64 as hex; "" for a checksum of checksums ("…-7")."""
    if "-" in checksum:
        return ""
    with suppress(binascii.Error, ValueError):
        return base64.b64decode(checksum, validate=True).hex()
    return ""
