"""The small resources of ``/data``: who am I, search elements, users, scan types."""

from starlette.responses import Response

from lading.sandbox.xnat import answers, modality
from lading.sandbox.xnat.answers import Refusal
from lading.sandbox.xnat.calls import Call, Route, at_once, route
from lading.sandbox.xnat.site import Site
from lading.sandbox.xnat.tables import Cells, table


def show_session(site: Site, call: Call) -> Response:
    return answers.text(call.session)


def log_out(site: Site, call: Call) -> Response:
    site.accounts.close_session(call.session)
    return answers.empty()


def who(site: Site, call: Call) -> Response:
    return answers.text(f"User '{call.user}' is logged in")


def version(site: Site, call: Call) -> Response:
    """Gone since 1.7; clients try it first and then ask for the build info."""
    raise Refusal(404, "Not Found")


def list_elements(site: Site, call: Call) -> Response:
    names = ["xnat:projectData", "xnat:subjectData", *map(modality.session_xsi, modality.SESSION_TYPES)]
    rows = [{"ELEMENT_NAME": name, "SINGULAR": name, "PLURAL": name, "SECURED": "true", "COUNT": "0"} for name in names]
    return table(call, ["ELEMENT_NAME", "SINGULAR", "PLURAL", "SECURED", "COUNT"], rows)


def show_element(site: Site, call: Call) -> Response:
    row = {"FIELD_ID": "ID_FIELD", "HEADER": "ID", "TYPE": "string"}
    return table(call, ["FIELD_ID", "HEADER", "SUMMARY", "TYPE", "DESC", "SRC"], [row])


def list_users(site: Site, call: Call) -> Response:
    rows: list[Cells] = [{"xdat_user_id": number, "login": name} for number, name in enumerate(site.accounts.users, 1)]
    return table(call, ["xdat_user_id", "login", "firstname", "lastname", "email"], rows)


ROUTES: list[Route[Site]] = [
    *at_once("JSESSION", show_session),
    *route("DELETE", "JSESSION", log_out),
    *at_once("auth", who),
    *at_once("version", version),
    *at_once("search/elements", list_elements),
    *at_once("search/elements/{name}", show_element),
    *at_once("users", list_users),
]
