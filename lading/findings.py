"""Findings: what a person must know about the files of a delivery, one sentence and one hint each.

A finding is a value, not an exception: many can be collected before anything is refused.
Its code is stable kebab-case; `docs/reference/errors.md` lists them.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum


class Severity(StrEnum):
    """How much a finding weighs."""

    ERROR = "error"  # the delivery is refused until somebody acts
    WARNING = "warning"  # the delivery goes on; a person should look
    NOTE = "note"  # worth recording, nothing to do


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing noticed about a delivery.

    `path` is relative POSIX, "" when it concerns the delivery as a whole. `hint` says what to do, or "".
    """

    code: str
    severity: Severity
    message: str
    path: str = ""
    hint: str = ""

    def as_dict(self) -> dict[str, str]:
        """The finding as JSON-ready strings: code, severity, path, message, hint."""
        return {
            "code": self.code,
            "severity": str(self.severity),
            "path": self.path,
            "message": self.message,
            "hint": self.hint,
        }

    @classmethod
    def from_dict(cls, raw: dict[str, str]) -> "Finding":
        """The reverse of `as_dict`. Raises KeyError or ValueError on foreign content."""
        return cls(
            code=str(raw["code"]),
            severity=Severity(raw["severity"]),
            message=str(raw["message"]),
            path=str(raw.get("path", "")),
            hint=str(raw.get("hint", "")),
        )


def error(code: str, message: str, *, path: str = "", hint: str = "") -> Finding:
    """A finding that refuses the delivery."""
    return Finding(code, Severity.ERROR, message, path, hint)


def warning(code: str, message: str, *, path: str = "", hint: str = "") -> Finding:
    """A finding that lets the delivery go on."""
    return Finding(code, Severity.WARNING, message, path, hint)


def note(code: str, message: str, *, path: str = "", hint: str = "") -> Finding:
    """A finding for the record only."""
    return Finding(code, Severity.NOTE, message, path, hint)


LEFT_OUT = frozenset(
    {"dicom-unreadable", "dicom-truncated", "dicom-uid-missing", "not-dicom-named-dcm", "dicom-other-study"}
)
"""Codes of findings about one file that, as warnings, mean: this file is not imported, the rest of the delivery is."""


def leaves_out(finding: Finding) -> bool:
    """Whether the finding keeps one file from being imported while its delivery goes on."""
    return bool(finding.path) and finding.code in LEFT_OUT and finding.severity is Severity.WARNING


def skips(findings: Iterable[Finding]) -> dict[str, str]:
    """The files that stay behind although their delivery goes on: relative POSIX path → reason for the receipt.

    A check that may leave files out (`on_bad_file = "skip"`) reports each of them so; the importer must not send these, and
    lists them as filtered.
    """
    return {finding.path: finding.message for finding in findings if leaves_out(finding)}


def refuses(findings: "list[Finding] | tuple[Finding, ...]") -> bool:
    """Whether any of them is an error."""
    return any(f.severity is Severity.ERROR for f in findings)
