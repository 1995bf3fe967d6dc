"""S3 to S8, S10 to S12, S15: what goes wrong, and what must be true afterwards."""

import json
import os
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from lading.testing.dicom import new_study, read_uid, write_series
from lading.testing.facility import Facility, mail_tables
from lading.testing.mailserver import MailServer

ADMIN = "admin@example.org"


def ask_xnat(site: Facility, method: str, path: str, body: bytes = b"") -> bytes:
    request = urllib.request.Request(f"{site.url}/{path}", data=body or None, method=method)
    request.add_header("Authorization", "Basic YWRtaW46YWRtaW4=")
    request.add_header("Content-Type", "application/octet-stream")
    with urllib.request.urlopen(request, timeout=100) as answer:
        return answer.read()


def codes(site: Facility, delivery: object) -> list[str]:
    return [f["code"] for f in site.ask("show", str(delivery))["findings"]]


def test_s3_a_power_cut_while_sending_and_while_importing_loses_and_doubles_nothing(
    make_site, mail: MailServer
) -> None:
    site = make_site(quiet=1, workers=2, more=mail_tables(mail.port))
    site.start_server()
    site.start_agent()
    session = site.instrument / "DEMO" / "sub-001" / "MR1"
    write_series(session, 200)
    incoming = site.inbox / ".lading" / "incoming"

    site.until(lambda: len(list(incoming.rglob("*.dcm"))) >= 1, seconds=30, why="the carry has begun", every=0.002)
    site.kill("agent")
    site.kill("server")
    site.faults(inbox_delay_s=2.0)
    site.start_server()
    site.start_agent()
    site.until(
        lambda: site.xnat("GET", "counts")["inbox_requests_per_label"] != {}, seconds=60, why="an import has begun"
    )
    site.kill("server")
    site.kill("agent")
    site.start_server()
    site.start_agent()
    (delivery,) = site.settle(1, seconds=90)

    counts = site.xnat("GET", "counts")
    assert delivery["stage"] == "VERIFIED"
    assert counts["archive_sessions"] == 1
    assert counts["archived_objects"] == 200
    assert counts["archived_duplicates"] == 0
    assert site.ask("receipt", str(delivery["id"]))["counts"]["verified"] == 200
    (told,) = mail.wait_for(1)
    assert "200 verified" in told.get_content()


def test_s4_a_flipped_byte_is_found_and_only_that_file_is_sent_again(make_site) -> None:
    site = make_site()
    site.start_agent()
    session = site.instrument / "DEMO" / "sub-001" / "MR1"
    write_series(session, 8)
    incoming = site.inbox / ".lading" / "incoming"
    site.until(lambda: len(list(incoming.glob("*/manifest.json"))) == 1, seconds=30, why="the delivery is sealed")
    (slot,) = incoming.iterdir()
    flipped = slot / "data" / "0005.dcm"
    info = flipped.stat()
    damaged = bytearray(flipped.read_bytes())
    damaged[4000] ^= 1
    flipped.write_bytes(damaged)
    os.utime(flipped, ns=(info.st_atime_ns, info.st_mtime_ns))
    untouched = {p.name: p.stat().st_ino for p in (slot / "data").iterdir() if p.name != "0005.dcm"}

    site.start_server()
    (delivery,) = site.settle(1, seconds=60)

    assert delivery["stage"] == "VERIFIED"
    published = site.inbox / "DEMO" / "sub-001" / "MR1"
    assert (published / "0005.dcm").read_bytes() == (session / "0005.dcm").read_bytes()
    assert {p.name: p.stat().st_ino for p in published.iterdir() if p.name != "0005.dcm"} == untouched
    history = json.dumps(site.ask("show", str(delivery["id"])))
    assert "0005.dcm" in history


