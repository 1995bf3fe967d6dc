"""Scrapes as Prometheus does, and reads what came with Prometheus' own parser."""

import ssl
import urllib.request
from pathlib import Path

from prometheus_client.openmetrics.parser import text_string_to_metric_families as parse_openmetrics
from prometheus_client.parser import text_string_to_metric_families as parse_text

OPENMETRICS = "application/openmetrics-text; version=1.0.0"


class Figures(dict[str, float]):
    """Values by their text as in a query: `name{label="value",…}`, labels sorted; a name without labels is itself."""

    def labelled(self, name: str, **labels: str) -> float:
        """The value of a figure. Raises KeyError."""
        return self[key(name, labels)]


def key(name: str, labels: dict[str, str]) -> str:
    """How `Figures` calls it."""
    inner = ",".join(f"{label}={value!r}" for label, value in sorted(labels.items()))
    return f"{name}{{{inner}}}" if inner else name


def read(text: str, *, openmetrics: bool = False) -> Figures:
    """Parse strictly; a figure that is there twice is an AssertionError: a scraper would refuse everything."""
    found = Figures()
    for family in (parse_openmetrics if openmetrics else parse_text)(text):
        for sample in family.samples:
            assert key(sample.name, sample.labels) not in found, sample
            found[key(sample.name, sample.labels)] = sample.value
    return found


def scrape(url: str, *, token: str = "", ca: Path | None = None, accept: str = "", timeout: float = 30) -> Figures:
    """GET. Raises HTTPError for anything but 200, URLError when nobody answers."""
    request = urllib.request.Request(url)  # noqa: S310 - our own loopback URL
    if token:
        request.add_header("Authorization", f"Bearer {token}")
    if accept:
        request.add_header("Accept", accept)
    context = ssl.create_default_context(cafile=str(ca)) if ca else None
    with urllib.request.urlopen(request, timeout=timeout, context=context) as answer:  # noqa: S310
        openmetrics = "openmetrics" in answer.headers["Content-Type"]
        return read(answer.read().decode("utf-8"), openmetrics=openmetrics)
