"""The stand-in for Globus is taken for Globus by the unmodified globus-sdk, and by the `globus` command."""

import os
import re
import shutil
import subprocess
import time
import urllib.request
from pathlib import Path

import pytest

from lading.testing import trees

globus_sdk = pytest.importorskip("globus_sdk", reason="globus-sdk is not installed (extra: globus)")
from lading.testing.globus_stand_in import CLIENT, SECRET, collection, globus  # noqa: E402 - needs what globus-sdk needs

NATIVE = "4c5d6e7f-0000-4000-8000-000000001234"
LOGIN_SCOPES = ["urn:globus:auth:scope:transfer.api.globus.org:all", "openid"]
# It pins an older click than ours: it lives in a venv of its own.
OWN = Path(__file__).parents[2] / ".cache" / "globus-cli" / "bin" / "globus"  # tools/globus-cli.sh
COMMAND = shutil.which("globus") or shutil.which(os.environ.get("LADING_GLOBUS_CLI", str(OWN)))


@pytest.fixture
def server(tmp_path):
    trees.plain_tree(tmp_path / "here" / "run 1")
    (tmp_path / "there").mkdir()
    with globus(tmp_path / "here", tmp_path / "there") as running:
        yield running


@pytest.fixture
def client(server):
    return service(server)


def service(server):
    login = globus_sdk.ConfidentialAppAuthClient(CLIENT, SECRET, base_url=server.url)
    authorizer = globus_sdk.ClientCredentialsAuthorizer(login, LOGIN_SCOPES[0])
    return globus_sdk.TransferClient(authorizer=authorizer, base_url=server.url)


def ends(server):
    return collection(server, "Microscope").id, collection(server, "Inbox").id


def transfer(server, client, **options):
    here, there = ends(server)
    data = globus_sdk.TransferData(here, there, verify_checksum=True, preserve_timestamp=True, **options)
    data.add_item("/run 1/", "/in box/run 1/", recursive=True)
    return data


def ended(client, task_id):
    deadline = time.monotonic() + 60
    while (task := client.get_task(task_id))["status"] == "ACTIVE" and time.monotonic() < deadline:
        time.sleep(0.02)
    return task


def code_of(url):
    with urllib.request.urlopen(url) as page:
        return re.search(r"<code>(\w+)", page.read().decode())[1]


def test_a_folder_arrives_with_times_and_a_record_per_file(server, client, tmp_path):
    data = transfer(server, client)

    submitted = client.submit_transfer(data)
    again = client.submit_transfer(data)
    task = ended(client, submitted["task_id"])

    assert (task["status"], task["files_transferred"], task["faults"]) == ("SUCCEEDED", 12, 0)
    assert (again["code"], again["task_id"]) == ("Duplicate", submitted["task_id"])
    source, target = tmp_path / "here" / "run 1", tmp_path / "there" / "in box" / "run 1"
    assert trees.look(target) == trees.look(source)
    assert trees.times(target) == trees.times(source)
    record = list(client.paginated.task_successful_transfers(submitted["task_id"]).items())
    assert {one["checksum"] for one in record} == {digest for _, digest in trees.look(source).values()}


def test_checksums_find_the_one_file_that_differs(server, client, tmp_path):
    ended(client, client.submit_transfer(transfer(server, client))["task_id"])
    victim = next((tmp_path / "there").rglob("*.dcm"))
    victim.write_bytes(bytes(victim.stat().st_size))

    task = ended(client, client.submit_transfer(transfer(server, client, sync_level="checksum"))["task_id"])

    assert (task["files_skipped"], task["files_transferred"]) == (11, 1)
    assert trees.look(tmp_path / "there" / "in box" / "run 1") == trees.look(tmp_path / "here" / "run 1")


def test_a_damaged_copy_is_noticed_and_copied_again(server, client, tmp_path):
    server.world.faults.corrupt_next = 1

    task = ended(client, client.submit_transfer(transfer(server, client))["task_id"])

    assert (task["status"], task["faults"]) == ("SUCCEEDED", 1)
    assert "VERIFY_CHECKSUM" in {one["code"] for one in client.paginated.task_event_list(task["task_id"]).items()}
    assert trees.look(tmp_path / "there" / "in box" / "run 1") == trees.look(tmp_path / "here" / "run 1")


def test_a_checksum_given_from_outside_that_does_not_hold_fails_the_task(server, client, tmp_path):
    here, there = ends(server)
    file = next((tmp_path / "here").rglob("*.dcm")).relative_to(tmp_path / "here").as_posix()
    data = globus_sdk.TransferData(here, there)
    data.add_item(f"/{file}", "/x", external_checksum="0" * 64, checksum_algorithm="SHA256")

    task = ended(client, client.submit_transfer(data)["task_id"])

    assert (task["status"], task["fatal_error"]["code"]) == ("FAILED", "VERIFY_CHECKSUM")


