"""One rule each: what must be true of a delivery before it is imported."""

from collections import Counter
from collections.abc import Iterable, Iterator

from lading.findings import LEFT_OUT, Finding, Severity, leaves_out

SHOWN = 50
"""How many findings of one code are listed one by one: enough to see the pattern, few enough for a mail."""


def limited(findings: Iterable[Finding]) -> Iterator[Finding]:
    """The findings, at most `SHOWN` of a code, then one that counts the rest; but every file that is left out."""
    counts: Counter[tuple[str, Severity]] = Counter()
    for finding in findings:
        kind = (finding.code, finding.severity)
        counts[kind] += 1
        if counts[kind] <= SHOWN or leaves_out(finding):
            yield finding
    for (code, severity), count in counts.items():
        if count > SHOWN and not (code in LEFT_OUT and severity is Severity.WARNING):
            yield Finding(code, severity, f"… and {count - SHOWN:,} more like these")
