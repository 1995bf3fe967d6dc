"""Nextcloud's side of HTTP: `/remote.php/dav/files/USER/…`, `/remote.php/dav/uploads/USER/…`, `/status.php`."""

import base64
import errno
import hmac
import json
import os
import shutil
from collections.abc import Callable, Iterator
from email.utils import formatdate
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import ClassVar
from urllib.parse import quote, unquote_to_bytes, urlsplit
from xml.sax.saxutils import escape

from lading.sandbox.nextcloud.store import HASHES, Node, RefusedError, Store, Uploads, given_time

_BLOCK = 1 << 20
_DISK_FULL = {errno.ENOSPC, errno.EDQUOT}


class Server(ThreadingHTTPServer):
    """Serves one user's files."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, address: tuple[str, int], files: Store, uploads: Uploads, user: str, password: str) -> None:
        super().__init__(address, Handler)
        self.files, self.uploads, self.user = files, uploads, user
        self.login = base64.b64encode(f"{user}:{password}".encode()).decode()


class Handler(BaseHTTPRequestHandler):
    """One connection."""

    server: Server
    protocol_version = "HTTP/1.1"
    timeout: ClassVar[float] = 60.0

    def do(self) -> None:
        """Answer any request."""
        self._left = int(self.headers.get("Content-Length") or 0)
        self._begun = False
        try:
            self._answer()
        except RefusedError as exc:
            self._send(exc.status, body=exc.said.encode())
        except OSError as exc:
            if self._begun:
                raise
            self._send(507 if exc.errno in _DISK_FULL else 500, body=(exc.strerror or "").encode())

    # The names are http.server's own: one handler for each method.
    do_GET = do_HEAD = do_PUT = do_DELETE = do_MKCOL = do_MOVE = do_PROPFIND = do_PATCH = do_OPTIONS = do  # noqa: N815

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the name is http.server's
        """Tests do not read it."""

    def _answer(self) -> None:
        path = urlsplit(self.path).path if not self.path.startswith("//") else self.path
        if path == "/status.php":
            status = {"installed": True, "maintenance": False, "version": "31.0.0.0", "productname": "Nextcloud"}
            self._send(200, {"Content-Type": "application/json"}, json.dumps(status).encode())
            return
        kind, inner = self._split(path)
        if not hmac.compare_digest(self.headers.get("Authorization", ""), f"Basic {self.server.login}"):
            raise RefusedError(401, "No public access to this resource., Username or password was incorrect")
        answers: dict[tuple[str, str], Callable[[str], None]] = {
            ("files", "GET"): self._get,
            ("files", "HEAD"): self._get,
            ("files", "PUT"): self._put,
            ("files", "PATCH"): self._patch,
            ("files", "MOVE"): self._move,
            ("files", "MKCOL"): lambda inner: self._make_folder(self.server.files, inner),
            ("files", "DELETE"): lambda inner: self._remove(self.server.files, inner),
            ("files", "PROPFIND"): lambda inner: self._list(self.server.files, inner),
            ("uploads", "PUT"): self._put_chunk,
            ("uploads", "MOVE"): self._assemble,
            ("uploads", "MKCOL"): lambda inner: self._make_folder(self.server.uploads, inner, needs_destination=True),
            ("uploads", "DELETE"): lambda inner: self._remove(self.server.uploads, inner),
            ("uploads", "PROPFIND"): lambda inner: self._list(self.server.uploads, inner),
        }
        answer = answers.get((kind, self.command))
        if answer is None:
            raise RefusedError(405, f"{self.command} is not allowed here")
        answer(inner)

    def _split(self, path: str) -> tuple[str, str]:
        for kind in ("files", "uploads"):
            prefix = f"/remote.php/dav/{kind}/{self.server.user}"
            if path == prefix or path.startswith(f"{prefix}/"):
                try:
                    return kind, unquote_to_bytes(path[len(prefix) :].strip("/")).decode("utf-8")
                except UnicodeDecodeError:
                    raise RefusedError(400, "the path is not UTF-8") from None
        raise RefusedError(404, "not found")

    def _destination(self) -> str:
        given = self.headers.get("Destination")
        if not given:
            raise RefusedError(400, "The destination header is missing")
        kind, inner = self._split(urlsplit(given).path)
        if kind != "files":
            raise RefusedError(403, "not into the uploads")
        return inner

    # -- files -------------------------------------------------------------------------------------------------------

    def _get(self, inner: str) -> None:
        place = self.server.files.at(inner)
        node = self.server.files.node(place)
        if node.folder:
            raise RefusedError(405, "This is the WebDAV interface")
        begin = 0
        asked = self.headers.get("Range", "")
        if asked.startswith("bytes=") and asked.endswith("-") and asked[6:-1].isdecimal():
            begin = int(asked[6:-1])
            if begin >= node.size:
                raise RefusedError(416, "The start offset exceeded the size of the entity")
        headers = {"ETag": node.etag, "Content-Type": "application/octet-stream"}
        if asked:
            headers["Content-Range"] = f"bytes {begin}-{node.size - 1}/{node.size}"
        self._begin(206 if asked else 200, headers, node.size - begin)
        if self.command == "HEAD":
            return
        with place.open("rb") as file:
            file.seek(begin)
            shutil.copyfileobj(file, self.wfile, _BLOCK)

    def _put(self, inner: str) -> None:
        files, place = self.server.files, self.server.files.at(inner)
        hashing = self.headers.get("X-Hash", "").lower()
        hashing = hashing if hashing in HASHES else ""
        size, told = self._left, self.headers.get("OC-Checksum", "")
        new, digest = files.write(place, self._body(), size, hashing, told)
        headers = {f"X-Hash-{hashing.upper()}": digest} if hashing else {}
        self._send(201 if new else 204, headers | self._timed(inner))

    def _patch(self, inner: str) -> None:
        hashing = self.headers.get("X-Recalculate-Hash", "").lower()
        if hashing not in HASHES:
            raise RefusedError(501, "nothing to recalculate")
        self._send(204, {"OC-Checksum": self.server.files.recalculate(self.server.files.at(inner), hashing)})

    def _move(self, inner: str) -> None:
        files = self.server.files
        target = files.at(self._destination())
        new = files.move(files.at(inner), target, overwrite=self.headers.get("Overwrite", "T") != "F")
        self._send(201 if new else 204)

    def _timed(self, inner: str) -> dict[str, str]:
        mtime = given_time(self.headers.get("X-OC-MTime", ""))
        if mtime is None:
            return {}
        os.utime(self.server.files.at(inner), (mtime, mtime))
        return {"X-OC-MTime": "accepted"}

    # -- uploads -----------------------------------------------------------------------------------------------------

    def _put_chunk(self, inner: str) -> None:
        self._destination()
        place = self.server.uploads.at(inner)
        self.server.uploads.chunk(place)
        self.server.uploads.write(place, self._body(), self._left, "", "")
        self._send(201)

    def _assemble(self, inner: str) -> None:
        uploads, files = self.server.uploads, self.server.files
        upload, _, name = inner.partition("/")
        if name != ".file":
            raise RefusedError(403, "only the whole upload can be moved")
        place, target = uploads.at(upload), self._destination()
        uploads.node(place)
        blocks, size = uploads.whole(place, self.headers.get("OC-Total-Length", ""))
        new, _ = files.write(files.at(target), blocks, size, "", self.headers.get("OC-Checksum", ""))
        shutil.rmtree(place, ignore_errors=True)
        self._send(201 if new else 204, self._timed(target))

    # -- both --------------------------------------------------------------------------------------------------------

    def _make_folder(self, store: Store, inner: str, *, needs_destination: bool = False) -> None:
        if needs_destination:
            self._destination()
        store.make_folder(store.at(inner))
        self._send(201)

    def _remove(self, store: Store, inner: str) -> None:
        store.remove(store.at(inner))
        self._send(204)

    def _list(self, store: Store, inner: str) -> None:
        place = store.at(inner)
        node = store.node(place)
        base = urlsplit(self.path).path.rstrip("/")
        usage = shutil.disk_usage(place if node.folder else place.parent)
        answers = [_response(base, node, usage.free)]
        if node.folder and self.headers.get("Depth", "1") != "0":
            answers += [_response(f"{base}/{quote(os.fsencode(n.name), safe='')}", n) for n in store.inside(place)]
        body = (
            '<?xml version="1.0"?><d:multistatus xmlns:d="DAV:" xmlns:oc="http://owncloud.org/ns">'
            + "".join(answers)
            + "</d:multistatus>"
        )
        self._send(207, {"Content-Type": "application/xml; charset=utf-8"}, body.encode())

    def _body(self) -> Iterator[bytes]:
        while self._left:
            block = self.rfile.read(min(_BLOCK, self._left))
            if not block:
                self.close_connection = True
                return
            self._left -= len(block)
            yield block

    def _send(self, status: int, headers: dict[str, str] | None = None, body: bytes = b"") -> None:
        self._begin(status, headers or {}, len(body))
        if self.command != "HEAD":
            self.wfile.write(body)

    def _begin(self, status: int, headers: dict[str, str], size: int) -> None:
        for _ in self._body():  # what nobody wanted to read stands before the next request
            pass
        self._begun = True
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        if status == 401:
            self.send_header("WWW-Authenticate", 'Basic realm="Nextcloud", charset="UTF-8"')
        if status != 204:
            self.send_header("Content-Length", str(size))
        self.end_headers()


def _response(href: str, node: Node, free: int | None = None) -> str:
    kind = "<d:resourcetype><d:collection/></d:resourcetype>" if node.folder else "<d:resourcetype/>"
    length = "" if node.folder else f"<d:getcontentlength>{node.size}</d:getcontentlength>"
    quota = f"<d:quota-available-bytes>{free}</d:quota-available-bytes>" if node.folder and free is not None else ""
    sums = f"<oc:checksums><oc:checksum>{escape(node.checksums)}</oc:checksum></oc:checksums>" if node.checksums else ""
    return (
        f"<d:response><d:href>{escape(href)}{'/' if node.folder else ''}</d:href><d:propstat><d:prop>{kind}{length}"
        f"<d:getlastmodified>{formatdate(node.mtime, usegmt=True)}</d:getlastmodified>"
        f"<d:getetag>{escape(node.etag)}</d:getetag>{quota}{sums}"
        "</d:prop><d:status>HTTP/1.1 200 OK</d:status></d:propstat></d:response>"
    )
