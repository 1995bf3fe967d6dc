"""Connections to the engine's database, and its schema: numbered migrations, each in one transaction under a lock."""

import contextlib
import hashlib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import resources

import psycopg
from psycopg.conninfo import conninfo_to_dict, make_conninfo
from psycopg.rows import TupleRow
from psycopg_pool import ConnectionPool

from lading.errors import EngineError

Connection = psycopg.Connection[TupleRow]
Pool = ConnectionPool[Connection]

_MIGRATING = 0x1AD1
_SCHEMAS = "lading, procrastinate"
_LIMITS = {
    "connect_timeout": 10,
    "keepalives": 1,
    "keepalives_idle": 10,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 25_000,
}
"""libpq's words. Keepalives notice a host that vanished while we wait for it; what we sent it before, the kernel would go on
sending for a quarter of an hour: `tcp_user_timeout` (in ms) ends that, at the same time."""


@contextlib.contextmanager
def recording(doing: str) -> Iterator[None]:
    """Translates everything psycopg raises into EngineError: what cannot be recorded is not done."""
    try:
        yield
    except psycopg.Error as exc:
        said = (str(exc).strip() or type(exc).__name__).splitlines()[0]
        raise EngineError(
            f"{doing}: the database said {said}",
            safe="what was committed before stays, and is taken up again from there",
            next_command="lading doctor",
        ) from exc


def conninfo(dsn: str, name: str = "lading") -> str:
    """`dsn` with our schemas on the search path, and limits (the dsn's own, else ours) that let a dead database be noticed soon."""
    said = conninfo_to_dict(dsn)
    limits = {key: value for key, value in _LIMITS.items() if key not in said}
    return make_conninfo(dsn, application_name=name, options=f"-c search_path={_SCHEMAS.replace(' ', '')}", **limits)


def connect(dsn: str, name: str = "lading") -> Connection:
    """A connection in autocommit: a transaction is always an explicit `with connection.transaction()`. EngineError."""
    with recording("connecting"):
        return psycopg.connect(conninfo(dsn, name), autocommit=True)


def pool(dsn: str, size: int, name: str = "lading worker") -> Pool:
    """Up to `size` such connections; a caller waits up to 10 s for one, then `recording` makes it EngineError."""
    return ConnectionPool(
        conninfo(dsn, name), min_size=1, max_size=size, kwargs={"autocommit": True}, timeout=10, open=True
    )


@dataclass(frozen=True, slots=True)
class Migration:
    """One step of the schema. `checksum` is of the text, so that a released migration that was edited is noticed."""

    name: str
    text: str

    @property
    def checksum(self) -> str:
        """SHA-256 of the text, hex."""
        return hashlib.sha256(self.text.encode()).hexdigest()


def migrate(dsn: str) -> list[str]:
    """Brings the schema up to date; names what was applied. Safe to call from many processes at once.

    Raises EngineError when the database is newer than this program, or a migration was changed after it was applied.
    """
    applied: list[str] = []
    with connect(dsn, "lading migrate") as connection, recording("preparing the database"):
        connection.execute("SELECT pg_advisory_lock(%s)", (_MIGRATING,))
        for schema in _SCHEMAS.split(", "):
            connection.execute(f"CREATE SCHEMA IF NOT EXISTS {schema}")
        connection.execute(
            "CREATE TABLE IF NOT EXISTS lading_migrations"
            " (name text PRIMARY KEY, checksum text NOT NULL, at timestamptz NOT NULL DEFAULT now())"
        )
        applied += _install_procrastinate(connection)
        known = _known(connection, "lading/")
        own = list(_own_migrations())
        newer = sorted(known.keys() - {m.name for m in own})
        if newer:
            raise EngineError(
                f"the database has been prepared by a newer lading ({', '.join(newer)})",
                safe="nothing was changed",
                next_command="pip install --upgrade lading",
            )
        for migration in own:
            if known.get(migration.name, migration.checksum) != migration.checksum:
                raise EngineError(f"{migration.name} differs from what was applied to this database")
            if migration.name not in known:
                _apply(connection, migration, "lading, procrastinate")
                applied.append(migration.name)
    return applied


def identity(dsn: str) -> str:
    """Which database this is: a random id, made when first asked for. A copy of one that was asked has the same. EngineError."""
    with connect(dsn, "lading identity") as connection, recording("asking the database for its identity"):
        connection.execute("INSERT INTO identity (id) VALUES (%s) ON CONFLICT DO NOTHING", (uuid.uuid4(),))
        found = connection.execute("SELECT id::text FROM identity").fetchone()
    if found is None:
        raise EngineError("the database does not say which one it is")
    return str(found[0])


def _own_migrations() -> Iterator[Migration]:
    folder = resources.files("lading.engine.sql")
    for name in sorted(f.name for f in folder.iterdir() if f.name.endswith(".sql")):
        yield Migration(f"lading/{name}", (folder / name).read_text(encoding="utf-8"))


def _install_procrastinate(connection: Connection) -> list[str]:
    """Procrastinate's whole schema on an empty database; afterwards only the migrations that a newer release brings."""
    folder = resources.files("procrastinate.sql")
    steps = [
        Migration(f"procrastinate/{name}", (folder / "migrations" / name).read_text(encoding="utf-8"))
        for name in sorted(f.name for f in (folder / "migrations").iterdir() if f.name.endswith(".sql"))
    ]
    known = _known(connection, "procrastinate/")
    if known:
        missing = [step for step in steps if step.name not in known]
        for step in missing:
            _apply(connection, step, "procrastinate")
        return [step.name for step in missing]
    with connection.transaction():
        connection.execute("SET LOCAL search_path = procrastinate")
        connection.execute((folder / "schema.sql").read_text(encoding="utf-8"))
        for step in steps:
            _remember(connection, step)
    return ["procrastinate/schema.sql"]


def _apply(connection: Connection, migration: Migration, search_path: str) -> None:
    with connection.transaction():
        connection.execute(f"SET LOCAL search_path = {search_path}")
        connection.execute(migration.text)
        _remember(connection, migration)


def _remember(connection: Connection, migration: Migration) -> None:
    connection.execute(
        "INSERT INTO lading.lading_migrations (name, checksum) VALUES (%s, %s)", (migration.name, migration.checksum)
    )


def _known(connection: Connection, prefix: str) -> dict[str, str]:
    rows = connection.execute("SELECT name, checksum FROM lading_migrations").fetchall()
    return {name: checksum for name, checksum in rows if name.startswith(prefix)}
