"""The plug-in that counts what the transports' suite proved, in runs of its own."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

SUITE = """
import pytest
from lading.testing.site import does_not_apply, not_for

class TransportSuite:
    def test_everything_arrives(self): pass
    def test_a_wrong_password(self): pass
    @pytest.mark.slow
    def test_a_large_file(self): pass

class TestOne(TransportSuite):
    def test_a_wrong_password(self): does_not_apply("it has no password")
    def test_of_its_own(self): pass

class TestTwo(TransportSuite):
    @not_for("it takes no large files")
    def test_a_large_file(self): pass

class TestInShort:
    test_what_arrives = TransportSuite.test_everything_arrives
"""
MISSING = """
    @pytest.mark.skip(reason="its server is not installed")
    def test_everything_arrives(self): pass
"""


def run(folder: Path, rows: str, *options: str, suite: str = SUITE) -> subprocess.CompletedProcess[str]:
    (folder / "test_rows.py").write_text(suite)
    (folder / "rows.toml").write_text("".join(f"[{row}]\n" for row in rows.split()))
    (folder / "pytest.ini").write_text("[pytest]\nmarkers = slow: s\n")
    argv = [sys.executable, "-m", "pytest", "-q", "-p", "lading.testing.transport_counts", "-p", "no:cacheprovider"]
    return subprocess.run(
        [*argv, "--transport-rows", "rows.toml", *options],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        timeout=120,
    )


def table(said: str) -> dict[str, tuple[int, ...]]:
    """Row → passed, does not apply, skipped, failed."""
    rows = re.findall(r"^(Test\w+) +(\d+) +(\d+) +(\d+) +(\d+)$", said, re.MULTILINE)
    return {row: tuple(map(int, counts)) for row, *counts in rows}


@pytest.mark.parametrize("spread", [(), ("-n", "2", "--dist", "loadscope")], ids=["alone", "spread"])
def test_rows_are_counted_and_printed_wherever_they_ran(tmp_path: Path, spread: tuple[str, ...]) -> None:
    done = run(tmp_path, "TestOne TestTwo TestInShort", *spread)

    assert done.returncode == 0, done.stdout + done.stderr
    assert "transports: 3 rows; cases: 5 passed, 2 does not apply, 0 skipped, 0 failed" in done.stdout
    assert table(done.stdout) == {"TestOne": (2, 1, 0, 0), "TestTwo": (2, 1, 0, 0), "TestInShort": (1, 0, 0, 0)}
    assert "does not apply: 1 x it has no password" in done.stdout


def test_a_case_that_was_not_selected_may_be_another_runs(tmp_path: Path) -> None:
    done = run(tmp_path, "TestOne TestTwo", "-m", "not slow")

    assert done.returncode == 0, done.stdout + done.stderr


@pytest.mark.parametrize("spread", [(), ("-n", "2", "--dist", "loadscope")], ids=["alone", "spread"])
def test_a_row_that_could_not_run_fails_the_run(tmp_path: Path, spread: tuple[str, ...]) -> None:
    done = run(
        tmp_path,
        "TestOne TestTwo TestGone",
        *spread,
        suite=SUITE.replace("class TestInShort", f"{MISSING}\nclass TestInShort"),
    )

    assert done.returncode == 1, done.stdout + done.stderr
    assert "must run and did not: TestTwo: test_everything_arrives was skipped" in done.stdout
    assert "must run and did not: TestGone was not there at all" in done.stdout
    assert "skipped: 1 x its server is not installed" in done.stdout
