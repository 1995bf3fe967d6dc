"""The endpoint on a real socket: who is let in, over what, and that nobody can hold it up."""

import http.client
import socket
import ssl
import threading
import time
import urllib.error
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

import pytest

from lading.agent.outbox import Outbox
from lading.config import load
from lading.errors import ConfigError
from lading.metrics.endpoint import served
from lading.testing.certificates import Certificates, certificates
from lading.testing.scraping import OPENMETRICS, scrape
from lading.testing.servers import free_port

TOKEN = "a token of forty characters, or nearly"


@pytest.fixture(scope="module")
def certs(tmp_path_factory: pytest.TempPathFactory) -> Certificates:
    made = certificates(tmp_path_factory.mktemp("certs"))
    made.key.chmod(0o600)
    return made


@contextmanager
def serving(folder: Path, *, host: str = "127.0.0.1", metrics: str = "") -> Iterator[int]:
    """The port of an agent's endpoint; its outbox is empty."""
    port = free_port()
    (folder / "lading.toml").write_text(
        f'home = "home"\n[agent]\nmetrics = "{host}:{port}"\n[metrics]\n{metrics}\n'
        '[routes.mri]\ntransport = { kind = "local", path = "inbox" }\n'
    )
    config = load(folder / "lading.toml")
    Outbox(config.home).close()
    with served(config, "agent"):
        yield port


def secured(folder: Path, certs: Certificates) -> str:
    token = folder / "token"
    token.write_text(TOKEN)
    token.chmod(0o600)
    return f'certificate = "{certs.cert}"\nkey = "{certs.key}"\ntoken = "file:{token}"'


def refusal(ask: Callable[[], object]) -> urllib.error.HTTPError:
    with pytest.raises(urllib.error.HTTPError) as caught:
        ask()
    caught.value.close()
    return caught.value


def test_this_machine_scrapes_in_both_formats(tmp_path: Path) -> None:
    with serving(tmp_path) as port:
        for accept in ("", OPENMETRICS, "text/html, */*"):
            found = scrape(f"http://127.0.0.1:{port}/metrics", accept=accept)

            assert found.labelled("lading_up", program="agent") == 1
            assert found.labelled("lading_agent_deliveries", route="mri", stage="READY") == 0


def test_over_tls_with_the_token(tmp_path: Path, certs: Certificates) -> None:
    with serving(tmp_path, host="0.0.0.0", metrics=secured(tmp_path, certs)) as port:
        url = f"https://localhost:{port}/metrics"

        assert scrape(url, token=TOKEN, ca=certs.ca).labelled("lading_up", program="agent") == 1
        for token in ("", "wrong", TOKEN[:-1], TOKEN + "x", "µ"):
            refused = refusal(lambda token=token: scrape(url, token=token, ca=certs.ca))
            assert refused.code == 401
            assert refused.headers["WWW-Authenticate"] == "Bearer"
        with pytest.raises(urllib.error.URLError, match="CERTIFICATE_VERIFY_FAILED"):
            scrape(url, token=TOKEN, ca=certs.other_ca)
        with pytest.raises((urllib.error.URLError, ConnectionError, http.client.HTTPException)):
            scrape(f"http://localhost:{port}/metrics", token=TOKEN)


def test_other_paths_and_methods(tmp_path: Path) -> None:
    with serving(tmp_path) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        answers = {}
        for method, path in (("GET", "/"), ("POST", "/metrics"), ("HEAD", "/metrics"), ("GET", "/metrics?name[]=x")):
            connection.request(method, path)
            with connection.getresponse() as answer:
                answers[method, path] = (answer.status, len(answer.read()))
            connection.close()

    assert answers["GET", "/"][0] == 404
    assert answers["POST", "/metrics"][0] == 405
    assert answers["HEAD", "/metrics"] == (200, 0)
    assert answers["GET", "/metrics?name[]=x"][0] == 200


