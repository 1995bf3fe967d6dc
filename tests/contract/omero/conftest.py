"""An OMERO for these tests, thrice: over TLS, over TCP, and behind the real glacier2router."""

from collections.abc import Iterator

import pytest

pytest.importorskip("omero")

from lading.sandbox.omero import SandboxOmero
from lading.testing.omero_server import KINDS, Login, OmeroServer, omero_server, unavailable

MARKS = {"glacier2": [pytest.mark.slow]}


@pytest.fixture(scope="session", params=[pytest.param(kind, marks=MARKS.get(kind, [])) for kind in KINDS])
def omero_kind(request: pytest.FixtureRequest) -> str:
    kind = str(request.param)
    if reason := unavailable(kind):
        pytest.skip(reason)
    return kind


@pytest.fixture(scope="session")
def any_omero(omero_kind: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[OmeroServer]:
    """Whichever OMERO there is."""
    with omero_server(omero_kind, tmp_path_factory.mktemp("omero")) as found:
        yield found


@pytest.fixture
def login(any_omero: OmeroServer) -> Iterator[Login]:
    with any_omero.login() as made:
        yield made


@pytest.fixture
def stand_in(any_omero: OmeroServer) -> OmeroServer:
    """For what needs more users, or a look inside."""
    if any_omero.sandbox is None:
        pytest.skip("needs the stand-in's users")
    return any_omero


@pytest.fixture
def box(stand_in: OmeroServer) -> SandboxOmero:
    return stand_in.inside
