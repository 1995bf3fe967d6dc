"""What a facility says about the files of a route (`[routes.NAME.import.files]`), before anybody has to find out."""

import re
from bisect import bisect_left
from collections.abc import Iterator, Sequence
from fnmatch import translate
from functools import lru_cache

import attrs

from lading.config import nearest
from lading.errors import ConfigError

SIDECARS = ("metadata.csv", "metadata.tsv", "metadata.xlsx", "metadata.json", "metadata.yml", "metadata.yaml")
_NON_IMAGES = ("attach", "leave-out", "refuse")
_WILD = re.compile(r"[*?\[]")


@attrs.frozen(kw_only=True)
class FilesetRule:
    """Every file that matches `pattern` is the entry point of a fileset, together with its `companions`.

    Patterns are shell style, blind to case; `*` also matches `/`. `pattern` is matched on the path or the bare name; `companions`
    on paths relative to the entry's folder, where {stem} and {name} are the entry's: `_{stem}_/*` for Olympus VSI. `reader` is
    the full Java class of the reader, when the facility knows it.
    """

    pattern: str
    companions: tuple[str, ...] = ()
    reader: str = ""


@attrs.frozen(kw_only=True)
class FileSettings:
    """Which files become images, attachments, or stay behind.

    `filesets`: explicit rules; they win over Bio-Formats. `attach`, `leave_out`: patterns of files that are no images.
    `non_images`: what happens to files that Bio-Formats cannot read and that do not look like images: "attach" them to the
    dataset, "leave-out" (they stay in the staging area only), "refuse" the delivery.
    `sidecars`: names of files with key-values.
    """

    filesets: tuple[FilesetRule, ...] = ()
    attach: tuple[str, ...] = ()
    leave_out: tuple[str, ...] = ()
    non_images: str = "attach"
    sidecars: tuple[str, ...] = SIDECARS


def checked(settings: FileSettings, where: str) -> FileSettings:
    """`settings`, known to be usable. Raises ConfigError naming the key."""
    if settings.non_images not in _NON_IMAGES:
        raise ConfigError(
            f"{where}.non_images = {settings.non_images!r}{nearest(settings.non_images, _NON_IMAGES)}",
            next_command="lading doctor",
        )
    for number, rule in enumerate(settings.filesets):
        for key, pattern in (("pattern", rule.pattern), *(("companions", text) for text in rule.companions)):
            left = re.sub(r"\{(stem|name)\}" if key == "companions" else r"(?!)", "", pattern)
            if not pattern or ".." in pattern.split("/") or pattern.startswith("/") or "{" in left:
                raise ConfigError(
                    f"{where}.filesets[{number}].{key} = {pattern!r} is not a pattern below the session folder",
                    next_command="lading doctor",
                )
    return settings


def matches(patterns: Sequence[str], path: str) -> str:
    """The first of the patterns that matches `path` (relative POSIX) or its bare name; "" when none does."""
    name = path.rpartition("/")[2]
    return next((text for text in patterns if _compiled(text).match(path) or _compiled(text).match(name)), "")


def companions_of(rule: FilesetRule, entry: str, paths: Sequence[str]) -> Iterator[tuple[str, list[str]]]:
    """For each of the rule's companion patterns: the pattern, and what it finds among the sorted `paths`."""
    folder, slash, name = entry.rpartition("/")
    for pattern in rule.companions:
        relative = pattern.replace("{stem}", _literal(name.rpartition(".")[0] or name)).replace(
            "{name}", _literal(name)
        )
        whole = _compiled(_literal(folder + slash) + relative)
        start = folder + slash + _WILD.split(relative, maxsplit=1)[0]
        # Only the paths that begin alike can match, unless by case; the folder itself is the entry's, so its case is right.
        found = [p for p in _starting(paths, folder + slash, start) if p != entry and whole.match(p)]
        yield pattern, found


def _starting(paths: Sequence[str], folder: str, start: str) -> Iterator[str]:
    exact = bisect_left(paths, start)
    if exact < len(paths) and paths[exact].startswith(start):
        folder = start
        position = exact
    else:
        position = bisect_left(paths, folder)
    while position < len(paths) and paths[position].startswith(folder):
        yield paths[position]
        position += 1


def _literal(text: str) -> str:
    return re.sub(r"([*?\[])", r"[\1]", text)


@lru_cache(maxsize=4096)
def _compiled(pattern: str) -> re.Pattern[str]:
    return re.compile(translate(pattern), re.IGNORECASE)
