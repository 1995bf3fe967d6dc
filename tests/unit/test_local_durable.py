"""A disk that could not write is told of before the seal: the system says so only once, and not to whoever opens it later."""

import os
from pathlib import Path

import pytest

from lading.errors import Unreachable
from lading.inbox import Inbox, InboxLimits
from lading.seal import is_sealed
from lading.testing.carrying import Errand
from transport import landing


def test_what_could_not_be_written_on_the_way_is_not_sealed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inbox = Inbox.create(tmp_path / "inbox", limits=InboxLimits(keep_free_bytes=0))
    source = tmp_path / "source"
    source.mkdir()
    (source / "a.dcm").write_bytes(bytes(5000))
    (tmp_path / "state").mkdir()
    errand = Errand(
        "transport.local:LocalTransport.from_settings", {"path": str(inbox.root)}, str(source), str(tmp_path / "papers"),
        str(tmp_path / "state"), "test-delivery-1",
    )  # fmt: skip
    failures = [OSError(5, os.strerror(5))]

    def once(folder: object) -> bool:
        if failures:
            raise failures.pop()
        return True

    monkeypatch.setattr(landing, "_syncfs", once)
    flushed_at_once = landing.Landing._wrote

    def wrote(self: landing.Landing, size: int) -> None:
        flushed_at_once(self, 1 << 40)

    monkeypatch.setattr(landing.Landing, "_wrote", wrote)

    with pytest.raises(Unreachable, match="Input/output error"):
        errand.carry()
    assert not is_sealed(inbox.root / errand.slot.path)
    left = list((inbox.root / errand.slot.data).iterdir())
    assert left == [], "what the system still remembers would be taken for what the disk holds"

    errand.carry()
    assert is_sealed(inbox.root / errand.slot.path)
