"""The process: options from the command line, a line of JSON when it is ready, an orderly end."""

import argparse
import gc
import json
import logging
import os
import signal
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import Ice

from lading.disk import write_whole
from lading.sandbox.omero import accounts, certificates, control, glacier2, router
from lading.sandbox.omero.process import CANNOT_START
from lading.sandbox.omero.sessions import IDLE_MS
from lading.sandbox.omero.site import SERVANTS_PER_SESSION, Options, Site
from lading.sandbox.omero.slots import Limits
from lading.sandbox.omero.wire import MESSAGE_KIB, Listening

BANNER = "This is not OMERO.server: it speaks OMERO's protocol for tests and demonstrations, and keeps no data safe."
ACCOUNTS_NAME = "accounts.json"


def make_site(options: Options) -> Site:
    """A site with everything in it, not open yet. Raises OSError when a port is taken."""
    try:
        site = Site(options)
    except Ice.SocketException as error:
        raise OSError(
            error.error, f"cannot listen on {options.listening.endpoints}: {os.strerror(error.error)}"
        ) from error
    if options.front is not None:
        router.serve_session_manager(site)
    else:
        router.serve_router(site)
    return site


def main(argv: Sequence[str] | None = None) -> int:
    """The command line of `python -m lading.sandbox.omero`. Returns the exit code; 3 when it cannot start, e.g. a port is taken."""
    given = _parser().parse_args(argv)
    if given.one_core and sys.platform == "linux":  # the threads that are still to come stay there too
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})
    logging.basicConfig(level=logging.INFO, stream=sys.stderr, format="%(asctime)s %(levelname)s %(message)s")
    try:
        serve(_given(given), ready_file=given.ready_file, parent=given.parent)
    except (OSError, ValueError, RuntimeError) as error:
        sys.stderr.write(f"{error}\n")
        return CANNOT_START
    return 0


def serve(
    options: Options,
    *,
    ready_file: Path | None = None,
    parent: int = 0,
    say: Callable[[str], object] = sys.stdout.write,
) -> None:
    """Run until SIGTERM or SIGINT, or until the process `parent` is gone.

    Prints one line of JSON when it answers: ports, root, pid. Raises OSError when a port is taken, RuntimeError when
    the router does not start.
    """
    ended = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: ended.set())
    site = make_site(options)
    # OMERO's generated classes are a hundred thousand objects that stay: nobody needs to look at them again and again.
    gc.freeze()
    site.open()
    with _in_front(site) as ports, control.listening(site) as (control_port, token):
        ready = {"ports": ports, "control": control_port, "root": str(options.root), "pid": os.getpid()}
        if ready_file is not None:
            # With the token for the control port: only our own account may read it.
            write_whole(ready_file, json.dumps({**ready, "token": token}).encode("utf-8"), mode=0o600)
        say(json.dumps(ready) + "\n")
        sys.stdout.flush()
        # A wait without an end would not be woken by a signal on Windows.
        while not ended.wait(0.5) and parent in (0, os.getppid()):
            pass
    site.close()
    # Ice's threads may hang in calls that nobody will ever answer; everything that was committed is on the disk.
    os._exit(0)


@contextmanager
def _in_front(site: Site) -> Iterator[dict[str, int]]:
    """What clients connect to: ourselves, or a real glacier2router. Gives its ports."""
    where, ports = site.options.front, site.wire.ports()
    if where is None:
        yield ports
        return
    identity = certificates.identity(site.root / "tls") if where.ssl_port >= 0 else None
    with glacier2.running(site.root / "glacier2", where, ports["tcp"], identity, MESSAGE_KIB):
        yield {"tcp": where.tcp_port} | ({"ssl": where.ssl_port} if where.ssl_port >= 0 else {})


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="python -m lading.sandbox.omero", description=BANNER)
    parser.add_argument("--root", type=Path, required=True, help="folder for everything it keeps")
    parser.add_argument("--port", type=int, default=0, help="TCP; 0 takes a free one, -1 none")
    parser.add_argument("--ssl-port", type=int, default=-1, help="TLS; 0 takes a free one, -1 none")
    parser.add_argument(
        "--accounts", type=Path, help=f"JSON of users and groups (default: ROOT/{ACCOUNTS_NAME}, made if absent)"
    )
    parser.add_argument("--glacier2", action="store_true", help="clients connect to a real glacier2router before us")
    parser.add_argument(
        "--idle-ms", type=int, default=IDLE_MS, help="sessions end after so many milliseconds without a call"
    )
    parser.add_argument("--limits", type=json.loads, default={}, metavar="JSON", help="see slots.Limits")
    parser.add_argument(
        "--no-java", action="store_true", help="read images without Bio-Formats, though it is installed"
    )
    parser.add_argument("--servants", type=int, default=SERVANTS_PER_SESSION, help="open services a session may have")
    parser.add_argument("--one-core", action="store_true", help="run on one core only, with all threads (Linux)")
    parser.add_argument("--parent", type=int, default=0, help="end when this process, which started us, is gone")
    parser.add_argument("--ready-file", type=Path, help="written as JSON once it answers")
    return parser


def _given(given: argparse.Namespace) -> Options:
    return make_options(
        given.root,
        tcp_port=given.port,
        ssl_port=given.ssl_port,
        people=given.accounts,
        behind_glacier2=given.glacier2,
        idle_ms=given.idle_ms,
        limits=Limits(**given.limits),
        java=False if given.no_java else None,
        servants=given.servants,
    )


def make_options(
    root: Path,
    *,
    tcp_port: int = 0,
    ssl_port: int = -1,
    people: Path | None = None,
    behind_glacier2: bool = False,
    idle_ms: int = IDLE_MS,
    limits: Limits | None = None,
    java: bool | None = None,
    servants: int = SERVANTS_PER_SESSION,
) -> Options:
    """Options with the folder, the accounts and the TLS identity made. Ports: 0 takes a free one, -1 is for none.

    `people`: the file of accounts; without it ROOT/accounts.json, with new passwords when it is not there.
    Raises OSError, ValueError.
    """
    root = root.resolve()
    root.mkdir(parents=True, exist_ok=True)
    path = people or root / ACCOUNTS_NAME
    if people is None and not path.exists():
        accounts.write(path, accounts.fresh_accounts())
    identity = certificates.identity(root / "tls") if ssl_port >= 0 else None
    certificate, key = (str(identity.certificate), str(identity.key)) if identity else ("", "")
    return Options(
        root,
        accounts.read(path),
        Listening(0) if behind_glacier2 else Listening(tcp_port, ssl_port, certificate, key),
        front=glacier2.front(tcp_port, ssl_port) if behind_glacier2 else None,
        idle_ms=idle_ms,
        limits=limits or Limits(),
        java=java,
        servants=servants,
    )
