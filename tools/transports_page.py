"""Makes docs/reference/transports.md of the transports' classes, tools/transports/ and the rows of the conformance suite.

What a class knows is asked of it: its settings with types and defaults, its traits, which names it refuses. What it does not know
(which library, what it is for, the meaning of a key) is in tools/transports/about.toml, and wisdom in tools/transports/KIND.md.
"""

import importlib
import inspect
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from configparser import ConfigParser
from pathlib import Path
from typing import Any, cast

import attrs

from lading.config import relative_to
from lading.manifest import NameLimits
from lading.ports import Transport, TransportTraits
from lading.registry import names, part

ROOT = Path(__file__).resolve().parent.parent
SOURCES = ROOT / "tools" / "transports"
ROWS = ROOT / "tests" / "conformance" / "rows.toml"
GROUP = "lading.transports"
WRAPPERS = {"kind", "throttle", "retry"}
CONTROL = "".join(map(chr, (*range(1, 32), 127)))
INTRODUCTION = """\
# Transports

A transport carries the files of one delivery into its slot in an inbox. A route names one in `[routes.NAME.transport]`;
`kind` chooses it. The contract is `lading.ports.Transport`; `lading.testing.transport_suite.TransportSuite` proves it, over the
real servers that are named below. `lading transports` shows what is installed and what each can do, and what those of your routes
can do as configured.
"""

About = Mapping[str, Any]


def transports_page(notice: str) -> str:
    """The page. Raises SystemExit when a key has no meaning, or a meaning no key."""
    about = tomllib.loads((SOURCES / "about.toml").read_text(encoding="utf-8"))
    rows = tomllib.loads(ROWS.read_text(encoding="utf-8"))
    kinds = [*about, *(name for name in names(GROUP) if name not in about)]
    made = {kind: made_of(kind, about[kind]) for kind in about}
    lines = [notice, INTRODUCTION]
    lines += overview(kinds, about, made)
    lines += ["", "## What the remote transports have in common", "", prose("in-common")]
    for kind in kinds:
        lines += ["", f"## `{kind}`", "", *section(kind, about.get(kind), made.get(kind), rows)]
    lines += ["", "## Around a transport", "", prose("around")]
    return "\n".join(lines) + "\n"


def overview(kinds: list[str], about: About, made: Mapping[str, Transport]) -> Iterator[str]:
    """A line for each."""
    yield "| kind | goes | resumes inside a file | keeps times | can be fetched from | needs |"
    yield "|---|---|---|---|---|---|"
    for kind in kinds:
        traits = made[kind].traits if kind in made else TransportTraits()
        known = about.get(kind, {"goes": summary(kind)})
        guide = f"; see [how](../how-to/{known['guide']})" if "guide" in known else ""
        yield (
            f"| [`{kind}`](#{kind}) | {known['goes']}{guide} | {yes(traits.resumes)} | {yes(traits.keeps_mtime)} | "
            f"{yes(can_be_fetched(kind))} | {needs(known)} |"
        )


def section(kind: str, known: About | None, made: Transport | None, rows: About) -> Iterator[str]:
    """One transport."""
    yield summary(kind)
    if known is None or made is None:
        yield f"\nNothing is said about it in tools/transports/about.toml. {inspect.getdoc(part(GROUP, kind, where='')) or ''}"
        return
    yield "\n```toml\n[routes.NAME.transport]\n" + known["example"].strip() + "\n```\n"
    yield from settings(kind, known)
    yield "\n| | |\n|---|---|"
    yield f"| client | {known['client']}{extra(known)} |"
    yield f"| verified | {known['verifies']} |"
    yield f"| room is checked before | {known['room']} |"
    yield from (f"| {word} | {value} |" for word, value in traits_in_words(made.traits))
    yield f"| can be fetched from | {yes(can_be_fetched(kind))} |"
    yield f"| refuses before anything is sent | {'; '.join(limits_in_words(made.traits.names))} |"
    tested = "; ".join(row["server"] for row in rows.values() if row["kind"] == kind)
    yield f"| tested against | {tested} |"
    if (SOURCES / f"{kind}.md").exists():
        yield f"\n{prose(kind)}"


def settings(kind: str, known: About) -> Iterator[str]:
    """Every key, with the words of about.toml."""
    config = loaded(known["config"])
    inherited = tomllib.loads((SOURCES / "about.toml").read_text(encoding="utf-8"))["rsync"]["keys"]
    meanings = {**(inherited if kind == "rsync-third-party" else {}), **known["keys"]}
    fields = dict(keys_of(config))
    for key in meanings.keys() ^ fields.keys():
        raise SystemExit(
            f"tools/transports/about.toml: {kind}.keys.{key} is missing, or is no key of {known['config']}"
        )
    yield "| key | type | default | meaning |\n|---|---|---|---|"
    for key, field in fields.items():
        yield f"| `{key}` | {type_in_words(field.type)} | {default_in_words(field)} | {meanings[key]} |"


