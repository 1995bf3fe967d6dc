"""Projects, subjects, experiments and scans over HTTP."""

import shutil
from collections.abc import Iterable, Sequence
from dataclasses import replace

from starlette.responses import Response

from lading.sandbox.xnat import answers, archive, catalog, labels, modality, owners, prearchive
from lading.sandbox.xnat.answers import Json, Refusal
from lading.sandbox.xnat.auth import EDIT, OWN, READ
from lading.sandbox.xnat.calls import Call, Route, at_once, route
from lading.sandbox.xnat.owners import Place
from lading.sandbox.xnat.resources import resource_row
from lading.sandbox.xnat.site import Site
from lading.sandbox.xnat.state import Experiment, Project, RetiredProject, Scan, Subject
from lading.sandbox.xnat.tables import Cells, asked_columns, document, element, item, item_value, table

_PROJECT_COLUMNS = ("ID", "secondary_ID", "name", "description", "pi_firstname", "pi_lastname", "URI")
_SUBJECT_COLUMNS = ("ID", "project", "label", "insert_date", "insert_user", "URI")
_EXPERIMENT_COLUMNS = ("ID", "project", "date", "xsiType", "label", "insert_date", "URI")
_SCAN_COLUMNS = ("xnat_imagescandata_id", "ID", "type", "quality", "xsiType", "note", "series_description", "URI")
_GROUPS = {"owners": "owner", "members": "member", "collaborators": "collaborator"}


def _fields(call: Call) -> dict[str, str]:
    """The XML paths of the query without their type: ``xnat:mrSessionData/note`` is ``note``."""
    return {key.split("/", 1)[1]: value for key, value in call.parameters if key.startswith("xnat:") and "/" in key}


def _matching(call: Call, rows: Iterable[Cells]) -> list[Cells]:
    """Rows that agree with the query where it names a column: ``?label=A&xsiType=xnat:mrSessionData``."""
    wanted = [(key, value) for key, value in call.query if key not in ("columns", "format")]
    return [row for row in rows if all(str(row[key]) == value for key, value in wanted if key in row)]


# Projects


def list_projects(site: Site, call: Call) -> Response:
    seen = [project for project in site.state.projects.all() if site.accounts.can(call.user, READ, project.id)]
    rows = _matching(call, [_project_row(project) for project in seen])
    return table(call, asked_columns(call, _PROJECT_COLUMNS), rows)


def _project_row(project: Project) -> Cells:
    return {
        "ID": project.id,
        "secondary_ID": project.secondary_id,
        "name": project.name,
        "description": project.description,
        "URI": f"/data/projects/{project.id}",
    }


def put_project(site: Site, call: Call) -> Response:
    """Creates or changes. 417 for a bad ID, 403 for the ID of a deleted project or without the right to change."""
    number, given = call.args["project"], _fields(call) | call.as_dict()
    if not labels.is_valid(number):
        raise Refusal(417, "Invalid character in project ID.")
    with site.state.changing():
        former = site.state.projects.get(number)
        if former is not None and not site.accounts.can(call.user, OWN, number):
            raise Refusal(403, "User account doesn't have permission to edit this project.")
        if former is None and site.state.retired.get(number):
            raise Refusal(403, "Project IDs of deleted projects cannot be used again.")
        project = former or Project(number, number, number, members={call.user: "owner"})
        site.state.projects.put(
            replace(
                project,
                name=given.get("name", project.name),
                secondary_id=given.get("secondary_ID", project.secondary_id),
                description=given.get("description", project.description),
            )
        )
    return answers.text(number)


def show_project(site: Site, call: Call) -> Response:
    row = _project_row(owners.find_project(site, call.user, call.args["project"]))
    shown = {name: value for name, value in row.items() if name != "URI"}
    if call.get("format") == "xml":
        return document("xnat:Project", shown)
    return item("xnat:projectData", shown)


def delete_project(site: Site, call: Call) -> Response:
    project = owners.find_project(site, call.user, call.args["project"])
    site.accounts.demand(call.user, OWN, project.id, "User account doesn't have permission to delete this project.")
    with site.state.changing():
        for session in site.state.prearchive.of(project.id):
            prearchive.delete(site, session)
        for subject in site.state.subjects.of(project.id):
            _delete_subject(site, subject)
        catalog.delete_owner_resources(site, f"project:{project.id}")
        site.state.projects.drop(project)
        site.state.retired.put(RetiredProject(project.id))
    shutil.rmtree(site.folders.archive / project.id, ignore_errors=True)
    return answers.empty()


def show_prearchive_code(site: Site, call: Call) -> Response:
    return answers.text(str(owners.find_project(site, call.user, call.args["project"]).prearchive_code))


