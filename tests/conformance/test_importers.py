"""Every importer passes the suite. XNAT: by its inbox and by upload, into projects that archive by themselves or do not."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.sandbox.xnat import SandboxXnat
from lading.testing.importer_suite import ImporterSuite
from lading.testing.xnat_world import AUTO, MANUAL, XnatWorld, running_sandbox


@pytest.fixture(scope="module")
def sandbox(tmp_path_factory: pytest.TempPathFactory) -> Iterator[SandboxXnat]:
    with running_sandbox(tmp_path_factory.mktemp("xnat")) as running:
        yield running


class TestXnatInboxRouteIntoProjectsThatArchiveByThemselves(ImporterSuite):
    kills_every = 3

    @pytest.fixture
    def world(self, sandbox: SandboxXnat, tmp_path: Path) -> Iterator[XnatWorld]:
        made = XnatWorld(sandbox, tmp_path, code=AUTO, route={"route": "inbox"})
        yield made
        made.close()


class TestXnatInboxRouteIntoManualProjects(ImporterSuite):
    @pytest.fixture
    def world(self, sandbox: SandboxXnat, tmp_path: Path) -> Iterator[XnatWorld]:
        made = XnatWorld(sandbox, tmp_path, code=MANUAL, route={"route": "inbox"})
        yield made
        made.close()


class TestXnatUploadRoute(ImporterSuite):
    kills_every = 3

    @pytest.fixture
    def world(self, sandbox: SandboxXnat, tmp_path: Path) -> Iterator[XnatWorld]:
        made = XnatWorld(sandbox, tmp_path, code=MANUAL, route={"route": "upload"})
        yield made
        made.close()
