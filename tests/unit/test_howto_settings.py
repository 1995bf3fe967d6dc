"""Every settings example in the how-to pages is read by the program itself: as TOML, as settings, and by the parts it names."""

import json
import re
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from lading import config
from lading.assembly import importer_for, make_checks, make_transport
from lading.errors import ConfigError
from lading.inbox import Inbox, InboxLimits
from lading.pulling import make_fetcher
from lading.testing.certificates import certificates

ROOT = Path(__file__).resolve().parents[2]
PAGES = sorted([*(ROOT / "docs" / "how-to").glob("*.md"), *(ROOT / "docs" / "tutorial").glob("*.md")])
ADDRESS = {"xnat": {"url": "https://xnat.example.org"}, "omero": {"host": "omero.example.org"}}

TABLES = "inboxes|repositories|routes|agent|server|mail|people|reporters|dicom"

Table = dict[str, object]


def examples() -> Iterator[pytest.param]:
    """Fenced blocks, and indented ones that begin with the name of a table. A block without such a name goes on with the last."""
    for page in PAGES:
        before = ""
        for number, block in enumerate(blocks(page.read_text(encoding="utf-8"))):
            whole = block if "[" in block.lstrip()[:1] else f"{before}\n{block}"
            before = whole
            yield pytest.param(whole, id=f"{page.stem}-{number + 1}")


def blocks(text: str) -> Iterator[str]:
    fenced = re.compile(r"^```toml\n(.*?)^```", re.MULTILINE | re.DOTALL)
    yield from (found.group(1) for found in fenced.finditer(text))
    for found in re.finditer(r"(?:^    .*\n|^\n(?=    ))+", fenced.sub("", text), re.MULTILINE):
        lines = "\n".join(line[4:] for line in found.group().splitlines())
        if re.match(rf"\[\[?({TABLES})[.\]]", lines.lstrip()):
            yield lines


def test_there_are_examples() -> None:
    assert len(list(examples())) > 20


@pytest.mark.skipif(not PAGES, reason="needs the source tree")
@pytest.mark.parametrize("text", examples())
def test_an_example_is_read_by_the_program(text: str, tmp_path: Path) -> None:
    authority = certificates(tmp_path / "tls").ca
    raw = with_files(completed(tomllib.loads(text), tmp_path), str(authority))
    file = tmp_path / "lading.toml"
    file.write_text("".join(f"{json.dumps(key)} = {written(value)}\n" for key, value in raw.items()))

    read = config.load(file)

    for name, route in read.routes.items():
        if route.transport:
            make_transport(read, name)
        if route.fetch:
            make_fetcher(read, name)
        if route.checks:
            make_checks(name, route)
        if route.repository:
            make_importer(read, name, route.repository)
    for name in read.repositories:
        make_importer(read, "", name)


def make_importer(read: config.Config, route: str, repository: str) -> None:
    try:
        importer_for(read, repository, route=route)
    except ConfigError as exc:
        if "needs the Python package" not in exc.message:  # the half of OMERO is installed apart
            raise


def completed(raw: Table, folder: Path) -> Table:
    """What a page leaves out because another one says it: the tables that an example refers to, and a real inbox."""
    inbox = folder / "inbox"
    Inbox.create(inbox, limits=InboxLimits(keep_free_bytes=0))
    raw.setdefault("home", str(folder / "home"))
    routes, inboxes, repositories = (table(raw, key) for key in ("routes", "inboxes", "repositories"))
    for name in [watch.setdefault("route", "example") for watch in table(raw, "agent").get("watch", [])]:
        routes.setdefault(name, {})
    for made in list(inboxes.values()):
        if made.get("bare_route"):
            routes.setdefault(made["bare_route"], {})
    for made in routes.values():
        if made.get("fetch") or made.get("inbox"):
            made.setdefault("inbox", "main")
            inboxes.setdefault(made["inbox"], {})
        if made.get("import"):
            made.setdefault("repository", "omero")
        if made.get("repository"):
            repositories.setdefault(made["repository"], {})
    for made in inboxes.values():
        made["path"] = str(inbox)
    for name, made in repositories.items():
        kind = made.setdefault("kind", name if name in ADDRESS else "xnat")
        raw["repositories"][name] = ADDRESS.get(kind, {}) | made
    return raw


def with_files(value: object, authority: str) -> object:
    """The same, every certificate of an authority being a real one: such files are read when a part is made."""
    if isinstance(value, dict):
        return {
            key: authority if key in ("ca", "ca_file") else with_files(inner, authority) for key, inner in value.items()
        }
    return [with_files(inner, authority) for inner in value] if isinstance(value, list) else value


def table(raw: Table, key: str) -> dict[str, Table]:
    return raw.setdefault(key, {})


def written(value: object) -> str:
    """`value` as TOML in one line."""
    if isinstance(value, Mapping):
        return "{ " + ", ".join(f"{json.dumps(key)} = {written(inner)}" for key, inner in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(written, value)) + "]"
    return json.dumps(value, ensure_ascii=False)
