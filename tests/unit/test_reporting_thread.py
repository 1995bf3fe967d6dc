"""The thread that tells people outlives a bug in one of its rounds."""

from pathlib import Path
from threading import Event

import pytest

from lading.config import Config
from lading.engine import reporting
from lading.engine.reporting import Reporting


def test_a_bug_in_one_round_silences_none_of_those_that_follow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told, rounds = Event(), [0]

    def round_(_: Reporting, __: object) -> None:
        rounds[0] += 1
        if rounds[0] == 1:
            raise RuntimeError("a bug")
        told.set()

    monkeypatch.setattr(reporting, "_AFTER_A_BUG_S", 0.01)
    monkeypatch.setattr("lading.engine.database.connect", lambda *_: _Nothing())
    monkeypatch.setattr(Reporting, "_rounds", round_)
    made = Reporting(Config(home=tmp_path), "", None)  # type: ignore[arg-type]  # no part is asked
    made.start()
    try:
        assert told.wait(120)
    finally:
        made.stop()


class _Nothing:
    """A connection that is only closed."""

    def close(self) -> None:
        pass
