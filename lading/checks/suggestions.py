"""Guesses what a mistyped label was meant to be. Only ever shown to a person, never applied."""

import difflib
import re
import unicodedata
from collections import deque
from collections.abc import Iterable, Iterator

_LOOKALIKES = {
    "O": "0",
    "o": "0",
    "Q": "0",
    "D": "0",
    "l": "1",
    "I": "1",
    "i": "1",
    "|": "1",
    "Z": "2",
    "z": "2",
    "S": "5",
    "s": "5",
    "G": "6",
    "B": "8",
    "g": "9",
    "q": "9",
}
_DIGITS_AS_LETTERS = {"0": "O", "1": "l", "5": "S", "8": "B"}
_MAX_TRIED = 4000  # candidates; a few milliseconds
_MAX_EDITS = 4


def suggest(label: str, *, pattern: str = "", known: Iterable[str] = ()) -> str | None:
    """The likeliest label that matches `pattern` (a regular expression for all of it) and is among `known`, if any.

    Tries the known labels that are spelt alike first, then up to four repairs of usual slips: O for 0, l for 1, a
    missing leading zero, "_" for "-", case, accents, a misspelt fixed beginning. None when nothing is near.
    """
    compiled = re.compile(pattern) if pattern else None
    labels = [k for k in known if compiled is None or compiled.fullmatch(k)]
    near = _near_known(label, labels)
    if near or labels:
        return near
    return _repair(label, compiled) if compiled else None


def _near_known(label: str, known: list[str]) -> str | None:
    by_fold: dict[str, str] = {}
    for candidate in known:
        by_fold.setdefault(_fold(candidate), candidate)
    folded = _fold(label)
    if folded in by_fold:
        return by_fold[folded]
    close = difflib.get_close_matches(folded, by_fold, n=1, cutoff=0.7)
    return by_fold[close[0]] if close else None


def _fold(label: str) -> str:
    """What is left when the usual slips are evened out."""
    plain = _ascii(label).casefold()
    return re.sub(r"[^a-z0-9]", "", plain).replace("o", "0").replace("l", "1").replace("i", "1")


def _repair(label: str, pattern: re.Pattern[str]) -> str | None:
    """Breadth first over single repairs, so that the fewest win."""
    if len(label) > 64:
        return None
    prefix = _fixed_beginning(pattern.pattern)
    queue = deque([(label, 0)])
    seen = {label}
    while queue:
        current, edits = queue.popleft()
        if edits and pattern.fullmatch(current):
            return current
        if edits == _MAX_EDITS:
            continue
        for candidate in _single_repairs(current, prefix):
            if candidate not in seen and len(seen) < _MAX_TRIED:
                seen.add(candidate)
                queue.append((candidate, edits + 1))
    return None


def _single_repairs(label: str, prefix: str) -> Iterator[str]:
    yield _ascii(label)
    yield re.sub(r"[^A-Za-z0-9_-]", "", label)
    yield re.sub(r"[^A-Za-z0-9_-]", "-", label)
    yield re.sub(r"[^A-Za-z0-9_-]", "_", label)
    yield label.lower()
    yield label.upper()
    yield label.replace("_", "-")
    yield label.replace("-", "_")
    yield from _with_beginning(label, prefix)
    for match in re.finditer(r"[0-9]+", label):
        start, end = match.span()
        yield f"{label[:start]}0{label[start:]}"
        if label[start] == "0" and end - start > 1:
            yield label[:start] + label[start + 1 :]
    for place in range(1, len(label)):
        if label[place - 1].isalpha() and label[place].isdigit():
            yield f"{label[:place]}-{label[place:]}"
            yield f"{label[:place]}_{label[place:]}"
    for place, char in enumerate(label):
        for swap in (_LOOKALIKES.get(char), _DIGITS_AS_LETTERS.get(char)):
            if swap:
                yield label[:place] + swap + label[place + 1 :]
        if char in "-_":
            yield label[:place] + label[place + 1 :]


def _with_beginning(label: str, prefix: str) -> Iterator[str]:
    """`label` made to begin with the pattern's fixed text, when its own beginning is a misspelling of it or absent."""
    if not prefix or label.startswith(prefix):
        return
    letters = re.match(r"[^0-9]*", label)
    own = letters.group() if letters else ""
    if not own:
        yield prefix + label
    elif difflib.SequenceMatcher(None, own.casefold(), prefix.casefold()).ratio() >= 0.6:
        yield prefix + label[len(own) :]


def _fixed_beginning(pattern: str) -> str:
    """The text with which everything matching `pattern` begins, as far as it is plain to see."""
    found = re.match(r"\^?((?:[A-Za-z0-9_]|\\?-)*)", pattern)
    text = found.group(1) if found else ""
    after = pattern[found.end() : found.end() + 1] if found else ""
    if "|" in pattern:
        return ""
    # A quantifier belongs to the last character, which is then not fixed.
    return (text[:-1] if after in ("?", "*", "{") else text).replace("\\", "")


def _ascii(label: str) -> str:
    return unicodedata.normalize("NFKD", label).encode("ascii", "ignore").decode("ascii")
