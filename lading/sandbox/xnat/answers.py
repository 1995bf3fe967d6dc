"""Answers in the words of XNAT: its error pages, its URI lists, its plain texts."""

import html
import json
from collections.abc import Mapping
from typing import TypeAlias

from starlette.responses import Response

Json: TypeAlias = "bool | int | float | str | list[Json] | dict[str, Json] | None"


class Refusal(Exception):
    """The server says no: becomes an error page with this status and message."""

    def __init__(self, status: int, message: str = "", headers: Mapping[str, str] | None = None) -> None:
        super().__init__(message)
        self.status, self.message, self.headers = status, message, headers


def error_page(refusal: Refusal) -> Response:
    """The status page of Restlet 1.1: clients look for ``<html>`` at the start and the message in ``<h3>``."""
    body = (
        "<html>\n<head>\n   <title>Status page</title>\n</head>\n<body>\n"
        f"<h3>{html.escape(refusal.message, quote=False)}</h3>"
        # The unclosed tag is Restlet's own: pyxnat gets along with pages that are not XML, and fails on those that are.
        "<p>You can get technical details in RFC 2616, section 10.<br>\n</p>\n</body>\n</html>\n"
    )
    headers = dict(refusal.headers) if refusal.headers else None
    return Response(body, status_code=refusal.status, media_type="text/html", headers=headers)


def empty(status: int = 200) -> Response:
    return Response("", status_code=status, media_type="text/plain")


def text(body: str, status: int = 200) -> Response:
    return Response(body, status_code=status, media_type="text/plain")


def uri_list(*uris: str) -> Response:
    """One URI per line, each with CRLF, as ``text/uri-list`` wants it."""
    return Response("".join(f"{uri}\r\n" for uri in uris), media_type="text/uri-list")


def moved(status: int, uri: str) -> Response:
    return Response(f"{uri}\r\n", status_code=status, media_type="text/uri-list", headers={"Location": uri})


def as_json(value: Json, status: int = 200) -> Response:
    return Response(json.dumps(value), status_code=status, media_type="application/json")
