"""Makes XNAT hold the DICOM objects of a delivery, once: look, do the next thing that is missing, look again.

The loop needs no memory of its own to be right. Whatever an earlier attempt, a time-out or a killed worker left behind is found
in the archive or the prearchive, or as an import request, and is carried on with. The journal only tells what is ours.
"""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from lading.errors import Refused, TargetUnavailable
from xnat_importer import inbox_route, prearchive, upload_route
from xnat_importer.contents import DicomFile
from xnat_importer.errand import UPLOAD, Errand
from xnat_importer.ownership import demand_ours
from xnat_importer.target import Archived, Found, Waiting, with_md5

_SAFE = "The files are in the inbox."


@dataclass(frozen=True, slots=True)
class Place:
    """Where the session is now. `sent` tells how many DICOM files were really handed over by this run."""

    archived: Archived | None
    waiting: tuple[Waiting, ...]
    sent: int


def bring(errand: Errand, first_look: Found | None) -> Place:
    """Carry on until everything that XNAT will take is in the archive (or READY, where a person archives).

    `first_look` spares one look when it is only moments old. Raises Refused, TargetMissing, TargetUnavailable.
    """
    return _Bringing(errand).run(first_look)


class _Bringing:
    def __init__(self, errand: Errand) -> None:
        self._errand = errand
        self._sent = 0
        self._sendings = 0
        self._accepted: str = ""
        self._request: inbox_route.Request | None = None

    def run(self, found: Found | None) -> Place:
        self._carry_on_with_request()
        if found is None or self._request is not None:
            found = self._look()
        for _ in range(
            12
        ):  # each round leaves one obstacle behind; more than a handful means that something undoes our work
            if found.archived:
                self._demand_ours(found.archived)
            if found.waiting and self._upload_is_unfinished() and not found.archived:
                self._upload(self._errand.contents.dicom)
            elif found.waiting and self._request_is_lost() and not found.archived:
                # Half of the folder may be there; importing it again replaces what is.
                self._send_all()
            elif found.waiting:
                if self._settle(found):
                    return Place(found.archived, found.waiting, self._sent)
            elif found.archived:
                missing = [] if self._everything_was_sent() else self._missing(found.archived)
                if not missing or self._sendings:
                    return Place(found.archived, (), self._sent)
                self._upload(missing)
            else:
                self._send_all()
            found = self._look()
        raise TargetUnavailable(
            f"importing {self._errand.target}: what was sent does not stay where it was put", safe=_SAFE,
            next_command="lading retry",
        )  # fmt: skip

    def _look(self) -> Found:
        errand = self._errand
        target = errand.target
        # After a request of ours that went through, the archive alone tells; the prearchive is asked when it is not there.
        completed = self._request is not None and self._request.status == "Completed"
        if completed and target.auto_archives and not self._upload_was_ours():
            archived = errand.repository.archived(target.project, target.session)
            if archived:
                return Found(archived, ())
        rewritten = target.anonymised and errand.claimed and errand.has_sent
        return errand.repository.look(target.project, target.session, target.study, rewritten=rewritten)

    def _carry_on_with_request(self) -> None:
        number = inbox_route.adopt(self._errand)
        if number:
            self._request = inbox_route.follow(self._errand, number, from_before=True)

    def _demand_ours(self, archived: Archived) -> None:
        if self._accepted != archived.id:
            demand_ours(self._errand, archived)
            self._accepted = archived.id

    def _settle(self, found: Found) -> bool:
        """Bring every waiting part into the archive; True when the policy leaves them where they are."""
        for waiting in found.waiting:
            joins = found.archived is not None
            prearchive.settle(self._errand, waiting, joins=joins, sent_by_us=self._upload_was_ours())
            if self._errand.route.archive != "never" and not joins:
                found = dataclasses.replace(found, archived=self._archived())
        return self._errand.route.archive == "never"

    def _archived(self) -> Archived | None:
        return self._errand.repository.archived(self._errand.target.project, self._errand.target.session)

    def _send_all(self) -> None:
        errand = self._errand
        if self._sendings:
            raise self._nothing_stored()
        if self._request is not None and self._request.status == "Failed":
            failed, self._request = self._request, None
            inbox_route.forget(errand)
            raise Refused(
                f"importing {errand.target}: XNAT's request {failed.id} failed: “{failed.resolution}”",
                safe=_SAFE,
                next_command="lading retry",
            )
        if self._request is not None:
            # An earlier request came to an end and left nothing: somebody deleted it, or everything was dropped.
            self._request = None
            inbox_route.forget(errand)
        errand.claim()
        if not errand.target.server_path or errand.contents.skips_dicom:
            self._upload(errand.contents.dicom)
            return
        try:
            number = inbox_route.submit(errand)
        except inbox_route.LabelTaken:
            self._demand_visible_label()
            return
        except TargetUnavailable:
            # XNAT may have taken the request and only the answer got lost.
            adopted = inbox_route.adopt(errand)
            if adopted is None:
                raise
            number = adopted
        self._sendings += 1
        self._sent = len(errand.contents.dicom)
        self._request = inbox_route.follow(errand, number)
        if self._request.status == "Failed" and not self._look():
            self._sendings = 0
            self._send_all()

    def _demand_visible_label(self) -> None:
        """409 said that the label exists; the next look must find it, or it is nothing that we can see."""
        if self._archived() is None:
            raise Refused(
                f"importing {self._errand.target}: XNAT says that the label exists in the project, but does not show it",
                safe=_SAFE,
                next_command="lading doctor",
            )

    def _upload(self, files: Sequence[DicomFile]) -> None:
        errand = self._errand
        self._sendings += 1
        if self._sendings > 3:
            raise self._nothing_stored()
        self._sent += len(files)
        errand.journal.note(UPLOAD, "begun")
        upload_route.send(errand, files)
        errand.journal.note(UPLOAD, "done")

    def _request_is_lost(self) -> bool:
        return self._request is not None and self._request.status == inbox_route.LOST and not self._sendings

    def _upload_is_unfinished(self) -> bool:
        return self._errand.journal.recall(UPLOAD) == "begun"

    def _upload_was_ours(self) -> bool:
        return self._errand.journal.recall(UPLOAD) is not None

    def _everything_was_sent(self) -> bool:
        return self._sent >= len(self._errand.contents.dicom)

    def _missing(self, archived: Archived) -> list[DicomFile]:
        """The objects that the archive does not hold: not their bytes, and not their identifiers either."""
        repository = self._errand.repository
        stored = [file for scan in repository.scans(archived) for file in repository.scan_files(archived, scan)]
        known = with_md5(stored)
        rest = [file for file in self._errand.contents.dicom if file.entry.digests.get("md5", "-") not in known]
        if not rest:
            return []
        wanted = {file.entry.digests.get("md5", "-") for file in self._errand.contents.dicom}
        others = [repository.identity(file.uri) for file in stored if file.md5 not in wanted or not file.md5]
        there = {other.sop for other in others if other}
        return [file for file in rest if file.identity.sop not in there]

    def _nothing_stored(self) -> Refused:
        return Refused(
            f"importing {self._errand.target}: XNAT accepted the {len(self._errand.contents.dicom)} DICOM files and holds none "
            "of them; a series import filter or an anonymisation script may reject them",
            safe=_SAFE,
            next_command="lading retry",
        )
