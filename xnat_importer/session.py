"""One login at one XNAT, made when it is needed, renewed once when it is lost, shared by the threads of one process.

The login is an xnatpy session over an interface of our own, and not one from `xnat.connect`: that takes four requests, cannot
be given a CA bundle except through the environment, asks netrc and even the terminal for a password, and follows redirects, so
that a login page can pass for an answer. What xnatpy gives us here is its session and its plain requests (`get`, `put` …); its
object model, which needs the server's whole schema, is not used.
"""

import logging
import os
import re
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import IO
from urllib.parse import quote, unquote

import requests
import xnat
from requests.auth import HTTPBasicAuth
from urllib3.exceptions import HTTPError
from xnat.exceptions import XNATError
from xnat.session import BaseXNATSession

from lading import __version__
from lading.errors import AccessDenied, ConfigError, LadingError, TargetUnavailable
from lading.logins import Login
from xnat_importer import credentials, errors
from xnat_importer.interface import Interface
from xnat_importer.settings import RepositorySettings

Query = Iterable[tuple[str, str]]
Body = Callable[[], "bytes | IO[bytes]"]
"""Opens the body anew, so that it can be sent again after a new login."""

# Not browser-like: XNAT asks browsers for a CSRF token and answers them with login pages.
_USER_AGENT = f"lading/{__version__} xnatpy/{xnat.__version__}"
_TOKEN = re.compile(r"[A-Za-z0-9._-]{1,200}")


