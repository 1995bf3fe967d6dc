"""Asks the inbox what became of what was sent, and writes the answer into the outbox."""

from collections.abc import Mapping

import structlog

from lading.agent.carrier import RESEND
from lading.agent.edge import foreseen
from lading.agent.locks import held
from lading.agent.outbox import CANCELLED_THERE, Outbox, Outgoing
from lading.agent.parts import AgentParts
from lading.agent.taking import look_back
from lading.delivery import DeliveryId, Receipt, Stage
from lading.errors import Corrupted, LadingError
from lading.findings import warning
from lading.ports import Journal
from lading.staging.receipts import parse_receipt, receipt_json

log = structlog.get_logger()

RECEIPT_NAME = "receipt.json"
LONGEST_PAUSE_S = 600.0
_ANSWERED = "answered"


def ask(outbox: Outbox, parts: AgentParts, delivery: DeliveryId, *, every: float = 15.0) -> bool:
    """One look for the receipt of one delivery. False when there is nothing new.

    `every`: seconds until the next look at a young delivery; an old one is asked for less often. A place that does not
    answer is noted on the delivery, and asked again.
    """
    with held(outbox.lock(delivery)) as ours:
        item = outbox.get(delivery) if ours else None
        if item is None or not _may_be_answered(outbox, item):
            return False
        if item.stage is Stage.ARRIVED:
            look_back(outbox, parts, item)  # a carrier that was killed did not get to it
        age = outbox.clock() - item.arrived_at
        next_look = outbox.clock() + min(max(every, age / 20), LONGEST_PAUSE_S)
        try:
            with foreseen(f"asking for the receipt of {delivery}"):
                receipt = parts.transport(item.delivery.route).fetch_receipt(delivery)
        except LadingError as exc:
            _no_answer(outbox, item, exc, next_look)
            return False
        outbox.amend(delivery, not_before=next_look, **_words_at(item))
        journal = outbox.journal(delivery)
        if receipt is None or (journal.recall(_ANSWERED) == _mark(receipt) and not _is_behind(item, receipt)):
            return False
        _answer(outbox, item, receipt, journal)
        journal.note(_ANSWERED, _mark(receipt))
        return True


def kept_receipt(outbox: Outbox, delivery: DeliveryId) -> Receipt | None:
    """The last receipt that the inbox gave for the delivery, from our own copy; None before there is one that can be read.

    To look at, that is: nothing is removed or called verified by this copy.
    """
    path = outbox.home / "outgoing" / delivery / RECEIPT_NAME
    try:
        return parse_receipt(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, Corrupted) as exc:  # one bad file must not hide all other deliveries from people
        log.warning("receipt cannot be read", delivery=delivery, file=str(path), why=str(exc))
        return None


_FINE: Mapping[str, str] = {"error_code": "", "error": "", "next_command": ""}


def _may_be_answered(outbox: Outbox, item: Outgoing) -> bool:
    """Whether the inbox has it and has not said its last word: what was refused or cancelled there may be released again."""
    waits = item.stage in (Stage.ARRIVED, Stage.REJECTED)
    return bool(item.arrived_at) and (
        waits or (item.stage is Stage.CANCELLED and outbox.journal(item.id).recall(CANCELLED_THERE) is not None)
    )


def _words_at(item: Outgoing) -> Mapping[str, str]:
    """What is said of a delivery whose inbox answers."""
    if item.stage is Stage.CANCELLED:
        return _given_up(item)
    return _FINE if item.stage is Stage.ARRIVED else {}


def _is_behind(item: Outgoing, receipt: Receipt) -> bool:
    """Whether an earlier version of us read this receipt and made nothing of it."""
    return receipt.stage is Stage.CANCELLED and item.stage is not Stage.CANCELLED


