"""The sender's seal: a small file, written last, that says what the slot holds and where it belongs.

A slot with a seal is complete; a slot without one is still being filled. The seal carries the digests of the lists, the
lists carry the digests of the files: whoever holds the seal can prove the rest.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import MAXYEAR, MINYEAR, UTC, datetime
from pathlib import Path
from typing import Literal, NoReturn

from lading.delivery import Delivery, DeliveryId, Labels, Stage, delivery_id
from lading.disk import is_real_file, read_small, write_durably
from lading.errors import Rejected
from lading.findings import Finding, error
from lading.listing.names import windows_name
from lading.manifest import FILTERED_NAME, LIST_NAME, SUMS_NAME, Manifest, Summary

SEAL_NAME = "manifest.json"
PAPERS = (LIST_NAME, SUMS_NAME, FILTERED_NAME, SEAL_NAME)
"""The papers of a delivery, in the order in which a transport must write them: the seal last."""

SEAL_FORMAT = 1
MAX_SEAL_BYTES = 64 << 10
MAX_LABEL_BYTES = 255
_MOST_DIGESTS = 32
"""Some more than there are names in DIGEST_CHARS."""
Origin = Literal["source", "arrival"]

_KEYS = {"format", "delivery", "route", "labels", "summary", "origin", "sender", "priority", "created_at", "note"}
_SUMMARY_KEYS = {"files", "bytes", "digest", "list_digest", "filtered", "algorithms"}
_LABEL_KEYS = {"project", "participant", "session"}


@dataclass(frozen=True, slots=True)
class Seal:
    """What the sender declares. `origin` is "arrival" when the list was made here, so that nothing proves the way."""

    format: int
    delivery: DeliveryId
    route: str
    labels: Labels
    summary: Summary
    origin: Origin
    sender: str
    priority: int
    created_at: datetime
    note: str = ""

    def as_delivery(self, stage: Stage, labels: Labels | None = None) -> Delivery:
        """The delivery that the seal describes, at `stage`; under other labels when an operator changed them."""
        return Delivery(
            id=self.delivery,
            route=self.route,
            labels=labels or self.labels,
            stage=stage,
            files=self.summary.files,
            bytes=self.summary.bytes,
            digest=self.summary.digest,
            sender=self.sender,
            priority=self.priority,
            created_at=self.created_at,
        )


def seal(papers: Path, delivery: Delivery, manifest: Manifest, *, origin: Origin = "source", note: str = "") -> Seal:
    """Write the seal of `delivery` into its folder of papers, durably and last. Sealing again replaces it."""
    made = Seal(
        format=SEAL_FORMAT,
        delivery=delivery.id,
        route=delivery.route,
        labels=delivery.labels,
        summary=manifest.summary,
        origin=origin,
        sender=delivery.sender,
        priority=delivery.priority,
        created_at=delivery.created_at,
        note=note,
    )
    write_durably(papers / SEAL_NAME, seal_json(made).encode("ascii"), mode=0o640)
    return made


def is_sealed(papers: Path) -> bool:
    """Whether the folder holds a seal (a regular file; what it says is not looked at)."""
    return is_real_file(papers / SEAL_NAME)


def seal_json(made: Seal) -> str:
    """The seal as it is written: one JSON object, ASCII, for people too."""
    summary = made.summary
    return (
        json.dumps(
            {
                "format": made.format,
                "delivery": made.delivery,
                "route": made.route,
                "labels": made.labels.as_dict(),
                "summary": {
                    "files": summary.files,
                    "bytes": summary.bytes,
                    "digest": summary.digest,
                    "list_digest": summary.list_digest,
                    "filtered": summary.filtered,
                    "algorithms": list(summary.algorithms),
                },
                "origin": made.origin,
                "sender": made.sender,
                "priority": made.priority,
                "created_at": made.created_at.astimezone(UTC).isoformat(),
                "note": made.note,
            },
            indent=1,
        )
        + "\n"
    )


def read_seal(papers: Path) -> Seal:
    """The seal that a stranger may have written: a regular file of at most 64 KiB with exactly our keys and types.

    Labels are text here, nothing more; `label_findings` says whether they may name folders. Raises Rejected with the
    finding `seal-missing`, `seal-malformed` or `seal-format-unknown`.
    """
    try:
        content = read_small(papers / SEAL_NAME, MAX_SEAL_BYTES)
    except (FileNotFoundError, NotADirectoryError) as exc:
        raise _refused("seal-missing", f"{papers.name} has no seal ({SEAL_NAME})") from exc
    except ValueError as exc:
        raise _refused("seal-malformed", f"the seal of {papers.name} is unusable: {exc}") from exc
    try:
        raw = json.loads(content.decode("utf-8"), object_pairs_hook=_without_duplicates, parse_constant=_no_constant)
        if isinstance(raw, dict) and type(raw.get("format")) is int and raw["format"] != SEAL_FORMAT:
            raise _refused(
                "seal-format-unknown",
                f"the seal of {papers.name} has format {raw['format']}; this version reads {SEAL_FORMAT}",
                "use the same version of lading on both sides",
            )
        return _parse(raw)
    except (ValueError, RecursionError) as exc:
        raise _refused("seal-malformed", f"the seal of {papers.name} is malformed: {exc}") from exc


def label_findings(labels: Labels) -> list[Finding]:
    """Why `labels` may not become folders of an inbox: they escape, hide, or name a device. Empty when they may.

    Stricter rules (allowed characters, patterns per project) belong to the layout check.
    """
    found = []
    for name, value in labels.as_dict().items():
        if reason := _unusable(value):
            found.append(
                error("label-invalid", f"the {name} {value[:80]!r} {reason}", hint=f"lading fix ID --{name} NEW-LABEL")
            )
    return found


def _unusable(label: str) -> str:
    if not label:
        return "is empty"
    if label.startswith("."):
        return "begins with a dot; such folders belong to the inbox itself"
    if "/" in label:
        return "holds a slash"
    if not label.isprintable():
        return "holds characters that cannot be printed"
    if label != label.strip():
        return "begins or ends with a space"
    if len(label.encode("utf-8", "surrogatepass")) > MAX_LABEL_BYTES:
        return f"is longer than {MAX_LABEL_BYTES} bytes"
    if windows_name(label) != label:
        return f"cannot name a folder on every system; {windows_name(label)!r} could"
    return ""


def _parse(raw: object) -> Seal:
    table = _table(raw, _KEYS, "the seal")
    labels = _table(table["labels"], _LABEL_KEYS, "labels")
    origin = _text(table, "origin", 16)
    if origin not in ("source", "arrival"):
        raise ValueError(f"origin is {origin!r}")
    return Seal(
        format=SEAL_FORMAT,
        delivery=delivery_id(_text(table, "delivery", 64)),
        route=_text(table, "route", 200),
        labels=Labels(*(_text(labels, key, 4096) for key in ("project", "participant", "session"))),
        summary=_summary(table["summary"]),
        origin="source" if origin == "source" else "arrival",
        sender=_text(table, "sender", 400),
        priority=_number(table, "priority", -1000, 1000),
        created_at=_moment(_text(table, "created_at", 64)),
        note=_text(table, "note", 4096),
    )


def _summary(raw: object) -> Summary:
    table = _table(raw, _SUMMARY_KEYS, "summary")
    algorithms = table["algorithms"]
    if (
        not isinstance(algorithms, list)
        or len(algorithms) > _MOST_DIGESTS
        or not all(isinstance(a, str) for a in algorithms)
    ):
        raise ValueError("algorithms is not a short list of names")
    return Summary(
        files=_number(table, "files", 0, 1 << 62),
        bytes=_number(table, "bytes", 0, 1 << 62),
        digest=_digest(table, "digest"),
        list_digest=_digest(table, "list_digest"),
        filtered=_number(table, "filtered", 0, 1 << 62),
        algorithms=tuple(str(a)[:32] for a in algorithms),
    )


def _table(raw: object, keys: set[str], what: str) -> Mapping[str, object]:
    if not isinstance(raw, dict):
        raise ValueError(f"{what} is not an object")  # noqa: TRY004 - one kind of failure for one kind of input
    if set(raw) != keys:
        raise ValueError(f"{what} has the keys {sorted(set(raw))[:20]} instead of {sorted(keys)}")
    return raw


def _text(table: Mapping[str, object], key: str, limit: int) -> str:
    value = table[key]
    if not isinstance(value, str) or len(value) > limit:
        raise ValueError(f"{key} is not a text of at most {limit} characters")
    if not value.isprintable():
        raise ValueError(f"{key} holds characters that cannot be printed")
    return value


def _number(table: Mapping[str, object], key: str, low: int, high: int) -> int:
    value = table[key]
    if type(value) is not int or not low <= value <= high:
        raise ValueError(f"{key} is not a whole number between {low} and {high}")
    return value


def _digest(table: Mapping[str, object], key: str) -> str:
    value = _text(table, key, 64)
    if len(value) != 64 or not set(value) <= set("0123456789abcdef"):
        raise ValueError(f"{key} is not a SHA-256 in lower-case hex")
    return value


def _moment(text: str) -> datetime:
    moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError("created_at has no time zone")
    # At either end of the calendar a moment has no date in some time zone: whoever shows it there, a database too, fails.
    if not MINYEAR < moment.year < MAXYEAR:
        raise ValueError(f"created_at is in the year {moment.year}")
    return moment.astimezone(UTC)


def _without_duplicates(pairs: list[tuple[str, object]]) -> dict[str, object]:
    table = dict(pairs)
    if len(table) != len(pairs):
        raise ValueError("a key occurs twice")
    return table


def _no_constant(word: str) -> NoReturn:
    raise ValueError(f"{word} is not a number")


def _refused(code: str, message: str, hint: str = "") -> Rejected:
    return Rejected(message, findings=[error(code, message, path=SEAL_NAME, hint=hint)])
