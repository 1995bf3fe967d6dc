"""The stand-in OMERO as a `World` for the importer suite, and for the tests of what only OMERO does.

It looks at the server over a login of its own, as root, and at the server's disk; never through the importer.
"""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import numpy as np
import omero
import omero.all
import omero.clients
import tifffile
from omero.rtypes import rstring, unwrap
from omero.sys import ParametersI

from lading.delivery import Labels, Parcel
from lading.inbox import Inbox
from lading.sandbox.omero import Accounts, SandboxOmero, User
from lading.testing.importer_suite import PASSWORD
from lading.testing.importing import Errand
from lading.testing.parcels import publish
from omero_importer.client_paths import client_path
from omero_importer.importer import OmeroImporter

GROUP, ARCHIVE = "facility", "archive"
USERS = {name: f"{name}-{PASSWORD}" for name in ("root", "carol", "reader", "dave")}
CHANGES = ("save", "delete", "import", "write", "truncate", "submit", "verifyUpload", "link", "chgrp", "create_")
"""How the names of operations begin that change something."""
Table = Mapping[str, object]


def people(permissions: str = "rwr---") -> Accounts:
    """Carol imports, Dave and the reader are in her group; `permissions` are the group's."""
    users = {name: User(USERS[name], (GROUP,)) for name in ("carol", "reader", "dave")}
    return Accounts({"root": User(USERS["root"], ("system",)), **users}, {GROUP: permissions})


def people_with_an_archive() -> Accounts:
    """The same, and Carol is in the group ARCHIVE too."""
    known = people()
    carol = User(USERS["carol"], (GROUP, ARCHIVE))
    return Accounts({**known.users, "carol": carol}, {**known.groups, ARCHIVE: "rwr---"})


