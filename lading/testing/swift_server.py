"""OpenStack Swift with its S3 door on loopback: slower than rclone, and strict about signatures, checksums and names."""

import contextlib
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lading.testing.certificates import Certificates
from lading.testing.s3_servers import S3Server, described
from lading.testing.servers import free_port, server

_BIN = Path(__file__).parents[2] / ".cache" / "swift" / "bin"
_KEY, _SECRET = "test:tester", "a-secret-of-the-test"
_STORES = ("account", "container", "object")
_PIPELINE = " ".join(
    (
        "catch_errors gatekeeper proxy-logging cache s3api tempauth container-quotas bulk slo dlo versioned_writes symlink",
        "proxy-logging proxy-server",
    )
)
_BACK_DOOR = "catch_errors cache slo proxy-server"
_ACCOUNT = "AUTH_test"


def missing_for_swift() -> str:
    """What is missing on this machine to run Swift, or ""."""
    return "" if (_BIN.parent / ".ready").exists() else "Swift is not installed (tools/swift-server.sh)"


@dataclass(frozen=True)
class Swift:
    """A running Swift: its `s3` door, the same in TLS at `tls_port`, and `back_door`, the URL of the account by Swift's own API.

    The back door asks nobody who he is: a test looks through it at what is truly there, past all that it tests.
    """

    s3: S3Server
    tls_port: int
    back_door: str


@contextlib.contextmanager
def swift_with_back_door(folder: Path, tls: Certificates) -> Iterator[Swift]:
    """The same as `swift_s3`, with more doors to the same stores."""
    with swift_s3(folder) as s3, contextlib.ExitStack() as running:
        settings = folder / "etc"
        tls_port, back_port = free_port(), free_port()
        certificate = f"cert_file = {tls.cert}\nkey_file = {tls.key}\n"
        (settings / "tls.conf").write_text(_common(settings, tls_port) + certificate + _proxy(_PIPELINE))
        (settings / "back.conf").write_text(_common(settings, back_port) + _proxy(_BACK_DOOR))
        for name, port in (("tls", tls_port), ("back", back_port)):
            running.enter_context(_program("proxy", settings, port, folder, config=name))
        yield Swift(s3, tls_port, f"http://127.0.0.1:{back_port}/v1/{_ACCOUNT}")
    shutil.rmtree(folder / "srv")  # gigabytes, by the end of a suite


@contextlib.contextmanager
def swift_s3(folder: Path) -> Iterator[S3Server]:
    """Swift with an empty account; all its files in `folder`. Plain http: the stores behind the door have no other way."""
    settings = folder / "etc"
    settings.mkdir(parents=True)
    (folder / "srv" / "disk").mkdir(parents=True)
    (settings / "swift.conf").write_text(
        "[swift-hash]\nswift_hash_path_suffix = t\nswift_hash_path_prefix = t\n"
        "[storage-policy:0]\nname = default\ndefault = yes\n"
    )
    with contextlib.ExitStack() as running:
        for store in _STORES:
            port = free_port()
            _ring(settings, store, port)
            (settings / f"{store}.conf").write_text(
                _common(settings, port) + f"devices = {folder}/srv\nmount_check = false\n"
                f"[pipeline:main]\npipeline = {store}-server\n[app:{store}-server]\nuse = egg:swift#{store}\n"
                # Else an object that was put while the machine was busy is in no listing: nothing here repairs them later.
                "container_update_timeout = 60\n"
            )
            running.enter_context(_program(store, settings, port, folder))
        port = free_port()
        (settings / "proxy.conf").write_text(_common(settings, port) + _proxy(_PIPELINE))
        running.enter_context(_program("proxy", settings, port, folder))
        yield described(folder, port, _KEY, _SECRET, secure=False)


def _program(
    name: str, settings: Path, port: int, folder: Path, *, config: str = ""
) -> "contextlib.AbstractContextManager[object]":
    config = config or name
    argv = [str(_BIN / "python"), str(_BIN / f"swift-{name}-server"), str(settings / f"{config}.conf"), "-v"]
    return server(argv, port, folder / f"{config}.log")


def _ring(settings: Path, store: str, port: int) -> None:
    builder = [str(_BIN / "swift-ring-builder"), str(settings / f"{store}.builder")]
    for step in (["create", "4", "1", "0"], ["add", f"r1z1-127.0.0.1:{port}/disk", "1"], ["rebalance"]):
        # It ends with 1 for a warning, and one disk is worth a warning.
        subprocess.run([*builder, *step], check=False, capture_output=True)


def _common(settings: Path, port: int) -> str:
    return (
        f"[DEFAULT]\nbind_ip = 127.0.0.1\nbind_port = {port}\nworkers = 0\nuser = root\nswift_dir = {settings}\n"
        "log_level = WARNING\n"
    )


def _proxy(pipeline: str) -> str:
    return f"[pipeline:main]\npipeline = {pipeline}\n{_FILTERS}"


_FILTERS = f"""\
[app:proxy-server]
use = egg:swift#proxy
allow_account_management = true
account_autocreate = true
[filter:catch_errors]
use = egg:swift#catch_errors
[filter:gatekeeper]
use = egg:swift#gatekeeper
[filter:proxy-logging]
use = egg:swift#proxy_logging
[filter:cache]
use = egg:swift#memcache
memcache_servers = 127.0.0.1:1
[filter:s3api]
use = egg:swift#s3api
s3_acl = false
location = us-east-1
check_bucket_owner = false
[filter:tempauth]
use = egg:swift#tempauth
user_test_tester = {_SECRET} .admin
[filter:container-quotas]
use = egg:swift#container_quotas
[filter:bulk]
use = egg:swift#bulk
[filter:slo]
use = egg:swift#slo
[filter:dlo]
use = egg:swift#dlo
[filter:symlink]
use = egg:swift#symlink
[filter:versioned_writes]
use = egg:swift#versioned_writes
allow_object_versioning = true
"""
