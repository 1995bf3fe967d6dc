"""How a request travels: network faults, login, reading, routing, answer.

Everything after the reading is synchronous. What is in memory is answered at once; the rest runs in a thread, so that
hashing a gigabyte keeps nobody waiting.
"""

import asyncio
import re
import time
from fnmatch import fnmatch
from typing import Protocol

from starlette.requests import Request, cookie_parser
from starlette.responses import PlainTextResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from lading.sandbox.xnat import answers, control, data_api, entities, prearchive_api, resources, services, xapi
from lading.sandbox.xnat.answers import Refusal, error_page
from lading.sandbox.xnat.auth import Caller, login_required
from lading.sandbox.xnat.calls import Router, raw_path, raw_query, read_call
from lading.sandbox.xnat.site import Site

BANNER = "This is a STAND-IN for tests and demonstrations. It is not XNAT, and it keeps no data safe."

_DATA = Router(
    [*data_api.ROUTES, *prearchive_api.ROUTES, *services.ROUTES, *entities.ROUTES, *resources.ROUTES],
)
_XAPI = Router(xapi.ROUTES)
_CONTROL = Router(control.ROUTES)
_METHODS = ["GET", "HEAD", "PUT", "POST", "DELETE"]
_LOGIN_PAGE = (
    "<!DOCTYPE html>\n<html><head><title>Login</title></head><body><form>User name, password</form></body></html>"
)
_VARIABLE = re.compile(r"/(?:[^/]*\d[^/]*)(?=/|$)")


def create_app(site: Site) -> ASGIApp:
    """Without the layers of a framework: this server shares its processors with whoever is measured against it."""

    async def answer(scope: Scope, receive: Receive, send: Send) -> None:
        response = await _answer(site, Request(scope, receive, send))
        await response(scope, receive, send)

    return _Network(answer, site)


async def _answer(site: Site, request: Request) -> Response:
    if request.method not in _METHODS:
        return PlainTextResponse("Method Not Allowed", status_code=405, headers={"Allow": ", ".join(_METHODS)})
    path, query = raw_path(request).rstrip("/"), raw_query(request)
    site.note(f"{request.method} {path}{'?' + query if query else ''}")
    site.requests[f"{request.method} {_VARIABLE.sub('/*', path)}"] += 1
    try:
        return await _routed(site, request, path)
    except Refusal as refusal:
        return error_page(refusal)


async def _routed(site: Site, request: Request, path: str) -> Response:
    top, _, rest = path.lstrip("/").partition("/")
    if top == "_sandbox":
        return await _by_route(site, request, Caller(), _CONTROL, rest)
    if path in ("/data/services/auth", "/data/JSESSION") and request.method in ("PUT", "POST"):
        return await _log_in(site, request)
    caller = _identified(site, request)
    if top in ("", "app"):
        return _with_cookies(Response(_banner_page(), media_type="text/html"), site, caller)
    if not caller.user and not (top == "xapi" and rest in xapi.OPEN_PATHS):
        return _nobody(site, request, caller)
    _demand_no_browser_trick(request)
    if top in ("data", "REST"):
        if request.headers.get("accept") == "application/json":
            # Restlet has no such variant of these resources; ?format=json is the way.
            raise Refusal(406, "Not Acceptable")
        answer = await _by_route(site, request, caller, _DATA, rest.removeprefix("archive/"))
    elif top == "xapi":
        answer = await _by_route(site, request, caller, _XAPI, rest)
    else:
        raise Refusal(404, "Not Found")
    return _with_cookies(answer, site, caller)


def _identified(site: Site, request: Request) -> Caller:
    session = cookie_parser(request.headers.get("cookie", "")).get("JSESSIONID", "")
    return site.accounts.identify(session, request.headers.get("authorization", ""))


async def _by_route(site: Site, request: Request, caller: Caller, router: Router[Site], path: str) -> Response:
    call = await read_call(request, caller.user, caller.session)
    try:
        route, args = router.find(call.method, path)
        call = call.with_args(args)
        if route.at_once:
            return route.answer(site, call)
        return await asyncio.get_running_loop().run_in_executor(site.request_workers, route.answer, site, call)
    finally:
        for upload in call.uploads:
            upload.file.close()


