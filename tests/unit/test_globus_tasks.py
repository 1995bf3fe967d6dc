"""Waiting for Globus has an end, whatever Globus does."""

import time

import pytest

pytest.importorskip("globus_sdk", reason="globus-sdk is not installed (extra: globus)")

from lading.errors import Unreachable
from transport.globus_tasks import Tasks


class Stubborn:
    """Takes every order to end a task, and goes on with it."""

    def __init__(self) -> None:
        self.cancelled = self.looks = 0

    def cancel_task(self, task_id: str) -> None:
        self.cancelled += 1

    def get_task(self, task_id: str) -> dict[str, str]:
        self.looks += 1
        return {"task_id": task_id, "status": "ACTIVE"}


@pytest.mark.timeout(120)
def test_a_task_that_does_not_end_when_it_is_cancelled_is_not_waited_for_for_ever() -> None:
    client = Stubborn()
    began = time.monotonic()

    with pytest.raises(Unreachable, match="task-not-ended") as told:
        Tasks(client, 0.5, ending=2.0).cancel("t1")  # type: ignore[arg-type]  # as much of a client as is asked for

    assert client.cancelled == 1
    assert client.looks < 20, "asked ever more seldom"
    assert time.monotonic() - began >= 2.0
    assert told.value.next_command == "globus task show t1"
