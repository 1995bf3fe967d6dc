"""Nextcloud's and ownCloud's own ways beside WebDAV: chunks that outlive a cut line, times, and checksums by the server.

Chunked upload, version 2: https://docs.nextcloud.com/server/latest/developer_manual/client_apis/WebDAV/chunking.html
A finished upload replaces the file at once, so nothing needs a temporary name.
"""

import hashlib
from collections.abc import Iterator, Mapping
from contextlib import suppress
from urllib.parse import unquote

from lading.errors import AccessDenied, ConfigError, Corrupted, LadingError, SourceChanged, Unreachable
from transport.bodies import is_body_of
from transport.foreign import shown
from transport.remote import Body
from transport.webdav import WebdavFiles
from transport.webdav_answers import checksums_of
from transport.webdav_line import Line

_FILES = "/remote.php/dav/files/"
_MOST_CHUNKS = 10_000
_ASSEMBLED_PER_S = 20 << 20  # bytes; a slow server's disk
_KNOWN = ("sha256", "sha1", "md5")  # what Nextcloud computes


class NextcloudFiles(WebdavFiles):
    """See the role `RemoteFiles`. `root` is `…/remote.php/dav/files/USER[/FOLDER]`."""

    def __init__(self, line: Line, root: str, name: str, *, chunk_bytes: int) -> None:
        super().__init__(line, root, name)
        before, found, rest = root.partition(_FILES)
        user = rest.partition("/")[0]
        if not found or not user:
            raise ConfigError(
                f"{name} is not the address of a Nextcloud folder, like https://HOST/remote.php/dav/files/USER/FOLDER",
                next_command="lading doctor",
            )
        self._uploads = f"{before}/remote.php/dav/uploads/{user}"
        self._chunk_bytes = chunk_bytes
        self._computes = True

    def place(self, path: str, body: Body) -> None:
        """See the role. What the server stored is compared by a checksum that it computes itself."""
        doing = f"cannot write {shown(path)} to {self._name}"
        if body.size <= self._chunk_bytes:
            self._put(path, body, doing)
        else:
            self._put_chunks(path, body, doing)

    def digests(self, path: str, algorithms: tuple[str, ...]) -> Mapping[str, str]:
        """See the role. Computed now, from what is on the server's disk."""
        wanted = next((name for name in _KNOWN if name in algorithms), "")
        if not wanted or not self._computes:
            return {}
        found = self.look(path)
        if found is None or found.folder:
            return {}
        answer = self._line.ask(
            "PATCH",
            self._address(path),
            f"cannot compute the checksum of {shown(path)} in {self._name}",
            headers={"X-Recalculate-Hash": wanted},
            expect=(200, 204, 400, 404, 405, 415, 501),
            patience=_patience(found.size),
        )
        if answer.status in {405, 501}:
            self._computes = False
        return checksums_of(answer.headers.get("OC-Checksum", "")) if answer.status in {200, 204} else {}

    # -- in one request ----------------------------------------------------------------------------------------------

    def _put(self, path: str, body: Body, doing: str) -> None:
        reading = _Hashing(body)
        headers = {"Content-Length": str(body.size), "X-Hash": "sha256", **_described(body)}
        answer = self._line.ask("PUT", self._address(path), doing, headers=headers, content=reading.blocks())
        told = answer.headers.get("X-Hash-SHA256", "").lower()
        if told and told != reading.sha256:
            self._refuse(path, f"the server has SHA-256 {told}, sent was {reading.sha256}")

    # -- in chunks ---------------------------------------------------------------------------------------------------

    def _put_chunks(self, path: str, body: Body, doing: str) -> None:
        size = max(self._chunk_bytes, -(-body.size // _MOST_CHUNKS))
        upload = f"{self._uploads}/{_upload_id(path, body, size)}"
        # Every request names the destination: without it the server takes an upload for one of version 1.
        headers = {"Destination": self._line.origin + self._address(path), "OC-Total-Length": str(body.size)}
        answer = self._line.ask("MKCOL", upload, doing, headers=headers, expect=(201, 405))
        there = self._chunks_of(upload, doing) if answer.status == 405 else {}
        reading = _Hashing(body)
        try:
            for number, (chunk, length) in enumerate(reading.chunks(size), start=1):
                if there.get(number) == length:
                    for _ in chunk:
                        pass
                    continue
                chunk_headers = {"Content-Length": str(length), **headers}
                self._line.ask("PUT", f"{upload}/{number:05}", doing, headers=chunk_headers, content=chunk)
            self._assemble(upload, body, headers, doing)
        except (SourceChanged, Corrupted):
            self._give_up(upload)
            raise
        self._prove(path, body, reading.sha256, resumed=bool(there))

    def _assemble(self, upload: str, body: Body, headers: Mapping[str, str], doing: str) -> None:
        try:
            self._line.ask(
                "MOVE",
                f"{upload}/.file",
                doing,
                headers={**headers, **_described(body)},
                patience=_patience(body.size),
            )
        except AccessDenied as exc:
            # Chunks that do not fit together are a bad request too: the next attempt begins anew.
            self._give_up(upload)
            if "400" in exc.message:
                raise Corrupted(exc.message) from exc
            raise

    def _prove(self, path: str, body: Body, sha256: str, *, resumed: bool) -> None:
        """Chunks have no checksum of their own, and those of an earlier attempt were only seen by their size."""
        told = self.digests(path, ("sha256",)).get("sha256")
        if told is not None and told != sha256:
            self._refuse(path, f"the server has SHA-256 {told}, sent was {sha256}")
        if told is None and resumed and not is_body_of(body, self.read(path)):
            self._refuse(path, "the chunks of an earlier attempt were damaged")

    def _chunks_of(self, upload: str, doing: str) -> dict[int, int]:
        """Number → bytes of the chunks that are there."""
        there = {}
        for found in self._propfind_at(f"{upload}/", doing, depth=1):
            name = unquote(found.href.rstrip("/")).rpartition("/")[2]
            if name.isdecimal() and not found.folder and len(name) <= 5:
                there[int(name)] = found.size
        return there

    def _give_up(self, upload: str) -> None:
        with suppress(LadingError):
            self._line.ask("DELETE", upload, f"cannot remove an unfinished upload in {self._name}", expect=(204, 404))

    def _refuse(self, path: str, why: str) -> None:
        with suppress(LadingError):
            self.remove(path)
        raise Corrupted(f"{shown(path)} arrived damaged in {self._name}: {why}", paths=[path])


class _Hashing:
    """Hands out a body, whole or in chunks; afterwards the SHA-256 of what was handed out is known."""

    def __init__(self, body: Body) -> None:
        self._body = body
        self._known = body.digests.get("sha256", "")
        self._digest = hashlib.sha256()
        self._blocks: Iterator[bytes] = iter(())
        self._rest = b""

    @property
    def sha256(self) -> str:
        """Of the whole body, once its last block was handed out."""
        return self._known or self._digest.hexdigest()

    def blocks(self) -> Iterator[bytes]:
        """The whole body."""
        if self._known:  # it is hashed there, and compared before its last block comes
            yield from self._body.blocks()
            return
        for block in self._body.blocks():
            self._digest.update(block)
            yield block

    def chunks(self, size: int) -> Iterator[tuple[Iterator[bytes], int]]:
        """The body in order, in pieces of `size` bytes, each to be read to its end before the next."""
        self._blocks, left = self.blocks(), self._body.size
        while left > 0:
            length = min(size, left)
            yield self._chunk(length), length
            left -= length

    def _chunk(self, length: int) -> Iterator[bytes]:
        while length:
            block = self._rest or next(self._blocks, b"")
            if not block:
                raise Unreachable("the source ended early")
            self._rest = block[length:]
            length -= len(block) - len(self._rest)
            yield block[: len(block) - len(self._rest)]


def _described(body: Body) -> dict[str, str]:
    """Time and checksum, which the server keeps with the file."""
    sha256 = body.digests.get("sha256")
    return {"X-OC-MTime": str(int(body.mtime))} | ({"OC-Checksum": f"SHA256:{sha256}"} if sha256 else {})


def _upload_id(path: str, body: Body, size: int) -> str:
    """The same in every attempt to place this content there, so that its chunks are found again."""
    which = f"{path}\0{body.size}\0{body.digests.get('sha256', body.mtime)}\0{size}"
    return "lading-" + hashlib.blake2b(which.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _patience(size: int) -> float:
    """Seconds that a server may need to read so many bytes."""
    return 60.0 + size / _ASSEMBLED_PER_S
