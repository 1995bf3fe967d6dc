"""How many connections a crew takes where a log-in costs more than the work of a moment."""

import threading

from transport.crew import Crew
from transport.remote import RemoteTraits
from transport.stalling import Watch


class Line:
    def close(self) -> None:
        pass


class Place:
    """Three connections at most; the time after which another one is worth it as given."""

    streams = 3
    name = "place"

    def __init__(self, another_after_s: float) -> None:
        self.traits = RemoteTraits(another_after_s=another_after_s)
        self.made: list[Line] = []

    def connect(self) -> Line:
        self.made.append(Line())
        return self.made[-1]


def test_a_moments_work_takes_one_connection():
    place, done = Place(3600), []
    with Watch(None) as watch, Crew[int](place, watch, lambda _, work: done.append(work)) as crew:  # type: ignore[arg-type]
        for number in range(100):
            crew.submit(number)
        crew.finish()

    assert sorted(done) == list(range(100))
    assert len(place.made) == 1


def test_long_work_takes_more_also_when_all_of_it_is_handed_over_already():
    place = Place(0.01)
    together = threading.Barrier(3)
    with Watch(None) as watch, Crew[int](place, watch, lambda _, __: together.wait(60)) as crew:  # type: ignore[arg-type]
        for number in range(3):
            crew.submit(number)
        crew.finish()

    assert len(place.made) == 3


def test_long_work_takes_more_while_the_queue_is_full():
    place = Place(0.01)
    together = threading.Barrier(3)
    with Watch(None) as watch, Crew[int](place, watch, lambda _, __: together.wait(60)) as crew:  # type: ignore[arg-type]
        for number in range(12):
            crew.submit(number)
        crew.finish()

    assert len(place.made) == 3
