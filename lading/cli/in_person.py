"""Reading a delivery back as the person who asks: what they may see in the repository, beside what the receipt says of it.

Nothing is written anywhere: no stage, no receipt. The server's own reading back is `lading verify`.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

from lading.agent.outbox import OUTBOX_NAME
from lading.assembly import importer_for, inbox_holding
from lading.cli import output
from lading.cli.output import Json
from lading.config import Config
from lading.delivery import DeliveryId, FileOutcome, Outcome, Parcel, Receipt
from lading.desk import Account
from lading.errors import LadingError
from lading.manifest import Manifest
from lading.ports import ImportRecord
from lading.seal import SEAL_NAME

_NAMED = 200
"""So many files are named; the figures are of all."""
_GOOD = frozenset({Outcome.VERIFIED, Outcome.FILTERED})


@dataclass(slots=True)
class Seen:
    """What somebody sees of a delivery of `files` files.

    `unseen`: files that the receipt calls verified, and they do not find; `wrong`: whatever else is not as it should be.
    """

    files: int
    counts: Counter[Outcome] = field(default_factory=Counter)
    unseen_count: int = 0
    unseen: list[FileOutcome] = field(default_factory=list)
    wrong: list[FileOutcome] = field(default_factory=list)

    @property
    def whole(self) -> bool:
        """Whether they see all of it, and it is what the manifest says."""
        return not self.unseen_count and set(self.counts) <= _GOOD and not self.untold

    @property
    def untold(self) -> int:
        """Files of which nothing was said."""
        return max(self.files - self.counts.total() - self.unseen_count, 0)

    def collect(self, outcomes: Iterable[FileOutcome], proven: "frozenset[str] | None") -> None:
        """Take them all in. `proven`: the paths that the receipt calls verified; None is every one."""
        for one in outcomes:
            if one.outcome is Outcome.MISSING and (proven is None or one.path in proven):
                self.unseen_count += 1
                self.unseen += [one] if len(self.unseen) < _NAMED else []
                continue
            self.counts[one.outcome] += 1
            if one.outcome not in _GOOD and len(self.wrong) < _NAMED:
                self.wrong.append(one)


def verify_in_person(config: Config, account: Account, who: str, *, as_json: bool) -> bool:
    """Compare what the session in `config` shows with the manifest that lies on this machine, and say it; whether it is all there.

    Raises LadingError where there is no receipt yet or no manifest here, and what the repository's importer raises.
    """
    receipt = account.receipt
    if receipt is None or not receipt.repository:
        raise LadingError(
            f"{account.delivery.id} was not imported yet, as far as this machine knows; it is {account.stage}",
            safe="nothing was changed",
            next_command=f"lading show {account.delivery.id}",
        )
    importer = importer_for(config, config.route(account.delivery.route).repository, route=account.delivery.route)
    parcel = _parcel(config, account, receipt)
    seen = Seen(parcel.manifest.summary.files)
    seen.collect(importer.verify(parcel, ImportRecord(receipt.repository)), _proven(config, receipt))
    if as_json:
        output.answer(_document(seen, who, receipt))
    else:
        _show(seen, who, receipt)
    return seen.whole


def _show(seen: Seen, who: str, receipt: Receipt) -> None:
    told = ", ".join(f"{seen.counts[one]} {one}" for one in Outcome if seen.counts[one]) or "nothing"
    output.say(f"{receipt.delivery}  {receipt.labels}  as {who} sees it: {told}")
    if seen.wrong:
        rows = ((one.path, str(one.outcome), one.how) for one in seen.wrong)
        output.table(("file", "outcome", "how"), rows)
    if seen.untold:
        output.say(f"of {seen.untold} files nothing was said", style="yellow")
    if seen.unseen_count:
        group, owner = receipt.repository.get("group", ""), receipt.repository.get("owner", "")
        whose = f" (owner {owner or 'the server'}{f', group {group}' if group else ''})"
        output.say(
            f"not seen by {who}: {seen.unseen_count} of the files that the receipt of "
            f"{receipt.at.astimezone():%d %b %Y %H:%M} calls verified{whose}. They lie where {who} may not look, or were "
            "removed since.",
            style="yellow",
        )
        output.table(("file",), ((one.path,) for one in seen.unseen[:20]))
        output.say_next(f"lading verify {receipt.delivery}", "asks with the server's own account: ")


def _document(seen: Seen, who: str, receipt: Receipt) -> Mapping[str, Json]:
    return {
        "id": receipt.delivery,
        "labels": receipt.labels.as_dict(),
        "as": who,
        "whole": seen.whole,
        "counts": {str(one): number for one, number in seen.counts.items()},
        "unseen": seen.unseen_count,
        "unseen_files": [one.path for one in seen.unseen],
        "wrong": [
            {"path": one.path, "outcome": str(one.outcome), "how": one.how, "where": one.where} for one in seen.wrong
        ],
        "receipt": {"stage": str(receipt.stage), "at": receipt.at.isoformat(), "counts": dict(receipt.counts)},
        "next": "" if seen.whole else f"lading verify {receipt.delivery}",
    }


def _parcel(config: Config, account: Account, receipt: Receipt) -> Parcel:
    """The delivery with a manifest of this machine: the sender's own, else the one in the inbox."""
    delivery = replace(account.delivery, labels=receipt.labels, digest=receipt.digest)
    own = config.home / "outgoing" / delivery.id
    if "agent" in account.known_to and (config.home / OUTBOX_NAME).exists() and (own / SEAL_NAME).exists():
        return Parcel(delivery, config.home / "no-files-here", Manifest.open(own), published=False)
    inbox = inbox_holding(config, DeliveryId(delivery.id))
    if inbox is None:
        raise LadingError(
            f"reading {delivery.id} back: its manifest is on no disk of this machine",
            safe="nothing was changed",
            next_command=f"lading verify {delivery.id}   (on the staging host)",
        )
    return replace(inbox.parcel(delivery.id), delivery=delivery)


def _proven(config: Config, receipt: Receipt) -> "frozenset[str] | None":
    if receipt.proves_all:
        return None
    inbox = inbox_holding(config, receipt.delivery)
    if inbox is None:
        return frozenset()
    return frozenset(one.path for one in inbox.read_outcomes(receipt.delivery) if one.outcome is Outcome.VERIFIED)
