"""A whole facility on one machine with OMERO as its repository: stand-in, inbox, server, agent, instrument folder.

Programs are driven through the command line; OMERO is asked over a login of its own, as root, and its disk is looked at.
"""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import omero
import omero.clients
from omero.rtypes import rstring, unwrap
from omero.sys import ParametersI

from lading.sandbox.omero import Accounts, SandboxOmero, User
from lading.testing.facility import Facility

SETTINGS = """\
home = "state"

[inboxes.main]
path = "{inbox}"
quiet = 1
keep_free_gb = 0

[repositories.omero]
kind = "omero"
host = "{host}"
port = {port}
credentials = "env"
ssl = {{ ca = "{certificate}" }}
bioformats = {{ use = "{bioformats}" }}
{repository}

[repositories.omero.valve]
free_gb = 0.0
first_pause = 1.0
{valve}

[routes.microscopy]
inbox = "main"
repository = "omero"
transport = {transport}
digests = {digests}
{route}

[routes.microscopy.import]
{imports}

[agent]
scan_every = 0.5
receipts_every = 0.3

[[agent.watch]]
path = "instrument"
route = "microscopy"
quiet = {quiet}
{watch}

[server]
scan_every = 0.3
stale_after = {stale_after}
workers = {workers}
{server}
"""
PEOPLE = ("alice", "bob", "carol", "dave", "erin", "frank")


@dataclass
class OmeroFacility(Facility):
    """The facility below `root`, with a stand-in OMERO. "courier" imports, and may act for the six people of the lab."""

    SETTINGS: ClassVar[str] = SETTINGS

    sandbox: SandboxOmero | None = None

    @property
    def inbox(self) -> Path:
        """The staging inbox."""
        return self.root / "inbox"

    @property
    def omero(self) -> SandboxOmero:
        """The stand-in."""
        assert self.sandbox is not None
        return self.sandbox

    def images(self) -> list[tuple[str, str, str, str]]:
        """Every image: (project, dataset, name, owner), sorted."""
        rows = self.query(
            "select p.name, d.name, i.name, o.omeName from Image i join i.datasetLinks dl join dl.parent d "
            "join d.projectLinks pl join pl.parent p join i.details.owner o"
        )
        return sorted((str(project), str(dataset), str(name), str(owner)) for project, dataset, name, owner in rows)

    def stored(self) -> list[str]:
        """The SHA-256 of every file of every fileset, from the server's disk, sorted; one entry for each time it is there."""
        managed = self.omero.root / "data" / "ManagedRepository"
        rows = self.query("select o.path, o.name from FilesetEntry e join e.originalFile o")
        paths = [managed / str(folder).strip("/") / str(name) for folder, name in rows]
        return sorted(hashlib.sha256(path.read_bytes()).hexdigest() for path in paths)

    def attached(self) -> list[str]:
        """The names of all attached files, sorted."""
        return sorted(str(name) for (name,) in self.query("select f.name from FileAnnotation a join a.file f"))

    def query(self, text: str, **texts: str) -> list[list[object]]:
        """The rows of an HQL projection, whoever they belong to."""
        parameters = ParametersI()
        for name, value in texts.items():
            parameters.add(name, rstring(value))
        client = omero.client(host=f"tcp://{self.omero.host}", port=self.omero.tcp_port)
        try:
            session = client.createSession("root", self.omero.password("root"))
            rows: list[list[object]] = unwrap(
                session.getQueryService().projection(text, parameters, {"omero.group": "-1"})
            )
            return rows
        finally:
            client.closeSession()

    def _defaults(self) -> dict[str, str | float]:
        return {
            "inbox": str(self.inbox),
            "host": self.omero.host,
            "port": self.omero.port,
            "certificate": str(self.omero.certificate),
            "transport": f'{{ kind = "local", path = "{self.inbox}" }}',
            "bioformats": "never",
            "digests": '["sha1"]',
            "quiet": 1,
            "stale_after": 6,
            "workers": 1,
            **dict.fromkeys(("repository", "valve", "route", "imports", "watch", "server"), ""),
        }


def people() -> Accounts:
    """root; courier, an administrator; six scientists in one group; a visitor who is in another."""
    users = {name: User(f"{name}-of-the-tests", ("lab",)) for name in PEOPLE}
    users["root"] = User("root-of-the-tests", ("system",))
    users["visitor"] = User("visitor-of-the-tests", ("elsewhere",))
    users["courier"] = User("courier-of-the-tests", ("lab", "system"))
    return Accounts(users, {"lab": "rwra--", "elsewhere": "rw----"})


@contextmanager
def omero_facility(root: Path, **parts: str | float) -> Iterator[OmeroFacility]:
    """A site with its stand-in OMERO running, configured, its inbox made; server and agent not yet started."""
    with SandboxOmero(root / "omero", people=people(), java=parts.get("bioformats", "never") != "never") as sandbox:
        site = OmeroFacility(root, sandbox=sandbox)
        site.environment |= {"LADING_OMERO_USER": "courier", "LADING_OMERO_PASSWORD": sandbox.password("courier")}
        try:
            site.configure(**parts)
            site.create_inboxes()
            yield site
        finally:
            site.close()
