"""What several modules of the conformance tests stand on."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.testing.two_hosts import Hosts, two_hosts


@pytest.fixture
def hosts(tmp_path: Path) -> Iterator[Hosts]:
    """A staging host, and the host that holds the data."""
    with two_hosts(tmp_path) as both:
        yield both