@pytest.mark.parametrize("tls", [False, True])
def test_peers_that_say_nothing_hold_up_nobody(tmp_path: Path, certs: Certificates, *, tls: bool) -> None:
    with serving(tmp_path, metrics=secured(tmp_path, certs) if tls else "") as port, ExitStack() as stack:
        for _ in range(5):
            stack.enter_context(socket.create_connection(("127.0.0.1", port), timeout=60))
        scheme = "https" if tls else "http"

        found = scrape(f"{scheme}://localhost:{port}/metrics", token=TOKEN, ca=certs.ca if tls else None)

        assert found.labelled("lading_up", program="agent") == 1


def test_what_is_too_much_is_turned_away_and_the_room_comes_back(tmp_path: Path) -> None:
    with serving(tmp_path) as port:
        silent = [socket.create_connection(("127.0.0.1", port), timeout=60) for _ in range(40)]
        turned_away = 0
        for one in silent[::-1]:
            one.settimeout(0.2)
            with suppress(TimeoutError):
                turned_away += one.recv(1) == b""
        for one in silent:
            one.close()

        assert turned_away > 0
        deadline = time.monotonic() + 60
        while True:
            try:
                assert scrape(f"http://127.0.0.1:{port}/metrics").labelled("lading_up", program="agent") == 1
                break
            except (OSError, http.client.HTTPException):
                assert time.monotonic() < deadline
                time.sleep(0.1)


def test_requests_that_get_no_thread_take_no_room_for_ever(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Exhausted(threading.Thread):
        """As when a machine has no more threads to give to requests."""

        def start(self) -> None:
            if self.name.endswith("(process_request_thread)"):
                raise RuntimeError("can't start new thread")
            super().start()

    with serving(tmp_path) as port:
        with monkeypatch.context() as patched:
            patched.setattr(threading, "Thread", Exhausted)
            for _ in range(20):
                with socket.create_connection(("127.0.0.1", port), timeout=60) as peer, suppress(ConnectionError):
                    assert peer.recv(1) == b""

        assert scrape(f"http://127.0.0.1:{port}/metrics").labelled("lading_up", program="agent") == 1


def test_garbage_ends_nothing(tmp_path: Path, certs: Certificates) -> None:
    with serving(tmp_path, metrics=secured(tmp_path, certs)) as port:
        for words in (b"\x16\x03\x01\xff\xff" + b"x" * 100, b"GET / HTTP/1.1\r\n\r\n", b"\0" * 1000, b"\r\n" * 50):
            with socket.create_connection(("127.0.0.1", port), timeout=60) as peer, suppress(OSError):
                peer.sendall(words)
        context = ssl.create_default_context(cafile=str(certs.ca))
        with (
            socket.create_connection(("127.0.0.1", port), timeout=60) as raw,
            context.wrap_socket(raw, server_hostname="localhost") as peer,
            suppress(OSError),
        ):
            peer.sendall(b"GET /metrics HTTP/1.1\r\nAuthorization: " + b"x" * 100_000 + b"\r\n\r\n")

        found = scrape(f"https://localhost:{port}/metrics", token=TOKEN, ca=certs.ca)

        assert found.labelled("lading_up", program="agent") == 1


def test_many_at_once(tmp_path: Path) -> None:
    with serving(tmp_path) as port, ThreadPoolExecutor(2) as pool:
        looks = list(pool.map(lambda _: scrape(f"http://127.0.0.1:{port}/metrics"), range(40)))

    assert all(look.labelled("lading_up", program="agent") == 1 for look in looks)


def test_an_address_in_use_is_said_before_anything_starts(tmp_path: Path) -> None:
    with (
        serving(tmp_path) as port,
        pytest.raises(ConfigError, match=f"127.0.0.1:{port}"),
        served(load(tmp_path / "lading.toml"), "agent"),
    ):
        raise AssertionError("it started")


def test_the_address_is_free_again_afterwards(tmp_path: Path) -> None:
    with serving(tmp_path) as port:
        scrape(f"http://127.0.0.1:{port}/metrics")
        config = load(tmp_path / "lading.toml")

    with served(config, "agent"):
        assert scrape(f"http://127.0.0.1:{port}/metrics").labelled("lading_up", program="agent") == 1
