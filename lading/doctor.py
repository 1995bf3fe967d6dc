"""Is everything as it must be? Each answer says what was looked at, what is wrong, and what to type.

`pulse` is the part that `lading status` shows: quick, local, no network.
"""

import os
import secrets
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import partial
from pathlib import Path
from typing import Literal

from lading.agent.outbox import CANCELLED_THERE, OUTBOX_NAME, Outbox, Outgoing
from lading.agent.receipts import kept_receipt
from lading.agent.reporting import raised
from lading.assembly import importer_for, inboxes_in_trouble, make_transport, program_heartbeats
from lading.config import Config, Settings
from lading.delivery import Stage
from lading.deposit import deposit_of
from lading.errors import AccessDenied, ConfigError, LadingError
from lading.findings import Severity
from lading.inbox import Inbox
from lading.listing.digests import available
from lading.metrics.collecting import Program
from lading.metrics.endpoint import Listening, listening
from lading.metrics.text import exposition
from lading.ports import Needing, Report, Reporter
from lading.pulling import near_deadlines
from lading.reporters import places
from lading.reporters.office import complaint_file
from lading.reporters.people import People
from lading.soundness import looks
from lading.staging import serving
from lading.staging.serving import SERVING
from lading.staging.slots import DEPOSIT_MARK
from transport.fetch_deadlines import sentence

Level = Literal["ok", "warn", "fail"]
GB = 1_000_000_000
_MOST_PROJECTS = 25
_SHOWN = 5  # of each kind, for one watched folder: a screen must do


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """One thing looked at."""

    area: str
    level: Level
    text: str
    next_command: str = ""

    def as_dict(self) -> dict[str, str]:
        """area, level, text, next."""
        return {"area": self.area, "level": self.level, "text": self.text, "next": self.next_command}


def pulse(config: Config) -> list[Diagnosis]:
    """Do the programs of this machine run? From their heartbeat files; no network."""
    found = []
    for program, age, command in program_heartbeats(config):
        if age is None:
            found.append(Diagnosis(program, "warn", "not running", command))
        elif age > 60:
            found.append(Diagnosis(program, "fail", f"no heartbeat for {age:.0f} s", command))
        else:
            found.append(Diagnosis(program, "ok", "running"))
    found += _left_alone(config)
    try:
        found += _scans(config)
    except LadingError as exc:  # the agent's memory is damaged, or its disk is full
        found.append(Diagnosis("outbox", "fail", exc.message, _next(exc, "")))
    return [*found, *_complaints(config)]


def _left_alone(config: Config) -> Iterator[Diagnosis]:
    """Inboxes that this machine's server does not serve as another one does, or whose notice is in trouble: its own words."""
    for name, words in inboxes_in_trouble(config).items():
        yield Diagnosis(f"inbox {name}", "warn", words, f"cat {config.inboxes[name].path / SERVING}")


def _complaints(config: Config) -> Iterator[Diagnosis]:
    """Reports that wait because the mail server, or a chat, does not take them."""
    for program in ("server", "agent"):
        try:
            said = complaint_file(config.home, program).read_text(encoding="utf-8", errors="replace").strip()
        except OSError:
            continue
        yield Diagnosis("reports", "warn", f"the {program}'s reports to people wait: {said}", "lading doctor")


def _scans(config: Config) -> Iterator[Diagnosis]:
    """What the agent's last look at each watched folder said: trouble, folders that fit nowhere, sessions still being written."""
    if not (config.home / OUTBOX_NAME).exists():
        return
    watched = {watch.path for watch in config.agent.watch}
    outbox = Outbox(config.home)
    try:
        reports = [report for report in outbox.watches() if report.path in watched]
        alarms = [alarm for alarm in raised(outbox) if not alarm.key.startswith("watch/")]
        given_up = list(_cancelled_there(outbox))
        pauses = outbox.pauses()
    finally:
        outbox.close()
    for target in pauses.keys() & {"all", *config.routes}:
        what = "everything" if target == "all" else f"the route {target}"
        said = f"{what} is paused since {time.strftime('%d %b %H:%M', time.localtime(pauses[target]))}"
        yield Diagnosis("agent", "warn", f"{said}: nothing of it is carried or cleaned", f"lading resume {target}")
    for alarm in alarms:
        since = time.strftime("%d %b %H:%M", time.localtime(alarm.since))
        yield Diagnosis("alarm", "fail", f"{alarm.what} since {since}", "lading doctor")
    for item in given_up[:_SHOWN]:
        yield Diagnosis(
            "cancelled", "warn", f"{item.id} ({item.delivery.labels}): {item.error}", f"lading show {item.id}"
        )
    for report in reports:
        if report.error:
            yield Diagnosis("watch", "fail", report.error, report.next_command)
        for finding in report.findings[:_SHOWN]:
            yield Diagnosis("watch", "warn", f"{report.path}: {finding.message} ({finding.hint})")
        for folder, reason in report.waiting[:_SHOWN]:
            yield Diagnosis("watch", "ok", f"{folder} is not complete: {reason}")