def test_s5_a_source_that_changes_after_it_was_listed_is_planned_again(make_site) -> None:
    site = make_site(
        transport='{{ kind = "rsync", target = "{}", throttle = {{ mb_per_s = 0.3 }} }}'.format("INBOX"), quiet=1
    )
    settings = site.root / "lading.toml"
    settings.write_text(settings.read_text().replace('target = "INBOX"', f'target = "{site.inbox}"'))
    site.start_server()
    session = site.instrument / "DEMO" / "sub-001" / "MR1"
    write_series(session, 3)
    (session / "physio.bin").write_bytes(os.urandom(1_500_000))
    site.start_agent()
    # Looking at the inbox itself: asking the command line takes longer than the carry on a busy machine.
    site.until(
        lambda: any((site.inbox / ".lading" / "incoming").iterdir()), seconds=60, why="the delivery is on its way"
    )

    with (session / "physio.bin").open("ab") as file:
        file.write(b"!")
    (delivery,) = site.settle(1, seconds=90)

    assert delivery["stage"] == "VERIFIED"
    per_file = {f["path"]: f["size"] for f in site.ask("receipt", str(delivery["id"]))["per_file"]}
    assert per_file["physio.bin"] == 1_500_001
    assert "changed" in json.dumps(site.ask("show", str(delivery["id"]))["events"])


def test_s6_an_unmounted_share_is_refused_without_writing_a_byte_and_recovers(make_site, mail: MailServer) -> None:
    site = make_site(more=mail_tables(mail.port, alarm_after=1))
    away = site.root / "away"
    site.inbox.rename(away)
    site.inbox.mkdir()
    write_series(site.instrument / "DEMO" / "sub-001" / "MR1", 2)
    site.start_agent()

    site.until(
        lambda: any("sentinel" in str(d["error"]) for d in site.deliveries()),
        seconds=30,
        why="the missing sentinel is reported",
    )
    site.start_server()
    mail.wait_for(2)
    assert list(site.inbox.iterdir()) == []
    site.inbox.rmdir()
    away.rename(site.inbox)
    (delivery,) = site.settle(1, seconds=90)

    assert delivery["stage"] == "VERIFIED"
    mail.wait_for(5)
    # The agent sees that it cannot carry, the server that its inbox is away: each says so once, and once that it is over.
    seen = ["the inbox of route mri is not reachable", "the inbox main is not there"]
    assert sorted(told["Subject"] for told in mail.to(ADMIN)) == sorted(
        f"[lading] {word}: {what}" for what in seen for word in ("alarm", "well again")
    )
    assert len(mail.to("sub-001@example.org")) == 1
    said = (site.root / "logs" / "server.log").read_text()
    assert 1 <= said.count("inbox left out") <= 5  # supervisor and workers once each, not at every scan


@pytest.mark.root
@pytest.mark.skipif(os.geteuid() != 0, reason="mounting a small file system needs root")
def test_s7_a_full_staging_disk_is_refused_with_figures_and_resumes_when_there_is_room(
    make_site, tmp_path: Path
) -> None:
    small = tmp_path / "small"
    small.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64m", "tmpfs", str(small)], check=True)
    try:
        site = make_site(inbox=str(small), transport=f'{{ kind = "local", path = "{small}" }}', import_route="upload")
        session = site.instrument / "DEMO" / "sub-001" / "MR1"
        write_series(session, 2)
        (session / "huge.bin").write_bytes(bytes(80_000_000))
        site.start_agent()
        site.until(lambda: any(d["stage"] == "HELD" for d in site.deliveries()), seconds=30, why="too big is refused")
        (held,) = site.deliveries()
        assert "room for" in str(held["error"])
        assert "bytes are missing" in str(held["error"])
        assert not [p for p in (small / ".lading" / "incoming").rglob("*") if p.is_file() and p.stat().st_size > 1000]

        filler = small / "filler"
        filler.write_bytes(bytes(40_000_000))
        (session / "huge.bin").write_bytes(bytes(40_000_000))
        site.run("retry", str(held["id"]))
        time.sleep(4)
        assert site.deliveries()[0]["stage"] != "VERIFIED"
        filler.unlink()
        site.start_server()
        site.run("retry", str(held["id"]))
        site.until(
            lambda: site.deliveries()[0]["stage"] == "VERIFIED",
            seconds=60,
            why="it goes on when there is room",
            every=0.5,
        )
    finally:
        site.close()
        subprocess.run(["umount", "-l", str(small)], check=True)


