"""Globus Transfer as one account sees it: finds collections, lists their folders, prepares transfers between them."""

import threading
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from pathlib import Path, PurePosixPath

import globus_sdk

from lading.config import nearest
from lading.errors import ConfigError
from lading.manifest import NameLimits
from transport.foreign import shown
from transport.globus_errors import is_absent, translating
from transport.globus_login import Account
from transport.globus_tasks import Tasks
from transport.remote import RemoteFile

MOST_PATHS = 10_000
"""Paths in one task; the request that names them stays below some MB."""
# Its answers are JSON, and its paths are sent to servers that read lines.
NAMES = NameLimits(utf8_only=True, refused="".join(map(chr, [*range(32), 127])))
_PAGE = 50_000
_NAMED = 5


class Service:
    """Errors: Unreachable, AccessDenied, ConfigError for a collection that is not there. For several threads."""

    def __init__(self, account: Account, *, deadline_hours: float, patience: float) -> None:
        self._account, self._deadline_hours, self._patience = account, deadline_hours, patience
        self._ids: dict[str, str] = {}
        self._lock = threading.Lock()

    def client(self) -> globus_sdk.TransferClient:
        """This thread's client."""
        return self._account.client()

    def tasks(self) -> Tasks:
        """To hand in tasks."""
        return Tasks(self._account.client(), self._patience)

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
            deadline=(datetime.now(UTC) + timedelta(hours=self._deadline_hours)).isoformat(timespec="seconds"),
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
        with translating(f"cannot look for the collection {name}"):
            found = list(self.client().endpoint_search(name, limit=100))
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

    def exists(self, collection: str, folder: str) -> bool:
        """Whether there is such a folder."""
        with translating(f"cannot list {shown(folder)} of the collection {collection}"):
            try:
                self.client().operation_ls(collection, folder, limit=1)
            except globus_sdk.TransferAPIError as exc:
                if is_absent(exc):
                    return False
                raise
        return True

    def listed(self, collection: str, folder: str, name: str = "") -> Iterator[RemoteFile]:
        """What lies directly in `folder` (or only `name` of it), a page at a time; nothing when there is no such folder."""
        offset = 0
        rule = f"name:={name}" if name else globus_sdk.MISSING
        while True:
            with translating(f"cannot list {shown(folder)} of the collection {collection}"):
                try:
                    page = self.client().operation_ls(collection, folder, filter=rule, limit=_PAGE, offset=offset)
                except globus_sdk.TransferAPIError as exc:
                    if is_absent(exc):
                        return
                    raise
                found = [_seen(one) for one in page]
            yield from (one for one in found if not name or one.path == name)
            offset += len(found)
            if len(found) < _PAGE:
                return


def shown_as(path: Path, root: Path, below: str, collection: str) -> str:
    """`path` of ours as `collection` shows it, which shows our folder `root` as its `below`. Raises ConfigError."""
    try:
        inner = path.resolve().relative_to(root.resolve())
    except ValueError as exc:
        raise ConfigError(f"{path} is not below {root}, which is what {collection} shows") from exc
    return PurePosixPath("/", below, inner.as_posix()).as_posix()


def _is_id(text: str) -> bool:
    try:
        return str(uuid.UUID(text)) == text.lower()
    except ValueError:
        return False


def _seen(one: Mapping[str, object]) -> RemoteFile:
    name, size = str(one["name"]), one.get("size")
    mtime = _moment(one.get("last_modified"))
    if one.get("link_target") is not None or one["type"] not in ("file", "dir"):
        return RemoteFile(name, -1, mtime)
    return RemoteFile(name, size if isinstance(size, int) else 0, mtime, one["type"] == "dir")


def _moment(text: object) -> float | None:
    """`2026-03-01 12:00:00+00:00`, as Globus writes it; None for what some storage gateways say instead."""
    try:
        moment = datetime.fromisoformat(str(text))
    except ValueError:
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()
