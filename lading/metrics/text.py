"""Figures as text: the format of Prometheus, written by its own library."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from lading.errors import ConfigError
from lading.metrics.figures import Figure, Kind, by_family

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric


def exposition(figures: Iterable[Figure], accept: str = "") -> tuple[bytes, str]:
    """The figures for a scraper whose request says `accept`, and their content type: OpenMetrics or the older text format.

    Raises ConfigError without prometheus-client.
    """
    try:
        from prometheus_client.exposition import choose_encoder  # noqa: PLC0415 - an extra; the agent works without it
    except ImportError as exc:
        raise ConfigError(
            f"writing figures for Prometheus needs the Python package {exc.name!r}",
            next_command="pip install 'lading[metrics]'",
        ) from exc
    encode, content_type = choose_encoder(accept)
    return encode(_Registry(tuple(_metrics(figures)))), content_type


@dataclass(frozen=True, slots=True)
class _Registry:
    """What the library's encoders ask: not its own registry, which is for figures that live in this process."""

    metrics: tuple["Metric", ...]

    def collect(self) -> Iterator["Metric"]:
        yield from self.metrics


def _metrics(figures: Iterable[Figure]) -> Iterator["Metric"]:
    from prometheus_client.metrics_core import Metric  # noqa: PLC0415 - see `exposition`

    for family, values in by_family(figures).items():
        # The library writes `_total` itself.
        name = family.name.removesuffix("_total") if family.kind is Kind.COUNTER else family.name
        metric = Metric(name, family.meaning, str(family.kind))
        for labels, value in values.items():
            metric.add_sample(family.name, dict(zip(family.labels, labels, strict=True)), value)
        yield metric