def test_s8_a_repository_that_is_down_delays_but_loses_nothing(make_site, mail: MailServer) -> None:
    team = 'addresses = { DEMO = "team@example.org" }'
    site = make_site(more=mail_tables(mail.port, quiet=3, alarm_after=2, recovered_after=10, people=team))
    site.faults(down="502")
    site.start_server()
    site.start_agent()
    for number in (1, 2, 3):
        write_series(site.instrument / "DEMO" / f"sub-00{number}" / f"MR{number}", 2)
    site.until(
        lambda: sum(d["stage"] in ("QUEUED", "IMPORTING") for d in site.deliveries()) == 3, seconds=40, why="all wait"
    )
    time.sleep(2)
    site.kill("xnat")
    time.sleep(3)
    assert {d["stage"] for d in site.deliveries()} <= {"QUEUED", "IMPORTING"}

    site.start_xnat("DEMO:auto")
    site.xnat("DELETE", "faults")
    site.faults(session_expiry=1)
    found = site.settle(3, seconds=120)

    assert {d["stage"] for d in found} == {"VERIFIED"}
    counts = site.xnat("GET", "counts")
    assert counts["archive_sessions"] == 3
    assert counts["archived_duplicates"] == 0
    site.until(lambda: len(mail.to(ADMIN)) == 2, seconds=60, why="the alarm is called off")
    assert [told["Subject"] for told in mail.to(ADMIN)] == [
        "[lading] alarm: xnat is not reachable",
        "[lading] well again: xnat is not reachable",
    ]
    texts = [told.get_content() for told in mail.to("team@example.org")]
    assert [sum(f"delivery {d['id']}" in text for text in texts) for d in found] == [1, 1, 1]


def test_s25_an_agent_that_is_off_is_an_alarm_until_it_runs_again(make_site, mail: MailServer) -> None:
    site = make_site(more=mail_tables(mail.port, alarm_after=1))
    site.start_server()
    (alarm,) = mail.wait_for(1)
    assert alarm["Subject"] == "[lading] alarm: the agent of this machine does not run"
    assert "Next: lading agent run" in alarm.get_content()

    site.start_agent()

    assert mail.wait_for(2)[1]["Subject"] == "[lading] well again: the agent of this machine does not run"


def spoil(session: Path, count: int) -> None:
    write_series(session, count)
    first, second, third = sorted(session.iterdir())[:3]
    first.write_bytes(first.read_bytes()[:5000])
    second.write_text("this is no image\n")
    third.unlink()
    write_series(session / "stray", 1, study=new_study(), number=9)


def test_s10_a_session_with_bad_files_is_held_whole_and_every_bad_file_is_named(site: Facility) -> None:
    spoil(site.instrument / "DEMO" / "sub-001" / "MR1", 30)

    (delivery,) = site.settle(1)

    shown = json.dumps(site.ask("show", str(delivery["id"]))["findings"])
    assert delivery["stage"] == "REJECTED"
    for name in ("0001.dcm", "0002.dcm", "stray/0001.dcm"):
        assert name in shown
    assert site.xnat("GET", "counts")["objects_received"] == 0


def test_s10_by_policy_the_bad_files_are_left_out_and_listed_and_the_rest_is_imported(make_site) -> None:
    site = make_site(checks='[routes.mri.checks.dicom]\non_bad_file = "skip"\nother_study = "skip"')
    site.start_server()
    site.start_agent()
    spoil(site.instrument / "DEMO" / "sub-001" / "MR1", 30)

    (delivery,) = site.settle(1, seconds=90)

    receipt = site.ask("receipt", str(delivery["id"]))
    filtered = {f["path"] for f in receipt["per_file"] if f["outcome"] == "filtered"}
    assert delivery["stage"] == "VERIFIED"
    assert filtered == {"0001.dcm", "0002.dcm", "stray/0001.dcm"}
    assert receipt["counts"] == {"verified": 27, "filtered": 3}
    assert not receipt["proves_all"]
    assert site.xnat("GET", "counts")["archived_objects"] == 27
    assert site.xnat("GET", "counts")["archive_sessions"] == 1


