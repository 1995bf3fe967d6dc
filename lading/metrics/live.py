"""What the outbox tells about acquisitions that are pushed while they go on."""

import sqlite3
from collections.abc import Iterator

from lading.config import Config
from lading.metrics import catalogue
from lading.metrics.figures import Figure

_OPEN = "l.state <> 'closed' AND d.stage NOT IN ('CANCELLED', 'VERIFIED', 'CLEANABLE', 'CLEANED')"
# CROSS is SQLite's word for "in this order": acquisitions are few, and so are files that wait.
_ACQUISITIONS = f"""
SELECT d.route, l.state, count(*), min(CASE l.link WHEN 'unknown' THEN NULL ELSE l.link IN ('up', 'full') END)
FROM live l CROSS JOIN deliveries d ON d.id = l.delivery WHERE {_OPEN} GROUP BY d.route, l.state
"""  # noqa: S608 - our own text
_WAITING = f"""
SELECT d.route, count(*), sum(f.size), sum(f.state = 'refused'), min(f.settled_at)
FROM live_files f CROSS JOIN live l ON l.delivery = f.delivery CROSS JOIN deliveries d ON d.id = l.delivery
WHERE f.state <> 'carried' AND {_OPEN} GROUP BY d.route
"""  # noqa: S608 - our own text
# Of all acquisitions there ever were: a sum that lost those that were closed would not be a counter.
_CARRIED = """
SELECT d.route, sum(d.sent_files), sum(d.sent_bytes) FROM live l CROSS JOIN deliveries d ON d.id = l.delivery GROUP BY d.route
"""
QUESTIONS = (_ACQUISITIONS, _WAITING, _CARRIED)


def is_known(db: sqlite3.Connection) -> bool:
    """Whether the outbox is of a release that knows live mode."""
    return db.execute("SELECT 1 FROM sqlite_master WHERE type = 'table' AND name = 'live'").fetchone() is not None


def figures(db: sqlite3.Connection, config: Config, now: float) -> Iterator[Figure]:
    """Every live route of the settings, and every other one that the outbox has live acquisitions of."""
    carried = {route: (files, size) for route, files, size in db.execute(_CARRIED).fetchall()}
    routes = dict.fromkeys([*(name for name, route in config.routes.items() if route.live is not None), *carried])
    for route in routes:
        yield from [catalogue.LIVE.of(0, route, state) for state in ("acquiring", "closing")]
        nothing = (
            catalogue.LIVE_WAITING,
            catalogue.LIVE_WAITING_BYTES,
            catalogue.LIVE_REFUSED,
            catalogue.LIVE_LAG,
        )
        yield from [family.of(0, route) for family in nothing]
        files, size = carried.get(route, (0, 0))
        yield catalogue.LIVE_FILES.of(files, route)
        yield catalogue.LIVE_BYTES.of(size, route)
    yield from _acquisitions(db)
    for route, number, size, refused, oldest in db.execute(_WAITING).fetchall():
        yield catalogue.LIVE_WAITING.of(number, route)
        yield catalogue.LIVE_WAITING_BYTES.of(size, route)
        yield catalogue.LIVE_REFUSED.of(refused, route)
        yield catalogue.LIVE_LAG.of(max(0.0, now - oldest), route)


def _acquisitions(db: sqlite3.Connection) -> Iterator[Figure]:
    up: dict[str, bool] = {}
    for route, state, number, link_up in db.execute(_ACQUISITIONS).fetchall():
        yield catalogue.LIVE.of(number, route, state)
        if link_up is not None:
            up[route] = bool(link_up) and up.get(route, True)
    for route, is_up in up.items():
        yield catalogue.LIVE_LINK.of(is_up, route)