async def _log_in(site: Site, request: Request) -> Response:
    call = await read_call(request, "", "")
    if call.has("username"):
        user = site.accounts.login(call.get("username"), call.get("password"))
        caller = Caller(user, site.accounts.open_session(user))
    else:
        caller = _identified(site, request)
    if not caller.user:
        raise login_required()
    return _with_cookies(answers.text(caller.session), site, caller)


def _nobody(site: Site, request: Request, caller: Caller) -> Response:
    if caller.expired and site.faults.login_page_200:
        return Response(_LOGIN_PAGE, media_type="text/html")
    if caller.expired and site.faults.guest_404:
        raise Refusal(404 if request.method in ("GET", "HEAD") else 403, "Not found for guest.")
    raise login_required()


def _demand_no_browser_trick(request: Request) -> None:
    """Whoever looks like a browser needs a CSRF token to change anything."""
    browser = request.headers.get("user-agent", "").startswith("Mozilla")
    by_cookie = "authorization" not in request.headers
    if browser and by_cookie and request.method not in ("GET", "HEAD") and "XNAT_CSRF" not in request.query_params:
        raise Refusal(403, "INVALID CSRF (no token)")


def _with_cookies(response: Response, site: Site, caller: Caller) -> Response:
    cookies = []
    if caller.session:
        cookies.append(f"JSESSIONID={caller.session}; HttpOnly; Path=/; SameSite=lax")
    # Tomcat quotes this value, and xnatpy looks for the quotes.
    life = f"{int(time.time() * 1000)},{int(site.faults.session_timeout * 1000)}"
    cookies.append(f'SESSION_EXPIRATION_TIME="{life}"; Path=/')
    response.raw_headers.extend((b"set-cookie", cookie.encode()) for cookie in cookies)
    return response


def _banner_page() -> str:
    return f"<html><head><title>XNAT stand-in</title></head><body><h1>{BANNER}</h1></body></html>"


class _Closable(Protocol):
    def abort(self) -> None: ...


class _Network:
    """What lies between client and server: a proxy with its own limits, and a connection that can break."""

    def __init__(self, app: ASGIApp, site: Site) -> None:
        self._app, self._site = app, site

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        outcome = self._outcome(scope)
        done_unheard = outcome in ("504 after", "reset after")
        if outcome == "ok" or done_unheard:
            await self._app(scope, receive, _unheard if done_unheard else send)
        if outcome.startswith("reset"):
            _break_connection(send)
        elif outcome != "ok":
            await _PROXY_PAGES[outcome.split()[0]](scope, receive, send)

    def _outcome(self, scope: Scope) -> str:
        """What befalls this request: "ok", a broken connection, or the proxy's page; before it is done, or after."""
        faults, path = self._site.faults, scope["path"]
        if path.startswith("/_sandbox"):
            return "ok"
        if faults.down:
            return "reset" if faults.down == "reset" else "502"
        if faults.proxy_413 and _announced_size(scope) > faults.proxy_413:
            return "413"
        if scope["method"] in ("PUT", "POST") and fnmatch(path, faults.proxy_match):
            if faults.take("proxy_504"):
                return "504 after"
            if faults.take("conn_reset_after_commit"):
                return "reset after"
        return "ok"


async def _unheard(message: object) -> None:
    """Sends an answer that never arrives."""


def _announced_size(scope: Scope) -> int:
    return next((int(value) for name, value in scope["headers"] if name == b"content-length"), 0)


def _proxy_page(status: int, text: str) -> Response:
    body = f"<html>\r\n<head><title>{status} {text}</title></head>\r\n<body><h1>{status} {text}</h1></body>\r\n</html>"
    return Response(body, status_code=status, media_type="text/html", headers={"Connection": "close"})


_PROXY_PAGES = {
    "413": _proxy_page(413, "Request Entity Too Large"),
    "502": _proxy_page(502, "Bad Gateway"),
    "504": _proxy_page(504, "Gateway Time-out"),
}


def _break_connection(send: Send) -> None:
    # ASGI has no way to hang up; uvicorn's send is a method of the request, which knows its transport.
    transport: _Closable | None = getattr(getattr(send, "__self__", None), "transport", None)
    if transport is not None:
        transport.abort()
