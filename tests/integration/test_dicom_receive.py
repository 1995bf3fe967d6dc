"""The DICOM receiver in front of a real sender (dcmtk): nothing that was acknowledged is ever lost."""

import json
import os
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pydicom
import pytest
from pydicom.uid import generate_uid
from pynetdicom import AE

from lading.inbox import Inbox, InboxLimits
from lading.testing.certificates import certificates
from lading.testing.dicom import MR_IMAGE, write_session
from lading.testing.dicom_nodes import STORESCU, Node, dataset, missing_for_dicom, store, storescu

pytestmark = pytest.mark.skipif(bool(missing_for_dicom()), reason=missing_for_dicom())

HEADER = {"PatientID": "sub-001", "StudyTime": "101500"}
SESSION = "DEMO/sub-001/20240101_101500"
NOT_UNDERSTOOD, OUT_OF_RESOURCES = 0xC000, 0xA700


@pytest.fixture
def node(tmp_path: Path) -> Node:
    made = Node(tmp_path / "node")
    made.configure()
    return made


def until(holds: Callable[[], bool], seconds: float = 120) -> bool:
    deadline = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def send_raw(port: int, image: Path, sop_instance: str = "", *, content: bytes | None = None) -> int:
    """C-STORE of anything; the status, or -1 when the node did not answer."""
    from io import BytesIO

    from pynetdicom.dimse_primitives import C_STORE

    entity = AE("SCANNER")
    entity.add_requested_context(MR_IMAGE, "1.2.840.10008.1.2.1")
    line = entity.associate("127.0.0.1", port, ae_title="LADING")
    assert line.is_established
    request = C_STORE()
    request.MessageID, request.Priority = 1, 2
    request.AffectedSOPClassUID = MR_IMAGE
    request.AffectedSOPInstanceUID = sop_instance or dataset(image)[0]
    request.DataSet = BytesIO(dataset(image)[1] if content is None else content)
    line._reactor_checkpoint.clear()
    line.dimse.send_msg(request, line.accepted_contexts[0].context_id)
    _, answer = line.dimse.get_msg(block=True)
    line._reactor_checkpoint.set()
    line.release()
    return int(answer.Status) if answer is not None else -1


def test_a_study_appears_whole_and_is_carried_by_the_agent(node: Node, tmp_path: Path) -> None:
    Inbox.create(node.base / "inbox", limits=InboxLimits(keep_free_bytes=0))
    write_session(tmp_path / "scan", 20, header=HEADER)
    sent = dict(map(dataset, (tmp_path / "scan").iterdir()))

    with node.running():
        code, output = store(node.port, tmp_path / "scan")
        assert code == 0, output
        assert until(lambda: SESSION in node.published())
    agent = node.command("agent", "run", "--once")
    arrived = lambda: list((node.base / "inbox" / ".lading" / "incoming").glob("*/manifest.json"))  # noqa: E731
    until(lambda: subprocess.run(agent, capture_output=True, timeout=120, check=True) and bool(arrived()))

    assert dict(map(dataset, node.published()[SESSION])) == sent
    assert json.loads(arrived()[0].read_text())["labels"] == {
        "project": "DEMO",
        "participant": "sub-001",
        "session": "20240101_101500",
    }


def test_kill_9_in_mid_association_loses_nothing_acknowledged(node: Node, tmp_path: Path) -> None:
    node.configure('projects = { LADING = "DEMO" }\nquiet = 2\nafter_broken = 600')
    write_session(tmp_path / "scan", 300, header=HEADER)
    sent = dict(map(dataset, (tmp_path / "scan").iterdir()))

    with node.running() as process:
        sender = storescu(node.port, tmp_path / "scan")
        assert sender.stdout is not None
        seen = ""
        while seen.count("Received Store Response") < 60:
            line = sender.stdout.readline()
            assert line, seen
            seen += line
        os.kill(process.pid, signal.SIGKILL)
        seen += sender.communicate(timeout=60)[0]
    in_order = [Path(line.partition("Sending file: ")[2]) for line in seen.splitlines() if "Sending file: " in line]
    acknowledged = in_order[: seen.count("Received Store Response (Success)")]
    kept = node.everything()
    assert len(acknowledged) >= 60
    assert {dataset(image)[0] for image in acknowledged} <= set(kept)
    assert all(sent[uid] == content for uid, content in kept.items())

    with node.running():
        time.sleep(3)
        assert not node.published(), "a broken association is waited for"
        assert store(node.port, tmp_path / "scan")[0] == 0
        assert until(lambda: SESSION in node.published())

    assert node.everything() == sent
    assert len(node.published()[SESSION]) == 300


