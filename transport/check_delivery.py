"""Checks the deliveries on a disk, with nothing but Python: `python3 check-delivery.py [FOLDER]`.

`lading disk prepare` puts this file on the disk, so that whoever receives it can check it without installing anything. It reads
every file, compares it with the list that was made at the instrument, and changes nothing. FOLDER is the disk (where this file
lies), or one delivery's folder. Exit code 0: all are whole; 1: something is missing or damaged; 2: nothing to check.
"""

# Plain text paths, as this file runs alone.
# ruff: noqa: PTH100, PTH110, PTH112, PTH113, PTH114, PTH117, PTH118, PTH119, PTH120

import hashlib
import json
import os
import re
import sys
from collections.abc import Iterator

_LINE = re.compile(r"(\\?)([0-9a-f]{64})  (.+)", re.DOTALL)
_ESCAPES = {"\\\\": "\\", "\\n": "\n", "\\r": "\r"}
_SEAL, _SUMS = "manifest.json", "manifest-sha256.txt"
_MAX_SEAL_BYTES = 65536


def main(arguments: list[str]) -> int:
    """The program."""
    root = arguments[0] if arguments else os.path.dirname(os.path.abspath(__file__))
    slots = list(_slots(root))
    if not slots:
        _say(f"no delivery in {root}")
        return 2
    wrong = sum(_check(slot) for slot in slots)
    _say(f"{len(slots)} deliveries, {wrong} not whole")
    return 1 if wrong else 0


def _slots(root: str) -> Iterator[str]:
    if os.path.exists(_join(root, _SEAL)):
        yield root
        return
    incoming = _join(root, ".lading", "incoming")
    for name in sorted(os.listdir(incoming)) if os.path.isdir(incoming) else ():
        slot = _join(incoming, name)
        if os.path.isdir(slot) and not os.path.islink(slot):
            yield slot


def _check(slot: str) -> bool:
    """Says how the delivery in `slot` is; whether something is wrong with it."""
    name = os.path.basename(os.path.normpath(slot))
    if not os.path.isfile(_join(slot, _SEAL)):
        _say(f"{name}: UNFINISHED, it was never sealed")
        return True
    if not os.path.isdir(_join(slot, "data")):
        _say(f"{name}: taken, its data was handed over")
        return False
    try:
        declared, labels = _seal(slot)
        wrong = list(_wrong_files(slot, declared))
    except (OSError, ValueError, KeyError, TypeError) as exc:
        wrong, labels = [f"cannot be checked: {exc}"], ""
    for reason in wrong[:100]:
        _say(f"{name}: {reason}")
    _say(f"{name}: {'DAMAGED' if wrong else 'whole'} {labels}")
    return bool(wrong)


def _seal(slot: str) -> tuple[str, str]:
    with open(_join(slot, _SEAL), "rb") as file:
        raw = json.loads(file.read(_MAX_SEAL_BYTES))
    labels = raw["labels"]
    return raw["summary"]["digest"], f"{labels['project']}/{labels['participant']}/{labels['session']}"


def _wrong_files(slot: str, declared: str) -> Iterator[str]:
    """What is wrong, one line each. The list itself is read first: it must be the one that was sealed."""
    if _sha256(_join(slot, _SUMS)) != declared:
        yield "its list is not the one that was sealed"
        return
    listed = set()
    for path, sha256 in _listed(_join(slot, _SUMS)):
        listed.add(path)
        if ".." in path.split("/") or os.path.isabs(path):
            yield f"{path!a} leads out of the delivery"
            continue
        place = _join(slot, "data", *path.split("/"))
        if os.path.islink(place) or not os.path.isfile(place):
            yield f"{path!a} is missing"
        elif _sha256(place) != sha256:
            yield f"{path!a} is damaged"
    for path in _there(_join(slot, "data")):
        if path not in listed:
            yield f"{path!a} is not listed"


def _listed(sums: str) -> Iterator[tuple[str, str]]:
    with open(sums, "rb") as file:
        for line in file:
            found = _LINE.fullmatch(line.decode("utf-8", "surrogateescape").rstrip("\n"))
            if not found:
                raise ValueError("the list holds a line that is none")
            path = found[3]
            if found[1]:
                path = re.sub(r"\\[\\nr]", lambda match: _ESCAPES[match.group()], path)
            yield path.removeprefix("./"), found[2]


def _there(data: str) -> Iterator[str]:
    for folder, _, names in os.walk(data):
        for name in names:
            yield os.path.relpath(_join(folder, name), data).replace(os.sep, "/")


def _sha256(path: str) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def _join(*parts: str) -> str:
    return os.path.join(*parts)


def _say(text: str) -> None:
    sys.stdout.write(text.encode("ascii", "backslashreplace").decode() + "\n")


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
