"""Where the settings say that a secret is kept: "file:PATH" goes by the folder of the settings file, as every path in it does."""

from collections.abc import Mapping
from pathlib import Path

_KEYS = frozenset({"credentials", "password", "passphrase", "secret", "secret_key", "token", "urls"})
"""The keys that name such a place. By the value alone, a host called "file" (`target = "file:data"`) would be taken for one."""
_KINDS = ("file", "netrc")


def anchored(value: object, folder: Path, key: str = "") -> object:
    """`value`, as TOML has it, with relative files of secrets in it, however deep, made absolute below `folder`.

    Who opens them does so late, in whatever folder a service happens to run.
    """
    if isinstance(value, Mapping):
        return {name: anchored(inner, folder, name) for name, inner in value.items()}
    if isinstance(value, list):
        return [anchored(inner, folder) for inner in value]
    return _below(value, folder) if key in _KEYS and isinstance(value, str) else value


def _below(spec: str, folder: Path) -> str:
    kind, _, path = spec.partition(":")
    if kind not in _KINDS or not path or path.startswith("~"):
        return spec
    return f"{kind}:{folder / path}"
