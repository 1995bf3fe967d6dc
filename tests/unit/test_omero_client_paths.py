"""Names as OMERO's Java client sanitises them."""

from pathlib import PurePosixPath

import pytest

from omero_importer.client_paths import client_path, path_findings, safe_name


@pytest.mark.parametrize(
    ("name", "safe"),
    [
        ("plain name.tif", "plain name.tif"),
        ('a"b*c:d<e>f?g\\h|i', "a'bxc;d[e]f%g!h!i"),
        ("tab\there\x7f\x85", "tab_here__"),
        ("CON", "CON_"),
        ("con", "con_"),
        ("com1", "com1_"),
        ("COM0", "COM0"),
        ("aux.log", "_aux.log"),
        ("CLOCK$", "CLOCK$_"),
        ("clock$.x", "_clock$.x"),
        ("$MFT", "_$MFT"),
        ("conx", "conx"),
        (".hidden", ".hidden"),
        ("ends with dot.", "ends with dot."),
        ("ümlaut 😀", "ümlaut 😀"),
    ],
)
def test_a_name_is_made_safe(name: str, safe: str) -> None:
    assert safe_name(name) == safe


def test_a_client_path_has_no_leading_slash() -> None:
    assert client_path("/srv//inbox/a:b/aux.tif") == "srv/inbox/a;b/_aux.tif"
    assert client_path("C:/data/x.tif") == "C;/data/x.tif"
    assert client_path(str(PurePosixPath("x.tif"))) == "x.tif"


def findings(*paths: str) -> list[tuple[str, str]]:
    return [(finding.code, finding.path) for finding in path_findings(paths)]


def test_names_that_become_one_are_found() -> None:
    assert findings("a:b/x", "a;b/x") == [("client-path-collides", "a;b")]
    assert findings("d/e\u0301.tif", "d/\u00e9.tif") == [("client-path-collides", "d/\u00e9.tif")]


def test_the_same_name_in_two_folders_is_fine() -> None:
    assert findings("a/x.tif", "b/X.tif", "b/a/x.tif", "x.tif") == []


def test_names_over_the_limits_are_found() -> None:
    assert findings("x" * 252 + ".tif") == [("name-too-long", "x" * 252 + ".tif")]
    assert findings("x" * 251 + ".tif") == []
    assert {code for code, _ in findings("/".join(["f" * 200] * 20) + "/x")} == {"name-too-long"}


def test_a_name_that_grows_over_the_limit_by_being_made_safe_is_found() -> None:
    assert findings("aux." + "x" * 251)[0][0] == "name-too-long"


def test_undecodable_names_are_found() -> None:
    assert findings("bad\udcff.tif") == [("name-not-unicode", "bad\udcff.tif")]
