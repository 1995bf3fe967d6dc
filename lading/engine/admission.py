"""Who may import next: at most N at once per repository, priorities first, then in turn, and nobody while it is down.

A slot is a row at IMPORTING. It is given, with the job that uses it, in one transaction; it is free again when the row
leaves that stage, which for a dead worker's delivery the reaper sees to. Slots cannot leak, and no counter can drift.
"""

from datetime import datetime, timedelta

from lading.delivery import DeliveryId
from lading.engine import jobs
from lading.engine.database import Connection
from lading.engine.deliveries import storable
from lading.engine.judge import FAR_OFF, wait_s

LARGE_BYTES = 50 << 30
"""Above 50 GiB an import takes hours: it never gets a repository's last free slot, which stays for small ones."""

# Who is next, his turn taken, the slot given, the event and the job: one statement.
_GIVE = f"""
WITH next AS (
    SELECT d.id, d.epoch, d.priority, d.bytes, d.project || '/' || d.sender AS owner
    FROM deliveries d LEFT JOIN turns t ON t.repository = d.repository AND t.owner = d.project || '/' || d.sender
    WHERE d.stage = 'QUEUED' AND d.repository = %(repository)s AND NOT d.paused
      AND (d.not_before IS NULL OR d.not_before <= now() OR d.not_before > now() + %(far_off)s)
      AND (d.bytes < %(large)s OR %(large_free)s)
      AND NOT EXISTS (SELECT 1 FROM pauses p WHERE p.target = 'route:' || d.route)
    ORDER BY d.priority DESC, coalesce(t.turn, 0), d.queued_at, d.id
    LIMIT 1 FOR UPDATE OF d SKIP LOCKED
), turn AS (
    INSERT INTO turns (repository, owner, turn) SELECT %(repository)s, owner, nextval('turn_numbers') FROM next
    ON CONFLICT (repository, owner) DO UPDATE SET turn = excluded.turn
), moved AS (
    UPDATE deliveries d SET stage = 'IMPORTING', not_before = NULL, updated_at = now() FROM next WHERE d.id = next.id
), told AS (
    INSERT INTO events (delivery, stage, note) SELECT id, 'IMPORTING', '' FROM next
)
SELECT id, bytes >= %(large)s, {
    jobs.deferring(
        "priority", "jsonb_build_object('delivery', id, 'epoch', epoch, 'step', 'import')", "NULL::timestamptz"
    )
} FROM next
"""  # noqa: S608 - our own text


def limit(connection: Connection, repository: str, imports: int) -> None:
    """Let `imports` run at once; 0 starts no more. Deliveries already importing finish."""
    connection.execute(
        "INSERT INTO repositories (name, imports) VALUES (%s, %s) ON CONFLICT (name) DO UPDATE SET imports = %s"
        " WHERE repositories.imports <> excluded.imports",
        (repository, imports, imports),
    )


def admit(connection: Connection, repository: str) -> list[DeliveryId]:
    """Fill the free slots of `repository`, in a transaction of its own or at the end of the caller's; says with whom.

    The repository's row is locked meanwhile: two workers never give the same slot away.
    """
    admitted: list[DeliveryId] = []
    with connection.transaction():
        row = connection.execute(
            "SELECT imports, down_since IS NOT NULL, retry_at > now() AND retry_at < now() + %s,"
            " EXISTS (SELECT 1 FROM pauses WHERE target = 'all' OR target = 'repository:' || name)"
            " FROM repositories WHERE name = %s FOR UPDATE",
            (FAR_OFF, repository),
        ).fetchone()
        if row is None:
            return admitted
        imports, down, too_early, paused = row
        if paused or (down and too_early):
            return admitted
        slots = min(1, imports) if down else imports  # While it is down, one delivery asks for all.
        running, large = _running(connection, repository)
        while running < slots:
            given = connection.execute(
                _GIVE,
                {
                    "repository": repository,
                    "large": LARGE_BYTES,
                    "large_free": large < max(1, imports - 1),
                    "far_off": FAR_OFF,
                },
            ).fetchone()
            if given is None:
                break
            admitted.append(DeliveryId(given[0]))
            running, large = running + 1, large + bool(given[1])
    return admitted


def has_failed(connection: Connection, repository: str, now: datetime, note: str) -> datetime:
    """The repository did not answer: nobody else needs to find that out. Returns when one may try again."""
    row = connection.execute(
        "SELECT failures, retry_at FROM repositories WHERE name = %s FOR UPDATE", (repository,)
    ).fetchone()
    failures, retry_at = row if row else (0, None)
    if retry_at is not None and now < retry_at < now + FAR_OFF:
        return datetime.fromisoformat(retry_at.isoformat())  # Another delivery met the same outage a moment ago.
    again = now + timedelta(seconds=wait_s(failures + 1))
    connection.execute(
        "UPDATE repositories SET failures = failures + 1, down_since = coalesce(down_since, now()), retry_at = %s,"
        " note = %s WHERE name = %s",
        (again, storable(note)[:500], repository),
    )
    return again


def has_answered(connection: Connection, repository: str) -> None:
    """The repository is back: everybody moves again."""
    connection.execute(
        "UPDATE repositories SET failures = 0, down_since = NULL, retry_at = NULL, note = ''"
        " WHERE name = %s AND down_since IS NOT NULL",
        (repository,),
    )


def _running(connection: Connection, repository: str) -> tuple[int, int]:
    row = connection.execute(
        "SELECT count(*), count(*) FILTER (WHERE bytes >= %s) FROM deliveries"
        " WHERE stage = 'IMPORTING' AND repository = %s",
        (LARGE_BYTES, repository),
    ).fetchone()
    return (int(row[0]), int(row[1])) if row else (0, 0)
