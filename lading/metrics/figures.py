"""What a figure is: a family with a name, a meaning and labels, and one value of it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

Json = str | float | dict[str, str]


class Kind(StrEnum):
    """How the values of a family behave in time."""

    GAUGE = "gauge"  # goes up and down
    COUNTER = "counter"  # only grows, or starts again


@dataclass(frozen=True, slots=True)
class Family:
    """Figures of one meaning: `name` is what a query says, `meaning` one sentence with the unit, `labels` tell them apart."""

    name: str
    kind: Kind
    meaning: str
    labels: tuple[str, ...] = ()

    def of(self, value: float, *labels: str) -> "Figure":
        """One figure; `labels` in the family's order. Raises ValueError for another number of them."""
        if len(labels) != len(self.labels):
            raise ValueError(f"{self.name} has the labels {self.labels}, not {labels}")
        return Figure(self, float(value), tuple(map(_text, labels)))


@dataclass(frozen=True, slots=True)
class Figure:
    """One value of a family; `labels` in the family's order."""

    family: Family
    value: float
    labels: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, Json]:
        """name, kind, labels, value."""
        return {
            "name": self.family.name,
            "kind": str(self.family.kind),
            "labels": dict(zip(self.family.labels, self.labels, strict=True)),
            "value": self.value,
        }


def by_family(figures: Iterable[Figure]) -> dict[Family, dict[tuple[str, ...], float]]:
    """The figures in families, as the formats want them. Of two with the same labels the later one counts: a reader that meets
    the same figure twice refuses all of them.
    """
    found: dict[Family, dict[tuple[str, ...], float]] = {}
    for figure in figures:
        found.setdefault(figure.family, {})[figure.labels] = figure.value
    return found


def _text(label: str) -> str:
    # A path may hold bytes that are no text; the formats are UTF-8.
    return label.encode("utf-8", "backslashreplace").decode("utf-8")
