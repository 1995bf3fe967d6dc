"""A pytest plug-in that counts what the suite of the transports proved, row by row, and prints the table at the end of a run.

A *row* is a test class that takes its tests from `lading.testing.transport_suite.TransportSuite`; a *case* is one of these tests. A
case that a row cannot have says so with `lading.testing.site.does_not_apply` or `not_for`; any other skip means that something
was missing on this machine. `--transport-rows FILE` (TOML, a table per row) makes the run fail when a row of FILE was not
there, or when one of its cases that were to run neither passed nor does not apply. With pytest-xdist the counts come
together in the process that distributes the tests.

    pytest_plugins = ["lading.testing.transport_counts"]        # in the conftest.py of the tests
"""

import tomllib
from collections import Counter, defaultdict
from collections.abc import Generator, Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

import pytest

from lading.testing.site import NOT_APPLICABLE

_PROPERTY = "transport case"
_OUTPUT = "transport_cases"
_OPTION = "--transport-rows"
_SUITE = "TransportSuite"
_OUTCOMES = ("passed", "does not apply", "skipped", "failed")

Case = tuple[str, str]
"""Row and case."""


class Node(Protocol):
    """A process of pytest-xdist that has ended."""

    workeroutput: Mapping[str, object]


class Counts:
    """What is known of every case: which were to run, how they ended, and why some did not."""

    def __init__(self) -> None:
        self.collected: set[Case] = set()
        self.selected: set[Case] = set()
        self.outcome: dict[Case, str] = {}
        self.reasons: dict[str, Counter[str]] = {"does not apply": Counter(), "skipped": Counter()}

    def planned(self, collected: Iterable[Case], selected: Iterable[Case]) -> None:
        """Told by each process that collected the tests; all of them collect the same."""
        self.collected.update(collected)
        self.selected.update(selected)

    def ended(self, case: Case, report: pytest.TestReport) -> None:
        """Told once per phase of a test. A failure in any phase counts."""
        if report.failed:
            self.outcome[case] = "failed"
        elif report.skipped:
            reason = _reason(report)
            kind = "does not apply" if reason.startswith(NOT_APPLICABLE) else "skipped"
            self.outcome[case] = kind
            self.reasons[kind][reason.removeprefix(NOT_APPLICABLE)] += 1
        elif report.when == "call":
            self.outcome.setdefault(case, "passed")

    def table(self) -> Iterator[str]:
        """The lines of the summary."""
        rows: dict[str, Counter[str]] = defaultdict(Counter)
        for (row, _), outcome in self.outcome.items():
            rows[row][outcome] += 1
        total: Counter[str] = Counter(self.outcome.values())
        yield f"transports: {len(rows)} rows; cases: " + ", ".join(f"{total[word]} {word}" for word in _OUTCOMES)
        width = max(len(row) for row in rows)
        yield " ".join(["row".ljust(width), *(word.rjust(14) for word in _OUTCOMES)])
        for row in sorted(rows):
            yield " ".join([row.ljust(width), *(str(rows[row][word]).rjust(14) for word in _OUTCOMES)])
        for kind, reasons in self.reasons.items():
            for reason, count in reasons.most_common():
                yield f"{kind}: {count} x {reason}"

    def missing(self, wanted: Iterable[str]) -> Iterator[str]:
        """Why the rows `wanted` are not proven, one sentence each; nothing when they are."""
        rows = {row for row, _ in self.collected}
        for row in wanted:
            if row not in rows:
                yield f"{row} was not there at all"
                continue
            for case in sorted(case for case in self.selected if case[0] == row):
                outcome = self.outcome.get(case, "not run")
                if outcome not in ("passed", "does not apply"):
                    yield f"{row}: {case[1]} was {outcome}"


class Plugin:
    """The hooks; one object in each process of a run."""

    def __init__(self, wanted: tuple[str, ...] | None) -> None:
        self._wanted = wanted
        self._counts = Counts()

    @pytest.hookimpl(wrapper=True, tryfirst=True)
    def pytest_collection_modifyitems(
        self, config: pytest.Config, items: list[pytest.Item]
    ) -> Generator[None, None, None]:
        """Note every case before and after -m, -k and the like have chosen."""
        for item in items:
            if case := case_of(item):
                item.user_properties.append((_PROPERTY, list(case)))
        collected = [case for item in items if (case := case_of(item))]
        yield
        selected = [case for item in items if (case := case_of(item))]
        self._counts.planned(collected, selected)
        output = getattr(config, "workeroutput", None)
        if output is not None:
            output[_OUTPUT] = [[list(case) for case in cases] for cases in (collected, selected)]

    @pytest.hookimpl(optionalhook=True)
    def pytest_testnodedown(self, node: Node) -> None:
        """A process of pytest-xdist tells what it had collected."""
        told = getattr(node, "workeroutput", {}).get(_OUTPUT)
        if isinstance(told, list):
            self._counts.planned(*([(str(row), str(case)) for row, case in cases] for cases in told))

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Every phase of every test passes here, in the process that prints."""
        for name, value in report.user_properties:
            if name == _PROPERTY and isinstance(value, list | tuple):
                row, case = value
                self._counts.ended((str(row), str(case)), report)

    @pytest.hookimpl(tryfirst=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:
        """Rows that must run and did not make the run fail."""
        if self._wanted is not None and not hasattr(session.config, "workerinput") and self._missing():
            session.exitstatus = max(int(session.exitstatus), int(pytest.ExitCode.TESTS_FAILED))

    def pytest_terminal_summary(self, terminalreporter: pytest.TerminalReporter) -> None:
        """Print the table, and what is missing."""
        if not self._counts.outcome and not self._missing():
            return
        terminalreporter.section("transports")
        if self._counts.outcome:
            for line in self._counts.table():
                terminalreporter.write_line(line)
        for line in self._missing():
            terminalreporter.write_line(f"must run and did not: {line}", red=True)

    def _missing(self) -> list[str]:
        return list(self._counts.missing(self._wanted or ()))


def case_of(item: pytest.Item) -> Case | None:
    """Row and case of a test that is one of the suite's, also under another name or overridden; None for every other test."""
    owner, function = getattr(item, "cls", None), getattr(item, "function", None)
    if owner is None or function is None:
        return None
    suite = next((kind for kind in owner.__mro__ if kind.__name__ == _SUITE), None)
    if suite is not None and hasattr(suite, function.__name__):
        return owner.__name__, function.__name__
    if function.__qualname__.startswith(f"{_SUITE}."):
        return owner.__name__, function.__name__
    return None


def _reason(report: pytest.TestReport) -> str:
    told = report.longrepr
    return str(told[2]).removeprefix("Skipped: ") if isinstance(told, tuple) else str(told)


def pytest_addoption(parser: pytest.Parser) -> None:
    """The option."""
    parser.addoption(
        _OPTION, metavar="FILE", type=Path, help="fail unless every row of FILE (TOML, a table per row) was proven"
    )


def pytest_configure(config: pytest.Config) -> None:
    """Begin counting."""
    file = config.getoption(_OPTION)
    wanted = tuple(tomllib.loads(file.read_text(encoding="utf-8"))) if file else None
    config.pluginmanager.register(Plugin(wanted), "transport-counts")