def _cancelled_there(outbox: Outbox) -> Iterator[Outgoing]:
    """What the server gave up within the last day: nobody at the instrument did it, and somebody there may wait for it."""
    since = datetime.now(UTC) - timedelta(days=1)
    for item in outbox.deliveries(Stage.CANCELLED):
        receipt = kept_receipt(outbox, item.id) if outbox.journal(item.id).recall(CANCELLED_THERE) else None
        if receipt is not None and receipt.at >= since:
            yield item


def examine(config: Config) -> Iterator[Diagnosis]:
    """Everything, in the order in which a fault would bite. Never raises; slow parts have their own time-outs."""
    edit = f"edit {config.file}"
    yield Diagnosis("settings", "ok", str(config.file))
    yield from _home(config)
    yield from _clock(config)
    for name, inbox in config.inboxes.items():
        yield _guarded(f"inbox {name}", partial(_inbox, inbox.path, inbox.keep_free_gb), f"lading inbox create {name}")
        yield from _notice(name, inbox.path)
    if config.inboxes:
        yield _guarded("database", partial(_database, config), "lading server run")
    for name, repository in config.repositories.items():
        answered = _guarded(f"repository {name}", partial(_repository, config, name), _knock(repository.settings), edit)
        yield answered
        for project in _projects(config, name) if answered.level == "ok" else ():
            yield _guarded(f"project {project}", partial(_rights, config, name, project), "")
    for name, route in config.routes.items():
        if route.inbox and route.repository:
            yield from _lacking(config, name)
        if route.transport:
            host, _, path = str(route.transport.get("target", "")).partition(":")
            knock = f"ssh {host} true" if path else ""
            yield _guarded(f"route {name}", partial(_transport, config, name), knock, edit)
    yield from _digests(config)
    for area, look in looks(config):
        yield _guarded(area, look, "", edit)
    yield from _deadlines(config)
    yield from _reporters(config)
    yield from _metrics(config)
    yield from pulse(config)


def _home(config: Config) -> Iterator[Diagnosis]:
    try:
        config.home.mkdir(parents=True, exist_ok=True)
        probe = config.home / ".doctor"
        probe.write_bytes(b"")
        probe.unlink()
        free = shutil.disk_usage(config.home).free
    except OSError as exc:
        mend = f"chown -R $USER {config.home}" if isinstance(exc, PermissionError) else f"ls -ld {config.home}"
        yield Diagnosis("home", "fail", f"cannot write to {config.home}: {exc.strerror}", mend)
        return
    level: Level = "ok" if free > GB else "warn"
    yield Diagnosis("home", level, f"{config.home}, {free / GB:.1f} GB free")
    if config.file and os.name == "posix" and config.file.stat().st_mode & 0o022:
        yield Diagnosis("settings", "warn", f"{config.file} can be changed by others", f"chmod go-w {config.file}")


def _clock(config: Config) -> Iterator[Diagnosis]:
    """A file just written must not seem to come from the future or the past: quiet periods depend on it."""
    for name, inbox in config.inboxes.items():
        probe = inbox.path / ".lading" / ".doctor-clock"
        try:
            probe.write_bytes(b"")
            skew = probe.stat().st_mtime - time.time()
            probe.unlink()
        except OSError:
            continue  # reported as a fault of the inbox itself
        if abs(skew) > 5:
            yield Diagnosis(
                "clock", "warn", f"the file server of inbox {name} is {skew:+.0f} s off", "timedatectl status"
            )
            return
    yield Diagnosis("clock", "ok", time.strftime("%Y-%m-%d %H:%M:%S %Z"))


