"""The DICOM importer passes the suite of importers over a real Orthanc."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.delivery import Labels, Outcome
from lading.testing.dicom_world import DicomWorld, Relay, other_pixels
from lading.testing.importer_suite import ImporterSuite, World, by_path, carry_out
from lading.testing.orthanc_node import Orthanc, missing_for_orthanc
from lading.testing.parcels import publish, read_files

pytestmark = pytest.mark.skipif(bool(missing_for_orthanc()), reason=missing_for_orthanc())


@pytest.fixture(scope="module")
def orthanc(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Orthanc]:
    with Orthanc(tmp_path_factory.mktemp("orthanc")).running() as running:
        yield running


class TestOrthanc(ImporterSuite):
    @pytest.fixture
    def world(self, orthanc: Orthanc, tmp_path: Path) -> Iterator[DicomWorld]:
        with Relay(orthanc.port) as relay:
            made = DicomWorld(orthanc, relay, tmp_path)
            yield made
            made.close()

    def test_a_label_that_holds_another_session_is_refused_and_left_alone(self, world: World) -> None:
        """A node has no labels. What it has under a SOPInstanceUID already is not replaced by another image."""
        assert isinstance(world, DicomWorld)
        first = world.parcel("MR1")
        carry_out(world.importer(), first)
        held = world.held(first)
        files = {name: other_pixels(content) for name, content in read_files(first.root).items()}
        other = publish(world.inbox, Labels(world.project, "sub-001", "MR2"), files)
        importer = world.importer()

        outcomes = by_path(importer.verify(other, carry_out(importer, other)))

        assert {outcome.outcome for outcome in outcomes.values()} == {Outcome.MISMATCH}
        assert all("PixelData" in outcome.how for outcome in outcomes.values())
        assert world.held(first) == held
