"""One HTTP request, read to its end, as a value that synchronous code can work on."""

import re
import tempfile
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
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
        query=tuple(parse_qsl(request.url.query, keep_blank_values=True)),
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


@dataclass(frozen=True)
class Route(Generic[Context]):
    """A method, a path pattern and what answers it. ``{name}`` is one segment, ``{name*}`` the rest of the path."""

    method: str
    pattern: re.Pattern[str]
    names: tuple[str, ...]
    answer: Callable[[Context, Call], Response]


def route(methods: str, path: str, answer: Callable[[Context, Call], Response]) -> list[Route[Context]]:
    names = tuple(re.findall(r"{(\w+)\*?}", path))
    pattern = re.sub(r"{\w+\*}", "(.+)", re.sub(r"{\w+}", "([^/]+)", path))
    return [Route(method, re.compile(pattern), names, answer) for method in methods.split()]


class Router(Generic[Context]):
    """Finds the answer for a path."""

    def __init__(self, routes: Iterable[Route[Context]]) -> None:
        self._routes = tuple(routes)

    def answer(self, context: Context, call: Call, path: str) -> Response:
        """Raises Refusal 404 for an unknown path, 405 for a known one with another method."""
        known = False
        method = "GET" if call.method == "HEAD" else call.method
        for candidate in self._routes:
            found = candidate.pattern.fullmatch(path)
            if found is None:
                continue
            known = True
            if candidate.method == method:
                args = dict(zip(candidate.names, map(unquote, found.groups()), strict=True))
                return candidate.answer(context, call.with_args(args))
        raise Refusal(405 if known else 404, "Method Not Allowed" if known else "Not Found")