def _inbox(path: Path, keep_free_gb: float) -> str:
    opened = Inbox.open(path)
    try:
        with os.scandir(path) as entries:
            next(entries, None)
    except OSError as exc:
        raise AccessDenied(
            f"{path} cannot be listed: {exc.strerror}; this account must read and write there",
            next_command=f"ls -ld {path}",
        ) from exc
    free, _ = opened.room()
    if free < keep_free_gb * GB:
        raise LadingError(
            f"{free / GB:.1f} GB free in {path}, below the {keep_free_gb:g} GB to keep",
            next_command="lading clean --dry-run",
        )
    return f"{path}, sentinel {opened.id}, {free / GB:.1f} GB free"


def _notice(name: str, path: Path) -> Iterator[Diagnosis]:
    try:
        serving.read(path)
    except ValueError as exc:
        text = f"{path / SERVING} is nonsense, and ignored: {exc}"
        yield Diagnosis(f"inbox {name}", "warn", text, f"ls -l {path / SERVING}")
    except OSError:
        return  # reported as a fault of the inbox itself


def _database(config: Config) -> str:
    from lading.assembly import database_version  # noqa: PLC0415 - the agent's install has no database libraries

    return database_version(config)


def _repository(config: Config, name: str) -> str:
    importer = importer_for(config, name)
    importer.probe()
    return f"{config.repositories[name].kind}: answers, and the account may work there"


def _knock(settings: Settings) -> str:
    """The command that shows whether the repository's address answers at all."""
    url, host = settings.get("url"), settings.get("host")
    return f"curl -I {url}" if url else f"openssl s_client -connect {host}:{settings.get('port', 4064)}" if host else ""


def _projects(config: Config, repository: str) -> list[str]:
    """The projects that deliveries go to: named in the settings of a route, or with folders in its inbox."""
    found: set[str] = set()
    for route in config.routes.values():
        if route.repository != repository:
            continue
        layout = route.checks.get("layout")
        if isinstance(layout, dict):
            found.update(str(name) for key in ("projects", "per_project") for name in layout.get(key, ()))
        if route.inbox in config.inboxes:
            # One that cannot be listed is reported as a fault of the inbox itself.
            with suppress(OSError), os.scandir(config.inboxes[route.inbox].path) as entries:
                found.update(entry.name for entry in entries if _may_be_project(entry))
    return sorted(found)[:_MOST_PROJECTS]


def _may_be_project(entry: "os.DirEntry[str]") -> bool:
    try:
        return entry.is_dir() and entry.name[0] != "." and not Path(entry.path, DEPOSIT_MARK).is_file()
    except OSError:  # a folder that is closed to us is no deposit of ours
        return True


def _rights(config: Config, repository: str, project: str) -> str:
    importer_for(config, repository).probe_project(project)
    return f"may be edited by our account in {repository}"


def _lacking(config: Config, name: str) -> Iterator[Diagnosis]:
    """What this machine lacks for the route's half of the server, with the command that mends it."""
    route, area = config.routes[name], f"import {name}"
    try:
        importer = importer_for(config, route.repository, route=name, inbox=config.inboxes[route.inbox].path)
        found = list(importer.lacking()) if isinstance(importer, Needing) else []
    except LadingError as exc:
        yield Diagnosis(area, "fail", exc.message, _next(exc, f"edit {config.file}"))
        return
    for finding in found:
        level: Level = "fail" if finding.severity is Severity.ERROR else "warn"
        yield Diagnosis(area, level, finding.message, finding.hint)
    if not found:
        yield Diagnosis(area, "ok", f"may import into {route.repository} as its settings ask")


def _deadlines(config: Config) -> Iterator[Diagnosis]:
    """Remote folders that their source removes soon, or has removed, and that are not safe yet."""
    now = time.time()
    try:
        near = {(one.route, one.folder): one for one in near_deadlines(config)}
    except LadingError as exc:
        yield Diagnosis("deadlines", "fail", exc.message, _next(exc, ""))
        return
    for one in list(near.values())[:_SHOWN]:
        yield Diagnosis(
            "deadline", "warn" if one.due > now else "fail", sentence(one, now), f"lading fetch {one.route}"
        )
    if len(near) > _SHOWN:
        yield Diagnosis("deadline", "warn", f"and {len(near) - _SHOWN} more", "lading status")


