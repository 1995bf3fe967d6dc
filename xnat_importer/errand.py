"""What the steps of one import share, and the pace at which they ask."""

import json
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lading.delivery import DeliveryId
from lading.ports import Journal
from xnat_importer.contents import Contents
from xnat_importer.session import XnatSession
from xnat_importer.settings import RepositorySettings, RouteSettings
from xnat_importer.target import Repository

# The keys of the journal.
CLAIM, REQUEST, ASKING, UPLOAD = "xnat.claim", "xnat.request", "xnat.asking", "xnat.upload"

_FIRST_PAUSE_S, _LONGEST_PAUSE_S, _GROWTH = 0.02, 2.0, 1.6
_LONGEST_GUESS_S = 0.5


@dataclass(frozen=True, slots=True)
class Target:
    """Where a delivery belongs in XNAT. `server_path` is the folder's path as the server sees it, "" for the upload route."""

    project: str
    subject: str
    session: str
    study: str
    server_path: str
    anonymised: bool
    auto_archives: bool
    skips: Mapping[str, str]

    def as_mapping(self, url: str) -> dict[str, str]:
        """For `ImportPlan.target`: text only."""
        return {
            "kind": "xnat",
            "url": url,
            "project": self.project,
            "subject": self.subject,
            "session": self.session,
            "study": self.study,
            "route": "inbox" if self.server_path else "upload",
            "server_path": self.server_path,
            "anonymised": "yes" if self.anonymised else "no",
            "auto_archives": "yes" if self.auto_archives else "no",
            "skips": json.dumps(dict(self.skips)) if self.skips else "",
        }

    @classmethod
    def from_mapping(cls, values: Mapping[str, str]) -> "Target":
        """The reverse."""
        return cls(
            project=values["project"],
            subject=values["subject"],
            session=values["session"],
            study=values.get("study", ""),
            server_path=values.get("server_path", ""),
            anonymised=values.get("anonymised") == "yes",
            auto_archives=values.get("auto_archives") == "yes",
            skips=json.loads(values.get("skips") or "{}"),
        )

    def __str__(self) -> str:
        return f"{self.project}/{self.subject}/{self.session}"


@dataclass(frozen=True, slots=True)
class Errand:
    """One import on its way."""

    repository: Repository
    server: RepositorySettings
    route: RouteSettings
    delivery: DeliveryId
    root: Path
    inbox: Path
    target: Target
    contents: Contents
    journal: Journal
    state: Path
    habit: "Habit"

    @property
    def session(self) -> XnatSession:
        """The login, for requests that change something."""
        return self.repository.session

    def claim(self) -> None:
        """Note, durably, that the label was free and that we are about to use it: what appears there now is ours."""
        if not self.claimed:
            self.journal.note(CLAIM, f"{self.target}")

    @property
    def claimed(self) -> bool:
        """Whether we began with this target before."""
        return self.journal.recall(CLAIM) == f"{self.target}"

    @property
    def has_sent(self) -> bool:
        """Whether something was handed over, as far as the journal knows."""
        return any(self.journal.recall(key) for key in (REQUEST, ASKING, UPLOAD))


class Pace:
    """Asks soon at first, then ever less often; knows for how long nothing has changed."""

    def __init__(self) -> None:
        self._pause = _FIRST_PAUSE_S
        self._state: object = None
        self._since = time.monotonic()

    def quiet_for(self, state: object) -> float:
        """Seconds since `state` was last different."""
        if state != self._state:
            self._state, self._since, self._pause = state, time.monotonic(), _FIRST_PAUSE_S
        return time.monotonic() - self._since

    def wait(self) -> None:
        """Pause before the next look."""
        time.sleep(self._pause)
        self._pause = min(self._pause * _GROWTH, _LONGEST_PAUSE_S)


class Habit:
    """How long XNAT usually takes for an import, so that the first question about one comes when there is an answer."""

    def __init__(self) -> None:
        self._usual = _FIRST_PAUSE_S

    @property
    def seconds(self) -> float:
        """The pause before the first question, at most half a second: nobody is to wait long for a guess."""
        return self._usual

    def learn(self, asked: int, seconds: float) -> None:
        """An import was over after `seconds`, seen by the so-many-th question."""
        # Down by little when the first question came late enough, up by much when it came too early: few are asked in vain.
        guess = self._usual * 0.98 if asked == 1 else (self._usual + 1.15 * seconds) / 2
        self._usual = min(max(guess, _FIRST_PAUSE_S), _LONGEST_GUESS_S)
