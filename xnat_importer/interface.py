"""The HTTP under the session: `requests`, with a short way for what most of an import consists of, small questions.

A requests session prepares, merges, looks into its cookie jar for and hands on every request; that takes three times the
processor time of the request itself, and a server that imports twenty deliveries a second asks 250 questions in it. A
question without a body goes straight to urllib3, which requests itself stands on; its answer is a `requests.Response` as ever.
"""

from collections.abc import Sequence
from urllib.parse import urlencode

import certifi
import requests
import urllib3
from requests.cookies import extract_cookies_to_jar
from requests.structures import CaseInsensitiveDict
from requests.utils import get_encoding_from_headers

_POOL = 16
# Told in every answer, with another value each time, and of no use to anybody but a browser.
_CLOCK_COOKIE = "SESSION_EXPIRATION_TIME"
_COOKIE_LINES = 64


class Interface(requests.Session):
    """A session that follows no redirect: XNAT's say something (archived, log in), and are read by us.

    Neither netrc nor the environment may slip in another login or switch certificates off. `ca_bundle` is a file of
    certificate authorities, "" for the usual ones. Safe to share between threads.
    """

    def __init__(self, user_agent: str, ca_bundle: str = "") -> None:
        super().__init__()
        self.headers["User-Agent"] = user_agent
        self.verify = ca_bundle or True
        self.trust_env = False
        adapter = requests.adapters.HTTPAdapter(pool_connections=2, pool_maxsize=_POOL)
        self.mount("https://", adapter)
        self.mount("http://", adapter)
        self._pools = urllib3.PoolManager(
            num_pools=2,
            maxsize=_POOL,
            cert_reqs="CERT_REQUIRED",
            ca_certs=ca_bundle or certifi.where(),
        )
        self._known_cookies: frozenset[str] = frozenset()

    def get_redirect_target(self, resp: requests.Response) -> str | None:  # noqa: ARG002 - the library's name
        """None: no redirect is followed."""
        return None

    def ask(
        self,
        method: str,
        url: str,
        *,
        query: Sequence[tuple[str, str]] = (),
        body: bytes | None = None,
        content_type: str = "",
        timeout: tuple[float, float],
        stream: bool = False,
    ) -> requests.Response:
        """A request with a small body or none, by the short way. `timeout` is (connect, read) in seconds.

        Raises urllib3's exceptions for the connection and requests' own while the answer is read.
        """
        address = f"{url}?{urlencode(query)}" if query else url
        headers = {**self.headers, "Cookie": self._cookie()}
        if content_type:
            headers["Content-Type"] = content_type
        raw = self._pools.urlopen(
            method,
            address,
            body=body,
            headers=headers,
            timeout=urllib3.Timeout(connect=timeout[0], read=timeout[1]),
            redirect=False,
            retries=False,
            preload_content=False,
            decode_content=False,
        )
        answer = requests.Response()
        answer.status_code = raw.status
        answer.reason = raw.reason or ""
        answer.url = address
        answer.raw = raw
        answer.headers = CaseInsensitiveDict(raw.headers)
        answer.encoding = get_encoding_from_headers(answer.headers)
        self._remember_cookies(method, address, raw)
        if not stream:
            _ = answer.content  # the connection serves the next question
        return answer

    def close(self) -> None:
        """Close the connections."""
        self._pools.clear()
        super().close()

    def _cookie(self) -> str:
        return "; ".join(f"{cookie.name}={cookie.value}" for cookie in self.cookies if cookie.name != _CLOCK_COOKIE)

    def _remember_cookies(self, method: str, url: str, raw: urllib3.BaseHTTPResponse) -> None:
        """Into the jar with what is new: a login, or the mark by which a load balancer finds the node again."""
        lines = {line for line in raw.headers.getlist("Set-Cookie") if not line.startswith(_CLOCK_COOKIE)}
        if lines <= self._known_cookies:
            return
        extract_cookies_to_jar(  # type: ignore[no-untyped-call]  # requests leaves it untyped
            self.cookies, requests.Request(method, url).prepare(), raw
        )
        self._known_cookies = (
            frozenset(lines) if len(self._known_cookies) > _COOKIE_LINES else self._known_cookies | lines
        )