def test_a_study_without_a_project_is_kept_and_appears_once_the_settings_name_one(node: Node, tmp_path: Path) -> None:
    write_session(tmp_path / "scan", 3, header=HEADER)
    unmatched = node.folder / ".dicom" / "unmatched"

    with node.running():
        assert store(node.port, tmp_path / "scan", called="NOBODY")[0] == 0
        assert until(lambda: bool(list(unmatched.glob("*.json"))))
    (note,) = unmatched.glob("*.json")
    kept = len(list(note.with_suffix("").iterdir()))
    reason = json.loads(note.read_text())["reason"]
    node.configure('projects = { LADING = "DEMO", NOBODY = "OTHER" }\nquiet = 0.2')
    with node.running():
        assert until(lambda: "OTHER/sub-001/20240101_101500" in node.published())

    assert kept == 3
    assert "NOBODY" in reason
    assert not list(unmatched.iterdir())
    assert len(node.everything()) == 3


def test_what_strangers_write_into_headers_stays_inside_the_folder(node: Node, tmp_path: Path) -> None:
    header = {"PatientID": "../../../etc/cron.d", "StudyTime": "/..\\..", "StudyDate": ""}
    node.configure('projects = { LADING = "DEMO" }\nquiet = 0.2\nsession = "{StudyTime}x"')
    write_session(tmp_path / "scan", 2, header=header)
    image = tmp_path / "scan" / "0001.dcm"
    evil = pydicom.dcmread(image)
    with pydicom.config.disable_value_validation():
        evil.SOPInstanceUID = evil.file_meta.MediaStorageSOPInstanceUID = pydicom.uid.UID("../../../../tmp/x")
        evil.StudyInstanceUID = pydicom.uid.UID("../y")
        evil.save_as(tmp_path / "evil.dcm")

    with node.running():
        assert send_raw(node.port, tmp_path / "evil.dcm") in {0, 0xC000, -1}
        assert store(node.port, tmp_path / "scan" / "0002.dcm")[0] == 0
        assert until(lambda: bool(node.published()))

    assert set(node.published()) == {"DEMO/etc_cron_d/x"}
    outside = [path for path in node.base.rglob("*.dcm") if node.folder not in path.parents]
    assert not outside


def test_an_image_that_cannot_be_read_is_refused_and_the_others_go_on(node: Node, tmp_path: Path) -> None:
    write_session(tmp_path / "scan", 2, header=HEADER)
    images = sorted((tmp_path / "scan").iterdir())

    with node.running():
        assert send_raw(node.port, images[0], content=b"\xff" * 400) == NOT_UNDERSTOOD
        assert send_raw(node.port, images[0], str(generate_uid())) == 0xA900
        assert send_raw(node.port, images[1]) == 0
        assert until(lambda: SESSION in node.published())

    assert [dataset(image) for image in node.published()[SESSION]] == [dataset(images[1])]
    assert not list((node.folder / ".dicom" / "arriving").iterdir())


def test_a_full_disk_refuses_images_instead_of_losing_them(node: Node, tmp_path: Path) -> None:
    settings = (node.base / "lading.toml").read_text().replace("keep_free_gb = 0", "keep_free_gb = 1e9")
    (node.base / "lading.toml").write_text(settings)
    write_session(tmp_path / "scan", 1, header=HEADER)

    with node.running():
        status = send_raw(node.port, tmp_path / "scan" / "0001.dcm")

    assert status == OUT_OF_RESOURCES
    assert not node.everything()


