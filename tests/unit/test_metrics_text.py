"""Figures as text: what Prometheus' own parser reads is what was said."""

from pathlib import Path

import pytest

from lading.metrics import catalogue
from lading.metrics.figures import Family, Kind
from lading.metrics.text import exposition
from lading.testing.scraping import OPENMETRICS, read

HOSTILE = 'a"b\\c\nd{e="f"} 1\n# TYPE x gauge\r\tµ\u202e'


def text(*figures, accept: str = "") -> str:
    return exposition(figures, accept)[0].decode("utf-8")


@pytest.mark.parametrize("accept", ["", OPENMETRICS])
def test_a_hostile_label_is_one_label(accept: str) -> None:
    said = text(catalogue.DELIVERIES.of(7, HOSTILE, "QUEUED"), catalogue.FAILED.of(3, "mri", HOSTILE), accept=accept)

    found = read(said, openmetrics=bool(accept))

    assert len(found) == 2
    assert found.labelled("lading_deliveries", route=HOSTILE, stage="QUEUED") == 7
    assert found.labelled("lading_failed_attempts_total", route="mri", code=HOSTILE) == 3


def test_a_path_that_is_no_text_does_not_spoil_the_rest() -> None:
    found = read(text(catalogue.WATCH_UP.of(1, "/data/\udcff"), catalogue.UP.of(1, "agent")))

    assert found.labelled("lading_watch_up", path="/data/\\udcff") == 1
    assert found.labelled("lading_up", program="agent") == 1


def test_of_two_figures_with_the_same_labels_the_later_counts() -> None:
    found = read(text(catalogue.UP.of(0, "server"), catalogue.WORKERS.of(2), catalogue.UP.of(1, "server")))

    assert found == {"lading_up{program='server'}": 1, "lading_workers": 2}


def test_a_figure_has_all_the_labels_of_its_family() -> None:
    with pytest.raises(ValueError, match="lading_deliveries"):
        catalogue.DELIVERIES.of(1, "mri")


def test_names_keep_the_conventions() -> None:
    names = [family.name for family in catalogue.EVERY]

    assert len(set(names)) == len(names)
    for family in catalogue.EVERY:
        assert family.name.startswith("lading_")
        assert family.name.endswith("_total") == (family.kind is Kind.COUNTER), family
        assert not {"le", "quantile", "job", "instance"} & set(family.labels), family


def test_the_catalogue_names_every_family() -> None:
    made = {value for value in vars(catalogue).values() if isinstance(value, Family)}

    assert made == set(catalogue.EVERY)


@pytest.mark.skipif(not (Path(__file__).parents[2] / "docs").is_dir(), reason="needs the source tree")
def test_the_reference_page_has_them_all() -> None:
    page = (Path(__file__).parents[2] / "docs" / "reference" / "metrics.md").read_text(encoding="utf-8")

    assert catalogue.page() in page, "docs/reference/metrics.md is stale; run python tools/generate_docs.py"
