"""A delivery holds the files that its route expects: enough of them, with their companions, none of the forbidden."""

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from fnmatch import translate
from typing import Self

import attrs

from lading.checks import limited
from lading.config import Settings, structure
from lading.delivery import Parcel
from lading.findings import Finding, error


@attrs.frozen(kw_only=True)
class CountRule:
    """How many files match `glob` (shell style, on the relative path or the bare name, case ignored)."""

    glob: str
    min: int = 1
    max: int | None = None

    def __attrs_post_init__(self) -> None:
        if self.max is not None and self.max < self.min:
            raise ValueError(f"{self.glob}: max = {self.max} is less than min = {self.min}")


@attrs.frozen(kw_only=True)
class CompanionRule:
    """Beside every file ending in `suffix` lies one of the same name ending in `needs` (".nii.gz" needs ".json")."""

    suffix: str
    needs: str


@attrs.frozen(kw_only=True)
class ExpectedFilesConfig:
    """Settings of the check `expected-files`. Sizes in bytes; `max_files` None: no limit."""

    min_files: int = 1
    max_files: int | None = None
    min_bytes: int = 0
    counts: tuple[CountRule, ...] = ()
    companions: tuple[CompanionRule, ...] = ()
    forbidden: tuple[str, ...] = ()


class ExpectedFilesCheck:
    """Counts the manifest's files against the route's rules; reads no file.

    Findings: `files-too-few`, `files-too-many`, `delivery-too-small`, `companion-missing`, `file-forbidden`.
    """

    def __init__(self, config: ExpectedFilesConfig) -> None:
        self.config = config
        self._globs = [_pattern(rule.glob) for rule in config.counts]
        self._forbidden = [(glob, _pattern(glob)) for glob in config.forbidden]

    @classmethod
    def from_settings(cls, settings: Settings, *, where: str = "checks.expected-files") -> Self:
        """Raises ConfigError."""
        return cls(structure(settings, ExpectedFilesConfig, where=where))

    def check(self, parcel: Parcel) -> Iterable[Finding]:
        """One pass over the manifest."""
        return list(limited(self._judge(parcel)))

    def _judge(self, parcel: Parcel) -> Iterator[Finding]:
        matched: Counter[int] = Counter()  # by the rule's place: two rules may have one glob
        companions = [(rule, set[str](), set[str]()) for rule in self.config.companions]
        files = total = 0
        for entry in parcel.manifest:
            files += 1
            total += entry.size
            name = entry.path.rsplit("/", 1)[-1]
            matched.update(
                place for place, glob in enumerate(self._globs) if glob.match(entry.path) or glob.match(name)
            )
            for text, glob in self._forbidden:
                if glob.match(entry.path) or glob.match(name):
                    yield error("file-forbidden", f"this route takes no {text!r}", path=entry.path)
            for rule, stems, partners in companions:
                if entry.path.endswith(rule.suffix):
                    stems.add(entry.path.removesuffix(rule.suffix))
                if entry.path.endswith(rule.needs):
                    partners.add(entry.path.removesuffix(rule.needs))
        yield from self._totals(files, total)
        for place, count in enumerate(self.config.counts):
            yield from _count(matched[place], count.min, count.max, f"files match {count.glob!r}")
        for rule, stems, partners in companions:
            for stem in sorted(stems - partners):
                yield error(
                    "companion-missing", f"{stem}{rule.needs} should lie beside it", path=f"{stem}{rule.suffix}"
                )

    def _totals(self, files: int, total: int) -> Iterator[Finding]:
        yield from _count(files, self.config.min_files, self.config.max_files, "files")
        if total < self.config.min_bytes:
            yield error("delivery-too-small", f"{total:,} bytes in all; this route expects {self.config.min_bytes:,}")


def _count(found: int, least: int, most: int | None, what: str) -> Iterator[Finding]:
    if found < least:
        yield error("files-too-few", f"{found:,} {what}; this route expects at least {least:,}")
    if most is not None and found > most:
        yield error("files-too-many", f"{found:,} {what}; this route expects at most {most:,}")


def _pattern(glob: str) -> re.Pattern[str]:
    return re.compile(translate(glob), re.IGNORECASE)
