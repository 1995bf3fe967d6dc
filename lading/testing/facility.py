"""A whole facility on one machine, for acceptance tests: stand-in XNAT, inbox, server, agent, instrument folder.

Everything is started and asked through the command line, as people do it.
"""

import json
import os
import signal
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

from lading.assembly import inbox_limits, open_desk
from lading.cli.looking import summary
from lading.config import Config, load
from lading.inbox import Inbox
from lading.testing.lean import without_pandas
from lading.testing.prepared_database import prepare_database

SETTINGS = """\
home = "state"

[inboxes.main]
path = "{inbox}"
quiet = 1
bare_route = "mri"
keep_free_gb = 0

[repositories.xnat]
kind = "xnat"
url = "{url}"
credentials = "env"
{repository}

[routes.mri]
inbox = "main"
repository = "xnat"
transport = {transport}
import = {{ route = "{import_route}" }}
{route}

[routes.mri.checks.layout]
participant = "sub-[0-9]{{3}}"
{checks}

[agent]
scan_every = 0.5
receipts_every = 0.3

[[agent.watch]]
path = "instrument"
route = "mri"
quiet = {quiet}
{watch}

[server]
scan_every = 0.3
stale_after = {stale_after}
workers = {workers}
{server}
{more}
"""

MAIL = """
[mail]
server = "127.0.0.1"
port = {port}
security = "plain"
sender = "lading@example.org"
admin = ["admin@example.org"]
quiet = {quiet}
longest = 120
alarm_after = {alarm_after}
recovered_after = {recovered_after}

[people]
{people}
"""
"""Settings for `more`: mail through a server of `lading.testing.mailserver`."""

_LEAST_S = 120.0
Json = dict[str, "JsonValue"]
JsonValue = str | int | float | bool | None | list["JsonValue"] | Json