def test_a_file_that_is_not_there_keeps_the_task_active_until_it_is_cancelled(server, client):
    here, there = ends(server)
    data = globus_sdk.TransferData(here, there)
    data.add_item("/not there", "/x")

    task_id = client.submit_transfer(data)["task_id"]
    deadline = time.monotonic() + 120
    while client.get_task(task_id)["nice_status"] != "FILE_NOT_FOUND" and time.monotonic() < deadline:
        time.sleep(0.02)
    task = client.get_task(task_id)
    client.cancel_task(task_id)

    assert (task["status"], task["is_ok"]) == ("ACTIVE", False)
    assert ended(client, task_id)["fatal_error"]["code"] == "CANCELED"


def test_a_missing_consent_is_named_and_given_by_a_second_login(server):
    inbox = collection(server, "Inbox")
    inbox.needs_consent = True
    person = globus_sdk.NativeAppAuthClient(NATIVE, base_url=server.url)
    person.oauth2_start_flow(LOGIN_SCOPES, refresh_tokens=True)
    tokens = person.oauth2_exchange_code_for_tokens(code_of(person.oauth2_get_authorize_url()))
    refresh = tokens.by_resource_server["transfer.api.globus.org"]["refresh_token"]
    authorizer = globus_sdk.RefreshTokenAuthorizer(refresh, person)
    client = globus_sdk.TransferClient(authorizer=authorizer, base_url=server.url)

    with pytest.raises(globus_sdk.TransferAPIError) as caught:
        client.operation_ls(inbox.id, "/")
    asked = caught.value.info.consent_required.required_scopes
    again = globus_sdk.NativeAppAuthClient(NATIVE, base_url=server.url)
    again.oauth2_start_flow(asked, refresh_tokens=True)
    again.oauth2_exchange_code_for_tokens(code_of(again.oauth2_get_authorize_url()))

    assert inbox.id in asked[0]
    assert list(client.operation_ls(inbox.id, "/")) == []


def test_forgotten_tokens_are_renewed_and_a_wrong_secret_is_refused(server, client):
    here, _ = ends(server)
    server.tokens.forget()

    assert client.get_endpoint(here)["display_name"] == "Microscope"
    stranger = globus_sdk.ConfidentialAppAuthClient(CLIENT, "wrong", base_url=server.url)
    with pytest.raises(globus_sdk.AuthAPIError):
        stranger.oauth2_client_credentials_tokens(LOGIN_SCOPES[0])


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        ({"online": False}, 502, "GCDisconnected"),
        ({"paused": True}, 409, "Paused"),
        ({"readable": False}, 403, "PermissionDenied"),
    ],
)
def test_each_trouble_of_a_collection_has_its_own_answer(server, client, change, status, code):
    place = collection(server, "Microscope")
    for name, value in change.items():
        setattr(place, name, value)
    client.retry_config.max_retries = 0

    with pytest.raises(globus_sdk.TransferAPIError) as caught:
        client.operation_ls(place.id, "/")

    assert caught.value.http_status == status
    assert code in caught.value.code


def test_folders_are_listed_searched_made_renamed_and_removed(server, client, tmp_path):
    _, there = ends(server)

    client.operation_mkdir(there, "/a")
    client.operation_rename(there, "/a", "/b")
    (tmp_path / "there" / "b" / "file").write_bytes(b"1")
    names = [one["name"] for one in client.operation_ls(there, "/b", filter="name:=file")]
    found = [one["id"] for one in client.paginated.endpoint_search("inbox").items()]
    removal = globus_sdk.DeleteData(there, recursive=True)
    removal.add_item("/b")
    task = ended(client, client.submit_delete(removal)["task_id"])

    assert (names, found, task["status"]) == (["file"], [there], "SUCCEEDED")
    assert not (tmp_path / "there" / "b").exists()


@pytest.mark.slow
@pytest.mark.skipif(
    COMMAND is None, reason="the globus command is not installed (a venv of its own; LADING_GLOBUS_CLI)"
)
def test_the_globus_command_logs_in_lists_and_transfers(server, tmp_path):
    here, there = ends(server)
    url = server.url
    asked = {"GLOBUS_SDK_SERVICE_URL_AUTH": url, "GLOBUS_SDK_SERVICE_URL_TRANSFER": url, "HOME": str(tmp_path)}
    environment = {**os.environ, **asked, "GLOBUS_CLI_INTERACTIVE": "1", "PYTHONUNBUFFERED": "1"}
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.STDOUT}
    with subprocess.Popen([COMMAND, "login", "--no-local-server"], env=environment, text=True, **pipes) as login:
        page = next(found[0] for line in login.stdout if (found := re.search(r"http://127\S+", line)))
        said, _ = login.communicate(code_of(page) + "\n", timeout=120)
    assert login.returncode == 0, said

    def command(*words):
        ran = subprocess.run(
            [COMMAND, *words], env=environment, capture_output=True, text=True, timeout=120, check=False
        )
        assert ran.returncode == 0, ran.stdout + ran.stderr
        return ran.stdout

    assert "lab@example.org" in command("whoami")
    assert "run 1/" in command("ls", f"{here}:/")
    said = command("transfer", f"{here}:/run 1", f"{there}:/s", "--recursive", "--label", "x")
    task_id = re.search(r"Task ID: (\S+)", said)[1]
    command("task", "wait", "--polling-interval", "1", "--timeout", "60", task_id)
    assert trees.look(Path(tmp_path, "there", "s")) == trees.look(Path(tmp_path, "here", "run 1"))
