"""A partner's folder (of a Nextcloud, and behind a real sshd) is fetched on a schedule and ends in the repository (S21)."""

import json
import os
import threading
import time
from pathlib import Path

import pytest

from lading.testing import trees
from lading.testing.dav_servers import DavServer, nextcloud
from lading.testing.dicom import write_series
from lading.testing.facility import Facility, mail_tables
from lading.testing.mailserver import MailServer
from lading.testing.servers import Sshd, missing_for_sshd, sshd

pytest.importorskip("asyncssh", reason="asyncssh is not installed (extra: sftp)")
pytestmark = pytest.mark.skipif(bool(missing_for_sshd()), reason=missing_for_sshd())


@pytest.fixture
def partner(tmp_path):
    (tmp_path / "partner").mkdir()
    with sshd(tmp_path / "ssh") as server:
        yield server


def _fetch_table(server: Sshd, remote: Path, more: str) -> str:
    return f"""
[routes.mri.fetch]
kind = "sftp"
target = "{server.user}@127.0.0.1:{remote}"
port = {server.port}
identity = "{server.identity}"
known_hosts = "{server.known_hosts}"
{more}
"""


def _cloud_table(server: DavServer, ca: Path, more: str) -> str:
    return f"""
[routes.mri.fetch]
kind = "webdav"
url = "{server.url}/partner"
user = "{server.user}"
password = "file:{server.password_file}"
ca = "{ca}"
{more}
"""


@pytest.fixture(params=["nextcloud", "sftp"])
def table_of(request, tmp_path):
    """What makes the settings that fetch from the partner's folder, at a server of each kind."""
    (tmp_path / "partner").mkdir()
    if request.param == "sftp":
        with sshd(tmp_path / "ssh") as server:
            yield lambda more: _fetch_table(server, tmp_path / "partner", more)
        return
    pytest.importorskip("trustme", reason="trustme is not installed (extra: dev)")
    from lading.testing.certificates import certificates

    tls = certificates(tmp_path / "tls")
    (tmp_path / "files").mkdir()
    (tmp_path / "partner").rename(tmp_path / "files" / "partner")
    (tmp_path / "partner").symlink_to(tmp_path / "files" / "partner")
    with nextcloud(tmp_path / "nextcloud", tmp_path / "files", tls) as cloud:
        yield lambda more: _cloud_table(cloud, tls.ca, more)


@pytest.mark.slow
def test_s21_a_partners_folder_is_fetched_and_verified_and_what_is_odd_is_told(make_site, tmp_path, table_of) -> None:
    remote = tmp_path / "partner"
    session = remote / "DEMO" / "sub-001" / "MR1"
    write_series(session, 6)
    (session / "0001 (conflicted copy 2026-05-04 181500).dcm").write_bytes(b"another version")
    (session / "failed.dcm").write_bytes(b"")
    growing = remote / "DEMO" / "sub-002" / "MR2"
    last = write_series(growing, 3, participant="sub-002", session="MR2")[-1]
    content = last.read_bytes()
    last.write_bytes(content[:1])
    site: Facility = make_site(checks=table_of("quiet = 1\nevery = 0.5\ndeadline_days = 7\nwarn_days = 7"))
    done = threading.Event()

    def grow() -> None:
        position = 1
        with last.open("ab", buffering=0) as file:
            while not done.wait(0.1):
                file.write(content[position : position + 1])
                position += 1
            file.write(content[position:])

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        site.start_server()
        (first,) = site.settle(1, seconds=90)
        time.sleep(2)
        while_growing = {folder["path"]: folder["state"] for folder in site.ask("status")["fetch"]}
    finally:
        done.set()
        writer.join()
    both = site.settle(2, seconds=90)

    assert first["stage"] == "VERIFIED"
    assert while_growing == {"DEMO/sub-001/MR1": "fetched", "DEMO/sub-002/MR2": "waiting"}
    assert {delivery["stage"] for delivery in both} == {"VERIFIED"}
    told = {folder["path"]: folder for folder in site.ask("status")["fetch"]}
    assert sorted(finding["code"] for finding in told["DEMO/sub-001/MR1"]["findings"]) == [
        "conflict-copy",
        "empty-file",
    ]
    assert all(folder["safe"] and not folder["urgent"] for folder in told.values())
    words = site.run("status").stdout
    assert "fetched 2 of 2 remote folders" in words
    assert "conflict-copy, empty-file" in words
    assert len(os.listdir(session)) == 8, "the source is only read"
    assert site.xnat("GET", "counts")["archived_objects"] == 6 + 3, "neither the conflict copy nor the empty file"
    published = site.inbox / "DEMO" / "sub-001" / "MR1"
    assert sorted(path.name for path in published.iterdir()) == [f"{number:04}.dcm" for number in range(1, 7)]
    assert (site.inbox / "DEMO" / "sub-002" / "MR2" / last.name).read_bytes() == content


