"""A real S3 server on loopback: rclone, which keeps objects as plain files. (For Swift see `swift_server`.)"""

import contextlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lading.testing.certificates import Certificates
from lading.testing.servers import free_port, server

ACCESS_KEY = "TESTACCESSKEY"
SECRET_KEY = "a-secret-of-the-test"  # noqa: S105 - of a server on loopback that lives for one test


@dataclass(frozen=True)
class S3Server:
    """A running server: its `endpoint`, an access key, and files (0600) with its secret and with a wrong one."""

    endpoint: str
    port: int
    access_key: str
    secret: str
    secret_file: Path
    wrong_secret_file: Path


def rclone() -> Path | None:
    """The rclone that the `dev` extra installs, or None."""
    program = Path(sys.executable).parent / ("rclone.exe" if os.name == "nt" else "rclone")
    return program if program.exists() else None


@contextlib.contextmanager
def rclone_s3(
    folder: Path, served: Path, *, tls: Certificates | None = None, alone: bool = False
) -> Iterator[S3Server]:
    """Every folder in `served` is a bucket, and every file below it an object. Logs and logins go to `folder`.

    `alone`: nobody changes files behind its back, so it may remember folders. Where it may not, it loses sight of an upload now and
    then when several arrive in one folder: an InternalError among some hundred requests.
    """
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    # In the environment: command lines are for everybody to read, and the suite looks.
    argv = [
        "env",
        f'RCLONE_AUTH_KEY="{ACCESS_KEY},{SECRET_KEY}"',
        str(rclone()),
        "serve",
        "s3",
        str(served),
        "--addr",
        f"127.0.0.1:{port}",
        "--config",
        "",
    ]
    # Next to nothing is remembered: the tests, and the inbox, change the files behind the server's back. At 0 it
    # deadlocks as soon as two objects arrive at a time (1.75.2).
    argv += ["--vfs-cache-mode", "off", "--dir-cache-time", "5m" if alone else "1ms"]
    argv += ["--cert", str(tls.cert), "--key", str(tls.key)] if tls else []
    with server(argv, port, folder / "rclone.log"):
        yield described(folder, port, ACCESS_KEY, SECRET_KEY, secure=tls is not None)


def described(folder: Path, port: int, user: str, secret: str, *, secure: bool) -> S3Server:
    """What a test needs to know of a server that runs; its secrets are written to `folder`."""
    return S3Server(
        f"http{'s' if secure else ''}://127.0.0.1:{port}",
        port,
        user,
        secret,
        secret_file(folder / "secret", secret),
        secret_file(folder / "wrong-secret", "a-secret-of-somebody-else"),
    )


def secret_file(path: Path, secret: str) -> Path:
    """A secret that only we can read, for a setting like "file:PATH"."""
    path.touch(mode=0o600)
    path.write_text(f"{secret}\n")
    return path
