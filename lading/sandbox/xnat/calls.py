"""One HTTP request, read to its end, as a value that synchronous code can work on."""

import re
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import IO, Generic, TypeVar
from urllib.parse import parse_qsl, quote, unquote

from starlette.datastructures import UploadFile
from starlette.formparsers import MultiPartException
from starlette.requests import Request
from starlette.responses import Response

from lading.sandbox.xnat.answers import Refusal

Context = TypeVar("Context")

_IN_MEMORY = 1 << 20  # larger bodies lie in a temporary file, as in the real server


@dataclass(frozen=True)
class Upload:
    """A file that came with a request."""

    name: str
    file: IO[bytes]
    size: int


@dataclass(frozen=True)
class Call:
    """A request whose sender is known. ``args`` are the parts of the path that the route names."""

    method: str
    path: str
    query: tuple[tuple[str, str], ...]
    form: tuple[tuple[str, str], ...] = ()
    uploads: tuple[Upload, ...] = ()
    body: bytes = b""
    content_type: str = ""
    multipart: bool = False
    user: str = ""
    session: str = ""
    args: Mapping[str, str] = field(default_factory=dict)

    @property
    def parameters(self) -> tuple[tuple[str, str], ...]:
        """Query first, then form."""
        return self.query + self.form

    def get(self, name: str, default: str = "") -> str:
        """The first value of a parameter."""
        return next((value for key, value in self.parameters if key == name), default)

    def has(self, name: str) -> bool:
        """Whether the parameter was given, be it empty."""
        return any(key == name for key, _ in self.parameters)

    def all(self, name: str) -> list[str]:
        """Every value of a repeated parameter."""
        return [value for key, value in self.parameters if key == name]

    def flag(self, name: str) -> bool:
        """True for ``true`` and ``1``."""
        return self.get(name).lower() in ("true", "1")

    def as_dict(self) -> dict[str, str]:
        """Each parameter once; the first of several counts."""
        return dict(reversed(self.parameters))

    def with_args(self, args: Mapping[str, str]) -> "Call":
        """The same call, its path taken apart."""
        return replace(self, args=args)


async def read_call(request: Request, user: str, session: str) -> Call:
    """Reads the whole request. Raises Refusal when body and headers do not fit together."""
    content_type = request.headers.get("content-type", "")
    call = Call(
        method=request.method,
        path=raw_path(request),
        query=tuple(parse_qsl(raw_query(request), keep_blank_values=True)),
        content_type=content_type,
        user=user,
        session=session,
    )
    if request.method not in ("PUT", "POST"):
        return call
    if content_type.startswith("multipart/form-data"):
        return await _with_form(request, call)
    file, size = await _spooled(request)
    if content_type.startswith("application/x-www-form-urlencoded"):
        return replace(call, form=tuple(parse_qsl(file.read().decode(errors="replace"), keep_blank_values=True)))
    # Restlet knows the size of a chunked body only at its end, and takes it for empty.
    chunked = "content-length" not in request.headers and not content_type.startswith("application/zip")
    body = file.read() if size <= _IN_MEMORY else b""
    file.seek(0)
    if size == 0 or chunked:
        return replace(call, body=body)
    return replace(call, body=body, uploads=(Upload("", file, size),))


async def _with_form(request: Request, call: Call) -> Call:
    if call.flag("inbody"):
        raise Refusal(406, "Multipart form data is not acceptable with inbody=true.")
    try:
        form = await request.form(max_files=100_000, max_fields=100_000)
    except MultiPartException as error:
        raise Refusal(400, error.message) from error
    uploads, fields = [], []
    for name, value in form.multi_items():
        if isinstance(value, UploadFile):
            uploads.append(Upload(value.filename or name, value.file, value.size or 0))
        else:
            fields.append((name, value))
    return replace(call, form=tuple(fields), uploads=tuple(uploads), multipart=True)


