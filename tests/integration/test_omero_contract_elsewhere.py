"""The contract tests, unchanged, against an OMERO that only the environment names: what a facility does with its own."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("omero", reason="omero-py is not installed: make omero")

from lading.sandbox.omero import SandboxOmero
from lading.testing.omero_facility import people

CONTRACT = Path(__file__).parents[1] / "contract" / "omero"
MODULES = tuple(
    f"test_{name}.py" for name in ("sessions", "objects", "delete", "import", "clients", "permissions", "rejoining")
)


@pytest.mark.slow
@pytest.mark.timeout(1200)
def test_the_contract_tests_talk_to_the_server_that_the_environment_names(tmp_path: Path) -> None:
    with SandboxOmero(tmp_path / "omero", people=people(), java=False) as elsewhere:
        named = {
            "LADING_TEST_OMERO_HOST": elsewhere.host,
            "LADING_TEST_OMERO_PORT": str(elsewhere.port),
            "LADING_TEST_OMERO_USER": "alice",
            "LADING_TEST_OMERO_PASSWORD": elsewhere.password("alice"),
        }
        ran = subprocess.run(
            [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-k", "not tcp and not glacier2", *MODULES],
            cwd=CONTRACT, env=os.environ | named, capture_output=True, text=True, check=False, timeout=1100,
        )  # fmt: skip
        logins = elsewhere.count("Router.createSession")

    assert ran.returncode == 0, ran.stdout[-4000:] + ran.stderr[-2000:]
    passed = re.search(r"(\d+) passed", ran.stdout)
    assert passed is not None
    assert int(passed[1]) >= 40, ran.stdout[-1000:]
    assert logins >= 20