class XnatSession:
    """Requests to one XNAT. A response comes back whatever its status; the network's own failures are raised as ours."""

    def __init__(self, settings: RepositorySettings) -> None:
        self.url = settings.url
        self._settings = settings
        self._lock = threading.Lock()
        self._session: BaseXNATSession | None = None
        self._process = 0
        self.logins = 0
        self.user = ""
        self.requests = 0

    def __repr__(self) -> str:
        return f"XnatSession({self.url!r})"

    def get(
        self, path: str, *, doing: str, query: Query = (), timeout: float = 0.0, believe_404: bool = False
    ) -> requests.Response:
        """GET `path` (already quoted, see `quoted`). Raises TargetUnavailable, AccessDenied.

        A 404 is believed only after XNAT confirmed our login, which costs a request; `believe_404` spares it where the caller
        has a proof of its own.
        """
        return self._ask(_Call("GET", path, doing, query, timeout=timeout, believe_404=believe_404))

    def put(
        self,
        path: str,
        *,
        doing: str,
        query: Query = (),
        body: Body | None = None,
        files: Callable[[], object] | None = None,
        content_type: str = "",
        timeout: float = 0.0,
    ) -> requests.Response:
        """PUT, with a raw body or a multipart form. Raises TargetUnavailable, AccessDenied."""
        return self._ask(_Call("PUT", path, doing, query, body, files, content_type, timeout))

    def post(
        self,
        path: str,
        *,
        doing: str,
        query: Query = (),
        body: Body | None = None,
        content_type: str = "",
        timeout: float = 0.0,
    ) -> requests.Response:
        """POST. Raises TargetUnavailable, AccessDenied."""
        return self._ask(_Call("POST", path, doing, query, body, None, content_type, timeout))

    @contextmanager
    def stream(self, path: str, *, doing: str) -> Iterator[requests.Response]:
        """GET whose body is read by the caller, block by block. Raises TargetUnavailable, AccessDenied."""
        response = self._ask(_Call("GET", path, doing, stream=True))
        try:
            yield response
        except requests.RequestException as exc:
            raise errors.from_exception(exc, doing=doing, url=self.url) from exc
        finally:
            response.close()

    def is_logged_in(self) -> bool:
        """Whether XNAT still knows us. Raises TargetUnavailable."""
        doing = "asking who we are"
        response = self._once(_Call("GET", "/data/auth", doing))
        if response.status_code >= 500:
            raise errors.from_response(response, doing=doing, url=self.url)
        found = re.search(r"User '([^']*)' is logged in", response.text) if response.status_code == 200 else None
        return found is not None and found.group(1).lower() != "guest"

    def close(self) -> None:
        """Log out. Never raises."""
        with self._lock:
            session, self._session = self._session, None
            if session is None or self._process != os.getpid():
                return
            # If it cannot be told, the server ends it by itself after a quarter of an hour.
            with suppress(requests.RequestException):
                session.interface.delete(f"{self.url}/data/JSESSION", timeout=(self._settings.connect_timeout, 10))
            session.disconnect()

    def _ask(self, call: "_Call") -> requests.Response:
        for last in (False, True):
            login = self.logins
            response = self._once(call)
            if not self._login_is_lost(call, response):
                return response
            response.close()
            # Exactly one new login: XNAT locks an account after twenty refusals.
            if not last:
                self._login(call.doing, instead_of=login)
        # Not AccessDenied: the login itself was accepted, so trying later is harmless.
        raise TargetUnavailable(
            f"{call.doing} at {self.url}: XNAT logged us in and then did not know us (HTTP {response.status_code})",
            next_command="lading retry",
        )

    def _once(self, call: "_Call") -> requests.Response:
        interface = self._current(call.doing).interface
        url, timeout = (
            f"{self.url}{call.path}",
            (self._settings.connect_timeout, call.timeout or self._settings.read_timeout),
        )
        self.requests += 1
        data = call.body() if call.body else None
        if (data is None or isinstance(data, bytes)) and call.files is None and isinstance(interface, Interface):
            try:
                return interface.ask(
                    call.method,
                    url,
                    query=list(call.query),
                    body=data,
                    content_type=call.content_type,
                    timeout=timeout,
                    stream=call.stream,
                )
            except (requests.RequestException, HTTPError) as exc:
                raise errors.from_exception(exc, doing=call.doing, url=self.url) from exc
        try:
            response: requests.Response = interface.request(
                call.method,
                url,
                params=list(call.query),
                data=data,
                files=call.files() if call.files else None,
                headers={"Content-Type": call.content_type} if call.content_type else None,
                timeout=timeout,
                stream=call.stream,
            )
        except requests.RequestException as exc:
            raise errors.from_exception(exc, doing=call.doing, url=self.url) from exc
        finally:
            if data is not None and not isinstance(data, bytes):
                data.close()
        return response

    def _login_is_lost(self, call: "_Call", response: requests.Response) -> bool:
        status = response.status_code
        if status == 401:
            return True
        if status in (302, 303) and "login" in response.headers.get("Location", "").lower():
            return True
        # Where guests are welcome, whoever lost the login is one of them: things are "not there" or "not allowed".
        if status == 403 or (status == 404 and not call.believe_404):
            return not self.is_logged_in()
        if status != 200 or not response.headers.get("Content-Type", "").startswith("text/html"):
            return False
        if call.stream:
            return not self.is_logged_in()  # a file of the delivery may well be a page
        # Nothing else we ask for is one, and the duplicates of an upload come as JSON that calls itself HTML.
        return response.content[:512].lstrip().lower().startswith((b"<!doctype", b"<html"))

    def _current(self, doing: str) -> BaseXNATSession:
        session = self._session
        if session is None or self._process != os.getpid():
            self._login(doing, instead_of=self.logins)
            session = self._session
        if session is None:
            raise TargetUnavailable(f"{doing} at {self.url}: the session was closed meanwhile")
        return session

    def _login(self, doing: str, *, instead_of: int) -> None:
        """Log in, unless another thread has done so since login number `instead_of`."""
        with self._lock:
            if self.logins != instead_of and self._session is not None and self._process == os.getpid():
                return
            login = credentials.find(self._settings.credentials, self.url)
            interface = self._interface()
            try:
                token = self._ask_for_session(interface, login, doing)
                session = _wrapped(self.url, interface, login.user, token, self._settings.read_timeout)
            except LadingError:
                interface.close()
                raise
            self._session, self._process, self.user = session, os.getpid(), login.user.rpartition("/")[2]
            self.logins += 1

    def _interface(self) -> Interface:
        return Interface(_USER_AGENT, str(self._settings.ca_bundle or ""))

    def _ask_for_session(self, interface: requests.Session, login: Login, doing: str) -> str:
        # Basic, once: it works for users, "provider/user" and alias tokens alike. Afterwards only the cookie travels.
        self.requests += 1
        try:
            response = interface.get(
                f"{self.url}/data/JSESSION",
                auth=HTTPBasicAuth(login.user.encode(), login.secret.encode()),
                timeout=(self._settings.connect_timeout, self._settings.read_timeout),
            )
        except requests.RequestException as exc:
            raise errors.from_exception(exc, doing=f"logging in ({doing})", url=self.url) from exc
        if response.status_code == 401 or (response.status_code == 200 and response.text.lstrip().startswith("<")):
            raise AccessDenied(
                f"logging in at {self.url} as {login.user!r}: XNAT refused this user and password; not tried again, "
                "because repeated refusals lock the account",
                next_command="lading doctor",
            )
        if response.is_redirect:
            raise ConfigError(
                f"{self.url} leads on to {response.headers['Location']}; set the repository's url to the final address",
                next_command="lading doctor",
            )
        if response.status_code == 403:
            raise AccessDenied(
                f"logging in at {self.url} as {login.user!r}: {errors.reason(response) or 'forbidden'}",
                next_command="lading doctor",
            )
        if response.status_code != 200:
            raise errors.from_response(response, doing="logging in", url=self.url)
        token = response.text.strip()
        if not _TOKEN.fullmatch(token):
            raise TargetUnavailable(
                f"logging in at {self.url}: the answer is no XNAT session; is this the address of an XNAT?",
                next_command="lading doctor",
            )
        if "JSESSIONID" not in interface.cookies:
            interface.cookies.set("JSESSIONID", token)
        return token


