"""Whatever digest a route names is made in the manifest's one read, in the string that its repository compares."""

import hashlib
import json
import os
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import pytest

from lading import assembly, config, doctor
from lading.delivery import Delivery, Labels, new_delivery_id
from lading.errors import ConfigError, Rejected
from lading.listing import digests, reading
from lading.listing.entries import DIGEST_CHARS, Entry, entry_line, parse_entry
from lading.manifest import LIST_NAME, Manifest, Verdict, make, rehash, write
from lading.seal import read_seal, seal

needs_mmh3 = pytest.mark.skipif(find_spec("mmh3") is None, reason="the extra murmur is not installed")
needs_xxhash = pytest.mark.skipif(find_spec("xxhash") is None, reason="the extra xxhash is not installed")
ABC = {
    "sha1": "a9993e364706816aba3e25717850c26c9cd0d89d",
    "md5": "900150983cd24fb0d6963f7d28e17f72",
    "Murmur3-128": "6778ad3f3f3f96b4522dca264174a23b",
    "Murmur3-32": "fa93ddb3",
    "CRC-32": "c2412435",
    "Adler-32": "27014d02",
    "File-Size-64": "0300000000000000",
    "xxh128": "06b05ab6733a618578af5f94892f3950",
}
"""Of b"abc", as an OMERO prints them, the short ones with their least significant byte first; xxh128 as rsync does."""
OTHERS = [name for name in DIGEST_CHARS if name not in ("sha256", "md5", "sha1")]
OLD_LINE = (
    '{"path": "a", "size": 3, "mtime_ns": 5, "sha256": "' + "a" * 64 + '", "md5": "' + "b" * 32 + '", "sha1": "'
) + ("c" * 40 + '"}\n')


def data(tmp_path: Path, contents: dict[str, bytes]) -> tuple[Path, Path]:
    root, papers = tmp_path / "data", tmp_path / "papers"
    root.mkdir()
    papers.mkdir()
    for name, content in contents.items():
        (root / name).write_bytes(content)
    return root, papers


@needs_mmh3
@needs_xxhash
def test_a_manifest_has_all_of_them_from_one_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root, papers = data(tmp_path, {"abc": b"abc", "empty": b"", "large": os.urandom(3_000_001)})
    opened = []
    original = reading.Reader._open
    monkeypatch.setattr(reading.Reader, "_open", lambda self, path: opened.append(path) or original(self, path))

    manifest = make(root, papers, algorithms=tuple(ABC), workers=1)

    listed = {entry.path: entry.digests for entry in Manifest.open(papers)}
    assert opened == ["large"]  # small ones are read by one call, which `_open` does not see
    assert listed["abc"] == ABC | {"sha256": hashlib.sha256(b"abc").hexdigest()}
    assert set(manifest.summary.algorithms) == set(DIGEST_CHARS)
    assert Manifest.open(papers).summary == manifest.summary
    assert {verdict for _, verdict in rehash(root, manifest, algorithms=tuple(DIGEST_CHARS))} == {Verdict.MATCHES}
    wrong = [replace(one, digests={**one.digests, "CRC-32": "0" * 7 + "1"}) for one in manifest]
    assert {verdict for _, verdict in rehash(root, wrong, algorithms=("CRC-32",))} == {Verdict.WRONG_DIGEST}


@needs_mmh3
@needs_xxhash
def test_a_seal_may_name_all_of_them(tmp_path: Path) -> None:
    root, papers = data(tmp_path, {"abc": b"abc"})
    manifest = make(root, papers, algorithms=tuple(ABC))

    seal(papers, Delivery(new_delivery_id(), "r", Labels("P", "s", "e")), manifest)

    assert read_seal(papers).summary == manifest.summary
    assert set(read_seal(papers).summary.algorithms) == set(DIGEST_CHARS)


@pytest.mark.parametrize("name", ["CRC-32", "Adler-32", "File-Size-64", pytest.param("Murmur3-128", marks=needs_mmh3)])
def test_a_copy_goes_its_own_way(name: str) -> None:
    one = digests.begun([name])[name]
    one.update(b"ab")
    other = one.copy()
    one.update(memoryview(b"c"))
    other.update(b"x" * 7)

    assert one.hexdigest() == ABC[name]
    assert other.hexdigest() == digests.maker(name)(b"ab" + b"x" * 7).hexdigest()


