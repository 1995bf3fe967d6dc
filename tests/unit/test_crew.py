"""How many connections a crew takes where a log-in costs more than the work of a moment."""

import threading

from lading.delivery import Slot, new_delivery_id
from lading.manifest import Entry
from lading.ports import NoProgress
from transport.carrying import Carrying
from transport.crew import Crew
from transport.on_the_way import Load
from transport.pacing import Unpaced
from transport.remote import Body, RemoteTraits
from transport.stalling import Watch


class Line:
    """Its first file waits until another connection places one, too."""

    def __init__(self, place: "Place") -> None:
        self._place = place

    def make_folders(self, path: str) -> None:
        pass

    def place(self, path: str, body: Body) -> None:
        self._place.placed[path] = b"".join(body.blocks())
        if self not in self._place.placing:
            self._place.placing.add(self)
            if len(self._place.placing) > 1:
                self._place.met.set()
            self._place.met.wait(60)

    def close(self) -> None:
        pass


class Place:
    """Three connections at most; the time after which another one is worth it as given."""

    streams = 3
    name = "place"

    def __init__(self, another_after_s: float) -> None:
        self.traits = RemoteTraits(another_after_s=another_after_s, whole=True)
        self.made: list[Line] = []
        self.placed: dict[str, bytes] = {}
        self.placing: set[Line] = set()
        self.met = threading.Event()

    def connect(self) -> Line:
        self.made.append(Line(self))
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


def test_work_that_is_handed_over_at_once_is_shared_where_a_log_in_costs_nothing():
    place, together = Place(0), threading.Barrier(2)
    with Watch(None) as watch, Crew[int](place, watch, lambda _, __: together.wait(60)) as crew:  # type: ignore[arg-type]
        for number in range(4):
            crew.submit(number)
        crew.finish()

    assert len(place.made) >= 2


def test_a_few_dozen_small_files_are_shared_between_connections(tmp_path):
    entries = []
    for number in range(32):
        (tmp_path / f"{number}").write_bytes(b"x")
        entries.append(Entry(f"{number}", 1, (tmp_path / f"{number}").stat().st_mtime_ns, {}))
    place, slot = Place(0), Slot(new_delivery_id())

    with Watch(None) as watch:
        carrying = Carrying(place, watch, tmp_path, slot, pace=Unpaced(), progress=NoProgress())  # type: ignore[arg-type]
        first = watch.over(place.connect())  # type: ignore[arg-type]
        carrying.bring(first, Load(entries, 32, 32), fresh=True, trusting=False)

    assert place.placed == {f"{slot.data}/{entry.path}": b"x" for entry in entries}
    assert place.met.is_set()


def test_long_work_takes_more_while_the_queue_is_full():
    place = Place(0.01)
    together = threading.Barrier(3)
    with Watch(None) as watch, Crew[int](place, watch, lambda _, __: together.wait(60)) as crew:  # type: ignore[arg-type]
        for number in range(12):
            crew.submit(number)
        crew.finish()

    assert len(place.made) == 3