def test_s11_files_that_xnat_drops_silently_are_missed_and_sent_again(make_site) -> None:
    site = make_site()
    site.faults(inbox_drop_files=["0003.dcm", "0007.dcm"])
    site.start_server()
    site.start_agent()
    session = site.instrument / "DEMO" / "sub-001" / "MR1"
    uids = {read_uid(p) for p in write_series(session, 10)}

    (delivery,) = site.settle(1, seconds=90)

    counts = site.xnat("GET", "counts")
    assert delivery["stage"] == "VERIFIED"
    assert len(uids) == counts["archived_objects"] == 10
    assert counts["archived_duplicates"] == 0
    assert counts["archive_sessions"] == 1
    assert len(list((site.inbox / "DEMO" / "sub-001" / "MR1").glob("*.dcm"))) == 10
    assert site.ask("receipt", str(delivery["id"]))["proves_all"]


def test_s12_a_half_filled_resource_with_blank_digests_is_completed(make_site) -> None:
    site = make_site()
    site.start_server()
    session = site.instrument / "DEMO" / "sub-001" / "MR1"
    write_series(session, 2)
    for number in range(8):
        (session / f"physio{number}.log").write_text(f"trace {number}\n" * 50)
    site.start_agent()
    (delivery,) = site.settle(1, seconds=60)
    assert delivery["stage"] == "VERIFIED"
    catalogue = list((site.root / "xnat" / "archive").rglob("physio*.log"))
    for lost in sorted(catalogue)[:3]:
        lost.unlink()

    answer = site.run("verify", str(delivery["id"]), "--wait", "--timeout", "60")
    assert answer.returncode == 5, answer.stdout
    assert "3 missing" in answer.stdout
    assert site.run("retry", str(delivery["id"])).returncode == 0
    site.until(lambda: site.deliveries()[0]["stage"] == "VERIFIED", seconds=60, why="repaired", every=0.5)

    assert len(list((site.root / "xnat" / "archive").rglob("physio*.log"))) == 8
    assert site.ask("receipt", str(delivery["id"]))["proves_all"]


@pytest.mark.slow
def test_s15_an_import_storm_never_exceeds_the_limit_and_the_urgent_one_passes(make_site) -> None:
    site = make_site(workers=2)
    site.faults(inbox_delay_s=1.0)
    for user in range(6):
        site.xnat("POST", "projects", {"id": f"P{user}", "prearchive_code": 4})
    for job in range(40):
        session = site.root / "storm" / f"P{job % 6}" / "sub-001" / f"MR{job}"
        write_series(session, 1)
        labels = ("--project", f"P{job % 6}", "--participant", "sub-001", "--session", f"MR{job}")
        sent = site.run("send", str(session), "--route", "mri", *labels)
        assert sent.returncode == 0, sent.stderr
    incoming = site.inbox / ".lading" / "incoming"
    site.until(lambda: len(list(incoming.glob("*/manifest.json"))) == 40, seconds=90, why="all 40 lie in the inbox")
    site.start_server()

    def begun() -> list[str]:
        """The stand-in's own record, in the order of the requests: a look now and then misses some on a busy machine."""
        per_label = site.xnat("GET", "counts")["inbox_requests_per_label"]
        assert isinstance(per_label, dict)
        return list(per_label)

    at_once: list[int] = []
    urgent = ""
    write_series(site.root / "urgent", 1)
    deadline = time.monotonic() + 180
    while time.monotonic() < deadline and site.xnat("GET", "counts")["archive_sessions"] != 41:
        active = json.loads(ask_xnat(site, "GET", "xapi/dicom/list/active"))
        at_once.append(len([r for r in active if r["status"] in ("Queued", "Accepted", "Importing", "Trawling")]))
        if len(begun()) >= 6 and not urgent:
            labels = ("--project", "P5", "--participant", "sub-009", "--session", "URGENT")
            sent = site.ask("send", str(site.root / "urgent"), "--route", "mri", *labels, "--priority", "10")
            urgent = str(sent["id"])
        time.sleep(0.03)
    found = site.settle(41, seconds=60)
    order = begun()

    assert {d["stage"] for d in found} == {"VERIFIED"}
    assert max(at_once) <= 2
    assert len({label.split("/")[0] for label in order[:7]}) >= 5
    assert order.index("P5/sub-009/URGENT") < 36
    assert site.xnat("GET", "counts")["archived_duplicates"] == 0