def _metrics(config: Config) -> Iterator[Diagnosis]:
    """Where figures are served: the address, the certificate and the token can be used."""

    def look(where: Callable[[], Listening | None]) -> str:
        found = where()
        exposition(())
        return f"served at {found.url}" if found else ""

    programs: tuple[Program, ...] = ("server", "agent")
    for program, address in zip(programs, (config.server.metrics, config.agent.metrics), strict=True):
        if address:
            yield _guarded("metrics", partial(look, partial(listening, config, program)), "", f"edit {config.file}")


def _digests(config: Config) -> Iterator[Diagnosis]:
    """What this machine lacks to list what it sends, fetches, or takes in without a list."""
    listed_here = {inbox.bare_route for inbox in config.inboxes.values()}
    for name, route in config.routes.items():
        if route.transport or route.fetch or name in listed_here:
            try:
                available(route.digests, f"routes.{name}.digests")
            except ConfigError as exc:
                yield Diagnosis(f"route {name}", "fail", exc.message, _next(exc, f"edit {config.file}"))


def _transport(config: Config, route: str) -> str:
    transport, live = make_transport(config, route), config.routes[route].live
    if live:
        deposit_of(transport, live.folder, where=f"routes.{route}.live")
    transport.probe()
    kind = config.routes[route].transport.get("kind", "")
    tool = _tool_version(str(kind))
    return f"{kind} reaches the inbox" + (f" ({tool})" if tool else "")


def _reporters(config: Config) -> Iterator[Diagnosis]:
    """Every way in which people are told: it answers and lets us in; nobody is told anything."""
    try:
        People(config.people)
        found = places(config)
    except LadingError as exc:
        yield Diagnosis("mail", "fail", exc.message, _next(exc, f"edit {config.file}"))
        return
    for name, place in found.items():
        area = name if name == "mail" else f"reporter {name}"
        yield _guarded(area, partial(_reporter, place.reporter, config.mail.server if name == "mail" else name), "")
    if config.mail.server and not config.mail.admin:
        yield Diagnosis("mail", "warn", "mail.admin is empty: alarms reach nobody", f"edit {config.file}")


def _reporter(reporter: Reporter, where: str) -> str:
    reporter.probe()
    return f"{where} answers and lets us in"


def send_test_mail(config: Config, address: str) -> str:
    """One mail to `address`; says what became of it. Raises ConfigError without a mail server, ReportError."""
    found = places(config).get("mail")
    if found is None:
        raise ConfigError("the settings name no mail server", next_command=f"set [mail] server in {config.file}")
    now = datetime.now(UTC)
    text = "This mail was asked for with: lading doctor --test-mail\nMail from Lading reaches you.\n"
    report = Report(f"test.{now:%Y%m%d%H%M%S}.{secrets.token_hex(4)}", (address,), "[lading] test", text, now)
    found.reporter.send(report)
    return f"{config.mail.server} took a mail to {address}"


def _tool_version(kind: str) -> str:
    if kind != "rsync" or not shutil.which("rsync"):
        return ""
    answer = subprocess.run(["rsync", "--version"], capture_output=True, text=True, timeout=10, check=False)
    return " ".join(answer.stdout.split("\n", 1)[0].split()[:3])


def _guarded(area: str, look: Callable[[], str], next_command: str, edit: str = "") -> Diagnosis:
    """What `look` says. `edit`: what to type instead of `next_command` when it is the settings that cannot be used."""
    try:
        return Diagnosis(area, "ok", look())
    except ConfigError as exc:
        return Diagnosis(area, "fail", exc.message, _next(exc, edit or next_command))
    except LadingError as exc:
        return Diagnosis(area, "fail", exc.message, _next(exc, next_command))
    except OSError as exc:
        where = f"{exc.filename}: " if exc.filename else ""
        return Diagnosis(area, "fail", f"{where}{exc.strerror or exc}", next_command)


def _next(exc: LadingError, otherwise: str) -> str:
    # "Retry" is for deliveries; here it would only ask the same thing again. So would the doctor: better than nothing.
    own = "" if exc.next_command.startswith("lading retry") else exc.next_command
    return (otherwise or own) if own.startswith("lading doctor") else own or otherwise
