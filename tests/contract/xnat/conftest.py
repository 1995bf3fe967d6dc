"""An XNAT to talk to: the stand-in, or a real one that the environment names.

LADING_TEST_XNAT_URL, _USER and _PASSWORD choose a real server; the user must be allowed to create projects.
LADING_TEST_XNAT_INBOX is the folder where its inbox is mounted here, _INBOX_PATH what the server calls that folder.
"""

import os
import time
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import httpx
import pytest

from lading.sandbox.xnat import SandboxXnat


@dataclass(frozen=True)
class Server:
    url: str
    user: str
    password: str
    inbox: Path | None
    inbox_path: str

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.url, auth=(self.user, self.password), timeout=120)


@pytest.fixture(scope="session")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Server]:
    url = os.environ.get("LADING_TEST_XNAT_URL")
    if url:
        inbox = os.environ.get("LADING_TEST_XNAT_INBOX")
        yield Server(
            url.rstrip("/"),
            os.environ["LADING_TEST_XNAT_USER"],
            os.environ["LADING_TEST_XNAT_PASSWORD"],
            Path(inbox) if inbox else None,
            os.environ.get("LADING_TEST_XNAT_INBOX_PATH", inbox or ""),
        )
        return
    with SandboxXnat(tmp_path_factory.mktemp("xnat")) as sandbox:
        yield Server(sandbox.url, "admin", "admin", sandbox.inbox, str(sandbox.inbox))


@pytest.fixture(scope="session")
def http(server: Server) -> Iterator[httpx.Client]:
    with server.client() as client:
        yield client


@pytest.fixture
def new_project(http: httpx.Client) -> Iterator[Callable[[int], str]]:
    made = []

    def make(prearchive_code: int) -> str:
        project = f"LT_{uuid.uuid4().hex[:10]}"
        http.put(f"/data/projects/{project}").raise_for_status()
        made.append(project)
        http.put(f"/data/projects/{project}/prearchive_code/{prearchive_code}").raise_for_status()
        return project

    yield make
    for project in made:
        waiting = http.get(f"/data/prearchive/projects/{project}", params={"format": "json"})
        for row in _rows(waiting) if waiting.is_success else []:
            http.delete(f"/data{row['url']}")
        http.delete(f"/data/projects/{project}", params={"removeFiles": "true"})


@pytest.fixture
def project(new_project: Callable[[int], str]) -> str:
    """A project that keeps imports in the prearchive."""
    return new_project(0)


@pytest.fixture
def auto_project(new_project: Callable[[int], str]) -> str:
    """A project that archives imports by itself."""
    return new_project(4)


@pytest.fixture
def rows() -> Callable[[httpx.Response], list[dict[str, str]]]:
    """The rows of a table that XNAT answered as JSON."""
    return _rows


def _rows(answer: httpx.Response) -> list[dict[str, str]]:
    answer.raise_for_status()
    return answer.json()["ResultSet"]["Result"]


@pytest.fixture
def inbox_import(server: Server, http: httpx.Client) -> Callable[..., dict[str, object]]:
    """Posts an inbox request for a folder below the project's inbox; answers it in its last state."""

    def run(folder: Path, last: tuple[str, ...] = ("Completed", "Failed"), **parameters: str) -> dict[str, object]:
        assert server.inbox is not None
        path = f"{server.inbox_path}/{folder.relative_to(server.inbox).as_posix()}"
        query = {"import-handler": "inbox", "path": path, **parameters}
        answer = http.post("/data/services/import", params=query)
        assert answer.status_code == 200, answer.text
        assert answer.text.endswith("\r\n")
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            request = http.get(answer.text.strip()).json()
            if request["status"] in last:
                return request
            time.sleep(0.05)
        raise AssertionError(f"still {request['status']}")

    return run


@pytest.fixture
def project_inbox(server: Server) -> Callable[[str], Path]:
    def folder(project: str) -> Path:
        if server.inbox is None:
            pytest.skip("LADING_TEST_XNAT_INBOX does not say where the inbox of this XNAT is mounted")
        return server.inbox / project / uuid.uuid4().hex

    return folder
