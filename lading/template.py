"""The path template of a watched folder: `{project}/{participant}/{session}` and the like, matched one level at a time."""

import re
from dataclasses import dataclass

from lading.config import nearest
from lading.delivery import Labels
from lading.errors import ConfigError

LABELS = ("project", "participant", "session")

_FIELD = re.compile(r"\{([A-Za-z_][A-Za-z0-9_]*)\}")


@dataclass(frozen=True)
class Template:
    """A parsed template. `levels` holds, for each depth, the pattern that a relative POSIX path of that depth must match."""

    text: str
    levels: tuple[re.Pattern[str], ...]

    @classmethod
    def parse(cls, text: str) -> "Template":
        """Names in braces match any part of one folder's name; `{sender}` names the person; `{_}` and other names are
        ignored, repeated names must agree.

        Raises ConfigError when a label is missing, or for braces that name nothing.
        """
        parts = [part for part in text.replace("\\", "/").split("/") if part]
        seen: set[str] = set()
        patterns = [_pattern(part, seen, text) for part in parts]
        missing = [name for name in LABELS if name not in seen]
        if missing:
            others = [name for name in seen if name not in LABELS]
            raise ConfigError(
                f"the template {text!r} does not name {{{missing[0]}}}{nearest(missing[0], others) if others else ''}",
                next_command="lading doctor",
            )
        return cls(text, tuple(re.compile("/".join(patterns[: n + 1]), re.DOTALL) for n in range(len(patterns))))

    def fits(self, path: str) -> bool:
        """Whether `path` (relative POSIX, at most as deep as the template) may lie on the way to a session."""
        return self.levels[path.count("/")].fullmatch(path) is not None

    def labels(self, path: str) -> Labels | None:
        """The labels that the session folder `path` (relative POSIX) stands for, or None when it does not fit."""
        match = self._match(path)
        return Labels(*(match[name] for name in LABELS)) if match else None

    def sender(self, path: str) -> str:
        """What stands for {sender} in `path`: the person a folder belongs to. "" when the template does not name it."""
        match = self._match(path)
        return match.groupdict().get("sender", "") if match else ""

    def _match(self, path: str) -> re.Match[str] | None:
        return self.levels[-1].fullmatch(path) if path.count("/") == len(self.levels) - 1 else None


def _pattern(part: str, seen: set[str], text: str) -> str:
    literals = _FIELD.split(part)
    pattern = ""
    for number, piece in enumerate(literals):
        if number % 2 == 0:
            if "{" in piece or "}" in piece:
                raise ConfigError(f"the template {text!r} has a brace that names nothing, near {part!r}")
            pattern += re.escape(piece)
        elif piece == "_":
            pattern += "[^/]+?"
        elif piece in seen:
            pattern += f"(?P={piece})"
        else:
            seen.add(piece)
            pattern += f"(?P<{piece}>[^/]+?)"
    return pattern
