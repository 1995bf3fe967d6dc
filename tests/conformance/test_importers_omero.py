"""OMERO passes the suite of every importer: over TLS, and without it."""

from collections.abc import Iterator
from pathlib import Path

import pytest

pytest.importorskip("omero", reason="omero-py is not installed: make omero")

from lading.sandbox.omero import SandboxOmero
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
