"""What the stand-in knows: frozen values, and the tables that hold them.

All fields are plain (text, numbers, flat dictionaries of text) so that a row is its own JSON. The bytes are elsewhere,
on disk; that a catalog can disagree with the disk is one of the things this stand-in is for.
"""

from dataclasses import dataclass, field
from datetime import datetime
from typing import TypeVar

from lading.sandbox.xnat.store import Database, Table

UNASSIGNED = "Unassigned"


def now() -> str:
    """The moment as XNAT writes it in its tables."""
    return datetime.now().astimezone().strftime("%Y-%m-%d %H:%M:%S.%f")


@dataclass(frozen=True)
class Project:
    """Who may do what, and whether imports archive themselves."""

    id: str
    name: str = ""
    secondary_id: str = ""
    description: str = ""
    prearchive_code: int = 0  # 0 manual, 4 auto-archive, 5 auto-archive and overwrite
    anonymise: bool = False
    members: dict[str, str] = field(default_factory=dict)  # user -> owner | member | collaborator

    @property
    def auto_archives(self) -> bool:
        """Whether an import goes on into the archive."""
        return self.prearchive_code in (4, 5)


@dataclass(frozen=True)
class RetiredProject:
    """The ID of a deleted project: XNAT never gives it out again."""

    id: str


@dataclass(frozen=True)
class Subject:
    """A participant of one project."""

    id: str
    project: str
    label: str
    insert_user: str = ""
    insert_date: str = field(default_factory=now)
    fields: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Experiment:
    """A session of a subject. Its label is unique in the project."""

    id: str
    project: str
    subject_id: str
    label: str
    xsi_type: str
    uid: str = ""  # StudyInstanceUID
    date: str = ""
    insert_date: str = field(default_factory=now)
    fields: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Scan:
    """A series of a session."""

    experiment: str
    id: str
    xsi_type: str
    uid: str = ""  # SeriesInstanceUID
    type: str = ""
    series_description: str = ""
    modality: str = ""
    quality: str = "usable"
    note: str = ""


@dataclass(frozen=True)
class Resource:
    """A folder of files with a catalog."""

    id: str
    owner: str  # "project:P", "subject:XNAT_S…", "experiment:XNAT_E…" or "scan:XNAT_E…/1"
    label: str
    folder: str  # relative to the stand-in's root, POSIX
    format: str = ""
    content: str = ""
    tags: str = ""
    description: str = ""


@dataclass(frozen=True)
class CatalogEntry:
    """What the catalog says of one file; the disk may say otherwise."""

    resource: str
    path: str
    size: int
    digest: str  # MD5 in lower-case hex, or ""
    format: str = ""
    content: str = ""
    tags: str = ""
    uid: str = ""  # SOPInstanceUID of a DICOM object


