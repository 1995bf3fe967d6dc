"""Stores deliveries at a DICOM node and proves, image by image, that they are there. The other modules are its steps."""

import json
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, closing
from itertools import groupby
from pathlib import Path
from typing import Self

import structlog

from dicom_importer.commitment import Listener, Reports, ask, new_transaction
from dicom_importer.contents import Contents, File, Image, Other, opened
from dicom_importer.errors import SAFE
from dicom_importer.ledger import Ledger
from dicom_importer.node import COMMITMENT, STUDY_ROOT_GET, Node, NotOffered
from dicom_importer.readback import IN_ONE_REQUEST, REPLACED, ReadBack, is_ours
from dicom_importer.sending import Sending, Tally, names
from dicom_importer.settings import RepositorySettings, RouteSettings, repository_settings, route_settings
from lading.delivery import FileOutcome, Outcome, Parcel
from lading.disk import is_real_folder
from lading.disk import translated as on_disk
from lading.errors import ConfigError, Refused, TargetMissing, TargetUnavailable
from lading.findings import Finding, warning
from lading.ports import ImportPlan, ImportRecord, Journal, Settings

log = structlog.get_logger()

READ_BACK, COMMITTED, PRESENCE = "read-back", "commitment", "presence"
_TRANSACTION = "commitment"
_NAMED = 200
_ROUNDS = 20
"""So often an association may break that had stored something. Each round asks the node first what it has."""
_PAUSE_S = 0.25
_LONGEST_PAUSE_S = 2.0


