"""The stand-in XNAT as a `World` for the importer suite, and for the tests of what only XNAT does."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import httpx

from lading.delivery import Labels, Parcel
from lading.inbox import Inbox
from lading.sandbox.xnat import SandboxXnat
from lading.testing.dicom import new_study, write_series
from lading.testing.importer_suite import PASSWORD, digests
from lading.testing.importing import Errand
from lading.testing.parcels import publish, read_files
from xnat_importer.importer import XnatImporter

MANUAL, AUTO = 0, 4
USERS = {"admin": "admin-" + PASSWORD, "carol": PASSWORD, "reader": "reader-" + PASSWORD, "witness": "witness"}
Table = Mapping[str, object]

_losses: Counter[Path] = Counter()


class XnatWorld:
    """One fresh project on a running stand-in."""

    def __init__(self, sandbox: SandboxXnat, folder: Path, *, code: int = AUTO, route: Table | None = None) -> None:
        self.sandbox, self.folder = sandbox, folder
        self.project = f"P{uuid4().hex[:8]}"
        sandbox.faults.reset()
        sandbox.add_project(
            self.project,
            prearchive_code=code,
            members={"carol": "member", "reader": "collaborator", "witness": "collaborator"},
        )
        self.inbox = Inbox.create(sandbox.inbox)
        self._route = dict(route or {"route": "inbox"})
        self._importers: list[XnatImporter] = []

    # -- what the suite asks for ------------------------------------------------------------------------------------

    def importer(self, **route: object) -> XnatImporter:
        return self._importer("carol", USERS["carol"], route)

    def importer_as(self, role: str) -> XnatImporter:
        if role == "nobody":
            return self._importer("carol", "wrong-" + PASSWORD, {})
        return self._importer(role, USERS[role], {})

    def errand(self, parcel: Parcel) -> Errand:
        self._login_in_environment("carol", USERS["carol"], self.project)
        return Errand(
            factory="xnat_importer.importer:XnatImporter",
            repository=self._repository(f"env:{self.project}"),
            route=self._route,
            inbox=str(self.sandbox.inbox),
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
        study: str = "",
    ) -> Parcel:
        """As the suite wants it; `files` come in addition, `study` is the images' StudyInstanceUID."""
        content = {name: f"{name} of {session}".encode() for name in companions}
        content |= {name: b"" for name in companions if name.startswith("empty")}
        folder = self.folder / f"made-{uuid4().hex}"
        if images:
            write_series(folder, images, study=study or new_study(), participant=participant, session=session[:64])
            content |= read_files(folder)
        # The label is taken in the inbox from then on; a second session of one label comes from another folder there.
        labels = Labels(project or self.project, participant, session)
        if (self.sandbox.inbox / str(labels)).exists():
            (self.sandbox.inbox / str(labels)).rename(self.folder / f"moved-{uuid4().hex}")
        return publish(self.inbox, labels, content | dict(files or {}))

    def held(self, parcel: Parcel) -> Counter[str]:
        labels = parcel.delivery.labels
        folder = self.sandbox.root / "archive" / labels.project / "arc001" / labels.session
        files = [path for path in folder.rglob("*") if path.is_file()] if folder.exists() else []
        return Counter(hashlib.sha256(path.read_bytes()).hexdigest() for path in files if "LADING" not in path.parts)

    def sessions(self) -> int:
        archive = self.sandbox.root / "archive" / self.project / "arc001"
        prearchive = self.sandbox.root / "prearchive" / self.project
        archived = len(list(archive.iterdir())) if archive.exists() else 0
        return archived + (
            len([stamp for stamp in prearchive.iterdir() if any(stamp.iterdir())]) if prearchive.exists() else 0
        )

    def changes(self) -> int:
        requests = self.sandbox.counts()["requests"]
        assert isinstance(requests, dict)
        return sum(number for request, number in requests.items() if not request.startswith("GET"))

    def logins_refused(self) -> int:
        requests = self.sandbox.counts()["requests"]
        assert isinstance(requests, dict)
        return requests.get("GET /data/JSESSION", 0)

    def go_down(self) -> None:
        self.sandbox.stop()

    def come_back(self) -> None:
        self.sandbox.start()

    def show_no_digests(self) -> None:
        self.sandbox.faults.blank_digests = True

    def lose(self, count: int) -> None:
        if self._route["route"] == "upload":
            self.sandbox.faults.anon_reject = count
            return
        self.sandbox.faults.inbox_drop_files = [f"{number:04d}.dcm" for number in range(2, 2 + count)]
        # The stand-in counts losses by bare name for as long as it runs, whoever's project they were in.
        _losses[self.sandbox.root] += 1
        self.sandbox.faults.inbox_drop_times = _losses[self.sandbox.root]

    def damage(self, parcel: Parcel, name: str) -> None:
        path = self._stored(parcel, name)
        content = bytearray(path.read_bytes())
        content[-1] ^= 0xFF
        path.unlink()
        path.write_bytes(content)

    def destroy(self, parcel: Parcel, name: str) -> None:
        self._stored(parcel, name).unlink()

    def lose_answers(self, count: int) -> None:
        self.sandbox.faults.conn_reset_after_commit = count

    def expire_login(self) -> None:
        self.sandbox.faults.session_expiry = 1

    # -- what else XNAT's own tests need ----------------------------------------------------------------------------

    def count(self, what: str, parcel: Parcel) -> int:
        """One of the stand-in's counters for the parcel's session: "imports_per_label", "inbox_requests_per_label" …"""
        counted = self.sandbox.counts()[what]
        assert isinstance(counted, dict)
        return counted.get(str(parcel.delivery.labels), 0)

    def close(self) -> None:
        """Log out."""
        for importer in self._importers:
            importer.close()

    def _stored(self, parcel: Parcel, name: str) -> Path:
        labels = parcel.delivery.labels
        (path,) = (self.sandbox.root / "archive" / labels.project / "arc001" / labels.session).rglob(name)
        return path

    def _importer(self, user: str, password: str, route: Table) -> XnatImporter:
        prefix = f"{self.project}_{uuid4().hex[:6]}"
        self._login_in_environment(user, password, prefix)
        made = XnatImporter.from_settings(
            self._repository(f"env:{prefix}"),
            {**self._route, **route},
            inbox_root=self.sandbox.inbox,
            state=self.folder / "state",
        )
        self._importers.append(made)
        return made

    def _repository(self, credentials: str) -> dict[str, object]:
        return {
            "url": self.sandbox.url,
            "credentials": credentials,
            "inbox_path": str(self.sandbox.inbox),
            "patience": 2.0,
            "grace": 0.5,
        }

    def _login_in_environment(self, user: str, password: str, prefix: str) -> None:
        os.environ[f"{prefix}_USER"], os.environ[f"{prefix}_PASSWORD"] = user, password


@contextmanager
def running_sandbox(root: Path) -> Iterator[SandboxXnat]:
    """A stand-in with the users of this module."""
    sandbox = SandboxXnat(root, users=USERS)
    sandbox.start()
    try:
        yield sandbox
    finally:
        sandbox.stop()


def put_by_hand(world: XnatWorld, parcel: Parcel, path: str, content: bytes = b"", **query: str) -> None:
    """Somebody else's work in XNAT, by plain HTTP."""
    labels = parcel.delivery.labels
    url = f"{world.sandbox.url}/data/projects/{labels.project}/subjects/{labels.participant}"
    httpx.put(url, auth=("carol", USERS["carol"]))
    answer = httpx.put(url + path, params=query, content=content, auth=("carol", USERS["carol"]))
    assert answer.status_code in (200, 201), answer.text


def arrived_once(world: XnatWorld, parcel: Parcel) -> bool:
    """One session, every file in it, none of ours twice."""
    held = world.held(parcel)
    return world.sessions() == 1 and {digest: held[digest] for digest in digests(parcel)} == dict(digests(parcel))
