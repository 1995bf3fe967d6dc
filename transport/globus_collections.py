"""Two Globus collections: where the instrument's files are seen, and where the inbox lies. Lists, renames, removes."""

import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import attrs
import globus_sdk

from lading.delivery import Slot
from lading.errors import Corrupted
from transport.foreign import SOURCE, shown, translating
from transport.globus_errors import translating as asking
from transport.globus_login import Account, AccountConfig
from transport.globus_service import MOST_PATHS, Service, shown_as
from transport.globus_tasks import Tasks
from transport.remote import RemoteFile


@attrs.frozen(kw_only=True)
class SourceConfig:
    """Where Globus sees our files. `collection`: id, or its very name. We see as `root` what it shows as `path`.

    `spool`: a folder of ours below `root` that the collection may read and write: papers leave from there, receipts come there.
    """

    collection: str
    root: Path
    spool: Path
    path: str = "/"


@attrs.frozen(kw_only=True)
class InboxConfig:
    """Where the inbox lies: `collection` (id, or its very name) and `path` in it."""

    collection: str
    path: str


@attrs.frozen(kw_only=True)
class GlobusConfig:
    """`account`: see AccountConfig. `deadline_hours`: of each task. `patience`: seconds that a task may be in trouble."""

    account: AccountConfig
    source: SourceConfig
    inbox: InboxConfig
    deadline_hours: float = 72.0
    patience: float = 600.0


class Collections:
    """The two ends of a route. Errors: Unreachable, AccessDenied, ConfigError for a collection that is not there."""

    def __init__(self, config: GlobusConfig, account: Account) -> None:
        self._config = config
        self._service = Service(account, deadline_hours=config.deadline_hours, patience=config.patience)

    @property
    def spool(self) -> Path:
        """Our folder that the source collection may read and write."""
        return self._config.source.spool

    @property
    def ids(self) -> list[str]:
        """The ids of both, as far as they are given as ids or can be looked up."""
        return [self.source, self.inbox]

    @property
    def named(self) -> str:
        """The inbox, for messages."""
        return f"{self._config.inbox.collection}:{self._config.inbox.path}"

    @property
    def inbox(self) -> str:
        """The id of the inbox's collection."""
        return self.collection(self._config.inbox.collection)

    @property
    def source(self) -> str:
        """The id of the collection that shows our files."""
        return self.collection(self._config.source.collection)

    def there(self, path: str) -> str:
        """A path of the inbox, as its collection knows it."""
        return f"{self._config.inbox.path.rstrip('/')}/{path}"

    def here(self, path: Path) -> str:
        """`path` of ours as the source collection shows it. Raises ConfigError."""
        source = self._config.source
        return shown_as(path, source.root, source.path, source.collection)

    def tasks(self) -> Tasks:
        """To hand in tasks."""
        return self._service.tasks()

    def data(self, source: str, target: str, label: str) -> globus_sdk.TransferData:
        """A transfer without items yet, proven by checksums, with the deadline of the settings."""
        return self._service.data(source, target, label)

    def collection(self, name: str) -> str:
        """The id of the collection called `name`. Raises ConfigError when there is none, or several."""
        return self._service.collection(name)

    def entries(self, collection: str, folder: str, name: str = "") -> list[RemoteFile]:
        """What lies directly in `folder` (or only `name` of it); nothing when there is no such folder."""
        return list(self._service.listed(collection, folder, name))

    def slot(self, slot: Slot) -> dict[str, RemoteFile]:
        """What lies in the slot, by name."""
        return {one.path: one for one in self.entries(self.inbox, self.there(slot.path))}

    def below(self, folder: str, wanted: Callable[[RemoteFile], bool] = lambda _: True) -> Iterator[RemoteFile]:
        """Everything below `folder`, by paths relative to it; what is not wanted is told, but not looked into."""
        waiting = [""]
        while waiting:
            inner = waiting.pop()
            for one in self.entries(self.inbox, f"{folder}/{inner}".rstrip("/")):
                path = f"{inner}/{one.path}" if inner else one.path
                relative = RemoteFile(path, one.size, one.mtime, one.folder)
                yield relative
                if one.folder and wanted(relative):
                    waiting.append(path)

    def remove(self, paths: list[str]) -> None:
        """Paths of the inbox collection, folders with all they hold."""
        for start in range(0, len(paths), MOST_PATHS):
            data = globus_sdk.DeleteData(
                self.inbox, label="Lading tidies up", recursive=True, ignore_missing=True, interpret_globs=False
            )
            for path in paths[start : start + MOST_PATHS]:
                data.add_item(path)
            self.tasks().run(data, "remove what an earlier attempt left")

    def rename(self, old: str, new: str) -> None:
        """Within the inbox."""
        with asking(f"cannot rename {old} to {new}"):
            self._service.client().operation_rename(self.inbox, self.there(old), self.there(new))

    def small_file(self, path: str, limit: int) -> bytes | None:
        """A small file of the inbox, by way of the spool; None when there is none."""
        folder, _, name = path.rpartition("/")
        found = self.entries(self.inbox, self.there(folder), name)
        if not found or found[0].folder or found[0].size < 0:
            return None
        if found[0].size > limit:
            raise Corrupted(f"{shown(path)} is larger than {limit:,} bytes")
        with translating(f"cannot write to {self._config.source.spool}", SOURCE):
            self._config.source.spool.mkdir(parents=True, exist_ok=True)
        local = self._config.source.spool / f"fetched-{uuid.uuid4().hex}"
        data = self.data(self.inbox, self.source, name)
        data.add_item(self.there(path), self.here(local.parent) + f"/{local.name}")
        try:
            self.tasks().run(data, f"fetch {name}")
            with translating(f"cannot read {local}", SOURCE):
                return local.read_bytes()
        finally:
            local.unlink(missing_ok=True)