def put_prearchive_code(site: Site, call: Call) -> Response:
    project = owners.find_project(site, call.user, call.args["project"])
    site.accounts.demand(call.user, OWN, project.id, "User account doesn't have permission to edit this project.")
    if call.args["code"] not in ("0", "4", "5"):
        raise Refusal(400, "The prearchive code is 0, 4 or 5.")
    site.state.projects.put(replace(project, prearchive_code=int(call.args["code"])))
    return answers.empty()


def list_members(site: Site, call: Call) -> Response:
    project = owners.find_project(site, call.user, call.args["project"])
    rows: list[Cells] = [
        {"displayname": f"{role.title()}s", "GROUP_ID": f"{project.id}_{role}", "login": user, "xdat_user_id": number}
        for number, (user, role) in enumerate(project.members.items(), 1)
    ]
    columns = ("displayname", "GROUP_ID", "login", "firstname", "lastname", "email", "xdat_user_id")
    return table(call, columns, rows)


def put_member(site: Site, call: Call) -> Response:
    project = owners.find_project(site, call.user, call.args["project"])
    site.accounts.demand(call.user, OWN, project.id, "User account doesn't have permission to edit this project.")
    role = _GROUPS.get(call.args["group"].rpartition("_")[2].lower().rstrip("s") + "s")
    if role is None or call.args["user"] not in site.accounts.users:
        raise Refusal(404, "Unknown group or user.")
    with site.state.changing():
        members = {user: kind for user, kind in project.members.items() if user != call.args["user"]}
        if call.method != "DELETE":
            members[call.args["user"]] = role
        site.state.projects.put(replace(project, members=members))
    return answers.empty()


# Subjects


def list_subjects(site: Site, call: Call) -> Response:
    found = site.state.subjects.all()
    if call.args.get("project"):
        found = site.state.subjects.of(owners.find_project(site, call.user, call.args["project"]).id)
    rows = _matching(call, [_subject_row(row) for row in found if site.accounts.visible(call.user, row)])
    return table(call, asked_columns(call, _SUBJECT_COLUMNS), rows)


def _subject_row(subject: Subject) -> Cells:
    return {
        "ID": subject.id,
        "project": subject.project,
        "label": subject.label,
        "insert_date": subject.insert_date,
        "insert_user": subject.insert_user,
        "xsiType": "xnat:subjectData",
        "URI": f"/data/subjects/{subject.id}",
    }


def put_subject(site: Site, call: Call) -> Response:
    """201 and the new ID, or 200 and the old one. 403 for those who may not edit: the honest way to ask."""
    project, asked = _new_in(site, call, "subject")
    refusal = "Specified user account has insufficient create privileges for subjects in this project."
    site.accounts.demand(call.user, EDIT, project, refusal)
    with site.state.changing():
        former = site.state.subject(project, asked)
        subject = former or archive.create_subject(site, project, call.get("label", asked), call.user)
        site.state.subjects.put(replace(subject, fields=subject.fields | _fields(call)))
    return answers.text(subject.id, 200 if former else 201)


def _new_in(site: Site, call: Call, kind: str) -> tuple[str, str]:
    if call.args.get("project"):
        return owners.find_project(site, call.user, call.args["project"]).id, call.args[kind]
    return owners.find(site, call.user, call.args).project_id, call.args[kind]


def show_subject(site: Site, call: Call) -> Response:
    subject = owners.find(site, call.user, call.args).subject
    if subject is None:
        raise Refusal(404, "Unable to find the specified subject.")
    shown: Cells = {"ID": subject.id, "project": subject.project, "label": subject.label}
    if call.get("format") == "xml":
        return document("xnat:Subject", shown)
    return item("xnat:subjectData", {**shown, **subject.fields})


def delete_subject(site: Site, call: Call) -> Response:
    subject = owners.find(site, call.user, call.args).subject
    if subject is None:
        raise Refusal(404, "Unable to find the specified subject.")
    site.accounts.demand(
        call.user, OWN, subject.project, "User account doesn't have permission to delete this subject."
    )
    with site.state.changing():
        _delete_subject(site, subject)
    return answers.empty()


def _delete_subject(site: Site, subject: Subject) -> None:
    for experiment in site.state.experiments.of(subject.project):
        if experiment.subject_id == subject.id:
            _delete_experiment(site, experiment)
    catalog.delete_owner_resources(site, f"subject:{subject.id}")
    site.state.subjects.drop(subject)


# Experiments


def list_experiments(site: Site, call: Call) -> Response:
    place = owners.find(site, call.user, call.args)
    found = site.state.experiments.of(place.project_id) if place.project_id else site.state.experiments.all()
    if place.subject:
        found = [row for row in found if row.subject_id == place.subject.id]
    rows = [_experiment_row(site, row) for row in found if site.accounts.visible(call.user, row)]
    return table(call, asked_columns(call, _EXPERIMENT_COLUMNS), _matching(call, rows))


