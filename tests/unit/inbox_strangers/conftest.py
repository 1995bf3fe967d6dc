"""An inbox, what is sent to it, and what lies outside of it and is nobody's business there."""

from pathlib import Path

import pytest

from lading.inbox import Inbox, InboxLimits
from lading.testing.deliveries import fill

LIMITS = InboxLimits(max_files=1000, max_list_bytes=1 << 20, max_bytes=1 << 30, keep_free_bytes=0)


@pytest.fixture
def inbox(tmp_path: Path) -> Inbox:
    return Inbox.create(tmp_path / "inbox", limits=LIMITS)


@pytest.fixture
def source(tmp_path: Path) -> Path:
    return fill(tmp_path / "source")


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    return fill(tmp_path / "outside", {"secret": b"keep out"})