@dataclass(frozen=True, slots=True)
class _Call:
    """One request, so that it can be made again after a new login."""

    method: str
    path: str
    doing: str
    query: Query = ()
    body: Body | None = None
    files: Callable[[], object] | None = None
    content_type: str = ""
    timeout: float = 0.0
    stream: bool = False
    believe_404: bool = False


class _Silent(logging.Logger):
    """A logger as xnatpy wants it. What it would say (URLs, cookies) is not for our log."""

    def verbose(self, message: str, *args: object) -> None:
        """Say nothing."""


def _wrapped(url: str, interface: requests.Session, user: str, token: str, timeout: float) -> BaseXNATSession:
    logger = _Silent("xnat_importer.xnatpy", level=logging.CRITICAL + 1)
    try:
        # Without keep-alive: its thread would print a traceback whenever the server is away, and hold a session for ever.
        return BaseXNATSession(
            server=url,
            logger=logger,
            interface=interface,
            keepalive=False,
            logged_in_user=user,
            default_timeout=timeout,
            jsession=token,
        )
    except (XNATError, requests.RequestException) as exc:
        raise errors.from_exception(exc, doing="opening the session", url=url) from exc


def quoted(*segments: str) -> str:
    """A path from raw segments, each one quoted whole (`#`, `/`, spaces, any bytes): quoted("data", "a b") == "/data/a%20b"."""
    return "".join("/" + quote(segment, safe="", errors="surrogateescape") for segment in segments)


def quoted_path(path: str) -> str:
    """A relative POSIX path with its segments quoted; the slashes stay."""
    return "/".join(quote(segment, safe="", errors="surrogateescape") for segment in path.split("/"))


def unquoted(path: str) -> str:
    """The reverse of both."""
    return unquote(path, errors="surrogateescape")


def as_query(values: Mapping[str, str]) -> list[tuple[str, str]]:
    """A mapping as a query, empty values left out."""
    return [(key, value) for key, value in values.items() if value]