@pytest.mark.slow
def test_what_a_source_will_not_keep_much_longer_is_mailed_once_for_each_warning(
    make_site, tmp_path, partner, mail: MailServer
) -> None:
    remote = tmp_path / "partner"
    for name, days in (("MR1", 21.0), ("MR2", 19.2), ("MR3", 11.0)):  # MR2 is told of along with MR1
        session = trees.write(remote / "DEMO" / "sub-001" / name, {"a.dat": name.encode()})
        os.utime(session / "a.dat", (time.time() - days * 86400,) * 2)
    site: Facility = make_site(
        checks=_fetch_table(partner, remote, "quiet = 1000000\nevery = 1\ndeadline_days = 40"),
        more=mail_tables(mail.port),
    )
    assert site.run("fetch", "mri").returncode == 7  # a first look; nothing is quiet for that long

    site.start_server()
    mail.wait_for(1, seconds=180)
    site.stop("server")
    half_way = site.ask("status")["fetch"]
    # The clock of the source moves on: what had twenty days has two.
    site.configure(
        checks=_fetch_table(partner, remote, "quiet = 1000000\nevery = 1\ndeadline_days = 22.5"),
        more=mail_tables(mail.port),
    )
    site.start_server()
    mail.wait_for(2, seconds=180)
    site.stop("server")
    site.start_server()
    site.until(lambda: site.ask("status")["fetch"] != [], seconds=60, why="the server is asked again")
    time.sleep(5)  # for what must not come

    first, second = [one.get_content() for one in mail.to("admin@example.org")]
    assert [name in first for name in ("MR1", "MR2", "MR3")] == [True, True, False]
    assert [name in second for name in ("MR1", "MR2", "MR3")] == [True, True, True]
    assert "lading fetch mri" in first
    assert "Subject" in mail.mails[0]
    assert [folder["urgent"] for folder in half_way] == [True, False, False]


def test_fetching_by_hand_waits_for_quiet_and_says_what_comes_next(tmp_path, partner) -> None:
    remote = tmp_path / "partner"
    session = remote / "DEMO" / "sub-001" / "MR1"
    session.mkdir(parents=True)
    (session / "a.dat").write_bytes(b"a")
    (session / "b (conflicted copy 2026-05-04).dat").write_bytes(b"b")
    site = Facility(tmp_path / "site")
    site.root.mkdir()
    site.configure(
        checks=_fetch_table(partner, remote, "quiet = 0.5\ndeadline_days = 1000000\nwarn_days = 1000000"),
        inbox=str(tmp_path / "inbox"),
        url="http://127.0.0.1:9",
    )
    assert site.run("inbox", "create").returncode == 0

    rehearsed = site.ask("fetch", "mri", "--dry-run")
    once = site.run("fetch", "mri", "DEMO/sub-001/MR1")
    told = site.run("fetch", "mri", "--wait", "--timeout", "60", "--json-lines")
    nothing_new = site.run("fetch", "mri")
    wrong = site.run("fetch", "nmr")
    elsewhere = site.run("fetch", "mri", "DEMO/sub-009/MR1")

    assert [(folder["path"], folder["files"]) for folder in rehearsed["folders"]] == [("DEMO/sub-001/MR1", 1)]
    assert once.returncode == 7
    assert "waiting" in once.stdout
    *steps, end = [json.loads(line) for line in told.stdout.splitlines()]
    assert (end["event"], end["exit_code"], told.returncode) == ("end", 0, 0)
    (folder,) = end["folders"]
    assert folder["state"] == "fetched"
    assert [(step["event"], step["files_done"], step["bytes_done"]) for step in steps][-1] == ("progress", 1, 1)
    assert (tmp_path / "inbox" / ".lading/incoming" / folder["delivery"] / "data" / "a.dat").read_bytes() == b"a"
    assert nothing_new.returncode == 0
    assert "conflict-copy" in nothing_new.stdout
    assert (wrong.returncode, "mri" in wrong.stderr) == (2, True)
    assert (elsewhere.returncode, "is not a session folder" in elsewhere.stderr) == (4, True)


def test_a_killed_fetch_goes_on_inside_the_file(tmp_path, partner) -> None:
    remote, inbox = tmp_path / "partner", tmp_path / "inbox"
    session = remote / "DEMO" / "sub-001" / "MR1"
    trees.write(session, {"large.dat": trees.noise(7, 40_000_000), "small.dat": b"small"})
    site = Facility(tmp_path / "site")
    site.root.mkdir()
    settings = {"inbox": str(inbox), "url": "http://127.0.0.1:9"}
    site.configure(checks=_fetch_table(partner, remote, "quiet = 0\nthrottle = { mb_per_s = 20 }"), **settings)
    assert site.run("inbox", "create").returncode == 0
    site.start("fetch", "fetch", "mri", "--wait")
    site.until(lambda: _part(inbox) > 10_000_000, seconds=90, why="a quarter is here")

    site.kill("fetch")
    kept = _part(inbox)
    begun = {path.stat().st_ino for path in inbox.rglob(".in.*")}
    site.configure(checks=_fetch_table(partner, remote, "quiet = 0"), **settings)
    fetched = site.ask("fetch", "mri", "--wait")

    assert kept >= 10_000_000
    (folder,) = fetched["folders"]
    assert folder["state"] == "fetched"
    slot = inbox / ".lading/incoming" / folder["delivery"]
    assert len(os.listdir(slot.parent)) == 1, "the same delivery as before the kill"
    assert (slot / "data" / "large.dat").stat().st_ino in begun, "the part was gone on with"
    assert trees.look(slot / "data") == trees.look(session)
    assert trees.times(slot / "data") == trees.times(session)


def _part(inbox: Path) -> int:
    return sum(path.stat().st_size for path in inbox.rglob(".in.*"))