async def _spooled(request: Request) -> tuple[IO[bytes], int]:
    file: IO[bytes] = tempfile.SpooledTemporaryFile(max_size=_IN_MEMORY)  # noqa: SIM115 - handed on with the call
    size = 0
    async for chunk in request.stream():
        size += len(chunk)
        file.write(chunk)
    file.seek(0)
    return file, size


def raw_path(request: Request) -> str:
    """The path as sent: a quoted slash is not a separator."""
    raw: bytes = request.scope.get("raw_path") or quote(request.scope["path"]).encode()
    return raw.decode("ascii", errors="replace").split("?")[0]


def raw_query(request: Request) -> str:
    """What follows the question mark, as sent."""
    query: bytes = request.scope["query_string"]
    return query.decode("ascii", errors="replace")


@dataclass(frozen=True)
class Route(Generic[Context]):
    """A method, a path and what answers it. ``{name}`` is one segment, ``{name*}`` the rest of the path.

    ``at_once``: the answer is in memory and waits for nobody, so no thread is needed for it.
    """

    method: str
    path: str
    answer: Callable[[Context, Call], Response]
    at_once: bool = False

    @cached_property
    def names(self) -> list[str]:
        """The names of the parts of the path that vary."""
        return re.findall(r"{(\w+)\*?}", self.path)


def route(methods: str, path: str, answer: Callable[[Context, Call], Response]) -> list[Route[Context]]:
    """Routes of several methods, answered in a thread of their own: they may read files, write, or wait."""
    return [Route(method, path, answer) for method in methods.split()]


def at_once(path: str, answer: Callable[[Context, Call], Response]) -> list[Route[Context]]:
    """A GET that is answered from memory."""
    return [Route("GET", path, answer, at_once=True)]


class Router(Generic[Context]):
    """Finds what answers a path, segment by segment: what names the segment goes before what takes any."""

    def __init__(self, routes: Iterable[Route[Context]]) -> None:
        self._start: _Junction[Context] = _Junction()
        for each in routes:
            self._start.add(each.path.split("/"), each)

    def find(self, method: str, path: str) -> tuple[Route[Context], dict[str, str]]:
        """The route, and the parts of the path that it names. Raises Refusal 404 for an unknown path, 405 for a known one."""
        known = False
        for routes, taken in self._start.reached(path.split("/"), ()):
            known = True
            found = routes.get("GET" if method == "HEAD" else method)
            if found is not None:
                return found, dict(zip(found.names, map(unquote, taken), strict=True))
        raise Refusal(405 if known else 404, "Method Not Allowed" if known else "Not Found")


class _Junction(Generic[Context]):
    """Where a path can go on, and what answers (by method) when it ends here."""

    def __init__(self) -> None:
        self._named: dict[str, _Junction[Context]] = {}
        self._any: _Junction[Context] | None = None
        self._ends: dict[str, Route[Context]] = {}
        self._takes_rest: dict[str, Route[Context]] = {}

    def add(self, segments: list[str], added: Route[Context]) -> None:
        if not segments:
            self._ends.setdefault(added.method, added)
        elif segments[0].endswith("*}"):
            self._takes_rest.setdefault(added.method, added)
        elif segments[0].startswith("{"):
            self._any = self._any or _Junction()
            self._any.add(segments[1:], added)
        else:
            self._named.setdefault(segments[0], _Junction()).add(segments[1:], added)

    def reached(
        self, segments: list[str], taken: tuple[str, ...]
    ) -> Iterator[tuple[dict[str, Route[Context]], tuple[str, ...]]]:
        """Everything that these segments lead to, with the segments that were not named."""
        if not segments:
            if self._ends:
                yield self._ends, taken
            return
        segment, further = segments[0], segments[1:]
        if segment in self._named:
            yield from self._named[segment].reached(further, taken)
        if segment and self._any is not None:
            yield from self._any.reached(further, (*taken, segment))
        rest = "/".join(segments)
        if rest and self._takes_rest:
            yield self._takes_rest, (*taken, rest)