@dataclass(frozen=True)
class PrearchiveSession:
    """What was received of one study under one label."""

    project: str
    timestamp: str
    folder: str
    name: str
    tag: str  # StudyInstanceUID
    subject: str
    status: str
    scan_date: str = ""
    scan_time: str = ""
    auto_archive: str = ""
    prevent_anon: bool = False
    prevent_auto_commit: bool = False
    source: str = ""
    visit: str = ""
    timezone: str = ""
    uploaded: str = field(default_factory=now)
    lastmod: str = field(default_factory=now)
    stuck: bool = False  # a fault: the rebuilder passes it by
    moving_to: str = ""  # the folder, relative to the root, that its files are being moved to
    fields: dict[str, str] = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Names it, and its folder in the prearchive."""
        return f"{self.project}/{self.timestamp}/{self.folder}"

    @property
    def uri(self) -> str:
        """As the prearchive tables show it."""
        return f"/prearchive/projects/{self.key}"


@dataclass(frozen=True)
class PrearchiveScan:
    """A series of it."""

    session: str
    id: str
    uid: str
    series_description: str
    modality: str
    session_type: str
    scan_type: str


@dataclass(frozen=True)
class PrearchiveObject:
    """One DICOM object waiting in the prearchive."""

    session: str
    scan: str
    name: str
    uid: str


@dataclass(frozen=True)
class PrearchiveLog:
    """Why an attempt to archive a session failed."""

    session: str
    number: int
    text: str


@dataclass(frozen=True)
class InboxRequest:
    """One call of the inbox handler."""

    id: int
    username: str
    path: str
    parameters: dict[str, str]
    cleanup: bool
    created: int  # milliseconds since 1970
    timestamp: int
    status: str = "Queued"
    resolution: str | None = None


@dataclass(frozen=True)
class AliasToken:
    """A temporary user name and password."""

    alias: str
    secret: str
    user: str
    expires: float


@dataclass(frozen=True)
class Number:
    """A sequence or a tally that must survive a restart."""

    name: str
    value: int


class State:
    """All tables over one database."""

    def __init__(self, database: Database) -> None:
        self._database = database
        self.changing = database.changing
        self.projects = Table(database, Project, lambda row: row.id)
        self.retired = Table(database, RetiredProject, lambda row: row.id)
        self.subjects = Table(database, Subject, lambda row: row.id, lambda row: row.project, lambda row: row.label)
        self.experiments = Table(
            database, Experiment, lambda row: row.id, lambda row: row.project, lambda row: row.label
        )
        self.scans = Table(database, Scan, lambda row: f"{row.experiment}/{row.id}", lambda row: row.experiment)
        self.resources = Table(database, Resource, lambda row: row.id, lambda row: row.owner)
        self.entries = Table(database, CatalogEntry, lambda row: f"{row.resource}/{row.path}", lambda row: row.resource)
        self.prearchive = Table(database, PrearchiveSession, lambda row: row.key, lambda row: row.project)
        self.prearchive_scans = Table(
            database, PrearchiveScan, lambda row: f"{row.session}/{row.id}", lambda row: row.session
        )
        self.prearchive_objects = Table(
            database, PrearchiveObject, lambda row: f"{row.session}/{row.scan}/{row.name}", lambda row: row.session
        )
        self.prearchive_logs = Table(
            database, PrearchiveLog, lambda row: f"{row.session}/{row.number}", lambda row: row.session
        )
        self.inbox = Table(database, InboxRequest, lambda row: str(row.id))
        self.tokens = Table(database, AliasToken, lambda row: row.alias)
        self.numbers = Table(database, Number, lambda row: row.name)

    def count(self, name: str, by: int = 1) -> int:
        """Moves a number on; answers its new value."""
        with self.changing():
            former = self.numbers.get(name)
            return self.numbers.put(Number(name, (former.value if former else 0) + by)).value

    def counted(self, prefix: str) -> dict[str, int]:
        """All numbers whose name begins so, by the rest of the name."""
        return {row.name.removeprefix(prefix): row.value for row in self.numbers.all() if row.name.startswith(prefix)}

    def subject(self, project: str, key: str) -> Subject | None:
        """By ID or label; None when the project has none."""
        return _of_that_name(self.subjects, project, key)

    def experiment(self, project: str, key: str) -> Experiment | None:
        """By ID or label; None when the project has none."""
        return _of_that_name(self.experiments, project, key)

    def resource(self, owner: str, key: str) -> Resource | None:
        """By ID or label; None when the owner has none."""
        return next((row for row in self.resources.of(owner) if key in (row.id, row.label)), None)

    def close(self) -> None:
        """Closes the file; the tables can still be read."""
        self._database.close()


_Named = TypeVar("_Named", Subject, Experiment)


def _of_that_name(table: Table[_Named], project: str, key: str) -> _Named | None:
    by_id = table.get(key)
    if by_id is not None and by_id.project == project:
        return by_id
    return next((row for row in table.called(project, key) if row.label == key), None)
