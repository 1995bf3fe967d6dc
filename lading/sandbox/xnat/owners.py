"""Finds what a path of the REST interface means: a project, a subject, an experiment or a scan that may be seen."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import quote

from lading.sandbox.xnat.answers import Refusal
from lading.sandbox.xnat.auth import READ
from lading.sandbox.xnat.site import Site
from lading.sandbox.xnat.state import Experiment, Project, Scan, Subject

_URI = re.compile(
    r"(?:/data)?(?:/archive)?(?:/projects/(?P<project>[^/]+))?(?:/subjects/(?P<subject>[^/]+))?"
    r"(?:/experiments/(?P<experiment>[^/]+))?(?:/scans/(?P<scan>[^/]+))?(?:/resources/(?P<resource>[^/]+))?/?"
)


@dataclass(frozen=True)
class Place:
    """What a path leads to; the last one that is not None is meant."""

    project: Project | None = None
    subject: Subject | None = None
    experiment: Experiment | None = None
    scan: Scan | None = None

    @property
    def owner(self) -> str:
        """The key of its resources."""
        if self.scan:
            return f"scan:{self.scan.experiment}/{self.scan.id}"
        if self.experiment:
            return f"experiment:{self.experiment.id}"
        if self.subject:
            return f"subject:{self.subject.id}"
        if self.project:
            return f"project:{self.project.id}"
        raise Refusal(400, "No object was specified.")

    @property
    def project_id(self) -> str:
        """The project that all of it belongs to."""
        for row in (self.experiment, self.subject):
            if row:
                return row.project
        return self.project.id if self.project else ""

    @property
    def uri(self) -> str:
        """How tables refer to it."""
        if self.experiment:
            scan = f"/scans/{quote(self.scan.id, safe='')}" if self.scan else ""
            return f"/data/experiments/{self.experiment.id}{scan}"
        if self.subject:
            return f"/data/projects/{self.subject.project}/subjects/{self.subject.id}"
        return f"/data/projects/{self.project_id}"


def find(site: Site, user: str, args: Mapping[str, str]) -> Place:
    """By the route's ``project``, ``subject``, ``experiment`` and ``scan``, each by ID or label.

    Raises Refusal 404 for what is not there or may not be seen.
    """
    project = find_project(site, user, args["project"]) if args.get("project") else None
    subject = find_subject(site, user, project, args["subject"]) if args.get("subject") else None
    experiment = find_experiment(site, user, project, args["experiment"]) if args.get("experiment") else None
    if experiment and subject and experiment.subject_id != subject.id:
        experiment = None
    if args.get("experiment") and experiment is None:
        raise Refusal(404, f"Unable to find the specified experiment: {args['experiment']}")
    scan = None
    if experiment and args.get("scan"):
        scan = site.state.scans.get(f"{experiment.id}/{args['scan']}")
        if scan is None:
            raise Refusal(404, f"Unable to find the specified scan: {args['scan']}")
    if args.get("subject") and subject is None:
        raise Refusal(404, f"Unable to find the specified subject: {args['subject']}")
    return Place(project, subject, experiment, scan)


def find_project(site: Site, user: str, key: str) -> Project:
    project = site.state.projects.get(key)
    if project is None or not site.accounts.can(user, READ, key):
        raise Refusal(404, f"Unable to find the specified project: {key}")
    return project


def find_subject(site: Site, user: str, project: Project | None, key: str) -> Subject | None:
    if project is not None:
        return site.state.subject(project.id, key)
    subject = site.state.subjects.get(key)
    return subject if subject and site.accounts.visible(user, subject) else None


def find_experiment(site: Site, user: str, project: Project | None, key: str) -> Experiment | None:
    if project is not None:
        return site.state.experiment(project.id, key)
    experiment = site.state.experiments.get(key)
    return experiment if experiment and site.accounts.visible(user, experiment) else None


def owner_of_uri(site: Site, user: str, uri: str) -> tuple[str, str]:
    """The owner key and the resource label ("" if none) that a URI in a parameter means. Raises Refusal 400, 404."""
    found = _URI.fullmatch(uri)
    if found is None:
        raise Refusal(400, f"Invalid resource URI: {uri}")
    parts = {name: value for name, value in found.groupdict().items() if value}
    label = parts.pop("resource", "")
    return find(site, user, parts).owner, label


def project_of(site: Site, owner: str) -> str:
    """The project of an owner key."""
    kind, _, key = owner.partition(":")
    if kind == "project":
        return key
    if kind == "subject":
        subject = site.state.subjects.get(key)
        return subject.project if subject else ""
    experiment = site.state.experiments.get(key.split("/")[0])
    return experiment.project if experiment else ""
