"""The remote control of the stand-in XNAT, and the life of the server."""

from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from lading.sandbox.xnat import SandboxXnat
from lading.testing.dicom import write_session
from lading.testing.xnat_calls import (
    JSON,
    P,
    archive,
    archived_objects,
    import_zip,
    listed,
    md5,
    prearchived,
    put_file,
    waiting,
    zipped,
)


def test_knobs_are_turned_from_another_process(sandbox: SandboxXnat, http: httpx.Client):
    changed = http.put("/_sandbox/faults", json={"site_anon": True, "proxy_504": 2, "inbox_drop_files": ["*.x"]})

    assert changed.json()["site_anon"] is True
    assert (sandbox.faults.proxy_504, sandbox.faults.inbox_drop_files) == (2, ["*.x"])
    assert http.put("/_sandbox/faults", json={"no_such_knob": 1}).status_code == 400
    assert http.put("/_sandbox/faults", json={"archive_500": "many"}).status_code == 400
    http.delete("/_sandbox/faults").raise_for_status()
    assert sandbox.faults.site_anon is False


def test_a_misspelt_knob_is_an_error(sandbox: SandboxXnat):
    with pytest.raises(AttributeError):
        sandbox.faults.archive_50 = 1  # type: ignore[attr-defined]  # that is the point


def test_projects_are_made_from_another_process(sandbox: SandboxXnat, http: httpx.Client):
    wanted = {"id": "NEW", "prearchive_code": 4, "members": {"alice": "member"}}

    assert http.post("/_sandbox/projects", json=wanted).status_code == 201

    assert http.get("/data/projects/NEW/prearchive_code").text == "4"
    assert (sandbox.inbox / "NEW").is_dir()


def test_objects_that_came_twice_are_counted(sandbox: SandboxXnat, http: httpx.Client, tmp_path: Path):
    write_session(tmp_path / "dicom", 2)
    content = zipped(tmp_path / "dicom")
    for _ in range(2):
        import_zip(http, content, dest=f"/prearchive/projects/{P}").raise_for_status()

    counts = http.get("/_sandbox/counts").json()

    assert (counts["objects_received"], counts["duplicate_objects"], counts["archived_duplicates"]) == (4, 2, 0)


def test_what_was_known_survives_stop_and_start_but_no_login_does(
    sandbox: SandboxXnat, http: httpx.Client, by_cookie: httpx.Client
):
    put_file(http).raise_for_status()
    row, url = prearchived(http, sandbox), sandbox.url

    sandbox.stop()
    with pytest.raises(httpx.TransportError):
        httpx.get(f"{url}/data/projects")
    sandbox.start()

    assert sandbox.url == url
    assert by_cookie.get("/data/projects", params=JSON).status_code == 401
    assert listed(http) == {"a.txt": md5(b"first")}
    assert [found["url"] for found in waiting(http)] == [row["url"]]
    assert archive(http, row).status_code == 200


def test_an_archive_cut_off_by_the_end_of_the_server_is_an_error_afterwards(sandbox: SandboxXnat, http: httpx.Client):
    row = prearchived(http, sandbox)
    http.post(f"/data{row['url']}", params={"action": "set-status", "status": "ARCHIVING"}).raise_for_status()

    sandbox.stop()
    sandbox.start()

    assert [found["status"] for found in waiting(http)] == ["ERROR"]
    assert archive(http, row).status_code == 200


def test_files_that_were_on_their_way_into_the_archive_are_put_back(sandbox: SandboxXnat, http: httpx.Client):
    row = prearchived(http, sandbox)
    waiting_there = sandbox.root / "prearchive" / P / row["timestamp"] / "E_01"
    target = sandbox.root / "archive" / P / "arc001" / "E_01"
    target.parent.mkdir(parents=True)
    waiting_there.rename(target)
    state = sandbox._site.state
    session = state.prearchive.all()[0]
    state.prearchive.put(replace(session, status="ARCHIVING", moving_to=f"archive/{P}/arc001/E_01"))

    sandbox.stop()
    sandbox.start()

    assert [path.name for path in sorted(waiting_there.rglob("*.dcm"))] == ["0001.dcm", "0002.dcm"]
    assert not target.exists()
    assert archive(http, row).status_code == 200
    assert len(archived_objects(http)) == 2


def test_only_the_loopback_address_is_served(tmp_path: Path):
    with pytest.raises(ValueError, match="loopback"):
        SandboxXnat(tmp_path, host="0.0.0.0")
