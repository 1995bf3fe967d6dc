"""One stand-in XNAT for a module, and for each test a project of its own in it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.sandbox.xnat import SandboxXnat
from lading.testing.xnat_world import AUTO, MANUAL, XnatWorld, running_sandbox


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxXnat]:
    with running_sandbox(tmp_path_factory.mktemp("xnat")) as running:
        yield running


@pytest.fixture(params=[AUTO, MANUAL], ids=["auto", "manual"])
def world(request: pytest.FixtureRequest, sandbox: SandboxXnat, tmp_path: Path) -> Iterator[XnatWorld]:
    made = XnatWorld(sandbox, tmp_path, code=request.param)
    yield made
    made.close()


@pytest.fixture
def manual(sandbox: SandboxXnat, tmp_path: Path) -> Iterator[XnatWorld]:
    made = XnatWorld(sandbox, tmp_path, code=MANUAL)
    yield made
    made.close()
