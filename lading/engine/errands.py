"""What an operator asks for besides the straight line: cancel, fix, release, verify again. Workers do it, like steps."""

import json
from collections.abc import Callable, Mapping

from lading import pipeline
from lading.delivery import Labels, Stage
from lading.findings import note
from lading.pipeline import Step, Work

LABELS_NOTE = "new-labels"
"""Journal key: the labels that `fix` asks for, as JSON."""


def cancel(work: Work) -> Step:
    """Given up. The files are kept in quarantine; the sender can read that it was cancelled."""
    found = (*work.known(), note("cancelled", "cancelled by the operator"))
    work.inbox.quarantine(work.delivery.id, found)
    pipeline.write_receipt(work, Stage.CANCELLED, found)
    return Step(Stage.CANCELLED, "cancelled by the operator; the files are kept in quarantine", found)


def release(work: Work) -> Step:
    """Out of quarantine and back to the start of the line, under new labels when `fix` asked for some."""
    wanted = work.journal.recall(LABELS_NOTE)
    labels = Labels(**json.loads(wanted)) if wanted else None
    # Being rejected may have been interrupted before the slot was set aside; then this does it.
    work.inbox.quarantine(work.delivery.id, work.known())
    work.inbox.release(work.delivery.id, labels)
    return Step(Stage.ARRIVED, f"released as {labels}" if labels else "released as it is")


def verify_again(work: Work) -> Step:
    """Read back once more, with a fresh receipt. Raises Unproven."""
    return pipeline.verify(work)


def reread(work: Work) -> Step:
    """Read back, and let the repository read its own disk again. Raises Unproven."""
    return pipeline.verify(work, reread=True)


ERRANDS: Mapping[str, Callable[[Work], Step]] = {
    "cancel": cancel,
    "release": release,
    "verify-again": verify_again,
    "reread": reread,
}
