"""Settings: what a person typed wrong is named, and paths mean what the file says."""

from pathlib import Path

import pytest

from lading.assembly import make_transport
from lading.cli.templates import starter
from lading.config import load
from lading.errors import ConfigError
from lading.inbox import Inbox
from lading.reporters import places
from lading.reporters.login import find_login
from omero_importer.credentials import find as omero_login
from transport.logins import password
from xnat_importer.credentials import find as xnat_login


def write(folder: Path, text: str) -> Path:
    path = folder / "lading.toml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("[routes.mri\n", "not valid TOML"),
        ("[routes.mri]\ninbx = 'main'\n", "unknown key 'inbx'; did you mean 'inbox'?"),
        ("[routes.mri]\ninbox = 'mian'\n[inboxes.main]\npath = 'x'\n", "did you mean 'main'?"),
        ("[server]\nworkers = 'two'\n", "server.workers: expected int, found 'two'"),
        ("[server]\nworkers = true\n", "server.workers: expected int, found True"),
        ("[routes.mri]\nexclude = '*.tmp'\n", "exclude: expected an array"),
        ("[[agent.watch]]\npath = 'a'\nroute = 'mir'\n[routes.mri]\n", "no route 'mir'"),
        ("[[agent.watch]]\nroute = 'mri'\n[routes.mri]\n", "agent.watch[0].path: the key 'path' is missing"),
        ("[inboxes.main]\npath = 'x'\nbare_route = 'mry'\n[routes.mri]\n", "did you mean 'mri'?"),
        ("[[agent.watch]]\npath = 'a'\nroute = 'mri'\nquiet = -5\n[routes.mri]\n", "'quiet' must be >= 0.0: -5.0"),
        ("[repositories.xnat]\nkind = 'xnat'\nimports = -2\n", "'imports' must be >= 1: -2"),
        ("[inboxes.a]\npath = 'x'\n[inboxes.b]\npath = 'y/../x'\n", "inboxes.a and inboxes.b are the same folder"),
        ("[routes.mri]\npriority = 5000\n", "'priority' must be <= 1000: 5000"),
        ("[server]\nworkers = 0\n", "'workers' must be >= 1: 0"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_its_key(tmp_path: Path, text: str, said: str) -> None:
    path = write(tmp_path, text)

    with pytest.raises(ConfigError) as caught:
        load(path)

    assert said in caught.value.message
    assert str(path) in caught.value.message
    assert caught.value.next_command == f"edit {path}"


def test_settings_saved_by_an_editor_of_windows_are_read(tmp_path: Path) -> None:
    path = tmp_path / "lading.toml"
    path.write_bytes(b"\xef\xbb\xbf[server]\r\nworkers = 3\r\n")

    assert load(path).server.workers == 3


def test_relative_paths_are_relative_to_the_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Inbox.create(tmp_path / "inbox")
    path = write(
        tmp_path,
        'home = "state"\n[inboxes.main]\npath = "inbox"\n[routes.mri]\ntransport = { kind = "local", path = "inbox" }\n',
    )
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    config = load(path)
    make_transport(config, "mri").probe()

    assert config.home == tmp_path / "state"
    assert config.inboxes["main"].path == tmp_path / "inbox"


WITH_SECRETS = """
[metrics]
token = "file:secrets/word"
[mail]
credentials = "file:secrets/login.toml"
[reporters.chat]
kind = "apprise"
urls = "file:secrets/chat.toml"
[repositories.xnat]
kind = "xnat"
url = "https://xnat.example.org"
credentials = "netrc:secrets/netrc"
[repositories.omero]
kind = "omero"
host = "omero.example.org"
credentials = "file:secrets/login.toml"
[routes.mri]
transport = { kind = "sftp", target = "file:data", password = "file:secrets/word" }
fetch = { kind = "globus", account = { client = "one", secret = "file:secrets/word" } }
"""


def test_secrets_in_files_are_relative_to_the_settings_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Seen: the server ran as a service, in another folder than `lading doctor`, and found no login.
    secrets = tmp_path / "secrets"
    secrets.mkdir()
    for name, text in (
        ("word", "open sesame\n"),
        ("login.toml", 'user = "lading"\npassword = "open sesame"\n'),
        ("chat.toml", 'urls = ["json://localhost"]\n'),
        ("netrc", "machine xnat.example.org login lading password sesame\n"),
    ):
        (secrets / name).write_text(text)
        (secrets / name).chmod(0o600)
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")

    config = load(write(tmp_path, WITH_SECRETS))

    transport, fetch = config.routes["mri"].transport, config.routes["mri"].fetch
    account = fetch["account"]
    assert isinstance(account, dict)
    for spec in (config.metrics.token, str(transport["password"]), str(account["secret"])):
        assert password(spec, "somebody") == "open sesame"
    found = find_login(config.mail.credentials, "mail.example.org")
    assert found is not None
    assert found.user == "lading"
    assert omero_login(str(config.repositories["omero"].settings["credentials"]), "omero").user == "lading"
    assert (
        xnat_login(str(config.repositories["xnat"].settings["credentials"]), "https://xnat.example.org").user
        == "lading"
    )
    places(config)["chat"].reporter.probe()
    assert transport["target"] == "file:data"  # a host that is called so


@pytest.mark.parametrize(
    "spec", ["file:/etc/lading/x.toml", "file:~/x.toml", "netrc:~/x", "env:FILE", "netrc", "file:"]
)
def test_what_names_no_relative_file_stays_as_it_is(tmp_path: Path, spec: str) -> None:
    config = load(write(tmp_path, f'[repositories.xnat]\nkind = "xnat"\ncredentials = "{spec}"\n'))

    assert config.repositories["xnat"].settings["credentials"] == spec


def test_a_transport_is_wrapped_as_its_tables_ask(tmp_path: Path) -> None:
    tables = "throttle = { mb_per_s = 20 }, retry = { attempts = 3 }"
    config = load(write(tmp_path, f'[routes.mri]\ntransport = {{ kind = "local", path = "inbox", {tables} }}\n'))

    assert repr(make_transport(config, "mri")).startswith("Retrying(Logged(Throttled(LocalTransport(")


def test_a_wrong_wrapper_table_is_refused(tmp_path: Path) -> None:
    config = load(write(tmp_path, '[routes.mri]\ntransport = { kind = "local", path = "inbox", throttle = 20 }\n'))

    with pytest.raises(ConfigError, match="must be a table"):
        make_transport(config, "mri")


def test_an_unknown_transport_is_refused_with_those_there_are(tmp_path: Path) -> None:
    config = load(write(tmp_path, '[routes.mri]\ntransport = { kind = "rsinc" }\n'))

    with pytest.raises(ConfigError, match="did you mean 'rsync'"):
        make_transport(config, "mri")


@pytest.mark.parametrize("inbox", ["Z:\\inbox", "Z:/inbox", "\\\\server\\share"])
def test_starter_settings_take_the_paths_of_windows(tmp_path: Path, inbox: str) -> None:
    text = starter("agent", inbox=inbox, repository="xnat", address="https://xnat.example.org", watch="D:\\Export")

    config = load(write(tmp_path, text))

    assert dict(config.routes["xnat"].transport) == {"kind": "local", "path": inbox}
    assert config.agent.watch[0].path.name == "D:\\Export"
