"""Reads back a delivery whose copy has left the inbox: by the digests of its manifest alone.

Without the copy nobody knows which of its files are DICOM, and what is in them. Equal digests are proof all the same. Objects
that XNAT keeps otherwise than they were sent (it rewrites headers) cannot be compared any more, and that is said, not guessed.
"""

from collections.abc import Iterator, Sequence

from lading.delivery import FileOutcome
from lading.errors import Refused
from lading.manifest import Entry
from xnat_importer import readback, resources
from xnat_importer.errand import Errand
from xnat_importer.scratch import scratch
from xnat_importer.target import Archived, Stored, with_md5


def outcomes(errand: Errand, archived: Archived | None) -> Iterator[FileOutcome]:
    """One for each file of the manifest; `errand` has them all as companions. `archived`: None where there is no such session.

    Raises Refused when something is not found, and XNAT holds other objects that it might be.
    """
    stored = _objects(errand, archived)
    by_md5 = with_md5(stored)
    rest: list[Entry] = []
    matched: set[str] = set()
    for entry in errand.contents.companions:
        same = by_md5.get(entry.digests.get("md5", ""))
        if same:
            matched.add(same.uri)
            yield readback.verified(entry, "md5", same)
        else:
            rest.append(entry)
    others = [one for one in stored if one.uri not in matched]
    if archived is None:
        yield from _downloaded(errand, rest, others)
        return
    elsewhere: list[Entry] = []
    for place, entries in resources.assign(rest, errand.route).items():
        for verdict, entry in zip(readback.companions(errand, archived, place, entries), entries, strict=True):
            if verdict.where:
                yield verdict
            else:
                elsewhere.append(entry)
    yield from _downloaded(errand, elsewhere, others)


def _objects(errand: Errand, archived: Archived | None) -> list[Stored]:
    """The files of its scans, or of its parts in the prearchive."""
    target, repository = errand.target, errand.repository
    if archived is None:
        found = repository.look(target.project, target.session, target.study, rewritten=target.anonymised)
        return [file for session in found.waiting for file in repository.waiting_files(session)]
    scans = repository.scans_of(target.project, target.subject, target.session) or ()
    return [file for scan in scans for file in repository.scan_files(archived, scan)]


def _downloaded(errand: Errand, entries: Sequence[Entry], others: Sequence[Stored]) -> Iterator[FileOutcome]:
    """By SHA-256 of what XNAT serves, where the manifest has no MD5 or XNAT shows none."""
    wanted = {entry.sha256 for entry in entries}
    by_sha256: dict[str, Stored] = {}
    for stored in others if wanted else ():
        with scratch(errand.state / "downloads", "", stored.size) as copy:
            digest = errand.repository.download(stored.uri, copy)
        if digest in wanted:
            by_sha256[digest] = stored
    lost = [entry for entry in entries if entry.sha256 not in by_sha256]
    if lost and len(others) > len(by_sha256):
        raise Refused(
            f"reading {errand.target} back: {lost[0].path}{' and others are' if len(lost) > 1 else ' is'} not there byte for byte, "
            f"XNAT holds {len(others) - len(by_sha256)} other objects that it may have made of that, and the copy in the inbox, "
            "which could tell, was withdrawn",
            safe="Nothing was changed.",
            next_command="look at the session in XNAT",
        )
    for entry in entries:
        same = by_sha256.get(entry.sha256)
        if same:
            yield readback.verified(entry, "sha256 of the download", same)
        else:
            yield readback.missing(entry, "neither among the session's objects nor its resources")
