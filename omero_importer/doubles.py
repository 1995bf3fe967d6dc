"""What is said of files that OMERO holds in more than one Fileset of the delivery: an import was repeated that had got to its end.

Nothing is removed for that: people may have worked with either. Until somebody has decided, such files are not verified.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace

from lading.delivery import FileOutcome, Outcome
from omero_importer.holdings import HeldFileset, groups
from omero_importer.session import Connection


@dataclass(frozen=True, slots=True)
class Copy:
    """One Fileset of several with the same files, and the verdicts on them in the order of the plan."""

    fileset: HeldFileset
    verdicts: tuple[FileOutcome, ...]

    @property
    def is_whole(self) -> bool:
        """Whether every file of it is proven."""
        return all(one.outcome is Outcome.VERIFIED for one in self.verdicts)


def in_one_group(connection: Connection, found: Sequence[HeldFileset]) -> list[HeldFileset]:
    """Of Filesets with the same files, those beside the one that is in its place; the first, when none is.

    Another route may bring the same session into another group, and that is all right. Who looks in person sees them all.
    """
    if len(found) == 1:
        return list(found)
    group = groups(connection, [one.id for one in found])
    ours = next((one for one in found if one.linked), found[0])
    return [one for one in found if group.get(one.id) == group.get(ours.id)]


def together(copies: Sequence[Copy], delivery: str) -> Iterator[FileOutcome]:
    """One verdict for each file: never that it is verified, whatever is said of the single copies."""
    hint = _what_to_do(copies, delivery)
    for verdicts in zip(*(copy.verdicts for copy in copies), strict=True):
        told = ", ".join(
            f"Fileset:{copy.fileset.id} ({_briefly(verdict)})" for copy, verdict in zip(copies, verdicts, strict=True)
        )
        how = f"OMERO holds it in {len(copies)} Filesets: {told}"
        where = next((one.where for one in verdicts if one.where), "")
        yield replace(verdicts[0], outcome=_of_all(verdicts), how=how, where=where, hint=hint)


def _of_all(verdicts: Sequence[FileOutcome]) -> Outcome:
    said = {one.outcome for one in verdicts}
    if said == {Outcome.MISSING}:
        return Outcome.MISSING
    return Outcome.MISMATCH if Outcome.MISMATCH in said else Outcome.UNVERIFIED


def _briefly(verdict: FileOutcome) -> str:
    return "verified" if verdict.outcome is Outcome.VERIFIED else f"{verdict.outcome}: {verdict.how}"


def _what_to_do(copies: Sequence[Copy], delivery: str) -> str:
    """Which of them looks like the one too many: what is not proven, else the younger. A retry removes what has no images."""
    again = f"lading retry {delivery}"
    poor = [copy for copy in copies if not copy.is_whole]
    spare = poor if 0 < len(poor) < len(copies) else copies[1:]
    full = [f"Fileset:{copy.fileset.id}" for copy in spare if copy.fileset.images]
    return f"compare them in OMERO and keep one: omero delete {' '.join(full)}; then: {again}" if full else again
