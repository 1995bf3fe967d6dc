"""S1, S2, S9, S22 and the daily commands: what a good evening looks like."""

import hashlib
import json
import shutil
import threading
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from lading.testing.dicom import new_study, write_series
from lading.testing.facility import Facility, mail_tables
from lading.testing.mailserver import MailServer


def digests(folder: Path) -> dict[str, str]:
    return {
        p.relative_to(folder).as_posix(): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in folder.rglob("*")
        if p.is_file()
    }


def in_xnat(site: Facility, path: str) -> list[dict[str, str]]:
    """Asks the repository itself, not the program under test."""
    request = urllib.request.Request(f"{site.url}/data/{path}?format=json")
    request.add_header("Authorization", "Basic YWRtaW46YWRtaW4=")
    with urllib.request.urlopen(request, timeout=100) as answer:
        return list(json.loads(answer.read())["ResultSet"]["Result"])


@contextmanager
def still_writing(path: Path, rest: bytes) -> Iterator[None]:
    """Appends a byte now and then, from a thread of its own, and all that is left at the end."""
    done = threading.Event()

    def append() -> None:
        position = 0
        with path.open("ab", buffering=0) as file:
            while not done.wait(0.2):
                file.write(rest[position : position + 1])
                position += 1
            file.write(rest[position:])

    writer = threading.Thread(target=append)
    writer.start()
    try:
        yield
    finally:
        done.set()
        writer.join()


def test_s1_a_clean_session_is_verified_file_by_file_and_the_source_is_kept(make_site, mail: MailServer) -> None:
    site = make_site(workers=2, more=mail_tables(mail.port))
    site.start_server(prepared=False)
    site.start_agent()
    session = site.instrument / "DEMO" / "sub-001" / "MR1"
    write_series(session / "scans", 3)
    (session / "notes.txt").write_text("operator: alice\n")
    (session / "Thumbs.db").write_bytes(bytes(100))
    before = digests(site.instrument)

    (delivery,) = site.settle(1)

    assert delivery["stage"] == "VERIFIED"
    receipt = site.ask("receipt", str(delivery["id"]))
    per_file = {f["path"]: f for f in receipt["per_file"]}
    proven = {path: f["sha256"] for path, f in per_file.items() if f["outcome"] == "verified"}
    assert proven == {p.relative_to(session).as_posix(): before[p.relative_to(site.instrument).as_posix()]
                      for p in session.rglob("*") if p.is_file() and p.name != "Thumbs.db"}  # fmt: skip
    assert per_file["Thumbs.db"]["outcome"] == "filtered"
    assert "Windows" in per_file["Thumbs.db"]["how"]
    assert receipt["proves_all"]
    assert digests(site.instrument) == before
    assert len(in_xnat(site, "projects/DEMO/experiments")) == 1
    assert site.xnat("GET", "counts")["objects_received"] == 3
    (told,) = mail.wait_for(1)
    text = told.get_content()
    (experiment,) = in_xnat(site, "projects/DEMO/experiments")
    assert told["To"] == "sub-001@example.org"
    assert "DEMO/sub-001/MR1" in text
    assert "4 verified, 1 filtered" in text
    assert f"{site.url}/data/experiments/{experiment['ID']}" in text


def test_s2_a_growing_session_is_left_alone_even_with_its_marker_there(make_site) -> None:
    site = make_site(quiet=5, watch='marker = "DONE.txt"')
    site.start_server()
    site.start_agent()
    session = site.instrument / "DEMO" / "sub-001" / "MR1"
    paths = write_series(session, 2)
    whole = paths[1].read_bytes()
    paths[1].write_bytes(whole[:1000])

    # Looking may take longer than the quiet period on a busy machine: the writing must not wait for it.
    with still_writing(paths[1], whole[1000:]):
        for step in range(6):
            time.sleep(1)
            if step == 3:
                (session / "DONE.txt").touch()
            assert site.deliveries() == []
            assert not list((site.inbox / ".lading" / "incoming").iterdir())
    (delivery,) = site.settle(1)

    assert delivery["stage"] == "VERIFIED"
    assert site.xnat("GET", "counts")["inbox_requests_per_label"] == {"DEMO/sub-001/MR1": 1}


