"""What a route may decide about a finding, and what it says that headers must say about the labels."""

import re
from collections.abc import Callable
from enum import StrEnum

import attrs

from lading.config import nearest
from lading.delivery import Labels
from lading.findings import Finding, Severity

_FIELD = re.compile(r"(\{[^{}]*\}|\*)")
_NOT_LABEL = re.compile(r"[^A-Za-z0-9_-]")


class Policy(StrEnum):
    """What becomes of a finding: nothing, a warning, or a refusal."""

    IGNORE = "ignore"
    WARN = "warn"
    REJECT = "reject"

    def finding(self, code: str, message: str, *, path: str = "", hint: str = "") -> Finding:
        """The finding at the weight of this policy (which must not be IGNORE)."""
        return Finding(code, Severity.ERROR if self is Policy.REJECT else Severity.WARNING, message, path, hint)


def one_of(*values: str) -> Callable[[object, "attrs.Attribute[str]", str], None]:
    """An attrs validator for a setting with a few valid words; the message names the nearest."""

    def check(_: object, attribute: "attrs.Attribute[str]", value: str) -> None:
        if value not in values:
            raise ValueError(f"{attribute.name} = {value!r} is none of {', '.join(values)}{nearest(value, values)}")

    return check


def label_form(text: str) -> str:
    """`text` as XNAT would make a label of it: whatever is not [A-Za-z0-9_-] becomes "_"; compared without case.

    Source: XNAT, org.nrg.dcm.Labels.toLabelChars; subjects are matched without case when a session is archived.
    """
    return _NOT_LABEL.sub("_", text.strip()).casefold()


def valid_template(_: object, attribute: "attrs.Attribute[str]", value: str) -> None:
    """An attrs validator for a template over {project}, {participant}, {session} and "*"."""
    fields = ("{project}", "{participant}", "{session}")
    for part in _FIELD.split(value):
        if part != "*" and part not in fields and ("{" in part or "}" in part):
            raise ValueError(f"{attribute.name} = {value!r}: unknown field {part!r}{nearest(part, fields)}")


def fits(template: str, labels: Labels, value: str) -> bool:
    """Whether a header's `value` is what `template` says for these labels, both as label forms; "*" is any text."""
    known = {f"{{{name}}}": label for name, label in labels.as_dict().items()}
    pattern = "".join(
        ".*" if part == "*" else re.escape(label_form(known.get(part, part)) if part.strip() else part)
        for part in _FIELD.split(template)
    )
    return re.fullmatch(pattern, label_form(value)) is not None


def filled(template: str, labels: Labels) -> str:
    """`template` with the labels in place, for messages."""
    return template.format(**labels.as_dict())
