"""Two Globus collections: where the instrument's files are seen, and where the inbox lies. Lists, renames, removes."""

import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

import attrs
import globus_sdk

from lading.config import nearest
from lading.delivery import Slot
from lading.errors import ConfigError, Corrupted
from transport.foreign import SOURCE, shown, translating
from transport.globus_errors import is_absent
from transport.globus_errors import translating as asking
from transport.globus_login import Account, AccountConfig
from transport.globus_tasks import Tasks
from transport.remote import RemoteFile

MOST_PATHS = 10_000
"""Paths in one task; the request that names them stays below some MB."""
_PAGE = 50_000
_NAMED = 5


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
        self._config, self._account = config, account
        self._ids: dict[str, str] = {}
        self._lock = threading.Lock()

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
        try:
            below = path.resolve().relative_to(source.root.resolve())
        except ValueError as exc:
            raise ConfigError(f"{path} is not below {source.root}, which is what {source.collection} shows") from exc
        return PurePosixPath("/", source.path, below.as_posix()).as_posix()

    def tasks(self) -> Tasks:
        """To hand in tasks."""
        return Tasks(self._account.client(), self._config.patience)

    def data(self, source: str, target: str, label: str) -> globus_sdk.TransferData:
        """A transfer without items yet, proven by checksums, with the deadline of the settings."""
        return globus_sdk.TransferData(
            source,
            target,
            label=f"Lading {label}",
            sync_level="checksum",
            verify_checksum=True,
            preserve_timestamp=True,
            fail_on_quota_errors=True,
            deadline=(datetime.now(UTC) + timedelta(hours=self._config.deadline_hours)).isoformat(timespec="seconds"),
            notify_on_succeeded=False,
            notify_on_failed=False,
            notify_on_inactive=False,
        )

    def collection(self, name: str) -> str:
        """The id of the collection called `name`. Raises ConfigError when there is none, or several."""
        if _is_id(name):
            return name
        with self._lock:
            if name not in self._ids:
                self._ids[name] = self._searched(name)
            return self._ids[name]

    def _searched(self, name: str) -> str:
        with asking(f"cannot look for the collection {name}"):
            found = list(self._account.client().endpoint_search(name, limit=100))
        same = [str(one["id"]) for one in found if one["display_name"] == name]
        if len(same) == 1:
            return same[0]
        if same:
            raise ConfigError(
                f"several collections are called {name!r}: name one by its id: {', '.join(same[:_NAMED])}"
            )
        raise ConfigError(
            f"no collection is called {name!r}{nearest(name, [str(one['display_name']) for one in found])}"
        )

    def entries(self, collection: str, folder: str, name: str = "") -> list[RemoteFile]:
        """What lies directly in `folder` (or only `name` of it); nothing when there is no such folder."""
        found: list[RemoteFile] = []
        with asking(f"cannot list {shown(folder)} of the collection {collection}"):
            while True:
                rule = f"name:={name}" if name else globus_sdk.MISSING
                try:
                    page = self._account.client().operation_ls(
                        collection, folder, filter=rule, limit=_PAGE, offset=len(found)
                    )
                except globus_sdk.TransferAPIError as exc:
                    if is_absent(exc):
                        return []
                    raise
                listed = [_seen(one) for one in page]
                found += listed
                if len(listed) < _PAGE:
                    return [one for one in found if not name or one.path == name]

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
            self._account.client().operation_rename(self.inbox, self.there(old), self.there(new))

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


def token_store(state: Path, account: AccountConfig) -> Path:
    """Where a person's log-in is kept."""
    return state / "globus" / f"{uuid.uuid5(uuid.NAMESPACE_OID, account.client)}.json"


def _is_id(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def _seen(one: Mapping[str, object]) -> RemoteFile:
    name, size = str(one["name"]), one.get("size")
    if one.get("link_target") is not None or one["type"] not in ("file", "dir"):
        return RemoteFile(name, -1)
    return RemoteFile(name, size if isinstance(size, int) else 0, None, one["type"] == "dir")