def test_s9_a_mistyped_participant_is_quarantined_with_a_suggestion_and_released_by_fix(
    make_site, mail: MailServer
) -> None:
    site = make_site(more=mail_tables(mail.port))
    site.start_server()
    site.start_agent()
    write_series(site.instrument / "DEMO" / "sub-O07" / "MR1", 2)

    (refused,) = site.settle(1)

    assert refused["stage"] == "REJECTED"
    assert "sub-007" in str(refused["next"])
    assert in_xnat(site, "projects/DEMO/subjects") == []
    assert in_xnat(site, "projects/DEMO/experiments") == []
    (told,) = mail.wait_for(1)
    assert told["To"] == "sub-O07@example.org"
    assert told["Subject"] == "[lading] 1 session refused"
    assert f"next: {refused['next']}" in told.get_content()
    quarantined = site.inbox / ".lading" / "quarantine" / str(refused["id"])
    assert len(list(quarantined.rglob("*.dcm"))) == 2

    fixed = site.run("fix", str(refused["id"]), "--participant", "sub-007")
    assert fixed.returncode == 0, fixed.stderr
    site.until(lambda: site.deliveries()[0]["stage"] == "VERIFIED", seconds=40, why="the mended delivery is verified")

    assert [s["label"] for s in in_xnat(site, "projects/DEMO/subjects")] == ["sub-007"]
    final = mail.wait_for(2)[1]
    assert final["To"] == "sub-007@example.org"
    assert final["Subject"] == "[lading] 1 session arrived"
    assert len(mail.mails) == 2


def test_s22_only_what_the_repository_provably_holds_is_cleaned(make_site, mail: MailServer) -> None:
    site = make_site(watch="clean = true\ngrace_days = 1", more=mail_tables(mail.port))
    site.start_server()
    site.start_agent()
    for number in (1, 2):
        write_series(site.instrument / "DEMO" / f"sub-00{number}" / f"MR{number}", 2)
    (site.instrument / "DEMO" / "sub-001" / "MR1" / "Thumbs.db").write_bytes(b"junk")
    by_participant = {d["labels"]["participant"]: d["id"] for d in site.settle(2)}
    site.until(
        lambda: all(d["stage"] == "VERIFIED" and "agent" in d["known_to"] for d in site.deliveries())
        and all(site.ask("show", d)["receipt"] for d in by_participant.values()),
        seconds=20, why="the agent has both receipts",
    )  # fmt: skip
    site.stop("agent")

    in_grace = site.ask("clean", "--dry-run")
    lost = next(p for p in (site.root / "xnat" / "archive").rglob("*.dcm") if "MR2" in p.parts)
    lost.unlink()
    site.run("verify", by_participant["sub-002"], "--wait", "--timeout", "30")
    dry = site.ask("clean", "--dry-run", "--now")
    clean = site.ask("clean", "--now")

    def sources(answer: dict[str, object], word: str) -> dict[str, int]:
        return {line["id"]: line["files"] for line in answer["cleaned"] if line["what"] == f"source {word}"}

    assert set(sources(in_grace, "kept")) == set(by_participant.values())
    assert sources(dry, "would be removed") == {by_participant["sub-001"]: 2}
    assert sources(clean, "removed") == {by_participant["sub-001"]: 2}
    assert not (site.inbox / "DEMO" / "sub-001").exists() or not list((site.inbox / "DEMO" / "sub-001").rglob("*.dcm"))
    assert len(list((site.inbox / "DEMO" / "sub-002").rglob("*.dcm"))) == 2
    left = sorted(p.relative_to(site.instrument).as_posix() for p in site.instrument.rglob("*") if p.is_file())
    assert left == ["DEMO/sub-001/MR1/Thumbs.db", "DEMO/sub-002/MR2/0001.dcm", "DEMO/sub-002/MR2/0002.dcm"]
    undo = (site.root / "state" / "cleaned" / f"{by_participant['sub-001']}.jsonl").read_text()
    assert "0001.dcm" in undo
    assert "0002.dcm" in undo
    held = site.ask("show", by_participant["sub-002"])
    assert held["stage"] == "HELD"
    mail.wait_for(4)
    (alarm,) = mail.to("admin@example.org")
    assert "1 missing" in alarm.get_content()
    assert by_participant["sub-002"] in alarm.get_content()
    assert "next: lading " in alarm.get_content()


