"""Every acceptance test has a facility of its own, and drives it through the command line."""

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Protocol

import pytest

from lading.testing.facility import Facility, facility
from lading.testing.mailserver import MailServer, mail_server


class MakeSite(Protocol):
    def __call__(self, *, project: str = "DEMO:auto", **parts: str | float) -> Facility: ...


@pytest.fixture
def make_site(tmp_path: Path) -> Iterator[MakeSite]:
    with ExitStack() as stack:

        def make(*, project: str = "DEMO:auto", **parts: str | float) -> Facility:
            (tmp_path / "site").mkdir()
            return stack.enter_context(facility(tmp_path / "site", project=project, **parts))

        yield make


@pytest.fixture
def mail() -> Iterator[MailServer]:
    """A real mail server on loopback; `make_site(more=mail_tables(mail.port))` makes a facility use it."""
    with mail_server() as server:
        yield server


@pytest.fixture
def site(make_site: MakeSite) -> Facility:
    """A facility with server and agent running, the local transport, and a project that archives by itself."""
    made = make_site()
    made.start_server()
    made.start_agent()
    return made
