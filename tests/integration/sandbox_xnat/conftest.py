"""A stand-in XNAT for each test, and a client of Alice's."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from lading.sandbox.xnat import SandboxXnat
from lading.testing.xnat_calls import P


@pytest.fixture
def sandbox(tmp_path: Path) -> Iterator[SandboxXnat]:
    with SandboxXnat(tmp_path / "xnat") as running:
        running.faults.inbox_delay_s = 0.0
        running.add_project(P, members={"alice": "member", "bob": "collaborator"})
        running.add_project("AUTO", prearchive_code=4, members={"alice": "member"})
        yield running


@pytest.fixture
def http(sandbox: SandboxXnat) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=sandbox.url, auth=("alice", "alice"), timeout=120) as client:
        yield client


@pytest.fixture
def by_cookie(sandbox: SandboxXnat) -> Iterator[httpx.Client]:
    """A client that logged in once and has nothing but its cookie since."""
    with httpx.Client(base_url=sandbox.url) as client:
        client.put("/data/services/auth", data={"username": "alice", "password": "alice"}).raise_for_status()
        yield client
