"""The stand-in as a process of its own: started, driven, killed, started again."""

import json
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx

from lading.testing.dicom import write_session


@contextmanager
def running(root: Path, *arguments: str) -> Iterator[tuple[dict[str, str], subprocess.Popen[str]]]:
    ready = root.with_suffix(".ready")
    ready.unlink(missing_ok=True)
    command = [sys.executable, "-m", "lading.sandbox.xnat", "--root", str(root), "--ready-file", str(ready), *arguments]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, start_new_session=True)
    try:
        deadline = time.monotonic() + 120
        while not ready.exists():
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        yield json.loads(ready.read_text()), process
    finally:
        process.kill()
        process.wait()
        if process.stdout is not None:
            process.stdout.close()


def test_it_says_that_it_is_a_stand_in(tmp_path: Path):
    with running(tmp_path / "xnat", "--project", "P:auto") as (about, process):
        page = httpx.get(about["url"]).text
        process.terminate()
        said = process.communicate(timeout=120)[0]

    assert "STAND-IN" in page
    assert "STAND-IN" in said
    assert process.returncode == 0


def test_a_killed_server_knows_what_it_had_answered(tmp_path: Path):
    root = tmp_path / "xnat"
    with running(root, "--project", "P:auto") as (about, process):
        folder = Path(about["inbox"]) / "P" / "job"
        write_session(folder, 2)
        with httpx.Client(base_url=about["url"], auth=("alice", "alice")) as http:
            query = {"import-handler": "inbox", "path": str(folder), "PROJECT_ID": "P", "SUBJECT_ID": "S"}
            request = http.post("/data/services/import", params={**query, "EXPT_LABEL": "E"}).text.strip()
            while (state := http.get(request).json()["status"]) not in ("Completed", "Failed"):
                time.sleep(0.02)
        assert state == "Completed"
        process.kill()

    with running(root) as (about, _), httpx.Client(base_url=about["url"], auth=("alice", "alice")) as http:
        files = http.get("/data/projects/P/experiments/E/scans/1/resources/DICOM/files", params={"format": "json"})
        counts = http.get("/_sandbox/counts").json()

    assert files.json()["ResultSet"]["totalRecords"] == "2"
    assert counts["imports_per_label"] == {"P/S/E": 1}
