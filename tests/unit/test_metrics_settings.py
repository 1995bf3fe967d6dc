"""Where figures may be served: to this machine, or under TLS with a token; anything else does not start."""

from pathlib import Path

import pytest

from lading.config import load
from lading.errors import AccessDenied, ConfigError, LadingError
from lading.metrics.endpoint import Listening, listening
from lading.testing.certificates import Certificates, certificates

TOKEN = "a token of forty characters, or nearly"


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    made = certificates(tmp_path_factory.mktemp("certs"))
    made.key.chmod(0o600)
    return made


@pytest.fixture
def token(tmp_path: Path) -> Path:
    file = tmp_path / "token"
    file.write_text(TOKEN + "\n")
    file.chmod(0o600)
    return file


def asked(folder: Path, address: str, *metrics: str) -> Listening | None:
    lines = ['home = "home"', "[server]", f"metrics = {address!r}", "[metrics]", *metrics]
    (folder / "lading.toml").write_text("\n".join(lines))
    return listening(load(folder / "lading.toml"), "server")


def refused(folder: Path, address: str, *metrics: str) -> LadingError:
    with pytest.raises((ConfigError, AccessDenied)) as caught:
        asked(folder, address, *metrics)
    assert caught.value.next_command
    return caught.value


def test_nothing_is_served_unless_asked_for(tmp_path: Path) -> None:
    assert asked(tmp_path, "") is None


@pytest.mark.parametrize(
    ("address", "host", "port"),
    [("127.0.0.1:9464", "127.0.0.1", 9464), ("[::1]:9464", "::1", 9464), ("localhost:1", "localhost", 1)],
)
def test_this_machine_needs_neither_tls_nor_token(tmp_path: Path, address: str, host: str, port: int) -> None:
    assert asked(tmp_path, address) == Listening(host, port)


@pytest.mark.parametrize(
    "address",
    ["9464", ":9464", "127.0.0.1", "127.0.0.1:", "127.0.0.1:0", "127.0.0.1:65536", "127.0.0.1:x", "h:-1", "h:٣"],
)
def test_an_address_that_is_none_is_named(tmp_path: Path, address: str) -> None:
    assert "server.metrics" in refused(tmp_path, address).message


@pytest.mark.parametrize("address", ["0.0.0.0:9464", "[::]:9464", "10.1.2.3:9464", "staging.example.org:9464"])
def test_the_network_needs_tls_or_a_proxy_and_a_token(
    tmp_path: Path, address: str, certs: Certificates, token: Path
) -> None:
    tls = (f'certificate = "{certs.cert}"', f'key = "{certs.key}"')
    secret = f'token = "file:{token}"'

    assert "in the clear" in refused(tmp_path, address).message
    assert "in the clear" in refused(tmp_path, address, secret).message
    assert "anybody" in refused(tmp_path, address, *tls).message
    assert "anybody" in refused(tmp_path, address, "behind_proxy = true").message
    for enough in ((*tls, secret), ("behind_proxy = true", secret)):
        found = asked(tmp_path, address, *enough)
        assert found is not None
        assert (found.tls is not None) == ("behind_proxy = true" not in enough)
        assert found.token == TOKEN
        assert TOKEN not in repr(found)


def test_a_token_that_others_can_read_does_not_count(tmp_path: Path, token: Path) -> None:
    token.chmod(0o644)

    said = refused(tmp_path, "0.0.0.0:9464", "behind_proxy = true", f'token = "file:{token}"')

    assert "read by others" in said.message
    assert TOKEN not in said.message


def test_a_token_from_the_environment(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = ("behind_proxy = true", 'token = "env:LADING_TEST_METRICS_TOKEN"')
    assert "not set" in refused(tmp_path, "0.0.0.0:9464", *table).message
    monkeypatch.setenv("LADING_TEST_METRICS_TOKEN", "short")
    assert "at least" in refused(tmp_path, "0.0.0.0:9464", *table).message
    monkeypatch.setenv("LADING_TEST_METRICS_TOKEN", TOKEN)

    found = asked(tmp_path, "0.0.0.0:9464", *table)

    assert found is not None
    assert found.token == TOKEN


def test_a_token_in_the_settings_themselves_is_refused_and_not_repeated(tmp_path: Path) -> None:
    said = refused(tmp_path, "127.0.0.1:9464", f'token = "{TOKEN}"')

    assert TOKEN not in said.message


def test_certificate_and_key_belong_together(tmp_path: Path, certs: Certificates) -> None:
    assert "both" in refused(tmp_path, "127.0.0.1:9464", f'certificate = "{certs.cert}"').message
    swapped = refused(tmp_path, "127.0.0.1:9464", f'certificate = "{certs.key}"', f'key = "{certs.cert}"')
    assert isinstance(swapped, ConfigError)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path, certs: Certificates) -> None:
    open_key = tmp_path / "open.key"
    open_key.write_bytes(certs.key.read_bytes())
    open_key.chmod(0o640)

    said = refused(tmp_path, "127.0.0.1:9464", f'certificate = "{certs.cert}"', f'key = "{open_key}"')

    assert said.next_command.startswith("chmod 600")
