"""Looks at the names of a manifest before anything is sent: what the target would refuse, change or confuse."""

import unicodedata
from collections.abc import Iterable, Iterator

from lading.errors import Rejected
from lading.findings import Finding, Severity, error
from lading.listing.names import NameLimits, name_findings, printable
from lading.manifest import Entry
from transport.there import Hashes

_MAX_NAMED = 100


def refuse_names(entries: Iterable[Entry], limits: NameLimits, target: str) -> None:
    """Raises Rejected, with one finding per name, when a target with `limits` cannot hold the files of a manifest.

    Needs 16 to 32 bytes of memory a file.
    """
    found = list(_first(_unfit(entries, limits)))
    if found:
        more = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
        raise Rejected(
            f"{target} cannot hold these names: {found[0].message}{more}", findings=found, safe="nothing was sent"
        )


def _first(findings: Iterable[Finding]) -> Iterator[Finding]:
    for count, finding in enumerate(findings):
        if count >= _MAX_NAMED:
            return
        yield finding


def _unfit(entries: Iterable[Entry], limits: NameLimits) -> Iterator[Finding]:
    seen = Hashes(1024)
    known = ""
    for entry in entries:
        folder, _, name = entry.path.rpartition("/")
        if folder != known:
            yield from _unfit_folder(folder, known, limits)
            known = folder
        yield from _errors(folder, name, limits)
        if limits.ignores_case or limits.ignores_unicode_form:
            folded = _folded(entry.path, limits)
            if folded in seen:
                yield error(
                    "name-collides-by-case",
                    f"{printable(entry.path)} and another file differ only by case or Unicode form; one would overwrite the other",
                    path=entry.path,
                    hint="rename one of them",
                )
            seen.add(folded)


def _unfit_folder(folder: str, known: str, limits: NameLimits) -> Iterator[Finding]:
    """The parts of `folder` that the folder before it did not have."""
    parts, before = folder.split("/"), known.split("/")
    common = next(
        (i for i, (a, b) in enumerate(zip(parts, before, strict=False)) if a != b), min(len(parts), len(before))
    )
    for depth in range(common, len(parts)):
        if parts[depth]:
            yield from _errors("/".join(parts[:depth]), parts[depth], limits)


def _errors(folder: str, name: str, limits: NameLimits) -> Iterator[Finding]:
    return (finding for finding in name_findings(folder, name, limits) if finding.severity is Severity.ERROR)


def _folded(path: str, limits: NameLimits) -> str:
    if limits.ignores_unicode_form:
        path = unicodedata.normalize("NFC", path)
    if limits.ignores_case:
        path = path.casefold()
    return unicodedata.normalize("NFC", path) if limits.ignores_unicode_form else path