@dataclass
class Facility:
    """The facility below `root`. Programs are started when asked for, and stopped by `close`."""

    SETTINGS: ClassVar[str] = SETTINGS

    root: Path
    url: str = ""
    programs: dict[str, subprocess.Popen[bytes]] = field(default_factory=dict)
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def instrument(self) -> Path:
        """The watched folder."""
        return self.root / "instrument"

    @property
    def inbox(self) -> Path:
        """The inbox, which is XNAT's own inbox folder."""
        return self.root / "xnat" / "inbox"

    def configure(self, **parts: str | float) -> None:
        """Write the settings; `parts` fill or extend the tables of `SETTINGS`."""
        self.instrument.mkdir(parents=True, exist_ok=True)
        (self.root / "lading.toml").write_text(self.SETTINGS.format(**self._defaults() | parts), encoding="utf-8")

    def _defaults(self) -> dict[str, str | float]:
        return {
            "inbox": str(self.inbox),
            "url": self.url,
            "transport": f'{{ kind = "local", path = "{self.inbox}" }}',
            "import_route": "inbox",
            "quiet": 1,
            "stale_after": 6,
            "workers": 1,
            "repository": "",
            "route": "",
            "checks": "",
            "watch": "",
            "server": "",
            "more": "",
        }

    def create_inboxes(self) -> None:
        """As `lading inbox create` does, in this process: tests of other things do not wait for one more Python."""
        for inbox in self.config.inboxes.values():
            Inbox.create(inbox.path, limits=inbox_limits(inbox))

    @property
    def config(self) -> Config:
        """The settings as they are now."""
        return load(self.root / "lading.toml")

    def command(self, *arguments: str) -> list[str]:
        """The command line of `lading ARGUMENTS` with this site's settings."""
        return [sys.executable, "-m", "lading", "--config", str(self.root / "lading.toml"), *arguments]

    def run(self, *arguments: str, timeout: float = 120) -> subprocess.CompletedProcess[str]:
        """Type `lading ARGUMENTS`; never raises for an exit code."""
        return subprocess.run(
            self.command(*arguments),
            capture_output=True,
            text=True,
            timeout=timeout,
            env=self._env(),
            cwd=self.root,
            check=False,
        )

    def ask(self, *arguments: str, timeout: float = 120) -> Json:
        """Type `lading ARGUMENTS --json` and read the answer. Raises AssertionError when it is not JSON."""
        done = self.run(*arguments, "--json", timeout=timeout)
        try:
            found = json.loads(done.stdout)
        except ValueError as exc:
            raise AssertionError(f"no JSON from {arguments}: {done.stdout[-2000:]}\n{done.stderr[-4000:]}") from exc
        assert isinstance(found, dict)
        return found

    def start(self, name: str, *arguments: str) -> subprocess.Popen[bytes]:
        """Start a program in the background, in its own session, its words in logs/NAME.log."""
        (self.root / "logs").mkdir(exist_ok=True)
        with (self.root / "logs" / f"{name}.log").open("ab") as log:
            process = subprocess.Popen(
                self.command(*arguments), stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
                env=self._env(), cwd=self.root,
            )  # fmt: skip
        self.programs[name] = process
        return process

    def start_server(self, *, prepared: bool = True) -> None:
        """`lading server run`, with a database that was prepared before, or else one that it makes by itself."""
        if prepared:
            prepare_database(self.root / "state" / "postgres")
        self.start("server", "server", "run")

    def start_agent(self) -> None:
        """`lading agent run`."""
        self.start("agent", "agent", "run")

    def start_xnat(self, *projects: str) -> None:
        """The stand-in, in a process of its own; the same address again after `kill`."""
        ready = self.root / "xnat.ready"
        ready.unlink(missing_ok=True)
        port = self.url.rsplit(":", 1)[-1] if self.url else "0"
        wanted = [word for project in projects for word in ("--project", project)]
        self.start(
            "xnat",
            "sandbox",
            "xnat",
            "--root",
            str(self.root / "xnat"),
            "--port",
            port,
            *wanted,
            "--ready-file",
            str(ready),
        )
        self.until(ready.exists, seconds=60, why="the stand-in XNAT listens")
        self.url = str(json.loads(ready.read_text(encoding="utf-8"))["url"]).rstrip("/")

    def kill(self, name: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a program and to all it started; SIGKILL also waits for the end."""
        process = self.programs[name]
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        if number == signal.SIGKILL:
            process.wait(10)
            del self.programs[name]

    def stop(self, name: str) -> None:
        """Ask a program to end, as a service manager does."""
        process = self.programs.pop(name)
        with suppress(ProcessLookupError):
            process.send_signal(signal.SIGTERM)
        with suppress(subprocess.TimeoutExpired):
            process.wait(25)
        with suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait(10)

    def close(self) -> None:
        """Stop whatever runs, servers of others last."""
        for name in sorted(self.programs, key=lambda n: n == "xnat"):
            with suppress(ProcessLookupError):
                os.killpg(self.programs[name].pid, signal.SIGCONT)
            self.stop(name)

    def xnat(self, method: str, path: str, body: Mapping[str, JsonValue] | None = None) -> Json:
        """Ask the stand-in's remote control under /_sandbox/: faults, counts, projects."""
        data = json.dumps(body).encode() if body is not None else None
        request = urllib.request.Request(f"{self.url}/_sandbox/{path}", data=data, method=method)  # noqa: S310 - our own loopback URL
        request.add_header("Content-Type", "application/json")
        with urllib.request.urlopen(request, timeout=100) as answer:  # noqa: S310
            found = json.loads(answer.read() or b"{}")
        assert isinstance(found, dict)
        return found

    def faults(self, **knobs: JsonValue) -> None:
        """Turn fault knobs of the stand-in."""
        self.xnat("PUT", "faults", knobs)

    def deliveries(self) -> list[Json]:
        """What `lading list --json` says, put together in this process.

        Waiting means looking often, and a new Python for each look was most of what these tests computed.
        """
        with open_desk(self.config) as desk:
            listed = json.loads(json.dumps([summary(one, "lading") for one in desk.recent(stages=(), limit=1000)]))
        assert isinstance(listed, list)
        return [d for d in listed if isinstance(d, dict)]

    def settle(
        self, count: int, *, seconds: float = 120, final: Sequence[str] = ("VERIFIED", "REJECTED", "HELD", "CLEANED")
    ) -> list[Json]:
        """Wait until `count` deliveries are known and all are at rest; returns what `lading list` says of them then.

        Raises AssertionError with the logs.
        """
        found: list[Json] = []

        def at_rest(told: JsonValue) -> bool:
            assert isinstance(told, list), told
            found[:] = [d for d in told if isinstance(d, dict)]
            return len(found) >= count and all(d["stage"] in final for d in found)

        why = f"{count} deliveries at rest"
        self.until(lambda: at_rest([*self.deliveries()]), seconds=seconds, why=why, every=0.2)
        # The command has the last word.
        self.until(lambda: at_rest(self.ask("list", "--limit", "1000").get("deliveries")), seconds=seconds, why=why)
        return found

    def until(self, true: Callable[[], bool], *, seconds: float, why: str, every: float = 0.05) -> None:
        """Wait for something to become true. Raises AssertionError with what the programs said.

        Never less than two minutes: that something did not come sooner proves nothing on a machine that is busy.
        """
        seconds = max(seconds, _LEAST_S)
        deadline = time.monotonic() + seconds
        looked = time.monotonic()
        while not true():
            if time.monotonic() > deadline:
                raise AssertionError(f"not within {seconds} s: {why}\n{self.words()}")
            # Whatever a look costs, the programs have most of the processor.
            time.sleep(max(every, 2 * (time.monotonic() - looked)))
            looked = time.monotonic()

    def words(self, lines: int = 40) -> str:
        """The end of every program's log, and the list of deliveries."""
        parts = []
        for log in sorted((self.root / "logs").glob("*.log")):
            tail = log.read_text(errors="replace").splitlines()[-lines:]
            parts.append(f"--- {log.name}\n" + "\n".join(tail))
        parts.append(self.run("list").stdout)
        return "\n".join(parts)

    def _env(self) -> dict[str, str]:
        return (
            dict(without_pandas())
            | {"LADING_XNAT_USER": "admin", "LADING_XNAT_PASSWORD": "admin", "PYTHONUNBUFFERED": "1"}
            | self.environment
        )


@contextmanager
def facility(root: Path, *, project: str = "DEMO:auto", **parts: str | float) -> Iterator[Facility]:
    """A site with its stand-in XNAT running, configured, its inbox made; server and agent not yet started."""
    site = Facility(root)
    try:
        site.start_xnat(project)
        site.configure(**parts)
        site.create_inboxes()
        yield site
    finally:
        site.close()


def mail_tables(
    port: int, *, quiet: float = 1, alarm_after: float = 600, recovered_after: float = 1, people: str = ""
) -> str:
    """Settings that let the facility mail. `people`: lines of that table; else every participant has an address."""
    return MAIL.format(
        port=port,
        quiet=quiet,
        alarm_after=alarm_after,
        recovered_after=recovered_after,
        people=people or 'template = "{participant}@example.org"',
    )
