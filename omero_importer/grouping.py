"""The filesets found so far, no file in two of them."""

from collections.abc import Iterable, Iterator

from lading.findings import Finding, Severity, error
from lading.listing.names import printable
from omero_importer.filesets import FilesetPlan

_FINDINGS_PER_CODE = 30


class Groups:
    """Disjoint filesets. A larger set takes the place of the smaller ones that it holds whole; half an overlap is a finding."""

    def __init__(self) -> None:
        self._plans: dict[int, FilesetPlan] = {}
        self._owner: dict[str, int] = {}
        self._pinned: set[int] = set()
        self._last = 0

    def __contains__(self, path: object) -> bool:
        return path in self._owner

    def add(self, plan: FilesetPlan, *, pinned: bool = False) -> Finding | None:
        """Take up `plan`, or return the error filesets-overlap. A `pinned` one (a person's rule) is never replaced."""
        files = set(plan.files)
        met = {self._owner[path] for path in files if path in self._owner}
        for number in met:
            other = self._plans[number]
            if number in self._pinned or not files.issuperset(other.files):
                shared = next(path for path in plan.files if self._owner.get(path) == number)
                return error(
                    "filesets-overlap",
                    f"{printable(plan.entry)} and {printable(other.entry)} both use {printable(shared)}, and neither "
                    "holds all of the other",
                    path=plan.entry,
                    hint="say in a rule of the route's import.files.filesets which files belong together",
                )
        for number in met:
            del self._plans[number]
        self._last += 1
        number = self._last
        self._plans[number] = plan
        self._owner.update(dict.fromkeys(plan.files, number))
        if pinned:
            self._pinned.add(number)
        return None

    def plans(self) -> tuple[FilesetPlan, ...]:
        """The filesets, sorted by entry point."""
        return tuple(sorted(self._plans.values(), key=lambda plan: plan.entry))


class FindingsCollected:
    """Findings for people: the first of each code in full, the rest as a number."""

    def __init__(self) -> None:
        self._findings: list[Finding] = []
        self._counts: dict[tuple[str, Severity], int] = {}

    def add(self, findings: Iterable[Finding]) -> None:
        """Take up more of them."""
        for finding in findings:
            key = finding.code, finding.severity
            self._counts[key] = self._counts.get(key, 0) + 1
            if self._counts[key] <= _FINDINGS_PER_CODE:
                self._findings.append(finding)

    @property
    def refuse(self) -> bool:
        """Whether one of them is an error."""
        return any(finding.severity is Severity.ERROR for finding in self._findings)

    def all(self) -> tuple[Finding, ...]:
        """What was found, and how much more of the same kind."""
        return (*self._findings, *self._more())

    def _more(self) -> Iterator[Finding]:
        for (code, severity), count in self._counts.items():
            if count > _FINDINGS_PER_CODE:
                yield Finding(code, severity, f"and {count - _FINDINGS_PER_CODE} more of the same")
