"""OMERO passes the suite of every importer: over TLS, without it, and behind a real Glacier2 router."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("omero", reason="omero-py is not installed: make omero")

from lading.sandbox.omero import SandboxOmero
from lading.sandbox.omero.glacier2 import missing as missing_glacier2
from lading.testing.importer_suite import ImporterSuite
from lading.testing.omero_world import OmeroWorld, running_omero


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxOmero]:
    with running_omero(tmp_path_factory.mktemp("omero")) as running:
        yield running


class TestOmero(ImporterSuite):
    @pytest.fixture
    def world(self, sandbox: SandboxOmero, tmp_path: Path) -> Iterator[OmeroWorld]:
        made = OmeroWorld(sandbox, tmp_path)
        yield made
        made.close()


class TestOmeroWithoutEncryption(ImporterSuite):
    kills_every = 7

    @pytest.fixture
    def world(self, sandbox: SandboxOmero, tmp_path: Path) -> Iterator[OmeroWorld]:
        made = OmeroWorld(sandbox, tmp_path, tls=False)
        yield made
        made.close()


@pytest.fixture(scope="module")
def sandbox_behind_glacier2(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxOmero]:
    with running_omero(tmp_path_factory.mktemp("glacier2"), glacier2=True) as running:
        yield running


@pytest.mark.slow
@pytest.mark.skipif(bool(missing_glacier2()), reason=missing_glacier2())
class TestOmeroBehindARealRouter(ImporterSuite):
    kills_every = 11

    @pytest.fixture
    def world(self, sandbox_behind_glacier2: SandboxOmero, tmp_path: Path) -> Iterator[OmeroWorld]:
        made = OmeroWorld(sandbox_behind_glacier2, tmp_path)
        yield made
        made.close()
