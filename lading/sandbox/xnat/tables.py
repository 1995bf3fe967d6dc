"""Tables and items as XNAT renders them: every value is text."""

import csv
import html
import io
from collections.abc import Iterable, Mapping, Sequence
from datetime import UTC, datetime
from typing import TypeAlias
from xml.sax.saxutils import escape, quoteattr

from starlette.responses import Response

from lading.sandbox.xnat.answers import Json, as_json
from lading.sandbox.xnat.calls import Call

Cells: TypeAlias = Mapping[str, str | int | None]


def table(call: Call, columns: Sequence[str], rows: Iterable[Cells], title: str = "") -> Response:
    """Renders rows in the ``format`` that the call asks for: json (default), csv, xml or html."""
    lines = [["" if row.get(name) is None else str(row[name]) for name in columns] for row in rows]
    match call.get("format", "json"):
        case "csv":
            return _csv(columns, lines)
        case "xml":
            return Response(_xml(columns, lines), media_type="text/xml")
        case "html":
            return Response(_html(columns, lines), media_type="text/html")
    result: dict[str, Json] = {"Result": [dict(zip(columns, line, strict=True)) for line in lines]}
    if title:
        result["title"] = title
    result["totalRecords"] = str(len(lines))
    return as_json({"ResultSet": result})


def asked_columns(call: Call, default: Sequence[str]) -> list[str]:
    """The columns that ``?columns=`` names (``DEFAULT`` stands for the usual ones); URI is always among them."""
    asked = call.get("columns")
    if not asked:
        return list(default)
    names: list[str] = []
    for name in asked.split(","):
        names += default if name == "DEFAULT" else [name]
    return list(dict.fromkeys([*names, "URI"]))


def item(xsi_type: str, fields: Cells, children: Sequence[Json] = ()) -> Response:
    """One object as ``?format=json`` shows it."""
    return as_json({"items": [item_value(xsi_type, fields, children)]})


def item_value(xsi_type: str, fields: Cells, children: Sequence[Json] = ()) -> Json:
    shown: dict[str, Json] = {name: value for name, value in fields.items() if value not in (None, "")}
    return {
        "children": list(children),
        "meta": {
            "create_event_id": 1,
            "xsi:type": xsi_type,
            "isHistory": False,
            "start_date": datetime.now(UTC).strftime("%a %b %d %H:%M:%S UTC %Y"),
        },
        "data_fields": shown,
    }


def element(name: str, attributes: Cells, inside: str = "") -> str:
    """One XML element; attributes without a value are left out."""
    shown = "".join(f" {key}={quoteattr(str(value))}" for key, value in attributes.items() if value not in (None, ""))
    return f"<{name}{shown}>{inside}</{name}>" if inside else f"<{name}{shown}/>"


_NAMESPACES = {
    "xmlns:xnat": "http://nrg.wustl.edu/xnat",
    "xmlns:cat": "http://nrg.wustl.edu/catalog",
    "xmlns:xsi": "http://www.w3.org/2001/XMLSchema-instance",
}


def document(name: str, attributes: Cells, inside: str = "") -> Response:
    body = '<?xml version="1.0" encoding="UTF-8"?>\n' + element(name, {**attributes, **_NAMESPACES}, inside)
    return Response(body, media_type="text/xml")


def _csv(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> Response:
    out = io.StringIO()
    writer = csv.writer(out, quoting=csv.QUOTE_ALL, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(lines)
    return Response(out.getvalue(), media_type="text/csv")


def _xml(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    heads = "".join(f"<column>{escape(name)}</column>" for name in columns)
    rows = "".join("<row>" + "".join(f"<cell>{escape(cell)}</cell>" for cell in line) + "</row>" for line in lines)
    return f"<ResultSet><results><columns>{heads}</columns><rows>{rows}</rows></results></ResultSet>"


def _html(columns: Sequence[str], lines: Iterable[Sequence[str]]) -> str:
    heads = "".join(f"<th>{html.escape(name)}</th>" for name in columns)
    rows = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in line) + "</tr>" for line in lines)
    return f"<html><body><table><tr>{heads}</tr>{rows}</table></body></html>"
