"""The outbox's tables, one migration after the other; the database's `user_version` counts those already applied."""

MIGRATIONS: tuple[str, ...] = (
    """
    CREATE TABLE deliveries (
        id TEXT PRIMARY KEY,
        route TEXT NOT NULL,
        root BLOB NOT NULL,                      -- bytes: a file name need not be text
        project TEXT NOT NULL, participant TEXT NOT NULL, session TEXT NOT NULL,
        stage TEXT NOT NULL,
        resume TEXT NOT NULL DEFAULT '',         -- the stage to go back to from PAUSED and HELD
        files INTEGER NOT NULL DEFAULT 0,
        bytes INTEGER NOT NULL DEFAULT 0,
        digest TEXT NOT NULL DEFAULT '',
        sent_files INTEGER NOT NULL DEFAULT 0,
        sent_bytes INTEGER NOT NULL DEFAULT 0,
        attempt INTEGER NOT NULL DEFAULT 0,
        not_before REAL NOT NULL DEFAULT 0,
        error_code TEXT NOT NULL DEFAULT '',
        error TEXT NOT NULL DEFAULT '',
        next_command TEXT NOT NULL DEFAULT '',
        quiet REAL NOT NULL DEFAULT 0,
        clean INTEGER NOT NULL DEFAULT 0,
        grace_s REAL NOT NULL DEFAULT 0,
        grace_until REAL NOT NULL DEFAULT 0,
        arrived_at REAL NOT NULL DEFAULT 0,
        verified_at REAL NOT NULL DEFAULT 0,
        sender TEXT NOT NULL DEFAULT '',
        priority INTEGER NOT NULL DEFAULT 0,
        created_at REAL NOT NULL,
        updated_at REAL NOT NULL
    ) WITHOUT ROWID;
    CREATE INDEX deliveries_by_stage ON deliveries (stage, not_before);

    CREATE TABLE events (
        delivery TEXT NOT NULL, at REAL NOT NULL, stage TEXT NOT NULL, note TEXT NOT NULL
    );
    CREATE INDEX events_by_delivery ON events (delivery);

    CREATE TABLE findings (
        delivery TEXT NOT NULL, finding TEXT NOT NULL, PRIMARY KEY (delivery, finding)
    ) WITHOUT ROWID;

    CREATE TABLE journal (
        delivery TEXT NOT NULL, key TEXT NOT NULL, value TEXT NOT NULL, PRIMARY KEY (delivery, key)
    ) WITHOUT ROWID;

    CREATE TABLE taken (
        route TEXT NOT NULL, root BLOB NOT NULL, delivery TEXT NOT NULL, fingerprint TEXT NOT NULL,
        PRIMARY KEY (route, root)
    ) WITHOUT ROWID;

    CREATE TABLE watches (
        path BLOB PRIMARY KEY, at REAL NOT NULL, error TEXT NOT NULL, next_command TEXT NOT NULL, report TEXT NOT NULL
    ) WITHOUT ROWID;
    """,
    """
    ALTER TABLE deliveries ADD COLUMN told_person TEXT NOT NULL DEFAULT '';
    ALTER TABLE deliveries ADD COLUMN told_admin TEXT NOT NULL DEFAULT '';
    -- What ended before there were reports is history.
    UPDATE deliveries SET told_person = stage || '/' || error_code, told_admin = stage || '/' || error_code;

    CREATE TABLE reports (
        id TEXT PRIMARY KEY, place TEXT NOT NULL, readers TEXT NOT NULL, subject TEXT NOT NULL, body TEXT NOT NULL,
        at REAL NOT NULL, attempts INTEGER NOT NULL DEFAULT 0, not_before REAL NOT NULL DEFAULT 0,
        done_at REAL NOT NULL DEFAULT 0, given_up TEXT NOT NULL DEFAULT ''
    ) WITHOUT ROWID;

    CREATE TABLE alarms (
        key TEXT PRIMARY KEY, what TEXT NOT NULL, since REAL NOT NULL, raised INTEGER NOT NULL, well_since REAL NOT NULL
    ) WITHOUT ROWID;
    """,
    """
    ALTER TABLE deliveries ADD COLUMN live INTEGER NOT NULL DEFAULT 0;

    CREATE TABLE live (
        delivery TEXT PRIMARY KEY,
        state TEXT NOT NULL DEFAULT 'acquiring',
        asked INTEGER NOT NULL DEFAULT 0,        -- somebody asked to close it
        why TEXT NOT NULL DEFAULT '',            -- what keeps it from closing
        link TEXT NOT NULL DEFAULT 'unknown', link_since REAL NOT NULL DEFAULT 0,
        downs INTEGER NOT NULL DEFAULT 0, tries INTEGER NOT NULL DEFAULT 0,
        verifications INTEGER NOT NULL DEFAULT 0,
        closed_at REAL NOT NULL DEFAULT 0
    ) WITHOUT ROWID;

    CREATE TABLE live_files (
        delivery TEXT NOT NULL, folder BLOB NOT NULL, name BLOB NOT NULL,
        size INTEGER NOT NULL, mtime_ns INTEGER NOT NULL,   -- as it came to rest at the source
        state TEXT NOT NULL,                     -- waiting, sending, carried, refused
        sha256 TEXT NOT NULL DEFAULT '',         -- of what lies at the target, empty when that is not known
        settled_at REAL NOT NULL, carried_at REAL NOT NULL DEFAULT 0, again_at REAL NOT NULL DEFAULT 0,
        perhaps INTEGER NOT NULL DEFAULT 0,      -- a killed agent may have placed it
        proved INTEGER NOT NULL DEFAULT 0,       -- read again at the target and found equal
        gone INTEGER NOT NULL DEFAULT 0,         -- left the source since
        error TEXT NOT NULL DEFAULT '',
        PRIMARY KEY (delivery, folder, name)
    ) WITHOUT ROWID;
    CREATE INDEX live_files_waiting ON live_files (delivery, settled_at) WHERE state <> 'carried';
    """,
    """
    CREATE TABLE pauses (target TEXT PRIMARY KEY, at REAL NOT NULL) WITHOUT ROWID    -- "all", or a route
    """,
    """
    -- 0: not known, as of what came to rest before there was this column
    ALTER TABLE live_files ADD COLUMN ctime_ns INTEGER NOT NULL DEFAULT 0
    """,
)