def _experiment_row(site: Site, experiment: Experiment) -> Cells:
    subject = site.state.subjects.get(experiment.subject_id)
    return {
        "ID": experiment.id,
        "project": experiment.project,
        "date": experiment.date,
        "xsiType": experiment.xsi_type,
        "label": experiment.label,
        "insert_date": experiment.insert_date,
        "subject_ID": experiment.subject_id,
        "subject_label": subject.label if subject else "",
        "UID": experiment.uid,
        "URI": f"/data/experiments/{experiment.id}",
    }


def put_experiment(site: Site, call: Call) -> Response:
    """201 and the new ID, or 200 for what is there already (``pullDataFromHeaders`` and the like change nothing)."""
    if not call.args.get("project") and not call.args.get("subject"):
        return answers.text(_editable_experiment(site, call).id)
    above = owners.find(site, call.user, {key: value for key, value in call.args.items() if key != "experiment"})
    refusal = "Specified user account has insufficient create privileges for experiments in this project."
    site.accounts.demand(call.user, EDIT, above.project_id, refusal)
    with site.state.changing():
        former = site.state.experiment(above.project_id, call.args["experiment"])
        if former and above.subject and former.subject_id != above.subject.id:
            raise Refusal(409, "Session already exists in that project for another subject.")
        experiment = former or _created_experiment(site, call, above)
        site.state.experiments.put(replace(experiment, fields=experiment.fields | _fields(call)))
    return answers.text(experiment.id, 200 if former else 201)


def _editable_experiment(site: Site, call: Call) -> Experiment:
    above = {key: value for key, value in call.args.items() if key != "scan"}
    experiment = owners.find(site, call.user, above).experiment
    if experiment is None:
        raise Refusal(404, "Unable to find the specified experiment.")
    site.accounts.demand(call.user, EDIT, experiment.project, "User account doesn't have permission to edit.")
    return experiment


def _created_experiment(site: Site, call: Call, above: Place) -> Experiment:
    if above.subject is None:
        raise Refusal(400, "Subject is required to create an experiment.")
    given = _fields(call)
    xsi_type = call.get("xsiType", modality.session_xsi("mr"))
    return archive.create_experiment(
        site,
        above.subject,
        call.get("label", call.args["experiment"]),
        xsi_type,
        uid=given.pop("UID", ""),
        date=given.pop("date", ""),
        fields=given,
    )


def show_experiment(site: Site, call: Call) -> Response:
    place = owners.find(site, call.user, call.args)
    experiment = place.experiment
    if experiment is None:
        raise Refusal(404, "Unable to find the specified experiment.")
    shown: Cells = {
        "ID": experiment.id,
        "project": experiment.project,
        "label": experiment.label,
        "subject_ID": experiment.subject_id,
        "UID": experiment.uid,
        "date": experiment.date,
    }
    scans = [replace(place, scan=scan) for scan in site.state.scans.of(experiment.id)]
    if call.get("format") == "xml":
        inside = "".join(element("xnat:scan", {"ID": at.scan.id, "UID": at.scan.uid}) for at in scans if at.scan)
        return document("xnat:" + _element_name(experiment), shown, element("xnat:scans", {}, inside))
    children: list[Json] = []
    if scans:
        children.append({"field": "scans/scan", "items": [_scan_item(site, at) for at in scans]})
    fields = {key: value for key, value in experiment.fields.items() if key not in shown}
    return item(experiment.xsi_type, {**shown, **fields}, children)


def _element_name(experiment: Experiment) -> str:
    kind = experiment.xsi_type.removeprefix("xnat:").removesuffix("SessionData")
    return ("OtherDicom" if kind == modality.OTHER else kind.upper()) + "Session"


def delete_experiment(site: Site, call: Call) -> Response:
    experiment = owners.find(site, call.user, call.args).experiment
    if experiment is None:
        raise Refusal(404, "Unable to find the specified experiment.")
    site.accounts.demand(call.user, OWN, experiment.project, "User account doesn't have permission to delete this.")
    with site.state.changing():
        _delete_experiment(site, experiment)
    return answers.empty()


def _delete_experiment(site: Site, experiment: Experiment) -> None:
    for scan in site.state.scans.of(experiment.id):
        _delete_scan(site, scan)
    catalog.delete_owner_resources(site, f"experiment:{experiment.id}")
    site.state.experiments.drop(experiment)
    shutil.rmtree(site.folders.archive / experiment.project / "arc001" / experiment.label, ignore_errors=True)


def list_assessors(site: Site, call: Call) -> Response:
    owners.find(site, call.user, call.args)
    return table(call, asked_columns(call, _EXPERIMENT_COLUMNS), [])


# Scans


