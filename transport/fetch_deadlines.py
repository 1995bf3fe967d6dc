"""What a source will not keep much longer, and when people are told: half-way, three days before, a day before, when it is over.

A facility keeps data for forty days, a beamline for seven. Nobody is warned of what the repository provably holds.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass, replace

from lading.reporters.office import Notice

DAY_S = 86400.0
_LAST_DAYS = (3.0, 1.0)


@dataclass(frozen=True, slots=True)
class Near:
    """A remote folder whose time is running out and that is not safe yet.

    `due`: when the source may remove it, seconds since the epoch. `step`: the warning that counts now, in days before that; 0 is
    "over". `early`: it can wait for others, and goes along with them. `first_seen` tells two folders of one path apart, months
    later.
    """

    route: str
    folder: str
    place: str
    state: str
    delivery: str
    due: float
    step: float
    first_seen: float
    early: bool = False


def steps(deadline_days: float, warn_days: float = 0.0) -> tuple[float, ...]:
    """When people are told, in days before the end, the first first; nothing without a deadline.

    `warn_days` replaces the first, which is half of the time. A later one that would follow close on it is left out.
    """
    if deadline_days <= 0:
        return ()
    first = min(warn_days or deadline_days / 2, deadline_days)
    return (first, *(days for days in _LAST_DAYS if days <= first * 0.6), 0.0)


def step_at(left_s: float, when: tuple[float, ...]) -> float | None:
    """Which of the steps `when` counts with `left_s` seconds to go; None before the first."""
    reached = [days for days in when if left_s <= days * DAY_S]
    return reached[-1] if reached else None


def warnings_at(left_s: float, when: tuple[float, ...]) -> list[tuple[float, bool]]:
    """The steps to tell people of with `left_s` seconds to go, and whether each can wait for others: what ends within a day of
    something else is told along with it, so that a beamtime is one report and not a hundred.
    """
    found = []
    for days in when:
        begins, latest = (days + min(1.0, days / 2), days) if days else (0.0, -1.0)
        if left_s <= begins * DAY_S:
            found.append((days, left_s > latest * DAY_S))
    settled = [number for number, (_, early) in enumerate(found) if not early]
    return found[settled[-1] :] if settled else found


def sentence(one: Near, now: float) -> str:
    """Such as "2026-03/DOE (aps): waiting; the source keeps it 2.5 days more"."""
    left = (one.due - now) / DAY_S
    when = f"the source keeps it {left:.1f} days more" if left > 0 else "the source may have removed it"
    return f"{one.folder} ({one.route}): {one.state}; {when}"


def notices(found: Iterable[Near], now: float) -> list[Notice]:
    """One notice for each folder and each warning about it."""
    return [
        Notice(
            f"{_which(one)}/{one.step:g}",
            text=sentence(replace(one, folder=f"a folder, delivery {one.delivery or 'none yet'}"), now),
            quoted=sentence(one, now),
            early=one.early,
            next_command=f"lading fetch {one.route}",
        )
        for one in found
    ]


def _which(one: Near) -> str:
    """A word for this folder, whatever it is called."""
    said = f"{one.route}|{one.folder}|{one.first_seen}"
    return hashlib.blake2b(said.encode("utf-8", "replace"), digest_size=12).hexdigest()
