"""What a source will not keep much longer, and when people are told: half-way, three days before, a day before, when it is over.

A facility keeps data for forty days, a beamline for seven. Nobody is warned of what the repository provably holds.
"""

from dataclasses import dataclass

DAY_S = 86400.0
_LAST_DAYS = (3.0, 1.0)


@dataclass(frozen=True, slots=True)
class Near:
    """A remote folder whose time is running out and that is not safe yet.

    `due`: when the source may remove it, seconds since the epoch. `step`: the warning that counts now, in days before that; 0 is
    "over". `early`: that warning begins only within a day. `first_seen` tells two folders of one path apart, months later.
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
