"""``/_sandbox/…``: what a test may do to the stand-in from another process. No XNAT has this.

It needs no login: the server listens on the loopback address only.
"""

import json
from dataclasses import replace

from starlette.responses import Response

from lading.sandbox.xnat import answers
from lading.sandbox.xnat.answers import Json, Refusal
from lading.sandbox.xnat.calls import Call, Route, at_once, route
from lading.sandbox.xnat.faults import KnobValue
from lading.sandbox.xnat.site import Site
from lading.sandbox.xnat.state import Project

ROLES = ("owner", "member", "collaborator")


def show_faults(site: Site, call: Call) -> Response:
    return answers.as_json(_plain(site.faults.as_dict()))


def put_faults(site: Site, call: Call) -> Response:
    try:
        site.faults.update(_body(call))
    except (KeyError, TypeError) as error:
        raise Refusal(400, str(error.args[0])) from error
    return show_faults(site, call)


def reset_faults(site: Site, call: Call) -> Response:
    site.faults.reset()
    return show_faults(site, call)


def _plain(knobs: dict[str, KnobValue]) -> Json:
    return {name: [*value] if isinstance(value, list) else value for name, value in knobs.items()}


def _body(call: Call) -> dict[str, object]:
    try:
        value = json.loads(call.body)
    except ValueError as error:
        raise Refusal(400, "A JSON object is needed.") from error
    if not isinstance(value, dict):
        raise Refusal(400, "A JSON object is needed.")
    return value


def show_counts(site: Site, call: Call) -> Response:
    return Response(json.dumps(site.counts()), media_type="application/json")


def show_log(site: Site, call: Call) -> Response:
    return answers.text("\n".join(site.log) + "\n")


def show_place(site: Site, call: Call) -> Response:
    """Where the inbox is on this machine."""
    return answers.as_json({"inbox": str(site.folders.inbox), "root": str(site.folders.root)})


def add_project(site: Site, call: Call) -> Response:
    """``{"id": "P", "prearchive_code": 4, "members": {"alice": "member"}}``"""
    given = _body(call)
    members = given.get("members", {})
    if not isinstance(members, dict) or not set(members.values()) <= set(ROLES):
        raise Refusal(400, f"members maps user names to one of {', '.join(ROLES)}.")
    code = given.get("prearchive_code", 0)
    if code not in (0, 4, 5):
        raise Refusal(400, "prearchive_code is 0, 4 or 5.")
    create_project(site, str(given.get("id", "")), int(str(code)), members)
    return answers.empty(201)


def create_project(site: Site, number: str, prearchive_code: int = 0, members: dict[str, str] | None = None) -> None:
    """Creates a project, or changes these two things of it."""
    with site.state.changing():
        project = site.state.projects.get(number) or Project(
            number, number, number, members={site.accounts.admin: "owner"}
        )
        site.state.projects.put(
            replace(project, prearchive_code=prearchive_code, members=project.members | (members or {}))
        )
    (site.folders.inbox / number).mkdir(exist_ok=True)


def forget_sessions(site: Site, call: Call) -> Response:
    """Every login session ends now."""
    site.accounts.close_all_sessions()
    return answers.empty()


ROUTES: list[Route[Site]] = [
    *at_once("faults", show_faults),
    *route("PUT POST", "faults", put_faults),
    *route("DELETE", "faults", reset_faults),
    *route("GET", "counts", show_counts),
    *at_once("log", show_log),
    *at_once("place", show_place),
    *route("POST PUT", "projects", add_project),
    *route("DELETE", "sessions", forget_sessions),
]