class DicomImporter:
    """The Importer for one DICOM node and one route. Safe to share between threads."""

    def __init__(
        self, settings: RepositorySettings, route: RouteSettings, *, state: Path, inbox: Path | None = None
    ) -> None:
        self._settings, self._route, self._state, self._inbox = settings, route, state, inbox
        self._reports = Reports(state)
        self._listener = Listener(settings, state, self._reports) if settings.commitment_port else None
        self._planned = threading.local()  # `last`: a plan, and the contents that were read for it

    @classmethod
    def from_settings(cls, repository_table: Settings, route_table: Settings, *, inbox_root: Path, state: Path) -> Self:
        """From `[repositories.NAME]` (without `kind` and `imports`) and `[routes.NAME.import]`. Raises ConfigError."""
        return cls(repository_settings(repository_table), route_settings(route_table), state=state, inbox=inbox_root)

    def __repr__(self) -> str:
        return f"DicomImporter({self._settings.called}@{self._settings.address})"

    def close(self) -> None:
        """Give the port for reports back."""
        if self._listener:
            self._listener.close()

    def probe(self) -> None:
        """The node answers C-ECHO and lets us in."""
        Node(self._settings, self._settings.called).echo()

    def probe_project(self, project: str) -> str:
        """The AE title that the project's images go to. There is nothing more that a node could be asked."""
        title = self._route.title(project, self._settings.called)
        if title is None:
            raise TargetMissing(
                f"sending project {project} to the DICOM node {self._settings.address}: import.called of the route names no "
                "AE title for it",
                safe=f"Nothing was sent. {SAFE}",
                next_command="lading doctor",
            )
        return title

    def plan(self, parcel: Parcel, skips: Mapping[str, str] | None = None) -> ImportPlan:
        """The preflight: headers are read, and the node is asked what it stores. It is not asked yet what it has."""
        node = self._node(self.probe_project(parcel.delivery.labels.project))
        with ExitStack() as kept:
            contents = kept.enter_context(self._contents(parcel, skips or {}))
            images, size = contents.size
            if not images:
                raise Refused(
                    f"sending {parcel.delivery.labels} to {node}: there is no DICOM object in it that could be sent",
                    safe=f"Nothing was sent. {SAFE}",
                    next_command=f"lading show {parcel.delivery.id}",
                )
            _demand_accepted(node, contents)
            findings = tuple(_findings(contents))
            steps = (
                f"ask {node} which of {images} images it has",
                f"store the others ({size:,} bytes in all) in up to {self._settings.associations} associations",
                f"prove each image ({self._settings.proof})",
            )
            target = {
                "kind": "dicom",
                "node": self._settings.address,
                "called": node.called,
                "calling": self._settings.calling,
                "images": str(images),
            }
            if skips:
                target["skips"] = json.dumps(dict(skips))
            plan = ImportPlan(steps, target, findings)
            self._planned.last = plan, contents
            kept.pop_all()
            return plan

    def run(self, parcel: Parcel, plan: ImportPlan, journal: Journal) -> ImportRecord:
        """See the role. The journal keeps the transaction of the storage commitment that is asked for last."""
        node = self._node(plan.target["called"])
        ledger = self._ledger(parcel, node)
        with on_disk("noting what is sent", self._state):
            ledger.begin()
        with closing(ledger), self._planned_contents(parcel, plan) as contents:
            tally = self._send(node, parcel, contents, ledger)
            target = {**plan.target, "proof": self._proof(node)}
            if tally.warnings:
                said = "; ".join(f"{words}: {count} images" for words, count in tally.warnings.most_common(5))
                target["warnings"] = f"{said}; first {tally.warned[0][0]}"
                log.warning("stored with warnings", delivery=str(parcel.delivery.id), node=str(node), warnings=said)
            if target["proof"] == COMMITTED and self._listener:
                target[_TRANSACTION] = self._ask(node, contents, journal)
        return ImportRecord(target, already_there=tally.sent == 0)

    def verify(self, parcel: Parcel, record: ImportRecord) -> Iterator[FileOutcome]:
        """See the role. Read back where the node offers that, else by its own report; presence alone is UNVERIFIED."""
        node = self._node(record.target["called"])
        ledger = self._ledger(parcel, node)
        with self._contents(parcel, _skips(record.target)) as contents:
            yield from map(_other_outcome, contents.others())
            proof = self._proof(node)
            verdicts = {READ_BACK: self._read_back, COMMITTED: self._vouched_for}.get(proof, self._present)
            proven = 0
            for image, outcome, how in verdicts(node, parcel, contents, record):
                proven += outcome is Outcome.VERIFIED
                if outcome is Outcome.MISSING:
                    ledger.lacking([image.sop])
                yield from self._outcomes(node, contents, image, outcome, how)
            if proven == contents.size[0]:
                ledger.forget()

    # -- what all of them need -----------------------------------------------------------------------------------------

    def _node(self, called: str) -> Node:
        return Node(self._settings, called)

    def _ledger(self, parcel: Parcel, node: Node) -> Ledger:
        return Ledger(self._state, parcel.delivery.id, str(node))

    def _contents(self, parcel: Parcel, skips: Mapping[str, str]) -> Contents:
        if parcel.published and not is_real_folder(parcel.root):
            raise Refused(
                f"comparing {parcel.delivery.labels} with the DICOM node {self._settings.address}: the copy in the inbox was "
                "withdrawn, and only it tells which images there are and what is in them",
                safe="What the node holds stays as it is.",
                next_command="send the session again from its source: what the node holds of it is not sent",
            )
        return Contents.of(parcel, skips, leave_others=self._route.others == "leave")

    def _planned_contents(self, parcel: Parcel, plan: ImportPlan) -> Contents:
        """What `plan` read, if this thread made that plan just now: nobody changes the inbox between the two."""
        last, contents = self._planned.__dict__.pop("last", (None, None))
        return contents if contents and last is plan else self._contents(parcel, _skips(plan.target))

    def _proof(self, node: Node) -> str:
        """The strongest proof that the settings want and the node offers."""
        wanted = self._settings.proof
        if wanted != "auto":
            return wanted
        services = [STUDY_ROOT_GET, *([COMMITMENT] if self._listener else [])]
        offered = node.offers(services)
        return READ_BACK if STUDY_ROOT_GET in offered else COMMITTED if COMMITMENT in offered else PRESENCE

    # -- storing -------------------------------------------------------------------------------------------------------

    def _send(self, node: Node, parcel: Parcel, contents: Contents, ledger: Ledger) -> Tally:
        """Store what is missing. After a broken association the node is asked again before anything is repeated."""
        total = Tally()
        for _ in range(_ROUNDS):
            self._note_there(node, contents, ledger)
            if not contents.missing:
                break
            tally = Sending(node, parcel.root, contents, ledger, self._inbox).all()
            total.sent += tally.sent
            total.warnings += tally.warnings
            total.warned += tally.warned
            if tally.broken and tally.sent:
                total.broken = tally.broken
                continue
            tally.check(node, parcel.delivery.id)
            break
        else:
            total.check(node, parcel.delivery.id)
        return total

    def _note_there(self, node: Node, contents: Contents, ledger: Ledger) -> None:
        contents.forget_there()
        if self._find(node, contents):
            lacking: dict[str, None] = {}
            for sop, was_taken in ledger.notes():
                lacking.pop(sop, None) if was_taken else lacking.setdefault(sop)
            contents.note_there(lacking, there=False)
            return
        for was_taken, notes in groupby(ledger.notes(), lambda note: note[1]):
            contents.note_there((sop for sop, _ in notes), there=was_taken)

    def _find(self, node: Node, contents: Contents) -> bool:
        """Note what C-FIND shows. False where the node offers none. Asked once more when the line breaks."""
        for is_last in (False, True):
            try:
                with node.finder() as finder:
                    if finder is None:
                        return False
                    for study, series in contents.series():
                        contents.note_there(finder.images(study, series))
                break
            except NotOffered:
                return False
            except TargetUnavailable:
                if is_last:
                    raise
        return True

    def _ask(self, node: Node, contents: Contents, journal: Journal) -> str:
        transaction = new_transaction()
        journal.note(_TRANSACTION, transaction)
        if self._listener:
            self._listener.listen()
        with on_disk("noting a storage commitment", self._state):
            ask(node, contents.all_unproven(), transaction, self._reports)
        return transaction

    # -- proving -------------------------------------------------------------------------------------------------------

    def _read_back(
        self, node: Node, parcel: Parcel, contents: Contents, record: ImportRecord
    ) -> Iterator[tuple[Image, Outcome, str]]:
        """C-GET, again and again until everything came back, or nothing more has come for as long as `settle`."""
        back = ReadBack(node, parcel.root, contents, self._state / "dicom-scratch", self._inbox)
        until, pause, is_last = time.monotonic() + self._settings.settle, _PAUSE_S, False
        together = IN_ONE_REQUEST
        while True:
            before = contents.unproven_count
            try:
                for seen in back.seen(together):
                    contents.note_proven(seen.image.sop)
                    yield seen.image, seen.outcome, seen.how
            except NotOffered as exc:
                self._demand_auto(node, exc)
                yield from self._present(node, parcel, contents, record)
                return
            except TargetUnavailable:
                came = before - contents.unproven_count
                if is_last and not came:
                    # Some nodes agree to C-GET and hang up when it is asked for. What is left then proves less.
                    if self._settings.proof != "auto" or contents.unproven_count < contents.size[0]:
                        raise
                    node.echo()
                    yield from self._present(node, parcel, contents, record)
                    return
                is_last = not came
                continue
            if not contents.unproven_count or (together == 1 and time.monotonic() >= until):
                break
            if together > 1:
                together = 1  # a node may give nothing back where it lacks one of those that are asked for
                continue
            time.sleep(min(pause, max(0.0, until - time.monotonic())))
            pause = min(pause * 2, _LONGEST_PAUSE_S)
        for image in contents.all_unproven():
            yield image, Outcome.MISSING, "the node does not give it back"

    def _demand_auto(self, node: Node, exc: NotOffered) -> None:
        if self._settings.proof != "auto":
            raise Refused(
                f"reading back from {node}: it offers no C-GET to us, and proof = 'read-back' wants it",
                safe=f"{SAFE} The node has taken the images.",
                next_command="allow C-GET on the node, or set proof = 'auto', then: lading retry",
            ) from exc

    def _vouched_for(
        self, node: Node, parcel: Parcel, contents: Contents, record: ImportRecord
    ) -> Iterator[tuple[Image, Outcome, str]]:
        """The node's report about the transaction that `run` asked for."""
        transaction = record.target.get(_TRANSACTION, "")
        if not self._listener:
            raise ConfigError(
                f"proving what {node} holds: a storage commitment needs commitment_port", next_command="lading doctor"
            )
        if not transaction:
            raise Refused(
                f"proving what {node} holds: no storage commitment was asked for",
                safe=SAFE,
                next_command=f"lading retry {parcel.delivery.id}",
            )
        if self._reports.is_used(transaction):
            transaction = self._ask_again(node, parcel, contents)
        report = self._listener.wait(transaction, self._settings.report_wait)
        if report is None:
            raise TargetUnavailable(
                f"waiting for the report of {node} about its storage commitment {transaction}: it has not come to port "
                f"{self._settings.commitment_port} yet",
                safe=f"{SAFE} The node has taken the images.",
                next_command="lading retry",
            )
        for image in contents.all_unproven():
            if image.sop in report.failed:
                reason = report.failed[image.sop]
                yield image, Outcome.MISSING, f"the node does not vouch for it (reason {reason:#06x})"
            elif image.sop not in report.committed:
                yield image, Outcome.UNVERIFIED, "the node's report does not mention it"
            elif self._lies_here_unchanged(
                parcel, image
            ):  # for what it was sent the node vouches, and for nothing else
                yield image, Outcome.VERIFIED, "storage-commitment"
            else:
                yield image, Outcome.UNVERIFIED, REPLACED
        with on_disk("noting a storage commitment", self._state):
            self._reports.use(transaction, parcel.delivery.id)

    def _lies_here_unchanged(self, parcel: Parcel, image: Image) -> bool:
        with opened(parcel.root, image.path, inbox=self._inbox) as copy:
            return is_ours(image, copy)

    def _ask_again(self, node: Node, parcel: Parcel, contents: Contents) -> str:
        """A report that was a proof once says nothing about today: ask for another, once."""
        transaction = self._reports.pending(parcel.delivery.id)
        if not transaction:
            transaction = new_transaction()
            if self._listener:
                self._listener.listen()
            with on_disk("noting a storage commitment", self._state):
                self._reports.note_pending(parcel.delivery.id, transaction)
                ask(node, contents.all_unproven(), transaction, self._reports)
        return transaction

    def _present(
        self,
        node: Node,
        parcel: Parcel,  # noqa: ARG002 - as the others
        contents: Contents,
        record: ImportRecord,  # noqa: ARG002
    ) -> Iterator[tuple[Image, Outcome, str]]:
        """Being listed proves nothing about the content, but being absent does."""
        until = time.monotonic() + self._settings.settle
        while True:
            contents.forget_there()
            is_found = self._find(node, contents)
            if not is_found or not contents.missing or time.monotonic() >= until:
                break
            time.sleep(min(_LONGEST_PAUSE_S, max(0.0, until - time.monotonic())))
        for image in contents.all_unproven():
            if not is_found:
                yield image, Outcome.UNVERIFIED, "taken by the node, which offers nothing that could be asked"
            elif contents.is_there(image.sop):
                yield image, Outcome.UNVERIFIED, "presence: the node lists it, and offers neither C-GET nor its report"
            else:
                yield image, Outcome.MISSING, "the node does not list it"

    def _outcomes(
        self, node: Node, contents: Contents, image: Image, outcome: Outcome, how: str
    ) -> Iterator[FileOutcome]:
        """The verdict on an image, and on the files that are the same image once more."""
        where = ""
        if outcome is not Outcome.MISSING:
            where = f"dicom://{node}/studies/{image.study}/series/{image.series}/instances/{image.sop}".replace(
                " ", "%20"
            )
        yield FileOutcome(image.path, image.size, image.sha256, outcome, how, where)
        for twin, is_same in contents.twins(image):
            if is_same:
                yield _outcome(twin, outcome, how, where)
            else:
                yield _outcome(
                    twin, Outcome.MISSING, f"{image.path} has its SOPInstanceUID, and a node holds one of them"
                )


