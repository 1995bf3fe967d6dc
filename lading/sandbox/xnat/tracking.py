"""What a client asked to be told about: ``/data/status/ID`` and ``/xapi/event_tracking/ID``."""

import threading
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Tracked:
    """Progress of one import or archive. ``session`` is the login session that started it."""

    user: str
    session: str
    messages: tuple[tuple[str, str], ...] = ()
    succeeded: bool | None = None
    final: str = ""


class Tracking:
    """By the id that the client chose (``http-session-listener``)."""

    def __init__(self) -> None:
        self._tracked: dict[str, Tracked] = {}
        self._lock = threading.Lock()

    def begin(self, key: str, user: str, session: str) -> None:
        """Nothing happens for an empty key: the client asked for no tracking."""
        if key:
            with self._lock:
                self._tracked[key] = Tracked(user, session, (("PROCESSING", "Processing started"),))

    def end(self, key: str, final: str, *, succeeded: bool) -> None:
        """Says how it came out."""
        if key:
            with self._lock:
                former = self._tracked[key]
                messages = (*former.messages, ("COMPLETED" if succeeded else "FAILED", final))
                self._tracked[key] = replace(former, messages=messages, succeeded=succeeded, final=final)

    def get(self, key: str) -> Tracked | None:
        """None for a key that nobody tracks."""
        return self._tracked.get(key)
