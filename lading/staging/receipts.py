"""The receipt: the repository's answer about a delivery, signed, with one line per file beside it.

    <delivery>.files.jsonl   one FileOutcome a line, ASCII JSON; written first
    <delivery>.json          the receipt, with the SHA-256 of that list; written last

The signature is an HMAC-SHA256 over the receipt's JSON without it: keys sorted, no spaces, ASCII.
"""

import hashlib
import hmac
import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from pathlib import Path

from lading.delivery import DeliveryId, FileOutcome, Labels, Outcome, Receipt, Stage, delivery_id
from lading.disk import appearing, open_strange, read_small, write_durably
from lading.errors import Corrupted
from lading.findings import Finding

RECEIPT_FORMAT = 1
MAX_RECEIPT_BYTES = 4 << 20
_MAX_LINE = 1 << 20
_READABLE = 0o640  # its folder says to whom


def receipt_json(receipt: Receipt) -> str:
    """The receipt as it is written: one JSON object, ASCII, for people too."""
    return json.dumps(_as_dict(receipt), indent=1) + "\n"


def parse_receipt(text: str | bytes) -> Receipt:
    """A receipt that came over a wire or from a share, its signature unchecked. Raises Corrupted when it is not one."""
    try:
        raw = json.loads(text)
        _known_format(raw)
        return Receipt(
            delivery=delivery_id(_text(raw, "delivery")),
            route=_text(raw, "route"),
            labels=Labels(*(_text(raw["labels"], key) for key in ("project", "participant", "session"))),
            stage=Stage(raw["stage"]),
            digest=_text(raw, "digest"),
            files=_count(raw, "files"),
            bytes=_count(raw, "bytes"),
            counts={Outcome(key).value: _count(raw["counts"], key) for key in raw["counts"]},
            repository={str(key): _text(raw["repository"], key) for key in raw["repository"]},
            findings=tuple(Finding.from_dict(finding) for finding in raw["findings"]),
            files_digest=_text(raw, "files_digest"),
            at=_moment(_text(raw, "at")),
            signature=_text(raw, "signature"),
        )
    except (LookupError, TypeError, AttributeError, ValueError, RecursionError) as exc:
        raise Corrupted(f"the receipt cannot be read: {type(exc).__name__}: {exc}", safe="it is fetched again") from exc


def sign(receipt: Receipt, key: bytes) -> Receipt:
    """The receipt with its signature. `key` is the server's secret, at least 16 bytes (else ValueError)."""
    return replace(receipt, signature=_signature(receipt, key))


def signature_is_valid(receipt: Receipt, key: bytes) -> bool:
    """Whether the holder of `key` signed exactly this receipt. Constant time."""
    return hmac.compare_digest(_signature(receipt, key).encode(), receipt.signature.encode("utf-8", "replace"))


def write(folder: Path, receipt: Receipt, outcomes: Iterable[FileOutcome], key: bytes) -> Receipt:
    """Write list and receipt into `folder`, durably, the receipt last; what was there is replaced. Returns it signed.

    `files_digest` is that of the list just written; so are the `counts` when there is any outcome.
    """
    counts: Counter[str] = Counter()
    digest = hashlib.sha256()
    with (
        appearing(folder / list_name(receipt.delivery), mode=_READABLE) as handle,
        open(handle, "wb", closefd=False) as file,
    ):
        for outcome in outcomes:
            line = outcome_line(outcome)
            counts[outcome.outcome.value] += 1
            digest.update(line)
            file.write(line)
    signed = sign(replace(receipt, counts=dict(counts or receipt.counts), files_digest=digest.hexdigest()), key)
    write_durably(folder / receipt_name(receipt.delivery), receipt_json(signed).encode("ascii"), mode=_READABLE)
    return signed


def read(folder: Path, delivery: DeliveryId) -> Receipt | None:
    """The receipt in `folder`, or None when there is none. Raises Corrupted."""
    try:
        return parse_receipt(read_small(folder / receipt_name(delivery), MAX_RECEIPT_BYTES))
    except FileNotFoundError:
        return None
    except ValueError as exc:
        raise Corrupted(f"the receipt of {delivery} cannot be read: {exc}") from exc


def read_outcomes(folder: Path, delivery: DeliveryId) -> Iterator[FileOutcome]:
    """The lines of the list, streamed; none when there is no list. Raises Corrupted."""
    try:
        file = open_strange(folder / list_name(delivery))
    except FileNotFoundError:
        return
    except ValueError as exc:
        raise Corrupted(f"the outcomes of {delivery} cannot be read: {exc}") from exc
    with file:
        while line := file.readline(_MAX_LINE):
            yield _parse_outcome(line, delivery)


def receipt_name(delivery: DeliveryId) -> str:
    """The receipt's file name."""
    return f"{delivery}.json"


def list_name(delivery: DeliveryId) -> str:
    """The file name of the list of outcomes."""
    return f"{delivery}.files.jsonl"


def outcome_line(outcome: FileOutcome) -> bytes:
    """One line of the list."""
    raw = {
        "path": outcome.path,
        "size": outcome.size,
        "sha256": outcome.sha256,
        "outcome": outcome.outcome.value,
        "how": outcome.how,
        "where": outcome.where,
    }
    return json.dumps(raw).encode("ascii") + b"\n"


def _parse_outcome(line: bytes, delivery: DeliveryId) -> FileOutcome:
    try:
        raw = json.loads(line)
        return FileOutcome(
            path=_text(raw, "path"),
            size=_count(raw, "size"),
            sha256=_text(raw, "sha256"),
            outcome=Outcome(raw["outcome"]),
            how=_text(raw, "how"),
            where=_text(raw, "where"),
        )
    except (LookupError, TypeError, AttributeError, ValueError) as exc:
        raise Corrupted(f"the outcomes of {delivery} cannot be read: {exc}") from exc


def _as_dict(receipt: Receipt) -> dict[str, object]:
    return {
        "format": RECEIPT_FORMAT,
        "delivery": receipt.delivery,
        "route": receipt.route,
        "labels": receipt.labels.as_dict(),
        "stage": receipt.stage.value,
        "digest": receipt.digest,
        "files": receipt.files,
        "bytes": receipt.bytes,
        "counts": dict(receipt.counts),
        "repository": dict(receipt.repository),
        "findings": [finding.as_dict() for finding in receipt.findings],
        "files_digest": receipt.files_digest,
        "at": receipt.at.astimezone(UTC).isoformat(),
        "signature": receipt.signature,
    }


def _signature(receipt: Receipt, key: bytes) -> str:
    if len(key) < 16:
        raise ValueError("a receipt key needs at least 16 bytes")
    signed = {name: value for name, value in _as_dict(receipt).items() if name != "signature"}
    canonical = json.dumps(signed, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hmac.new(key, canonical.encode("ascii"), hashlib.sha256).hexdigest()


def _known_format(raw: Mapping[str, object]) -> None:
    if raw["format"] != RECEIPT_FORMAT:
        raise ValueError(f"format {raw['format']!r}; this version reads {RECEIPT_FORMAT}")


def _text(raw: Mapping[str, object], key: str) -> str:
    value = raw[key]
    if not isinstance(value, str):
        raise ValueError(f"{key} is not a text")  # noqa: TRY004 - one kind of failure for one kind of input
    return value


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if not MINYEAR < moment.year < MAXYEAR:  # it has no date in some time zone
        raise ValueError(f"it was written in the year {moment.year}")
    return moment


def _count(raw: Mapping[str, object], key: str) -> int:
    value = raw[key]
    if type(value) is not int or value < 0:
        raise ValueError(f"{key} is not a count")
    return value