def test_lists_from_before_are_read_as_before() -> None:
    assert parse_entry(OLD_LINE, max_depth=9).digests == {"sha256": "a" * 64, "md5": "b" * 32, "sha1": "c" * 40}


@pytest.mark.parametrize("names", [[one] for one in OTHERS] + [["md5", "CRC-32"], ["sha1", "Murmur3-32"], OTHERS])
def test_a_line_is_read_as_it_was_written_by_us_and_by_others(names: list[str]) -> None:
    wanted = {"sha256": "a" * 64} | {name: "b" * chars for name, chars in DIGEST_CHARS.items() if name in names}
    line = entry_line("a/b", 3, 5, wanted)
    spaced = json.dumps(json.loads(line), separators=(",", ":"))

    assert parse_entry(line, max_depth=9) == parse_entry(spaced, max_depth=9) == Entry("a/b", 3, 5, wanted)


@pytest.mark.parametrize(
    "spoilt", ['"CRC-32": "c241243"', '"CRC-32": "C2412435"', '"crc32": "c2412435"', '"CRC-64": "00"']
)
def test_a_strangers_digest_that_is_none_is_refused(tmp_path: Path, spoilt: str) -> None:
    root, papers = data(tmp_path, {"a": b"abc"})
    make(root, papers, algorithms=["CRC-32"])
    listed = (papers / LIST_NAME).read_text()
    (papers / LIST_NAME).write_text(listed.replace('"CRC-32": "c2412435"', spoilt))

    with pytest.raises(Rejected) as raised:
        Manifest.open(papers)

    assert [finding.code for finding in raised.value.findings] == ["manifest-malformed"]


def test_a_list_that_others_hashed_is_written_in_order(tmp_path: Path) -> None:
    _, papers = data(tmp_path, {})
    entry = Entry("a", 3, 5, {"CRC-32": "c2412435", "sha256": "a" * 64, "md5": "b" * 32})

    write(papers, [entry], algorithms=["CRC-32", "md5"])

    assert list(json.loads((papers / LIST_NAME).read_text()))[3:] == ["sha256", "md5", "CRC-32"]


def test_without_the_library_the_settings_key_is_named_and_nothing_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(digests, "find_spec", lambda _: None)
    root, papers = data(tmp_path, {"a": b"abc"})

    with pytest.raises(ConfigError, match=r"routes\.x\.digests: Murmur3-32 needs .*'mmh3'") as raised:
        digests.available(["md5", "Murmur3-32"], "routes.x.digests")
    with pytest.raises(ConfigError, match="Murmur3-128"):
        make(root, papers, algorithms=["Murmur3-128"])

    assert raised.value.next_command == "pip install 'lading[murmur]'"
    assert not list(papers.iterdir())
    assert digests.available(["md5", "CRC-32"], "routes.x.digests") == ("md5", "CRC-32")


def test_the_doctor_says_which_route_lacks_the_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digests, "find_spec", lambda _: None)
    file = tmp_path / "lading.toml"
    file.write_text(
        f'home = "{tmp_path}/state"\n'
        '[routes.x]\ntransport = { kind = "local", path = "/nowhere" }\ndigests = ["Murmur3-128"]\n'
        '[routes.y]\ntransport = { kind = "local", path = "/nowhere" }\ndigests = ["CRC-32"]\n'
        '[routes.elsewhere]\ndigests = ["Murmur3-32"]\n'
    )

    found = [one for one in doctor.examine(config.load(file)) if "mmh3" in one.text]

    assert [(one.area, one.level, one.next_command) for one in found] == [
        ("route x", "fail", "pip install 'lading[murmur]'")
    ]
    with pytest.raises(ConfigError, match=r"routes\.x\.digests"):
        assembly.agent_parts(config.load(file)).algorithms("x")


@pytest.mark.parametrize(
    ("named", "said"),
    [('["crc32"]', "there is no digest 'crc32'"), ('["SHA1-160"]', "OMERO's SHA1-160 is 'sha1' here")],
)
def test_a_digest_that_is_none_is_told_when_the_settings_are_read(tmp_path: Path, named: str, said: str) -> None:
    file = tmp_path / "lading.toml"
    file.write_text(f'[routes.x]\ntransport = {{ kind = "local", path = "/inbox" }}\ndigests = {named}\n')

    with pytest.raises(ConfigError, match=r"routes\['x'\]: digests: ") as raised:
        config.load(file)

    assert said in str(raised.value)
