"""What XNAT, the network and their client libraries say, in our words: one table per language.

XNAT's statuses are not what they seem: 200 may mean "nothing stored", 500 may mean "still at work" or "conflict", 400 may
mean "disk full". Where it matters, the caller reads the state again before it believes a status; these tables are for
the moment when there is nothing more to read.
"""

import html
import re

import requests
from requests import exceptions as http
from urllib3 import exceptions as below
from xnat import exceptions as xnatpy

from lading.errors import (
    AccessDenied,
    ConfigError,
    LadingError,
    Refused,
    TargetMissing,
    TargetUnavailable,
    UnexpectedFault,
)

_RETRY = "lading retry"
_DOCTOR = "lading doctor"

# The most specific class first; a test keeps the table complete for requests.exceptions and xnat.exceptions.
EXCEPTIONS: tuple[tuple[type[BaseException], type[LadingError], str], ...] = (
    (http.SSLError, AccessDenied, "the server's certificate was not accepted; set ca_bundle to the site's own CA"),
    (http.ProxyError, TargetUnavailable, "the proxy does not let us through"),
    (http.ConnectTimeout, TargetUnavailable, "no connection within the time allowed"),
    (http.ReadTimeout, TargetUnavailable, "no answer within the time allowed"),
    (http.Timeout, TargetUnavailable, "no answer within the time allowed"),
    (http.ChunkedEncodingError, TargetUnavailable, "the connection broke in the middle of the answer"),
    (http.ContentDecodingError, TargetUnavailable, "the answer is damaged"),
    (http.RetryError, TargetUnavailable, "the server kept failing"),
    (http.ConnectionError, TargetUnavailable, "the connection failed"),
    (http.JSONDecodeError, TargetUnavailable, "the answer is not the table that was asked for"),
    (http.InvalidJSONError, TargetUnavailable, "the answer is not the table that was asked for"),
    (http.HTTPError, TargetUnavailable, "the server answered with an error"),
    (http.TooManyRedirects, TargetUnavailable, "the server sends us in circles"),
    (http.InvalidProxyURL, ConfigError, "the proxy's URL is not one"),
    (http.MissingSchema, ConfigError, "the repository's url has no http:// or https://"),
    (http.InvalidSchema, ConfigError, "the repository's url must begin with http:// or https://"),
    (http.InvalidURL, ConfigError, "the repository's url is not one"),
    (http.URLRequired, ConfigError, "the repository has no url"),
    (http.InvalidHeader, UnexpectedFault, "a header of ours is not valid"),
    (http.StreamConsumedError, UnexpectedFault, "an answer was read twice"),
    (http.UnrewindableBodyError, UnexpectedFault, "a body cannot be sent again"),
    (http.RequestException, TargetUnavailable, "the request failed"),
    (below.SSLError, AccessDenied, "the server's certificate was not accepted; set ca_bundle to the site's own CA"),
    (below.NewConnectionError, TargetUnavailable, "the connection failed"),
    (below.ConnectTimeoutError, TargetUnavailable, "no connection within the time allowed"),
    (below.TimeoutError, TargetUnavailable, "no answer within the time allowed"),
    (below.ProtocolError, TargetUnavailable, "the connection broke"),
    (below.LocationValueError, ConfigError, "the repository's url is not one"),
    (below.HTTPError, TargetUnavailable, "the request failed"),
    (xnatpy.XNATLoginFailedError, AccessDenied, "XNAT does not know this user and password"),
    (xnatpy.XNATExpiredCredentialsError, AccessDenied, "the password has expired"),
    (xnatpy.XNATAuthError, AccessDenied, "XNAT did not log us in"),
    (xnatpy.XNATConnectionError, TargetUnavailable, "the connection failed"),
    (xnatpy.XNATNotConnectedError, TargetUnavailable, "the session is closed"),
    (xnatpy.XNATResponseError, TargetUnavailable, "the server answered with an error"),
    (xnatpy.XNATUploadError, TargetUnavailable, "the upload failed"),
    (xnatpy.XNATIOError, TargetUnavailable, "the transfer failed"),
    (xnatpy.XNATError, UnexpectedFault, "xnatpy reports an error"),
)

# What to believe of a status once the state has been read again.
STATUSES: dict[int, tuple[type[LadingError], str]] = {
    400: (Refused, "XNAT refused the request"),
    401: (AccessDenied, "XNAT does not accept our login"),
    403: (TargetMissing, "our account may not do this there"),
    404: (TargetMissing, "it is not there, or not visible to our account"),
    405: (Refused, "XNAT does not offer this"),
    406: (Refused, "XNAT refused the form of the request"),
    408: (TargetUnavailable, "the server lost patience"),
    409: (Refused, "it is in conflict with what XNAT holds"),
    413: (Refused, "the proxy before XNAT refuses bodies of this size"),
    417: (Refused, "XNAT refused a name"),
    422: (Refused, "XNAT refused the content"),
    423: (TargetUnavailable, "it is locked by another process of XNAT"),
    429: (TargetUnavailable, "XNAT asks us to slow down"),
    507: (TargetUnavailable, "XNAT has no space left"),
}

_NEXT: dict[type[LadingError], str] = {AccessDenied: _DOCTOR, ConfigError: _DOCTOR, TargetMissing: _DOCTOR}


def from_exception(exc: BaseException, *, doing: str, url: str) -> LadingError:
    """`exc` in our words. `doing` says what was asked for; `url` is the repository's. The caller raises it `from exc`."""
    if isinstance(exc, LadingError):
        return exc
    for foreign, ours, meaning in EXCEPTIONS:
        if isinstance(exc, foreign):
            return ours(f"{doing} at {url}: {meaning} ({type(exc).__name__})", next_command=_NEXT.get(ours, _RETRY))
    return UnexpectedFault(f"{doing} at {url}: {type(exc).__name__}: {exc}", next_command=_DOCTOR)


def from_response(response: requests.Response, *, doing: str, url: str) -> LadingError:
    """The error that a response stands for, XNAT's own words quoted. Anything unlisted counts as "try later"."""
    ours, meaning = STATUSES.get(response.status_code, (TargetUnavailable, "the server is not able to answer now"))
    said = reason(response)
    quoted = f": “{said}”" if said else ""
    return ours(
        f"{doing} at {url}: {meaning} (HTTP {response.status_code}{quoted})", next_command=_NEXT.get(ours, _RETRY)
    )


def reason(response: requests.Response) -> str:
    """The message inside one of XNAT's error pages or plain texts, at most 300 characters, "" when it says nothing."""
    text = response.text if len(response.content) < 1 << 20 else ""
    found = re.search(r"<h3>(.*?)</h3>", text, re.DOTALL | re.IGNORECASE)
    if found:
        text = found.group(1)
    elif text.lstrip().startswith("<"):
        title = re.search(r"<title>(.*?)</title>", text, re.DOTALL | re.IGNORECASE)
        text = title.group(1) if title else ""
    text = " ".join(html.unescape(re.sub(r"<[^>]+>", " ", text)).split())
    return text or (response.reason or "") if len(text) <= 300 else text[:297] + "…"