def _demand_accepted(node: Node, contents: Contents) -> None:
    """Every SOP class and transfer syntax of the parcel is welcome. Raises TargetMissing, Refused."""
    wanted = contents.contexts()
    accepted = node.accepts([(sop_class, syntax) for sop_class, syntax, _, _ in wanted])
    if not accepted:
        raise TargetMissing(
            f"asking {node} what it stores: it takes none of our images from AE title {node.settings.calling!r}",
            safe=f"Nothing was sent. {SAFE}",
            next_command="allow our AE title to store on the node, then: lading retry",
        )
    refused = [one for one in wanted if (one[0], one[1]) not in accepted]
    if refused:
        told = "; ".join(
            f"{count} images of {names(sop_class, syntax)}, such as {path}"
            for sop_class, syntax, count, path in refused[:5]
        )
        raise Refused(
            f"asking {node} what it stores: it does not take {told}",
            safe=f"Nothing was sent. {SAFE}",
            next_command="allow these on the node, then: lading retry",
        )


def _findings(contents: Contents) -> Iterator[Finding]:
    for other in contents.others(_NAMED):
        if other.code == "not-dicom":
            yield warning(
                "not-dicom", other.how, path=other.file.path, hint="exclude it in the route, or import.others"
            )
        elif other.code:
            yield warning("dicom-not-sendable", other.how, path=other.file.path, hint="look at it with dcmdump")


def _other_outcome(other: Other) -> FileOutcome:
    return _outcome(other.file, other.outcome, other.how)


def _outcome(file: File, outcome: Outcome, how: str, where: str = "") -> FileOutcome:
    return FileOutcome(file.path, file.size, file.sha256, outcome, how, where)


def _skips(target: Mapping[str, str]) -> Mapping[str, str]:
    found = json.loads(target.get("skips", "{}"))
    return {str(path): str(reason) for path, reason in found.items()}