def list_scans(site: Site, call: Call) -> Response:
    place = owners.find(site, call.user, call.args)
    if place.experiment is None:
        raise Refusal(404, "Unable to find the specified experiment.")
    rows = [_scan_row(replace(place, scan=scan), scan) for scan in site.state.scans.of(place.experiment.id)]
    return table(call, asked_columns(call, _SCAN_COLUMNS), _matching(call, rows))


def _scan_row(place: Place, scan: Scan) -> Cells:
    return {
        "xnat_imagescandata_id": f"{scan.experiment}-{scan.id}",
        "ID": scan.id,
        "type": scan.type,
        "quality": scan.quality,
        "xsiType": scan.xsi_type,
        "note": scan.note,
        "series_description": scan.series_description,
        "UID": scan.uid,
        "modality": scan.modality,
        "URI": place.uri,
    }


def put_scan(site: Site, call: Call) -> Response:
    experiment = _editable_experiment(site, call)
    number = call.args["scan"]
    catalog.checked_path(number)
    given = _fields(call)
    with site.state.changing():
        former = site.state.scans.get(f"{experiment.id}/{number}")
        scan = former or Scan(experiment.id, number, call.get("xsiType", modality.scan_xsi("mr")))
        known = ("uid", "type", "series_description", "modality", "quality", "note")
        changed = {name: given[name] for name in known if name in given}
        site.state.scans.put(replace(scan, **changed, uid=given.get("UID", scan.uid)))
    return answers.empty(200 if former else 201)


def show_scan(site: Site, call: Call) -> Response:
    place = owners.find(site, call.user, call.args)
    if place.scan is None:
        raise Refusal(404, "Unable to find the specified scan.")
    return answers.as_json({"items": [_scan_item(site, place)]})


def _scan_item(site: Site, place: Place) -> Json:
    scan = place.scan
    if scan is None:
        raise Refusal(404, "Unable to find the specified scan.")
    fields: Cells = {
        "ID": scan.id,
        "image_session_ID": scan.experiment,
        "type": scan.type,
        "quality": scan.quality,
        "series_description": scan.series_description,
        "UID": scan.uid,
        "modality": scan.modality,
        "note": scan.note,
    }
    files: Sequence[Json] = [
        item_value("xnat:resourceCatalog", _file_fields(resource_row(site, place, resource)))
        for resource in site.state.resources.of(place.owner)
    ]
    children: list[Json] = [{"field": "file", "items": list(files)}] if files else []
    return item_value(scan.xsi_type, fields, children)


def _file_fields(row: Cells) -> Cells:
    names = ("xnat_abstractresource_id", "label", "file_count", "file_size", "format", "content")
    return {name: row[name] for name in names}


def delete_scan(site: Site, call: Call) -> Response:
    place = owners.find(site, call.user, call.args)
    if place.scan is None:
        raise Refusal(404, "Unable to find the specified scan.")
    site.accounts.demand(call.user, OWN, place.project_id, "User account doesn't have permission to delete this scan.")
    with site.state.changing():
        _delete_scan(site, place.scan)
    return answers.empty()


def _delete_scan(site: Site, scan: Scan) -> None:
    catalog.delete_owner_resources(site, f"scan:{scan.experiment}/{scan.id}")
    site.state.scans.drop(scan)


def _routes() -> list[Route[Site]]:
    found = [
        *at_once("projects", list_projects),
        *at_once("projects/{project}", show_project),
        *route("PUT", "projects/{project}", put_project),
        *route("DELETE", "projects/{project}", delete_project),
        *at_once("projects/{project}/prearchive_code", show_prearchive_code),
        *route("PUT", "projects/{project}/prearchive_code/{code}", put_prearchive_code),
        *at_once("projects/{project}/users", list_members),
        *route("PUT DELETE", "projects/{project}/users/{group}/{user}", put_member),
    ]
    for above in ("", "projects/{project}/"):
        found += at_once(above + "subjects", list_subjects)
        found += at_once(above + "subjects/{subject}", show_subject)
        found += route("PUT", above + "subjects/{subject}", put_subject)
        found += route("DELETE", above + "subjects/{subject}", delete_subject)
    for above in ("", "projects/{project}/", "subjects/{subject}/", "projects/{project}/subjects/{subject}/"):
        experiment = above + "experiments/{experiment}"
        found += at_once(above + "experiments", list_experiments)
        found += at_once(experiment, show_experiment)
        found += route("PUT", experiment, put_experiment)
        found += route("DELETE", experiment, delete_experiment)
        found += at_once(experiment + "/assessors", list_assessors)
        found += at_once(experiment + "/scans", list_scans)
        found += at_once(experiment + "/scans/{scan}", show_scan)
        found += route("PUT", experiment + "/scans/{scan}", put_scan)
        found += route("DELETE", experiment + "/scans/{scan}", delete_scan)
    return found


ROUTES: list[Route[Site]] = _routes()