def _answer(outbox: Outbox, item: Outgoing, receipt: Receipt, journal: Journal) -> None:
    log.info("receipt", delivery=item.id, stage=str(receipt.stage), counts=dict(receipt.counts))
    # What could not be read at all may be answered without a digest; what is verified was read.
    about_nothing = not receipt.digest and receipt.stage is not Stage.VERIFIED
    if receipt.delivery != item.id or (receipt.digest != item.delivery.digest and not about_nothing):
        _about_something_else(outbox, item, receipt)
        return
    outbox.keep(item.id, RECEIPT_NAME, receipt_json(receipt).encode("ascii"))
    if receipt.findings:
        outbox.record(item.id, receipt.findings)
    if item.stage is Stage.CANCELLED and receipt.stage is not Stage.CANCELLED:
        outbox.take_up(item.id, "the server has taken it up again")
    if receipt.stage is Stage.VERIFIED:
        _verified(outbox, item, receipt)
    elif receipt.stage is Stage.REJECTED:
        _rejected(outbox, item, receipt)
    elif receipt.stage is Stage.CANCELLED:
        _cancelled(outbox, item, journal)
    elif receipt.stage is Stage.SENDING:
        _send_again(outbox, item, receipt, journal)
    else:
        outbox.remark(item.id, f"the server says {receipt.stage}")


def _verified(outbox: Outbox, item: Outgoing, receipt: Receipt) -> None:
    now = outbox.clock()
    note = ", ".join(f"{number} {outcome}" for outcome, number in receipt.counts.items() if number)
    outbox.move(
        item.id,
        Stage.VERIFIED,
        note,
        verified_at=now,
        grace_until=now + item.grace_s,
        not_before=0.0,
        resume="",
        **_FINE,
    )
    log.info("verified", delivery=item.id, proves_all=receipt.proves_all)


def _rejected(outbox: Outbox, item: Outgoing, receipt: Receipt) -> None:
    why = receipt.findings[0].message if receipt.findings else "the server refused it"
    # No command of ours: the findings' hints know the label that was meant.
    outbox.move(item.id, Stage.REJECTED, why, error_code="rejected", error=why, next_command="")


def _cancelled(outbox: Outbox, item: Outgoing, journal: Journal) -> None:
    """Given up by somebody at the server. The source stays; who wants it delivered sends it again, as a new delivery."""
    journal.note(CANCELLED_THERE, "1")
    words = _given_up(item)
    outbox.move(item.id, Stage.CANCELLED, words["error"], resume="", **words)
    log.warning("cancelled", delivery=item.id, why=words["error"], next=words["next_command"])


def _given_up(item: Outgoing) -> Mapping[str, str]:
    return {
        "error_code": CANCELLED_THERE,
        "error": "cancelled on the server; its files are kept there in quarantine, and the source is untouched",
        "next_command": item.command_to_send(item.delivery.labels),
    }


def _send_again(outbox: Outbox, item: Outgoing, receipt: Receipt, journal: Journal) -> None:
    """Files came out damaged on the other side. The transport learns from the journal not to trust sizes and times."""
    paths = [finding.path for finding in receipt.findings if finding.path]
    journal.note(RESEND, "\n".join(paths)[:60_000] or "all")
    named = ", ".join(paths[:3]) or "files"
    outbox.move(
        item.id, Stage.READY, f"arrived damaged, sent again: {named}", not_before=0.0, attempt=0, arrived_at=0.0
    )


def _about_something_else(outbox: Outbox, item: Outgoing, receipt: Receipt) -> None:
    finding = warning(
        "receipt-for-other-content",
        f"the receipt is about content {receipt.digest[:12] or '(none)'}… of {receipt.delivery}, "
        f"we sent {item.delivery.digest[:12]}…; it proves nothing for us",
        hint=f"lading show {item.id}",
    )
    outbox.record(item.id, (finding,))
    outbox.remark(item.id, finding.message)


def _no_answer(outbox: Outbox, item: Outgoing, error: LadingError, next_look: float) -> None:
    if item.error_code != error.code:
        log.warning("no receipt yet", delivery=item.id, code=error.code, error=error.message)
    outbox.amend(
        item.id, not_before=next_look, error_code=error.code, error=error.message.encode("ascii", "replace").decode(),
        next_command=error.next_command or "lading doctor",
    )  # fmt: skip


def _mark(receipt: Receipt) -> str:
    return f"{receipt.stage} {receipt.at.isoformat()} {receipt.files_digest}"
