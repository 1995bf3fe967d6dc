"""One connection to a WebDAV server: requests with exact names, never sent on to another host, every error one of ours."""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from ssl import SSLContext
from urllib.parse import quote, urlsplit

import httpx

from lading.errors import LadingError
from transport.foreign import shown
from transport.webdav_answers import refusal, translating

_MAX_SAID = 16 << 10
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_HOPS = 3


@dataclass(frozen=True, slots=True)
class Reach:
    """How to get at a server: where, as whom, how patiently (seconds). `url` ends without a slash. `password` is never shown."""

    url: str
    user: str
    password: str
    tls: SSLContext
    ca: Path | None
    connect_timeout: float
    timeout: float

    def __repr__(self) -> str:
        return f"Reach({self.url!r}, {self.user!r})"


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, headers, and the beginning of what the server wrote."""

    status: int
    headers: Mapping[str, str]
    said: str


class Line:
    """Sends requests. Addresses are paths as the server sees them, percent-encoded (`encoded`)."""

    def __init__(self, reach: Reach) -> None:
        self._reach = reach
        parts = urlsplit(reach.url)
        self.origin = f"{parts.scheme}://{parts.netloc}"
        auth = httpx.BasicAuth(reach.user, reach.password) if reach.user else None
        # The environment does not speak for us: no proxy, no .netrc, no other CA than the settings say.
        self._client = httpx.Client(
            auth=auth,
            verify=reach.tls,
            timeout=httpx.Timeout(reach.timeout, connect=reach.connect_timeout),
            trust_env=False,
            follow_redirects=False,
            headers={"Accept-Encoding": "identity", "User-Agent": "lading"},
        )

    def ask(
        self,
        method: str,
        address: str,
        doing: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | Iterator[bytes] | None = None,
        expect: tuple[int, ...] = (200, 201, 204),
        patience: float | None = None,
    ) -> Answer:
        """The answer to one request. Raises what the status means unless it is one of `expect`. `patience`: a longer time-out."""
        with self.stream(method, address, doing, headers=headers, content=content, patience=patience) as response:
            said = _beginning(response, doing, self._reach)
            if response.status_code not in expect:
                raise self.refused(response, said, doing)
            return Answer(response.status_code, response.headers, said)

    @contextmanager
    def stream(
        self,
        method: str,
        address: str,
        doing: str,
        *,
        headers: Mapping[str, str] | None = None,
        content: bytes | Iterator[bytes] | None = None,
        patience: float | None = None,
    ) -> Iterator[httpx.Response]:
        """A response whose body is still to come. Redirects within the server are followed where there is no body to repeat."""
        timeout = httpx.Timeout(patience or self._reach.timeout, connect=self._reach.connect_timeout)
        for hop in range(_HOPS):
            request = self._client.build_request(
                method, self.origin + address, headers=dict(headers or {}), content=content, timeout=timeout
            )
            with translating(doing, self._reach.url, self._reach.ca):
                response = self._client.send(request, stream=True)
            try:
                elsewhere = self._same_server(response) if hop + 1 < _HOPS and not content else None
                if elsewhere is None:
                    yield response
                    return
                address = elsewhere
            finally:
                response.close()

    def refused(self, response: httpx.Response, said: str, doing: str) -> LadingError:
        """The error for this response."""
        if response.status_code in _REDIRECTS:
            said = response.headers.get("Location", "")[:300]
        return refusal(response.status_code, said[:300], doing)

    def blocks(self, response: httpx.Response, doing: str, size: int) -> Iterator[bytes]:
        """The body as it comes, in blocks of `size`."""
        with translating(doing, self._reach.url, self._reach.ca):
            yield from response.iter_raw(size)

    def close(self) -> None:
        """Close the connection; a call under way in another thread fails."""
        self._client.close()

    def _same_server(self, response: httpx.Response) -> str | None:
        if response.status_code not in _REDIRECTS:
            return None
        target = response.request.url.join(response.headers.get("Location", ""))
        if f"{target.scheme}://{target.netloc.decode('ascii')}" != self.origin:
            return None
        return target.raw_path.decode("ascii")


def encoded(path: str) -> str:
    """`path` (relative POSIX, as the operating system gave it) for a URL: every byte exactly, slashes kept."""
    return quote(os.fsencode(path), safe="/")


def _beginning(response: httpx.Response, doing: str, reach: Reach) -> str:
    said = b""
    with translating(doing, reach.url, reach.ca):
        for block in response.iter_raw(4096):
            said += block
            if len(said) >= _MAX_SAID:
                break
    text = said.decode("utf-8", "replace")
    # An error page is for a browser: of HTML and XML only the words are worth showing.
    words = " ".join(part.partition(">")[2] for part in text.split("<")) if text.lstrip().startswith("<") else text
    return shown(" ".join(words.split()))
