"""Fetches from a Globus collection: we list it and steer, Globus brings the files to the collection that shows our inbox.

A facility's folders, such as `APS:DM:32ID` with `/2026-03/2026-03-Doe`, are session folders like any other's. What has arrived is
read once here; where Globus says which checksum it compared at both ends, ours must be the same.
"""

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import NoReturn, Self

import attrs
import globus_sdk

from lading.config import structure
from lading.errors import ConfigError, Unreachable
from lading.manifest import Entry
from lading.ports import Journal, Progress, Settings
from transport.globus_login import Account, AccountConfig, token_store
from transport.globus_service import MOST_PATHS, NAMES, Service, shown_as
from transport.globus_tasks import Note, Told, forget, noted
from transport.naming import refuse_names
from transport.remote import Body, RemoteFile, RemoteTraits

_ALGORITHMS = {"SHA256": "sha256", "SHA512": "sha512", "SHA1": "sha1", "MD5": "md5"}
_STEP = "fetch"


@attrs.frozen(kw_only=True)
class FetchSource:
    """What is fetched from: `collection` (id, or its very name, such as APS:DM:32ID) and the folder `path` in it."""

    collection: str
    path: str = "/"


@attrs.frozen(kw_only=True)
class FetchTarget:
    """Where Globus sees our inbox: we see as `root` what `collection` (id, or its very name) shows as `path`."""

    collection: str
    root: Path
    path: str = "/"


@attrs.frozen(kw_only=True)
class GlobusFetchConfig:
    """`account`: see AccountConfig. `deadline_hours`: of each task. `patience`: seconds that a task may be in trouble."""

    account: AccountConfig
    source: FetchSource
    inbox: FetchTarget
    deadline_hours: float = 72.0
    patience: float = 600.0


class GlobusSource:
    """A folder of a collection, to be read only; fills the roles RemotePlace and HandsOver. `most_paths`: files in one task."""

    needs_state = True

    def __init__(self, config: GlobusFetchConfig, *, state: Path, most_paths: int = MOST_PATHS) -> None:
        self._config, self._most_paths = config, most_paths
        self._account = Account(config.account, token_store(state, config.account))
        self._service = Service(self._account, deadline_hours=config.deadline_hours, patience=config.patience)

    @classmethod
    def from_settings(cls, settings: Settings, *, state: Path) -> Self:
        """Made from a fetch table; `state` keeps a person's log-in. Raises ConfigError."""
        return cls(structure(settings, GlobusFetchConfig, where="fetch"), state=state)

    def __repr__(self) -> str:
        return f"GlobusSource({self.name!r})"

    @property
    def name(self) -> str:
        """The collection and the folder."""
        return f"{self._config.source.collection}:{self._config.source.path}"

    @property
    def traits(self) -> RemoteTraits:
        """Every call of Globus has a time-out of its own."""
        return RemoteTraits(resumes=False, renames=False, names=NAMES, stall_s=None)

    @property
    def streams(self) -> int:
        """Globus decides how many streams a task has."""
        return 1

    @property
    def at_once(self) -> int:
        """See transport.remote.HandsOver."""
        return self._most_paths

    @property
    def _from(self) -> str:
        return self._service.collection(self._config.source.collection)

    @property
    def _to(self) -> str:
        return self._service.collection(self._config.inbox.collection)

    def login(self, paste: Callable[[str], str], *, consent: bool = False) -> None:
        """A person's log-in; with `consent`, once more for the two collections. Raises what Account.login raises."""
        self._account.login(paste)
        if consent:
            self._account.login(paste, [self._from, self._to])

    def probe(self) -> None:
        """The folder that is fetched from is there. Raises Unreachable, AccessDenied, ConfigError."""
        if not self._service.exists(self._from, self.there("")):
            raise Unreachable(
                f"{self.name} is not there: is source.path right? (path-missing)",
                safe="nothing was fetched, nothing was removed",
                next_command=f"globus ls '{self._from}:/'",
            )

    def connect(self) -> "GlobusListing":
        """See the role. Every question is a request of its own."""
        self.probe()
        return GlobusListing(self)

    def there(self, path: str) -> str:
        """A path below the folder, as the collection knows it."""
        return f"/{self._config.source.path.strip('/')}/{path}".replace("//", "/")

    def exists(self, path: str) -> bool:
        """Whether there is a folder at `path`."""
        return self._service.exists(self._from, self.there(path))

    def listed(self, folder: str) -> Iterator[RemoteFile]:
        """What lies directly in `folder`, paths relative to the place."""
        prefix = f"{folder}/" if folder else ""
        for found in self._service.listed(self._from, self.there(folder)):
            yield RemoteFile(prefix + found.path, found.size, found.mtime, found.folder)

    def hand_over(
        self, folder: str, files: Sequence[RemoteFile], into: Path, journal: Journal, progress: Progress
    ) -> Mapping[str, Mapping[str, str]]:
        """See transport.remote.HandsOver. Also raises Rejected for names that cannot travel by Globus."""
        refuse_names((Entry(one.path, one.size, 0, {}) for one in files), NAMES, "Globus")
        tasks, list_ = self._service.tasks(), _which(folder, files)
        note = noted(journal)
        if note is not None and note.list != list_:
            if note.task:
                tasks.cancel(note.task)
            forget(journal)
            note = None
        target = self._shown(into)
        told = Told(progress, len(files), sum(one.size for one in files))
        task = tasks.once(
            journal,
            note or Note(list_, _STEP, ""),
            lambda: self._data(folder, files, target),
            f"fetch {len(files):,} files of {folder} from {self.name}",
            told.look,
        )
        return {
            path.removeprefix(f"{self.there(folder)}/"): {_ALGORITHMS[algorithm]: checksum.lower()}
            for path, algorithm, checksum in tasks.checksums(task)
            if algorithm in _ALGORITHMS
        }

    def forget(self, journal: Journal) -> None:
        """See transport.remote.HandsOver."""
        forget(journal)

    def _shown(self, into: Path) -> str:
        """Our folder `into` as the other collection shows it: elsewhere Globus would make the folders, and say that all is well."""
        inbox = self._config.inbox
        target = shown_as(into, inbox.root, inbox.path, inbox.collection)
        if not self._service.exists(self._to, target):
            raise Unreachable(
                f"{inbox.collection} does not show {into} as {target}: do inbox.root and inbox.path fit? (path-missing)",
                safe="nothing was fetched, nothing was removed",
                next_command=f"globus ls '{self._to}:{inbox.path}'",
            )
        return target

    def _data(self, folder: str, files: Sequence[RemoteFile], target: str) -> globus_sdk.TransferData:
        data = self._service.data(self._from, self._to, f"fetches {folder}"[:120])
        for one in files:
            data.add_item(f"{self.there(folder)}/{one.path}", f"{target}/{one.path}")
        return data


