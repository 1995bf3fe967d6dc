"""A stand-in OMERO without Bio-Formats for each module, and for each test what it asks of it.

Imported inside: without omero-py the modules here are skipped, and this file must be importable.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from lading.sandbox.omero import SandboxOmero
    from lading.testing.omero_world import OmeroWorld


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> "Iterator[SandboxOmero]":
    from lading.testing.omero_world import running_omero

    with running_omero(tmp_path_factory.mktemp("omero")) as running:
        yield running


@pytest.fixture
def world(sandbox: "SandboxOmero", tmp_path: Path) -> "Iterator[OmeroWorld]":
    from lading.testing.omero_world import OmeroWorld

    made = OmeroWorld(sandbox, tmp_path, tls=False)
    yield made
    made.close()
