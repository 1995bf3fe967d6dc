"""Key-values from sidecars: the forms that are understood, and what a hostile or careless one comes to."""

import json
from pathlib import Path

import pytest

from omero_importer.file_rules import SIDECARS
from omero_importer.filesets import FilesetPlan
from omero_importer.sidecar import MAX_BYTES, MAX_PAIRS, Values, is_sidecar, read_all

FILESETS = (
    FilesetPlan(("a.tif",)),
    FilesetPlan(("day1/set.companion.ome", "day1/set_0.tif")),
    FilesetPlan(("z.ome.zarr/.zattrs",)),
)


def read(tmp_path: Path, name: str, content: str | bytes) -> Values:
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content.encode() if isinstance(content, str) else content)
    return read_all(tmp_path, [name, "notes.pdf"], FILESETS, names=SIDECARS)


def codes(values: Values) -> list[str]:
    return [finding.code for finding in values.findings]


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", "key,value\nstain,DAPI\ndose,3 mg\n"),
        ("metadata.csv", "\ufeffName;Value\r\nstain;DAPI\r\ndose;3 mg\r\n\r\n"),
        ("metadata.tsv", "key\tvalue\nstain\tDAPI\ndose\t3 mg\nempty\t\n"),
        ("METADATA.CSV", 'key,value\n"stain","DAPI"\n dose , 3 mg \n'),
        ("metadata.json", '{"stain": "DAPI", "dose": "3 mg", "none": null}'),
        ("metadata.yml", "stain: DAPI\ndose: 3 mg\n"),
        ("metadata.yaml", "# a comment\nstain: 'DAPI'\ndose: 3 mg\nempty:\n"),
    ],
)
def test_pairs_for_the_session(tmp_path: Path, name: str, content: str) -> None:
    values = read(tmp_path, name, content)

    assert values.findings == ()
    assert values.session_values == (("stain", "DAPI"), ("dose", "3 mg"))


def test_values_are_taken_as_they_are_written(tmp_path: Path) -> None:
    yml = read(tmp_path, "metadata.yml", "consent: no\ndate: 2026-05-04\nid: 007\nx: 1.10\n")
    (tmp_path / "metadata.yml").unlink()
    jsn = read(tmp_path, "metadata.json", '{"x": 1.10, "big": 12345678901234567890, "ok": true, "n": {"m": [1, 2]}}')

    assert yml.session_values == (("consent", "no"), ("date", "2026-05-04"), ("id", "007"), ("x", "1.10"))
    assert jsn.session_values == (
        ("x", "1.10"),
        ("big", "12345678901234567890"),
        ("ok", "true"),
        ("n.m", "1"),
        ("n.m", "2"),
    )


def test_a_table_of_files_gives_each_its_values(tmp_path: Path) -> None:
    table = "File,stain,dose\na.tif,DAPI,\nday1/set_0.tif,GFP,1\nz.ome.zarr,,2\nnotes.pdf,none,\n"

    values = read(tmp_path, "metadata.csv", table)

    assert values.findings == ()
    assert values.file_values == {
        "a.tif": (("stain", "DAPI"),),
        "day1/set.companion.ome": (("stain", "GFP"), ("dose", "1")),
        "z.ome.zarr/.zattrs": (("dose", "2"),),
        "notes.pdf": (("stain", "none"),),
    }


def test_a_mapping_may_hold_both(tmp_path: Path) -> None:
    content = json.dumps({"operator": "Ada", "files": {"a.tif": {"stain": "DAPI"}}})

    values = read(tmp_path, "metadata.json", content)

    assert values.session_values == (("operator", "Ada"),)
    assert values.file_values == {"a.tif": (("stain", "DAPI"),)}


def test_a_sidecar_in_a_folder_speaks_for_the_images_below_it(tmp_path: Path) -> None:
    values = read(tmp_path, "day1/metadata.yml", "stain: GFP\nfiles:\n  set_0.tif: {dose: 1}\n")

    assert values.session_values == ()
    assert values.file_values == {"day1/set.companion.ome": (("stain", "GFP"), ("dose", "1"))}


@pytest.mark.parametrize("name", ["b.tif", "../a.tif", "/a.tif", "day1/../a.tif"])
def test_a_file_that_is_not_in_the_delivery_is_a_finding(tmp_path: Path, name: str) -> None:
    values = read(tmp_path, "metadata.csv", f"file,stain\n{name},DAPI\n")

    assert (codes(values), values.file_values) == (["sidecar-file-unknown"], {})


BOMB = "a: &a [x,x,x,x,x,x,x,x,x]\n" + "".join(f"b{n}: &b{n} [{','.join(['*a'] * 9)}]\n" for n in range(9))


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("metadata.csv", "sample,treatment\n1,A\n"),
        ("metadata.csv", "key,value\na,b,c\n"),
        ("metadata.csv", 'key,value\na,"never closed\n'),
        ("metadata.csv", "key,value\na," + "x" * 200_000 + "\n"),
        ("metadata.csv", "key,value\na,b\x00c\n"),
        ("metadata.csv", "key,value\n,without a key\n"),
        ("metadata.csv", b"key,value\na,\xff\n"),
        ("metadata.csv", "key,value\n" + "a,b\n" * (MAX_PAIRS + 1)),
        ("metadata.json", "{"),
        ("metadata.json", "[1, 2]"),
        ("metadata.json", '{"a":' * 100_000),
        ("metadata.json", '{"a": {"b": {"c": {"d": {"e": {"f": {"g": {"h": {"i": 1}}}}}}}}}'),
        ("metadata.json", '{"files": ["a.tif"]}'),
        ("metadata.json", '{"files": {"a.tif": "DAPI"}}'),
        ("metadata.json", '{"a": "' + "x" * 10_001 + '"}'),
        ("metadata.json", '{"a": "\\ud800"}'),
        ("metadata.yml", BOMB),
        ("metadata.yml", "a: !!python/object/apply:os.system ['true']\n  b"),
        ("metadata.yml", "- a\n- b\n"),
        ("metadata.yml", "[" * 5000),
        ("metadata.yml", "a: 1\n---\nb: 2\n"),
        ("metadata.yml", "a: b\n" * 300_000),
        ("metadata.csv", b"k" * (MAX_BYTES + 1)),
    ],
)
def test_what_is_not_clear_is_a_finding(tmp_path: Path, name: str, content: str | bytes) -> None:
    values = read(tmp_path, name, content)

    assert (codes(values), values.session_values, values.file_values) == (["sidecar-unclear"], (), {})
    assert len(values.findings[0].message) < 400


def test_a_folders_values_for_very_many_images_are_a_finding_and_not_made(tmp_path: Path) -> None:
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "metadata.csv").write_text("key,value\n" + "".join(f"k{n},v\n" for n in range(10_000)))
    plans = [FilesetPlan((f"d/{number}.tif",)) for number in range(300)]

    values = read_all(tmp_path, ["d/metadata.csv"], plans, names=SIDECARS)

    assert (codes(values), values.file_values) == (["sidecar-unclear"], {})


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    secret = tmp_path / "secret"
    secret.write_text("key,value\npassword,x\n")
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "metadata.csv").symlink_to(secret)

    values = read_all(tmp_path / "d", ["metadata.csv"], (), names=SIDECARS)

    assert (codes(values), values.session_values) == (["sidecar-unclear"], ())


def test_only_the_agreed_names_are_sidecars() -> None:
    assert is_sidecar("a/Metadata.CSV", SIDECARS)
    assert not is_sidecar("metadata.txt", SIDECARS)
