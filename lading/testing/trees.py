"""Folders of files to send, pleasant and nasty, and a pair of eyes to compare them with."""

import hashlib
import os
import random
import unicodedata
from pathlib import Path

NASTY_NAMES: tuple[bytes, ...] = (
    b" leading space",
    b"trailing space ",
    b"-x",
    b"--delete",
    b"-",
    b"new\nline",
    b"carriage\rreturn",
    b"tab\there",
    b"\x1besc and \x07bell",
    unicodedata.normalize("NFC", "für NFC.dcm").encode(),
    unicodedata.normalize("NFD", "gegenüber NFD.dcm").encode(),
    "日本語 🧠.dcm".encode(),
    b"%2F",
    b"#comment",
    b";semicolon & co",
    b"quotes \" and '",
    rb"back\slash",
    rb"\#012 like an escape",
    b"$(touch x) `touch y`",
    b"*[a-z]?{b,c}~",
    b"host:colon",
    b"a|b<c>d",
    b".hidden",
    b"..x",
    b"trailing.dot.",
    b"CON",
    b"aux.txt",
    b"n" * 251 + b".dcm",
    b"latin-1 \xfc.dcm",
)
"""Names that are legal on a POSIX disk and have each broken a transfer program."""


def write(root: Path, files: dict[str, bytes]) -> Path:
    """Make `files` (relative POSIX path to content) below `root`."""
    for path, content in files.items():
        target = root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content)
    return root


def noise(seed: int, size: int) -> bytes:
    """The same `size` bytes for the same `seed`; they do not compress."""
    return random.Random(seed).randbytes(size)  # noqa: S311 - test data


def plain_tree(root: Path, *, files: int = 12, size: int = 20_000, seed: int = 1) -> Path:
    """A session as a scanner writes it: `files` files of about `size` bytes in two series."""
    source = random.Random(seed)  # noqa: S311 - test data
    return write(
        root,
        {
            f"series-{n % 2}/image-{n:04}.dcm": source.randbytes(size + source.randrange(size // 4 + 1))
            for n in range(files)
        },
    )


def nasty_tree(root: Path) -> Path:
    """Every nasty name as a file and some as a folder, an empty file, a deep folder."""
    root.mkdir(parents=True, exist_ok=True)
    for number, name in enumerate(NASTY_NAMES):
        Path(os.fsdecode(os.fsencode(root) + b"/" + name)).write_bytes(b"content of number %d" % number)
    for name in (b"folder\nwith newline", b"-folder", b".dot folder", "ordner ü".encode(), b"latin \xe9"):
        inner = Path(os.fsdecode(os.fsencode(root) + b"/" + name))
        inner.mkdir()
        (inner / "inside").write_bytes(name)
    write(root, {"empty": b"", "/".join(f"level {n}" for n in range(40)) + "/deep": b"deep"} | {
        "sub.folder/b": b"sorts after the folder", "sub/a": b"sorts between", "sub-x/c": b"sorts before",
    })  # fmt: skip
    return root


def look(root: Path) -> dict[str, tuple[int, str]]:
    """What lies below `root`, by own eyes: path to size and SHA-256. A link shows as size -1 and what it points to."""
    seen = {}
    for folder, names, files in os.walk(root):
        for name in files + [n for n in names if Path(folder, n).is_symlink()]:
            path = Path(folder, name)
            relative = path.relative_to(root).as_posix()
            if path.is_symlink():
                seen[relative] = (-1, str(path.readlink()))
            else:
                content = path.read_bytes()
                seen[relative] = (len(content), hashlib.sha256(content).hexdigest())
    return seen


def times(root: Path) -> dict[str, int]:
    """The modification times of the files below `root`, in whole seconds."""
    return {
        Path(folder, name).relative_to(root).as_posix(): int(Path(folder, name).stat().st_mtime)
        for folder, _, files in os.walk(root)
        for name in files
    }
