"""Live mode for people, programs and metrics: every acquisition in one row, and the wishes that people have about one."""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lading.agent.live_book import KEPT_S, Figures, Link, Live, LiveBook, LiveState
from lading.agent.outbox import OUTBOX_NAME, Outbox, Outgoing
from lading.delivery import DeliveryId, Stage
from lading.errors import ConfigError

CLOSED_SHOWN_S = 86_400.0
"""A closed acquisition is shown for a day; `lading list` knows it for longer."""

Figure = str | int | float | None


@dataclass(frozen=True, slots=True)
class LiveView:
    """One acquisition: its delivery, how far it is, its figures."""

    item: Outgoing
    live: Live
    figures: Figures

    @property
    def state(self) -> str:
        """acquiring, closing, closed, or why it stands still: held, paused, cancelled."""
        aside = (Stage.PAUSED, Stage.CANCELLED, Stage.HELD, Stage.REJECTED)
        return str(self.item.stage).lower() if self.item.stage in aside else str(self.live.state)

    def as_dict(self) -> Mapping[str, Figure]:
        """For `--json` and for metrics: labels, figures, `link_up` (1, 0, None before the first attempt)."""
        known = self.live.link is not Link.UNKNOWN
        return {
            "delivery": self.item.id,
            "route": self.item.delivery.route,
            "labels": str(self.item.delivery.labels),
            "source": str(self.item.root),
            "state": self.state,
            "why": self.live.why,
            "files": self.figures.files,
            "bytes": self.figures.bytes,
            "waiting_files": self.figures.waiting,
            "waiting_bytes": self.figures.waiting_bytes,
            "refused_files": self.figures.refused,
            "lag_s": round(self.figures.lag_s, 1),
            "files_per_s": round(self.figures.files_per_s, 3),
            "last_file": self.figures.last_path.encode("utf-8", "backslashreplace").decode(),
            "link": str(self.live.link),
            "link_up": int(self.live.link in (Link.UP, Link.FULL)) if known else None,
            "link_since": self.live.link_since or None,
            "link_lost": self.live.downs,
        }


def views(outbox: Outbox) -> list[LiveView]:
    """The open acquisitions, and those closed within a day; the newest first."""
    book = LiveBook(outbox)
    found = []
    for delivery in book.deliveries():
        item, live = outbox.get(delivery), book.get(delivery)
        recent = outbox.clock() - live.closed_at < CLOSED_SHOWN_S
        if item.stage is not Stage.CANCELLED and (live.state is not LiveState.CLOSED or recent):
            found.append(LiveView(item, live, book.figures(delivery)))
    return found


def views_at(home: Path) -> list[LiveView]:
    """`views` of the outbox in `home`, which need not exist. Raises EngineError."""
    if not (home / OUTBOX_NAME).is_file():
        return []
    outbox = Outbox(home, clock=time.time)
    try:
        return views(outbox)
    finally:
        outbox.close()


def ask_to_close(outbox: Outbox, delivery: DeliveryId) -> None:
    """Close it as soon as the last file came to rest and is carried. Raises ConfigError when it is not open."""
    book, item = LiveBook(outbox), outbox.get(delivery)
    if delivery not in book.deliveries(open_only=True):
        raise ConfigError(
            f"{delivery} is {item.stage}, and no acquisition that is pushed live", next_command="lading live list"
        )
    book.get(delivery)
    book.put(delivery, asked=1)
    outbox.remark(delivery, "asked to close")


def reopen(outbox: Outbox, delivery: DeliveryId) -> None:
    """Go on with a closed acquisition: what came late is carried, and it is closed once more. Raises ConfigError."""
    book, item = LiveBook(outbox), outbox.get(delivery)
    if item.stage is not Stage.VERIFIED or delivery not in book.deliveries():
        raise ConfigError(
            f"{delivery} is {item.stage}; only a closed acquisition can be reopened", next_command="lading live list"
        )
    if outbox.clock() - book.get(delivery).closed_at > KEPT_S:
        raise ConfigError(
            f"{delivery} was closed more than {KEPT_S / 86_400:.0f} days ago; its files are not remembered any more",
            safe="the target keeps them, with their list",
            next_command="lading live list",
        )
    book.put(delivery, state=LiveState.ACQUIRING, asked=0, closed_at=0.0, why="reopened")
    outbox.move(delivery, Stage.SENDING, "reopened", not_before=0.0, verified_at=0.0)


def meant(outbox: Outbox, typed: str) -> DeliveryId:
    """The acquisition that `typed` means: its id, the beginning or end of it, or its source folder. Raises ConfigError."""
    book = LiveBook(outbox)
    known = book.deliveries()
    fits = [found for found in known if found.startswith(typed) or found.endswith(typed)] if typed else []
    if not fits:
        folder = Path(typed).resolve()
        fits = [found for found in known if outbox.get(found).root == folder][:1]
    if len(fits) == 1:
        return fits[0]
    what = f"fits several: {', '.join(fits[:5])}" if fits else "is no acquisition that is or was pushed live"
    raise ConfigError(f"{typed!r} {what}", next_command="lading live list")
