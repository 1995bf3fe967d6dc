"""Each knob of the stand-in XNAT does what its row in docs/reference/sandbox-xnat.md says: access, proxy, and network."""

import time

import httpx
import pytest

from lading.sandbox.xnat import SandboxXnat
from lading.testing.dicom import write_session
from lading.testing.xnat_calls import (
    JSON,
    P,
    listed,
    md5,
    post_inbox,
    put_file,
    until,
    waiting,
)


def test_session_expiry_ends_a_login_session(sandbox: SandboxXnat, by_cookie: httpx.Client):
    sandbox.faults.session_expiry = 1

    assert by_cookie.get("/data/projects", params=JSON).status_code == 401
    assert by_cookie.get("/data/projects", params=JSON).status_code == 401
    by_cookie.put("/data/services/auth", data={"username": "alice", "password": "alice"})
    assert by_cookie.get("/data/projects", params=JSON).status_code == 200


def test_session_timeout_is_the_life_of_an_idle_session(sandbox: SandboxXnat, by_cookie: httpx.Client):
    sandbox.faults.session_timeout = 0.05
    time.sleep(0.1)

    assert by_cookie.get("/data/projects", params=JSON).status_code == 401


def test_login_page_200_answers_a_page_instead_of_401(sandbox: SandboxXnat, by_cookie: httpx.Client):
    sandbox.faults.session_expiry, sandbox.faults.login_page_200 = 1, True

    answer = by_cookie.get("/data/projects", params=JSON)

    assert (answer.status_code, answer.text.startswith("<!DOCTYPE html>")) == (200, True)


def test_guest_404_answers_404_instead_of_401(sandbox: SandboxXnat, by_cookie: httpx.Client):
    sandbox.faults.session_expiry, sandbox.faults.guest_404 = 1, True

    assert by_cookie.get(f"/data/projects/{P}", params=JSON).status_code == 404


def test_twenty_wrong_passwords_lock_an_account(sandbox: SandboxXnat):
    for _ in range(20):
        assert httpx.get(f"{sandbox.url}/data/projects", auth=("alice", "wrong")).status_code == 401

    assert httpx.get(f"{sandbox.url}/data/projects", auth=("alice", "alice")).status_code == 401


def test_whoever_looks_like_a_browser_needs_a_token(sandbox: SandboxXnat, by_cookie: httpx.Client):
    answer = by_cookie.put(f"/data/projects/{P}/subjects/S", headers={"User-Agent": "Mozilla/5.0"})

    assert answer.status_code == 403


# Proxy and network


def test_proxy_413_refuses_large_bodies(sandbox: SandboxXnat, http: httpx.Client):
    sandbox.faults.proxy_413 = 1000

    assert put_file(http, content=bytes(5000)).status_code == 413
    assert put_file(http, content=bytes(10)).status_code == 200


def test_proxy_504_hides_what_was_done(sandbox: SandboxXnat, http: httpx.Client):
    sandbox.faults.proxy_504 = 1

    assert put_file(http).status_code == 504
    assert listed(http) == {"a.txt": md5(b"first")}
    assert put_file(http, "b.txt").status_code == 200


def test_proxy_match_says_which_requests_are_hit(sandbox: SandboxXnat, http: httpx.Client):
    sandbox.faults.proxy_504, sandbox.faults.proxy_match = 1, "/data/services/import"
    assert put_file(http).status_code == 200
    write_session(sandbox.inbox / P / "job", 1)

    with pytest.raises(httpx.HTTPStatusError, match="504"):
        post_inbox(http, sandbox.inbox / P / "job")

    until(lambda: waiting(http))


def test_conn_reset_after_commit_hides_what_was_done(sandbox: SandboxXnat, http: httpx.Client):
    sandbox.faults.conn_reset_after_commit = 1

    with pytest.raises(httpx.TransportError):
        put_file(http)

    assert listed(http) == {"a.txt": md5(b"first")}


def test_down_stops_everything_but_the_remote_control(sandbox: SandboxXnat, http: httpx.Client):
    sandbox.faults.down = "502"
    assert http.get("/data/projects").status_code == 502
    http.put("/_sandbox/faults", json={"down": "reset"}).raise_for_status()
    with pytest.raises(httpx.TransportError):
        http.get("/data/projects")

    http.put("/_sandbox/faults", json={"down": False}).raise_for_status()

    assert http.get("/data/projects", params=JSON).status_code == 200