def keys_of(config: type, above: str = "") -> Iterator[tuple[str, "attrs.Attribute[Any]"]]:
    """Every key of a class of settings; those of tables in it after the table, by their path."""
    for field in attrs.fields(config):
        yield above + field.name, field
        if isinstance(field.type, type) and attrs.has(field.type):
            yield from keys_of(field.type, f"{above}{field.name}.")


def type_in_words(kind: object) -> str:
    """Short, for people."""
    words = {str: "text", int: "whole number", float: "number", bool: "true or false", Path: "path"}
    if isinstance(kind, type):
        return "table" if attrs.has(kind) else words.get(kind, kind.__name__)
    wanted = [known for known in getattr(kind, "__args__", ()) if known is not type(None)]
    return ", ".join(type_in_words(one) for one in wanted)


def default_in_words(field: "attrs.Attribute[Any]") -> str:
    """As it would be written in the file, or that there is none."""
    if field.default is attrs.NOTHING:
        return "required"
    if field.default is None or field.default == "":
        return ""
    if isinstance(field.default, bool):
        return f"`{str(field.default).lower()}`"
    return f'`"{field.default}"`' if isinstance(field.default, str) else f"`{field.default}`"


def traits_in_words(traits: TransportTraits) -> Iterator[tuple[str, str]]:
    """What it says about itself, with the settings of the example."""
    words = {
        "resumes": "resumes inside a file",
        "keeps_mtime": "keeps times",
        "lists_on_the_way": "makes the manifest while copying",
        "third_party": "bytes go past this machine",
    }
    for name, value in ((field, getattr(traits, field)) for field in traits.__dataclass_fields__):
        if isinstance(value, bool):
            yield words.get(name, name.replace("_", " ")), yes(value)


def limits_in_words(limits: NameLimits) -> Iterator[str]:
    """What a table of names refuses."""
    units = "UTF-16 units" if limits.windows else "bytes"
    yield f"names over {limits.name_bytes} {units}, paths over {limits.path_bytes} bytes, more than {limits.depth} folders deep"
    if limits.windows:
        yield 'what Windows refuses: `< > : " | ? * \\`, control characters, `CON` and its like, a dot or space at the end'
    if limits.windows or limits.utf8_only:
        yield "bytes that are not UTF-8"
    others = "".join(c for c in limits.refused if c not in CONTROL and c != "\0")
    if set(CONTROL) <= set(limits.refused):
        yield "control characters, line breaks too"
    elif set(CONTROL) & set(limits.refused):
        yield "most control characters"
    if others:
        yield "the characters " + " ".join(f"`{c}`" for c in others)
    if limits.ignores_case or limits.ignores_unicode_form:
        yield "names that differ only by case or Unicode form"


def made_of(kind: str, known: About) -> Transport:
    """The transport that the example makes. Raises ConfigError."""
    table = {key: value for key, value in tomllib.loads(known["example"]).items() if key not in WRAPPERS}
    with tempfile.TemporaryDirectory() as folder, relative_to(Path(folder)):
        found = part(GROUP, kind, where="about.toml")
        return cast("Transport", found.from_settings(table, state=Path(folder)))  # type: ignore[attr-defined]


def can_be_fetched(kind: str) -> bool:
    """Whether `[routes.NAME.fetch]` takes the kind too."""
    return "place_type" in vars(part(GROUP, kind, where=""))  # inherited, it is another kind's


def summary(kind: str) -> str:
    """The first line of its class."""
    return (inspect.getdoc(part(GROUP, kind, where="")) or "").partition("\n\n")[0].replace("\n", " ")


def needs(known: About) -> str:
    """What to install."""
    return f"`lading[{known['extra']}]`" if "extra" in known else ""


def extra(known: About) -> str:
    """The extra's name, which setup.cfg must know."""
    if "extra" not in known:
        return ""
    setup = ConfigParser()
    setup.read(ROOT / "setup.cfg", encoding="utf-8")
    if known["extra"] not in setup["options.extras_require"]:
        raise SystemExit(f"setup.cfg has no extra {known['extra']}")
    return f": `pip install 'lading[{known['extra']}]'`"


def loaded(name: str) -> type:
    """The class "module:name"."""
    module, _, kind = name.partition(":")
    return cast("type", getattr(importlib.import_module(module), kind))


def prose(name: str) -> str:
    """Hand-written words."""
    return (SOURCES / f"{name}.md").read_text(encoding="utf-8").strip()


def yes(value: bool) -> str:  # noqa: FBT001 - it is the sentence
    """In words."""
    return "yes" if value else "no"
