"""The valve closes when a server is in trouble, opens slowly, and all processes of a machine see the same one."""

import threading
from pathlib import Path

import pytest

from lading.errors import TargetUnavailable
from lading.valves import AJAR, CLOSED, OPEN, told
from omero_importer.settings import ValveSettings
from omero_importer.valve import Valve

SETTINGS = ValveSettings(verify_wait=0.1, first_pause=30, longest_pause=100, calm=2, free_gb=10)


class Hours:
    """A clock that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Hours:
    return Hours()


@pytest.fixture
def valve(tmp_path: Path, clock: Hours) -> Valve:
    return Valve(tmp_path, "omero.example.org:4064", SETTINGS, clock=clock)


def position(valve: Valve, clock: Hours) -> str:
    return valve.state().position(clock())


def recover(valve: Valve, clock: Hours) -> None:
    clock.now = valve.state().until
    for _ in range(SETTINGS.calm):
        with valve.import_under_way():
            pass


def test_a_new_valve_is_open(valve: Valve) -> None:
    valve.demand_open()
    with valve.import_under_way():
        pass


def test_a_closed_valve_says_why_and_for_how_long(valve: Valve) -> None:
    valve.close("it is on fire")

    with pytest.raises(TargetUnavailable, match=r"30 s more, because it is on fire"):
        valve.demand_open()


def test_another_process_sees_it_too(valve: Valve, tmp_path: Path, clock: Hours) -> None:
    valve.close("it is on fire")

    other = Valve(tmp_path, "omero.example.org:4064", SETTINGS, clock=clock)

    with pytest.raises(TargetUnavailable):
        other.demand_open()
    Valve(tmp_path, "another.example.org:4064", SETTINGS, clock=clock).demand_open()


def test_it_opens_slowly(valve: Valve, clock: Hours) -> None:
    valve.close("trouble")
    assert position(valve, clock) == CLOSED
    clock.now += 30
    assert position(valve, clock) == AJAR

    for expected in (AJAR, OPEN):
        with valve.import_under_way():
            pass
        assert position(valve, clock) == expected


def test_while_it_is_ajar_one_import_at_a_time_passes(valve: Valve, tmp_path: Path, clock: Hours) -> None:
    valve.close("trouble")
    clock.now += 30
    other = Valve(tmp_path, "omero.example.org:4064", SETTINGS, clock=clock)

    with valve.import_under_way(), pytest.raises(TargetUnavailable, match="recovering"), other.import_under_way():
        pass


def test_of_so_many_slots_each_is_taken_once_over_all_processes(tmp_path: Path, clock: Hours) -> None:
    settings = ValveSettings(slots=2, verify_wait=0.1)
    first, other = (Valve(tmp_path, "omero.example.org:4064", settings, clock=clock) for _ in range(2))

    with first.import_under_way(), other.import_under_way():
        with pytest.raises(TargetUnavailable, match="2 imports are under way"), other.import_under_way():
            pass
        Valve(tmp_path, "another.example.org:4064", settings, clock=clock).demand_open()

    with first.import_under_way(), other.import_under_way():
        pass


def test_whoever_waits_for_a_slot_gets_the_first_that_is_free(tmp_path: Path, clock: Hours) -> None:
    valve = Valve(tmp_path, "omero.example.org:4064", ValveSettings(slots=1, verify_wait=60), clock=clock)
    waiting, passed = threading.Event(), threading.Event()

    def wait() -> None:
        waiting.set()
        with valve.import_under_way():
            passed.set()

    with valve.import_under_way():
        thread = threading.Thread(target=wait)
        thread.start()
        assert waiting.wait(60)
        assert not passed.wait(0.3)

    assert passed.wait(60)
    thread.join(60)


def test_an_import_that_failed_does_not_count_as_recovery(valve: Valve, clock: Hours) -> None:
    valve.close("trouble")
    clock.now += 30
    before = valve.state().calm

    with pytest.raises(RuntimeError), valve.import_under_way():
        raise RuntimeError

    assert valve.state().calm == before


def test_trouble_again_closes_it_for_longer_up_to_a_limit(valve: Valve, clock: Hours) -> None:
    pauses = []
    for _ in range(4):
        valve.close("trouble")
        pauses.append(valve.state().until - clock())
        clock.now = valve.state().until

    assert pauses == [30, 60, 100, 100]


def test_after_it_has_recovered_it_starts_from_the_beginning(valve: Valve, clock: Hours) -> None:
    valve.close("trouble")
    recover(valve, clock)

    valve.close("new trouble")

    assert valve.state().until - clock() == 30


def test_one_and_the_same_trouble_counts_once(valve: Valve, clock: Hours) -> None:
    valve.close("trouble")
    valve.close("trouble, seen by another worker")

    assert valve.state().until - clock() == 30


def test_a_database_that_gets_slow_closes_it_but_one_slow_answer_does_not(valve: Valve, clock: Hours) -> None:
    for _ in range(20):
        valve.saw_database(0.01)
    valve.saw_database(1.0)
    assert position(valve, clock) == OPEN

    valve.saw_database(1.0)

    assert position(valve, clock) == CLOSED
    assert "database" in valve.state().reason


def test_a_slow_answer_is_forgotten_after_a_fast_one(valve: Valve, clock: Hours) -> None:
    for seconds in (0.01, 1.0, 0.01, 1.0, 0.01):
        valve.saw_database(seconds)

    assert position(valve, clock) == OPEN


def test_a_database_that_was_always_slowish_is_not_trouble(valve: Valve, clock: Hours) -> None:
    for _ in range(5):
        valve.saw_database(0.4)

    assert position(valve, clock) == OPEN


def test_a_full_disk_closes_it(valve: Valve, clock: Hours) -> None:
    valve.saw_free(50_000_000)
    assert position(valve, clock) == OPEN

    valve.saw_free(9_000_000)

    assert position(valve, clock) == CLOSED
    assert "9.0 GB" in valve.state().reason


def test_waiting_for_a_background_slot_closes_it_while_the_wait_lasts(tmp_path: Path, clock: Hours) -> None:
    closed = threading.Event()

    class Watched(Valve):
        def close(self, reason: str, cause: str = "") -> None:
            super().close(reason, cause)
            closed.set()

    valve = Watched(tmp_path, "omero", SETTINGS, clock=clock)

    with valve.watching():
        assert closed.wait(60)

    assert "background slots" in valve.state().reason


def test_a_short_wait_does_not_close_it(tmp_path: Path, clock: Hours) -> None:
    patient = Valve(tmp_path, "omero", ValveSettings(verify_wait=60), clock=clock)

    with patient.watching():
        pass

    assert position(patient, clock) == OPEN


def test_a_damaged_file_is_an_open_valve(valve: Valve, tmp_path: Path) -> None:
    valve.close("trouble")
    (file,) = (tmp_path / "valves").glob("*.json")
    file.write_text("{")

    valve.demand_open()


def test_the_status_tells_of_all_valves(valve: Valve, tmp_path: Path, clock: Hours) -> None:
    Valve(tmp_path, "calm.example.org:4064", SETTINGS, clock=clock).saw_database(0.01)
    valve.close("it is on fire")

    found = {str(one["repository"]): (one["position"], one["reason"]) for one in told(tmp_path, clock())}

    assert found == {
        "calm.example.org:4064": (OPEN, ""),
        "omero.example.org:4064": (CLOSED, "it is on fire"),
    }


def test_the_status_has_the_figures_too(valve: Valve, tmp_path: Path, clock: Hours) -> None:
    valve.saw_database(0.01)
    valve.close("it is on fire")

    (found,) = told(tmp_path, clock())

    assert (found["paused_s"], found["imports_to_go"], found["database_s"]) == (30, SETTINGS.calm, 0.01)
