"""Plain calls to an XNAT, as a test makes them: the project P, a resource LOG, sessions by the inbox and by zip."""

import hashlib
import io
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import httpx

from lading.sandbox.xnat import SandboxXnat
from lading.testing.dicom import write_session

JSON = {"format": "json"}
T = TypeVar("T")
P = "P"


def rows(answer: httpx.Response) -> list[dict[str, str]]:
    """The rows of a table that XNAT answers. Raises httpx.HTTPStatusError."""
    answer.raise_for_status()
    found: list[dict[str, str]] = answer.json()["ResultSet"]["Result"]
    return found


def until(look: Callable[[], T], patience: float = 120.0) -> T:
    """What `look` finds, as soon as it finds something. Raises AssertionError after `patience` seconds."""
    deadline = time.monotonic() + patience
    while not (found := look()):
        assert time.monotonic() < deadline, f"still {found!r}"
        time.sleep(0.02)
    return found


def put_file(http: httpx.Client, name: str = "a.txt", content: bytes = b"first", **query: str) -> httpx.Response:
    """Store a file in the project's resource LOG."""
    uri = f"/data/projects/{P}/resources/LOG/files/{name}"
    return http.put(uri, params=query, files={"file": (name, content)})


def listed(http: httpx.Client) -> dict[str, str]:
    """The digest of each file in LOG, by name."""
    files = rows(http.get(f"/data/projects/{P}/resources/LOG/files", params=JSON))
    return {row["Name"]: row["digest"] for row in files}


def md5(content: bytes) -> str:
    """As XNAT writes it."""
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def refresh(http: httpx.Client, options: str = "checksum") -> None:
    """Make XNAT look at the files of LOG again."""
    query = {"resource": f"/archive/projects/{P}/resources/LOG", "options": options}
    http.post("/data/services/refresh/catalog", params=query).raise_for_status()


def post_inbox(http: httpx.Client, folder: Path, project: str = P, **parameters: str) -> str:
    """Ask for an import from the inbox, whose files are kept; the address of the request."""
    query = {"import-handler": "inbox", "path": str(folder), "PROJECT_ID": project, "cleanupAfterImport": "false"}
    answer = http.post("/data/services/import", params={**query, **parameters})
    answer.raise_for_status()
    return answer.text.strip()


def state_of(http: httpx.Client, request: str) -> str:
    """The state of an inbox request."""
    return str(http.get(request).json()["status"])


def settled(http: httpx.Client, request: str, *states: str) -> str:
    """The first of `states` that the request comes to."""
    return until(lambda: state if (state := state_of(http, request)) in states else "")


def waiting(http: httpx.Client, project: str = P) -> list[dict[str, str]]:
    """The sessions in the prearchive."""
    return rows(http.get(f"/data/prearchive/projects/{project}", params=JSON))


def prearchived(http: httpx.Client, sandbox: SandboxXnat, images: int = 2, label: str = "E_01") -> dict[str, str]:
    """A session that waits in the prearchive, READY."""
    folder = sandbox.inbox / P / label
    write_session(folder, images)
    settled(http, post_inbox(http, folder, SUBJECT_ID="S_01", EXPT_LABEL=label), "Processed")
    return until(lambda: next((row for row in waiting(http) if row["name"] == label and row["status"] == "READY"), {}))


def archive(http: httpx.Client, row: dict[str, str], **parameters: str) -> httpx.Response:
    """Ask for a session of the prearchive to be archived."""
    return http.post("/data/services/archive", data={"src": f"/data{row['url']}", **parameters})


def archived_objects(http: httpx.Client, label: str = "E_01", project: str = P) -> list[dict[str, str]]:
    """The DICOM files of scan 1 of a session; none when there is no such session."""
    uri = f"/data/projects/{project}/experiments/{label}/scans/1/resources/DICOM/files"
    answer = http.get(uri, params=JSON)
    return rows(answer) if answer.is_success else []


def zipped(folder: Path) -> bytes:
    """A folder as a zip."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as out:
        for path in sorted(folder.rglob("*")):
            out.write(path, path.relative_to(folder).as_posix())
    return buffer.getvalue()


def import_zip(http: httpx.Client, content: bytes, **parameters: str) -> httpx.Response:
    """Import a zip of DICOM files."""
    query = {"import-handler": "DICOM-zip", "inbody": "true", **parameters}
    return http.post(
        "/data/services/import", params=query, content=content, headers={"Content-Type": "application/zip"}
    )