def test_send_returns_at_once_and_wait_stays_until_the_repository_holds_it(make_site) -> None:
    site = make_site()
    session = site.root / "elsewhere" / "scan"
    write_series(session, 2)

    # No server runs: who waited for the repository would wait in vain.
    taken = site.ask(
        "send", str(session), "--route", "mri", "--project", "DEMO", "--participant", "sub-001", "--session", "MR1"
    )
    site.start_server()
    again = site.run(
        "send", str(session), "--route", "mri", "--project", "DEMO", "--participant", "sub-001", "--session", "MR1", "--wait",
        "--timeout", "100", "--json-lines",
    )  # fmt: skip

    assert again.returncode == 0, again.stdout + again.stderr
    *steps, end = [json.loads(line) for line in again.stdout.splitlines()]
    assert {step["event"] for step in steps} == {"progress"}
    assert (steps[-1]["id"], steps[-1]["stage"]) == (taken["id"], "VERIFIED")
    assert (steps[-1]["files_done"], steps[-1]["files"], steps[-1]["bytes_done"]) == (2, 2, steps[-1]["bytes"])
    assert (end["event"], end["exit_code"], end["deliveries"][0]["stage"]) == ("end", 0, "VERIFIED")
    assert [d["id"] for d in site.deliveries()] == [taken["id"]]
    assert site.xnat("GET", "counts")["inbox_requests_per_label"] == {"DEMO/sub-001/MR1": 1}


def test_a_dry_run_names_what_would_be_filtered_and_sends_nothing(make_site) -> None:
    site = make_site(route='exclude = ["*.tmp"]')
    session = site.instrument / "DEMO" / "sub-001" / "MR1"
    write_series(session, 2)
    (session / "scratch.tmp").write_text("x")
    (session / "._0001.dcm").write_text("x")

    shown = site.ask("send", str(session), "--route", "mri", "--dry-run")

    assert shown["files"] == 2
    assert {f["path"]: f["reason"] for f in shown["filtered"]} == {
        "scratch.tmp": "excluded by '*.tmp'",
        "._0001.dcm": "junk: macOS resource fork",
    }
    assert not list((site.inbox / ".lading" / "incoming").iterdir())
    assert site.deliveries() == []


def test_a_bare_delivery_dropped_into_the_inbox_is_taken_and_marked_unverified_at_source(make_site) -> None:
    site = make_site()
    site.start_server()
    write_series(site.root / "staging" / "MR1", 2)
    target = site.inbox / "DEMO" / "sub-001"
    target.mkdir(parents=True)
    shutil.move(site.root / "staging" / "MR1", target / "MR1")

    (delivery,) = site.settle(1)

    assert delivery["stage"] == "VERIFIED"
    assert "unverified at source" in json.dumps(site.ask("show", str(delivery["id"])))


def test_two_studies_in_one_session_are_refused_naming_both(site: Facility) -> None:
    studies = [new_study(), new_study()]
    for number, study in enumerate(studies, 1):
        write_series(site.instrument / "DEMO" / "sub-001" / "MR1" / f"s{number}", 2, study=study)

    (delivery,) = site.settle(1)

    findings = site.ask("show", str(delivery["id"]))["findings"]
    assert delivery["stage"] == "REJECTED"
    said = " ".join(f["message"] for f in findings if f["code"] == "two-studies-in-session")
    assert all(study in said for study in studies)
    assert in_xnat(site, "projects/DEMO/experiments") == []


def test_show_answers_with_everything_a_machine_needs(site: Facility) -> None:
    write_series(site.instrument / "DEMO" / "sub-001" / "MR1", 2)
    (delivery,) = site.settle(1)

    shown = site.ask("show", str(delivery["id"]))

    assert {"id", "route", "stage", "labels", "files", "bytes", "findings", "events", "receipt"} <= set(shown)
    assert shown["labels"] == {"project": "DEMO", "participant": "sub-001", "session": "MR1"}
    stages = [event["stage"] for event in shown["events"]]
    for stage in ("ARRIVED", "ACCEPTED", "QUEUED", "IMPORTING", "IMPORTED", "VERIFIED"):
        assert stage in stages
    assert all(set(event) == {"at", "stage", "note"} for event in shown["events"])


def test_participants_may_share_a_session_name_when_the_label_is_made_of_both(make_site) -> None:
    site = make_site(repository="")
    settings = site.root / "lading.toml"
    settings.write_text(
        settings.read_text().replace(
            'import = { route = "inbox" }', 'import = { route = "inbox", session_label = "{participant}_{session}" }'
        )
    )
    site.start_server()
    site.start_agent()
    for number in (1, 2):
        write_series(site.instrument / "DEMO" / f"sub-00{number}" / "MR1", 2)

    found = site.settle(2)

    assert {d["stage"] for d in found} == {"VERIFIED"}
    assert {e["label"] for e in in_xnat(site, "projects/DEMO/experiments")} == {"sub-001_MR1", "sub-002_MR1"}