class GlobusListing:
    """Fills the role RemoteFiles as far as fetching foreign folders needs it."""

    def __init__(self, source: GlobusSource) -> None:
        self._source = source

    def look(self, path: str) -> RemoteFile | None:
        """A folder, or None: nobody asks for anything else here."""
        return RemoteFile(path, 0, folder=True) if self._source.exists(path) else None

    def listed(self, folder: str) -> Iterator[RemoteFile]:
        """See the role."""
        return self._source.listed(folder)

    def digests(self, path: str, algorithms: tuple[str, ...]) -> Mapping[str, str]:  # noqa: ARG002
        """None that could be had without a transfer."""
        return {}

    def free_bytes(self) -> int | None:
        """Globus does not say."""
        return None

    def make_folders(self, path: str) -> None:
        """Not here."""
        self._only_read(path)

    def place(self, path: str, body: Body) -> None:  # noqa: ARG002
        """Not here."""
        self._only_read(path)

    def read(self, path: str, offset: int = 0) -> Iterator[bytes]:  # noqa: ARG002
        """Not here: Globus itself brings the files."""
        self._only_read(path)

    def rename(self, old: str, new: str) -> None:  # noqa: ARG002
        """Not here."""
        self._only_read(old)

    def remove(self, path: str) -> None:
        """Not here."""
        self._only_read(path)

    def close(self) -> None:
        """Nothing is open."""

    def _only_read(self, path: str) -> NoReturn:
        raise ConfigError(
            f"a fetch from Globus reads session folders and nothing else; it cannot do that with {path!r}"
        )


def _which(folder: str, files: Sequence[RemoteFile]) -> str:
    """Stands for these files as they were listed."""
    digest = hashlib.blake2b(folder.encode("utf-8", "surrogatepass"), digest_size=16)
    for one in files:
        digest.update(f"\0{one.path}\0{one.size}\0{one.mtime}".encode("utf-8", "surrogatepass"))
    return digest.hexdigest()