class OmeroWorld:
    """One fresh project of Carol's on a running stand-in."""

    def __init__(self, sandbox: SandboxOmero, folder: Path, *, tls: bool = True, route: Table | None = None) -> None:
        self.sandbox, self.folder, self._tls = sandbox, folder, tls
        self.project = f"P{uuid4().hex[:8]}"
        sandbox.faults()
        self.inbox = Inbox.create(folder / "inbox")
        # No JVM here: what the images are is said by their names.
        files = {"attach": ["*.bin", "*.gz", "*.json", "-dash"]}
        self._route = {"create": "dataset", "reread": True, "files": files, **(route or {})}
        self._importers: list[OmeroImporter] = []
        # Closed for a moment only, and never because the machine of the tests is slow, except where a test wants to see it.
        self.valve: dict[str, object] = {"free_gb": 0.0, "first_pause": 0.1, "longest_pause": 1.0}
        self.valve |= {"verify_wait": 600.0, "database_wait": 600.0, "database_factor": 1e6}
        with self.client("carol") as client:
            project = omero.model.ProjectI()
            project.name = rstring(self.project)
            client.getSession().getUpdateService().saveObject(project)

    # -- what the suite asks for ------------------------------------------------------------------------------------

    def importer(self, **route: object) -> OmeroImporter:
        return self.importer_of("carol", USERS["carol"], **route)

    def importer_as(self, role: str) -> OmeroImporter:
        if role == "nobody":
            return self.importer_of("carol", "wrong-" + PASSWORD)
        return self.importer_of(role, USERS[role])

    def errand(self, parcel: Parcel) -> Errand:
        return Errand(
            factory="omero_importer.importer:OmeroImporter",
            repository=self.repository(self.login("carol", USERS["carol"])),
            route=self._route,
            inbox=str(self.inbox.root),
            state=str(self.folder / f"state-{parcel.delivery.id}"),
            delivery=parcel.delivery.id,
        )

    def parcel(
        self,
        session: str = "MR1",
        *,
        images: int = 3,
        companions: Iterable[str] = (),
        project: str = "",
        participant: str = "sub-001",
        files: Mapping[str, bytes] | None = None,
        algorithms: Iterable[str] = ("md5",),
    ) -> Parcel:
        """As the suite wants it; `files` come in addition. `algorithms`: what the manifest has besides SHA-256."""
        content = {name: f"{name} of {session}".encode() for name in companions}
        content |= {name: b"" for name in companions if name.startswith("empty")}
        made = self.folder / f"made-{uuid4().hex}.tif"
        for number in range(images):
            tifffile.imwrite(made, np.frombuffer(os.urandom(256), np.uint8).reshape(16, 16))
            content[f"plain/{number + 1:04d}.tif"] = made.read_bytes()
        labels = Labels(project or self.project, participant, session)
        # The label is taken in the inbox from then on; a second session of one label comes from another folder there.
        if (self.inbox.root / str(labels)).exists():
            (self.inbox.root / str(labels)).rename(self.folder / f"moved-{uuid4().hex}")
        return publish(self.inbox, labels, content | dict(files or {}), algorithms=tuple(algorithms))

    def held(self, parcel: Parcel) -> Counter[str]:
        found: Counter[str] = Counter()
        for path in self.stored(parcel).values():
            if path.is_file():
                found[hashlib.sha256(path.read_bytes()).hexdigest()] += 1
        return found

    def sessions(self) -> int:
        rows = self.ask("select l.child.id from ProjectDatasetLink l where l.parent.name = :name", name=self.project)
        return len(rows)

    def changes(self) -> int:
        counts = self.sandbox.do("counts")
        assert isinstance(counts, dict)
        return sum(n for name, n in counts.items() if name.rpartition(".")[2].startswith(CHANGES))

    def logins_refused(self) -> int:
        counts = self.sandbox.do("counts")
        assert isinstance(counts, dict)
        return sum(n for name, n in counts.items() if name.endswith(".createSession"))

    def go_down(self) -> None:
        self.sandbox.stop()

    def come_back(self) -> None:
        self.sandbox.start()

    def show_no_digests(self) -> None:
        self.sandbox.faults(blank_checksums=-1)

    def lose(self, count: int) -> None:
        self.sandbox.faults(vanishing_files=count)

    def damage(self, parcel: Parcel, name: str) -> None:
        path = self.stored(parcel)[name]
        content = bytearray(path.read_bytes())
        content[-1] ^= 0xFF
        path.unlink()
        path.write_bytes(content)

    def destroy(self, parcel: Parcel, name: str) -> None:
        self.stored(parcel)[name].unlink()

    def lose_answers(self, count: int) -> None:
        changing = ["saveAndReturnObject", "importFileset", "write", "verifyUpload"]
        self.sandbox.faults(lost_replies=changing[:count])

    def expire_login(self) -> None:
        self.sandbox.do("end-sessions", user="carol", idle=True)

    # -- what else OMERO's own tests need ---------------------------------------------------------------------------

    def importer_of(self, user: str, password: str, **route: object) -> OmeroImporter:
        """One with any login; `route` as in `importer`."""
        made = OmeroImporter.from_settings(
            self.repository(self.login(user, password)),
            {**self._route, **route},
            inbox_root=self.inbox.root,
            state=self.folder / "state",
        )
        self._importers.append(made)
        return made

    def repository(self, prefix: str) -> dict[str, object]:
        """`[repositories.NAME]`, with the login from the environment."""
        found: dict[str, object] = {
            "host": self.sandbox.host,
            "port": self.sandbox.port if self._tls else self.sandbox.tcp_port,
            "credentials": f"env:{prefix}",
            "bioformats": {"use": "never"},
            "patience": 5.0,
            "valve": self.valve,
        }
        return found | ({"ssl": {"ca": str(self.sandbox.certificate)}} if self._tls else {"plain": "loopback"})

    @contextmanager
    def client(self, user: str) -> Iterator["omero.clients.BaseClient"]:
        """A session of OMERO's own client."""
        client = omero.client(host=f"tcp://{self.sandbox.host}", port=self.sandbox.tcp_port)
        try:
            client.createSession(user, USERS[user])
            yield client
        finally:
            client.closeSession()

    def ask(self, query: str, **texts: str) -> list[list[object]]:
        """The rows of a projection, whoever they belong to."""
        parameters = ParametersI()
        for name, value in texts.items():
            parameters.add(name, rstring(value))
        with self.client("root") as client:
            rows: list[list[object]] = unwrap(
                client.getSession().getQueryService().projection(query, parameters, {"omero.group": "-1"})
            )
            return rows

    def stored(self, parcel: Parcel) -> dict[str, Path]:
        """Where the server keeps the parcel's files, whether they are still there or not; by path in the manifest."""
        prefix = f"{parcel.delivery.labels}/"
        by_name: dict[str, Path] = {}
        for path, folder, name in self.ask(
            "select e.clientPath, o.path, o.name from FilesetEntry e join e.originalFile o where e.clientPath like :p",
            p=prefix + "%",
        ):
            where = self.sandbox.root / "data" / "ManagedRepository" / str(folder).strip("/") / str(name)
            assert str(path) not in by_name, f"{path} is there twice"
            by_name[str(path)] = where
        for number, folder, name in self.ask(
            "select o.id, o.path, o.name from FileAnnotation a join a.file o where o.path like :p", p=prefix + "%"
        ):
            path = f"{folder}{name}"
            assert path not in by_name, f"{path} is there twice"
            by_name[path] = self.sandbox.root / "data" / "Files" / str(number)
        names = {client_path(prefix + entry.path): entry.path for entry in parcel.manifest}
        return {names[path]: where for path, where in by_name.items() if path in names}

    def close(self) -> None:
        """Log out."""
        for importer in self._importers:
            importer.close()

    def login(self, user: str, password: str) -> str:
        """Put a login into the environment; the prefix of its names."""
        prefix = f"{self.project}_{uuid4().hex[:6]}"
        os.environ[f"{prefix}_USER"], os.environ[f"{prefix}_PASSWORD"] = user, password
        return prefix


@contextmanager
def running_omero(root: Path, accounts: Accounts | None = None, **options: object) -> Iterator[SandboxOmero]:
    """A stand-in with the users of this module, or others."""
    with SandboxOmero(root, people=accounts or people(), java=False, **options) as sandbox:  # type: ignore[arg-type]  # its own options, passed on
        yield sandbox