@pytest.mark.slow
def test_a_study_waits_for_the_images_that_its_headers_announce(node: Node, tmp_path: Path) -> None:
    write_session(tmp_path / "scan", 3, header={**HEADER, "NumberOfStudyRelatedInstances": "3"})
    images = sorted((tmp_path / "scan").iterdir())

    with node.running():
        assert store(node.port, *images[:2])[0] == 0
        time.sleep(3)
        assert not node.published()
        assert store(node.port, images[2])[0] == 0
        assert until(lambda: SESSION in node.published())

    assert len(node.published()[SESSION]) == 3


@pytest.mark.slow
def test_the_same_study_again_changes_nothing_and_a_late_image_joins_it(node: Node, tmp_path: Path) -> None:
    write_session(tmp_path / "scan", 3, header=HEADER)
    images = sorted((tmp_path / "scan").iterdir())
    receiving = node.folder / ".dicom" / "receiving"

    with node.running():
        assert store(node.port, *images[:2])[0] == 0
        assert until(lambda: SESSION in node.published())
        before = {path: path.stat().st_mtime_ns for path in node.published()[SESSION]}
        assert store(node.port, *images)[0] == 0
        assert until(lambda: len(node.published()[SESSION]) == 3 and not list(receiving.iterdir()))

    after = {path: path.stat().st_mtime_ns for path in node.published()[SESSION]}
    assert before.items() <= after.items()


@pytest.mark.slow
def test_another_study_with_the_same_labels_is_kept_apart(node: Node, tmp_path: Path) -> None:
    node.configure('projects = { LADING = "DEMO" }\nquiet = 0.2')
    write_session(tmp_path / "one", 2, header=HEADER)
    write_session(tmp_path / "two", 2, header=HEADER)

    with node.running():
        assert store(node.port, tmp_path / "one")[0] == 0
        assert until(lambda: SESSION in node.published())
        assert store(node.port, tmp_path / "two")[0] == 0
        assert until(lambda: bool(list((node.folder / ".dicom" / "unmatched").glob("*.json"))))

    assert len(node.published()[SESSION]) == 2
    assert len(node.everything()) == 4


@pytest.mark.slow
def test_a_caller_who_is_not_named_is_not_let_in(node: Node, tmp_path: Path) -> None:
    node.configure('projects = { LADING = "DEMO" }\nquiet = 0.2\ncallers = ["MRI1"]')
    write_session(tmp_path / "scan", 1, header=HEADER)

    with node.running():
        refused, _ = store(node.port, tmp_path / "scan", calling="STRANGER")
        taken, _ = store(node.port, tmp_path / "scan", calling="MRI1")

    assert refused != 0
    assert taken == 0


def test_with_tls_only_those_with_a_certificate_are_let_in(node: Node, tmp_path: Path) -> None:
    made = certificates(tmp_path / "tls")
    node.configure(
        f'projects = {{ LADING = "DEMO" }}\nquiet = 0.2\ncertificate = "{made.cert}"\nkey = "{made.key}"\nclient_ca = "{made.ca}"'
    )
    write_session(tmp_path / "scan", 1, header=HEADER)
    image = str(tmp_path / "scan" / "0001.dcm")
    to = ["-aec", "LADING", "127.0.0.1", str(node.port), image]

    with node.running():
        plain = subprocess.run([STORESCU, *to], capture_output=True, timeout=60, check=False)
        without = subprocess.run(
            [STORESCU, "+tla", "+cf", str(made.ca), *to], capture_output=True, timeout=60, check=False
        )
        own = ["+tls", str(made.key), str(made.cert), "+cf", str(made.ca)]
        named = subprocess.run([STORESCU, *own, *to], capture_output=True, timeout=60, check=False)
        assert until(lambda: SESSION in node.published())

    assert plain.returncode != 0
    assert without.returncode != 0
    assert named.returncode == 0, named.stderr


def test_a_port_open_to_the_network_needs_tls(node: Node) -> None:
    node.configure('host = "0.0.0.0"')

    done = subprocess.run(node.command("dicom", "receive"), capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 2
    assert "plain_text" in done.stderr


@pytest.mark.slow
def test_a_second_receiver_of_the_same_folder_is_refused(node: Node) -> None:
    with node.running():
        done = subprocess.run(node.command("dicom", "receive"), capture_output=True, text=True, timeout=60, check=False)

    assert done.returncode == 2
    assert "another receiver" in done.stderr
