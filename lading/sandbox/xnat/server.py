"""Starts and stops the stand-in: as an object in a test, or as a process of its own."""

import argparse
import ipaddress
import json
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Self

import uvicorn

from lading.sandbox.xnat import control, prearchive
from lading.sandbox.xnat.app import BANNER, create_app
from lading.sandbox.xnat.faults import Faults
from lading.sandbox.xnat.site import Site

DEFAULT_USERS = {"admin": "admin", "alice": "alice", "bob": "bob"}
_PREARCHIVE_CODES = {"manual": 0, "auto": 4, "overwrite": 5}
_START_PATIENCE = 20.0


class SandboxXnat:
    """A stand-in XNAT in a thread of this process.

    ``root`` holds everything it keeps; the inbox is ``root/inbox``. ``port=0`` takes a free one, and keeps it over
    ``stop()`` and ``start()``. ``users`` maps names to passwords; "admin", or else the first, is the administrator.
    """

    def __init__(
        self, root: Path, *, port: int = 0, users: Mapping[str, str] | None = None, host: str = "127.0.0.1"
    ) -> None:
        if not ipaddress.ip_address(host).is_loopback:
            raise ValueError(f"the stand-in has no defences and listens on the loopback address only, not on {host}")
        self.root = root.resolve()
        self.root.mkdir(parents=True, exist_ok=True)
        self.faults = Faults()
        self._host, self._port = host, port
        self._users = dict(users or DEFAULT_USERS)
        self._site = Site(self.root, self.faults, self._users)
        self._server: uvicorn.Server | None = None
        self._thread: threading.Thread | None = None

    @property
    def url(self) -> str:
        """Without a slash at the end. Known once started."""
        return f"http://{self._host}:{self._port}"

    @property
    def inbox(self) -> Path:
        """Where the inbox handler reads; below it one folder per project."""
        return self.root / "inbox"

    def start(self) -> None:
        """Returns when it answers. Raises OSError when the port is taken."""
        if self._site.closing.is_set():
            self._site = Site(self.root, self.faults, self._users)
        listening = _listen(self._host, self._port)
        self._port = listening.getsockname()[1]
        config = uvicorn.Config(
            create_app(self._site),
            log_level="critical",
            lifespan="off",
            ws="none",
            access_log=False,
            proxy_headers=False,
            timeout_keep_alive=60,
            timeout_graceful_shutdown=3,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(target=self._server.run, args=([listening],), name="sandbox-xnat", daemon=True)
        self._thread.start()
        prearchive.release_interrupted(self._site)
        prearchive.start_rebuilder(self._site)
        deadline = time.monotonic() + _START_PATIENCE
        while not self._server.started:
            if time.monotonic() > deadline or not self._thread.is_alive():
                raise RuntimeError(f"the stand-in did not start on {self.url}")
            time.sleep(0.005)

    def stop(self) -> None:
        """Connections are refused from here on; what it knows stays in ``root``. May be called twice."""
        if self._site.closing.is_set():
            return
        self._site.closing.set()
        if self._server is not None and self._thread is not None:
            self._server.should_exit = True
            self._thread.join()
            self._server = self._thread = None
        self._site.close()

    def add_project(self, project: str, *, prearchive_code: int = 0, members: Mapping[str, str] | None = None) -> None:
        """Creates a project, or sets these of an existing one: 0 manual, 4 auto-archive, 5 auto-archive, overwrite."""
        control.create_project(self._site, project, prearchive_code, dict(members or {}))

    def counts(self) -> dict[str, int | dict[str, int]]:
        """What was really imported; see ``Site.counts``."""
        return self._site.counts()

    def log(self) -> list[str]:
        """What only the server knows: requests, and files that it dropped."""
        return list(self._site.log)

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio turns Nagle's delay (40 ms an answer) off only where it is.
    listening = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    try:
        if os.name == "posix":
            listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        listening.listen(512)
    except OSError:
        listening.close()
        raise
    return listening


def serve(
    root: Path,
    *,
    port: int = 0,
    projects: Sequence[str] = (),
    ready_file: Path | None = None,
    users: Mapping[str, str] | None = None,
    say: Callable[[str], object] = lambda line: sys.stdout.write(line + "\n"),
) -> None:
    """Runs in the foreground until SIGTERM or SIGINT.

    ``projects`` are IDs, each with ``:auto``, ``:overwrite`` or ``:manual`` (default) for what happens to an import;
    all users become members. ``ready_file`` gets ``{"url", "inbox", "pid"}`` as JSON once the server answers.
    Raises ValueError for an unknown kind of project, OSError when the port is taken.
    """
    wanted = [_project(text) for text in projects]
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda _number, _frame: ended.set())
    with SandboxXnat(root, port=port, users=users) as sandbox:
        for project, code in wanted:
            sandbox.add_project(project, prearchive_code=code, members=dict.fromkeys(users or DEFAULT_USERS, "member"))
        say(BANNER)
        say(f"listening on {sandbox.url}; inbox {sandbox.inbox}")
        sys.stdout.flush()
        if ready_file is not None:
            _announce(ready_file, sandbox)
        while not ended.wait(1.0):
            pass


def _project(text: str) -> tuple[str, int]:
    name, _, kind = text.partition(":")
    if (kind or "manual") not in _PREARCHIVE_CODES:
        raise ValueError(f"project {text!r}: after the colon comes one of {', '.join(_PREARCHIVE_CODES)}")
    return name, _PREARCHIVE_CODES[kind or "manual"]


def _announce(ready_file: Path, sandbox: SandboxXnat) -> None:
    temporary = ready_file.with_name(ready_file.name + ".tmp")
    temporary.write_text(json.dumps({"url": sandbox.url, "inbox": str(sandbox.inbox), "pid": os.getpid()}))
    temporary.replace(ready_file)


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of ``python -m lading.sandbox.xnat``."""
    parser = argparse.ArgumentParser(prog="python -m lading.sandbox.xnat", description=BANNER)
    parser.add_argument("--root", type=Path, required=True, help="folder for everything it keeps")
    parser.add_argument("--port", type=int, default=0, help="0 takes a free one")
    parser.add_argument("--project", action="append", default=[], metavar="ID[:auto|manual|overwrite]")
    parser.add_argument("--ready-file", type=Path, help="written as JSON once it answers")
    given = parser.parse_args(argv)
    try:
        serve(given.root, port=given.port, projects=given.project, ready_file=given.ready_file)
    except (ValueError, OSError) as error:
        parser.error(str(error))
    return 0
