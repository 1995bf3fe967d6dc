"""One delivery by hand: `lading send`, a scanner's post-acquisition hook, a cron job."""

import os
import subprocess
import sys
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

import structlog

from lading.agent import receipts
from lading.agent.edge import foreseen
from lading.agent.loop import LOOK_INTO_OUTBOX_S, has_carrier
from lading.agent.outbox import Outbox
from lading.agent.parts import DEFAULT_FACTORY, AgentParts
from lading.agent.taking import look_again, taken_root, this_sender
from lading.config import Config, WatchConfig
from lading.delivery import Cargo, Delivery, DeliveryId, Labels, Slot, Stage, new_delivery_id
from lading.errors import AccessDenied, ConfigError, LadingError, Rejected
from lading.findings import Finding, error, warning
from lading.glance import glance
from lading.listing.entries import Filtered
from lading.listing.survey import Survey, survey
from lading.ports import Plan
from lading.seal import label_findings
from lading.shell import typed
from lading.template import Template

log = structlog.get_logger()

QUIET_S = 10.0
"""How long a source that changed under our hands must rest, when no watch says otherwise. Whoever sends says it is complete."""
_CARRIER_STARTS_S = 10.0
_LOOK_FOR_CARRIER_S = 10.0
_DAY_S = 86_400.0
# No console, and no Ctrl-C of ours reaches it. Zero where these flags do not exist.
_WINDOWS_DETACHED: int = getattr(subprocess, "DETACHED_PROCESS", 0) | getattr(subprocess, "CREATE_NEW_PROCESS_GROUP", 0)


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What `send` would do: the dry run. `filtered` says what stays behind and why; `plan` what the transport would move.

    `plan` is None when the other side could not be asked; a finding then says why.
    """

    route: str
    labels: Labels
    root: Path
    files: int
    bytes: int
    filtered: tuple[Filtered, ...]
    findings: tuple[Finding, ...]
    plan: Plan | None

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return {
            "route": self.route,
            "labels": self.labels.as_dict(),
            "source": str(self.root),
            "files": self.files,
            "bytes": self.bytes,
            "filtered": [{"path": f.path, "size": f.size, "reason": f.reason} for f in self.filtered],
            "findings": [finding.as_dict() for finding in self.findings],
            "plan": self.plan
            and {
                "files": self.plan.files,
                "bytes": self.plan.bytes,
                "already_there": self.plan.files_already_there,
                "sample": list(self.plan.sample),
                "told_by": self.plan.told_by,
            },
        }


def enqueue(  # noqa: PLR0917 - the order in which people think of them
    outbox: Outbox,
    config: Config,
    parts: AgentParts,
    path: Path,
    route: str,
    labels: Labels | None = None,
    *,
    priority: int | None = None,
    sender: str = "",
) -> DeliveryId:
    """Put the folder `path` into the outbox, to be carried by `route`. On return it survives a power cut.

    Without `labels` they come from the path, by the template of a watch on this route. The same folder, unchanged, sent twice
    is one delivery: its id is given back. `sender` (user@host) is whoever runs this process, unless it is said. Raises
    ConfigError (no such folder, route or template), Rejected for labels that cannot name a session or that differ from those
    it was sent under.
    """
    _refuse_live(config, route)
    root, watch = _folder(path), _watch_of(config, path, route)
    wanted = labels or _labels_from(config, path, route)
    refusals = label_findings(wanted)
    if refusals:
        raise Rejected(
            f"{wanted} cannot name a session: {refusals[0].message}",
            findings=refusals,
            safe="nothing was sent",
            next_command=_with_labels(path, route),
        )
    rules = parts.rules(route)
    seen = glance(root, rules)
    if seen.unreadable:
        raise AccessDenied(f"cannot look through {root}: {seen.unreadable}", safe="nothing was sent")
    before = outbox.taken(route, root)
    if before is not None:
        item = outbox.get(before[0])
        if item.stage is not Stage.CANCELLED and (item.stage is not Stage.REJECTED or item.arrived_at):
            _same_labels(item.delivery, wanted)
            return (item if before[1] == seen.fingerprint else look_again(outbox, rules, item, seen.fingerprint)).id
    taken = outbox.take(
        root,
        route,
        wanted,
        fingerprint=seen.fingerprint,
        sender=sender or this_sender(),
        priority=config.route(route).priority if priority is None else priority,
        quiet=watch.quiet if watch else QUIET_S,
        clean=watch.clean if watch else False,
        grace_s=watch.grace_days * _DAY_S if watch else 0.0,
        after=before[0] if before else None,
    )
    log.info("taken", delivery=taken.id, root=str(root), labels=str(wanted))
    return taken.id


def dry_run(config: Config, parts: AgentParts, path: Path, route: str, labels: Labels | None = None) -> Rehearsal:
    """What `enqueue` and the carry after it would do. Writes nothing, here or there. Raises ConfigError."""
    _refuse_live(config, route)
    root = _folder(path)
    wanted = labels or _labels_from(config, path, route)
    rules, transport = parts.rules(route), parts.transport(route)
    look = survey(root, rules=rules, limits=transport.traits.names)
    filtered = tuple(found for found in look if isinstance(found, Filtered))
    findings = [*label_findings(wanted), *look.findings]
    unfinished = glance(root, rules).unfinished
    if unfinished:
        findings.append(
            warning("unfinished-file", f"{unfinished[0]} is still being written, by its name", path=unfinished[0])
        )
    plan = None
    try:
        transport.probe(look.bytes)
        plan = _plan(Delivery(new_delivery_id(), route, wanted), root, parts)
    except LadingError as exc:
        severity = warning if exc.retried else error
        findings.append(severity(exc.code, exc.message, hint=exc.next_command))
    if transport.traits.third_party:
        findings += _seen_by_others(look, plan)
    return Rehearsal(route, wanted, root, look.files, look.bytes, filtered, tuple(findings), plan)


def carry_now(outbox: Outbox, config: Config, parts: AgentParts, delivery: DeliveryId) -> None:
    """For `--wait`: see to it that somebody carries, and ask for this delivery's receipt in the background meanwhile.

    Returns at once; whoever waits looks at the outbox.
    """
    ensure_carrier(config)
    if outbox.get(delivery).stage in (Stage.VERIFIED, Stage.CLEANED, Stage.CANCELLED):
        return
    threading.Thread(target=_keep_asking, args=(config, parts, delivery), daemon=True).start()


def ensure_carrier(config: Config, *, parts: str = DEFAULT_FACTORY) -> None:
    """Unless an agent or an earlier carrier is at work, start one that outlives us and ends when nothing is left to carry.

    Raises ConfigError when it does not come up (its log is `logs/carrier.log` in the home folder).
    """
    with foreseen("starting the background carrier"):
        if has_carrier(config.home):
            return
        if config.file is None:
            raise ConfigError(
                "settings without a file cannot be handed to a background carrier", next_command="lading agent run"
            )
        _start_carrier(config, parts)


def _start_carrier(config: Config, parts: str) -> None:
    log_file = config.home / "logs" / "carrier.log"
    log_file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    command = [sys.executable, "-m", "lading.agent.drain", "--config", str(config.file), "--parts", parts]
    with log_file.open("ab") as out:
        started = subprocess.Popen(
            command,
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=out,
            cwd=config.home,
            start_new_session=os.name == "posix",
            creationflags=_WINDOWS_DETACHED,
        )
    _wait_until_up(config, started, log_file)


def _refuse_live(config: Config, route: str) -> None:
    live = config.route(route).live
    if live is not None:
        then = f"; {live.then!r} sends whole sessions" if live.then else ""
        raise ConfigError(
            f"the route {route!r} is live: the agent pushes what appears below its watched folders{then}",
            next_command="lading agent run",
        )


def _folder(path: Path) -> Path:
    root = taken_root(path)
    if not root.is_dir():
        raise ConfigError(f"{path} is not a folder; a delivery is one session's folder")
    return root


def _watch_of(config: Config, path: Path, route: str) -> WatchConfig | None:
    root = taken_root(path)
    watches = [watch for watch in config.agent.watch if watch.route == route]
    return next((watch for watch in watches if root.is_relative_to(taken_root(watch.path))), None)


def _labels_from(config: Config, path: Path, route: str) -> Labels:
    config.route(route)
    watch = _watch_of(config, path, route)
    if watch is None:
        raise ConfigError(
            f"{path} lies below no folder that is watched for route {route!r}: its labels are not known",
            next_command=_with_labels(path, route),
        )
    relative = taken_root(path).relative_to(taken_root(watch.path)).as_posix()
    labels = Template.parse(watch.template).labels(relative)
    if labels is None:
        raise ConfigError(
            f"{relative} does not fit the template {watch.template} of route {route!r}",
            next_command=_with_labels(path, route),
        )
    return labels


def _with_labels(path: Path, route: str) -> str:
    return typed("lading", "send", path, "--route", route, "--project", "P", "--participant", "S", "--session", "L")


def _same_labels(delivery: Delivery, wanted: Labels) -> None:
    if delivery.labels != wanted:
        message = f"this folder is {delivery.id} already, as {delivery.labels}; not sent again as {wanted}"
        raise Rejected(
            message,
            findings=[error("already-sent-under-other-labels", message)],
            safe="the earlier delivery goes on",
            next_command=f"lading show {delivery.id}",
        )


def _plan(delivery: Delivery, root: Path, parts: AgentParts) -> Plan:
    with tempfile.TemporaryDirectory() as papers:
        cargo = Cargo(delivery, root, Path(papers), parts.rules(delivery.route), parts.algorithms(delivery.route))
        return parts.transport(delivery.route).plan(cargo, Slot(delivery.id))


def _seen_by_others(look: Survey, plan: Plan | None) -> list[Finding]:
    """What those who carry see may be other than what is seen here. Whether anybody has asked them must be known."""
    if plan is None or not plan.told_by:
        return [
            warning(
                "not-asked-over-there",
                f"{look.files} files, {look.bytes:,} bytes is what is seen from here; "
                "the hosts that carry it have not said what they would move",
            )
        ]
    files, size = plan.files + plan.files_already_there, plan.bytes
    if files == look.files and (size == look.bytes or plan.files_already_there):
        return []
    return [
        warning(
            "seen-otherwise",
            f"{plan.told_by} would move {files} files, {size:,} bytes; seen from here are {look.files} files, {look.bytes:,} bytes",
            hint="compare `source.path` with `source.seen_at` in the settings, or wait until the data's host shows the same",
        )
    ]


def _keep_asking(config: Config, parts: AgentParts, delivery: DeliveryId) -> None:
    """Until the end of the delivery: nobody else asks for its receipt, or notices that its carrier was killed."""
    outbox, looked_for_carrier = None, time.monotonic()
    while True:
        try:
            outbox = outbox or Outbox(config.home)
            if outbox.get(delivery).stage in (Stage.VERIFIED, Stage.CANCELLED, Stage.CLEANED):
                break
            receipts.ask(outbox, parts, delivery, every=min(config.agent.receipts_every, 2.0))
            if time.monotonic() - looked_for_carrier > _LOOK_FOR_CARRIER_S:
                looked_for_carrier = time.monotonic()
                if outbox.has_cargo():
                    ensure_carrier(config)
        except LadingError as exc:  # a disk that is full, an outbox that is busy: both pass
            log.warning("cannot ask now", delivery=delivery, code=exc.code, error=exc.message)
        time.sleep(LOOK_INTO_OUTBOX_S)
    outbox.close()


def _wait_until_up(config: Config, started: "subprocess.Popen[bytes]", log_file: Path) -> None:
    until = time.monotonic() + _CARRIER_STARTS_S
    while time.monotonic() < until and not has_carrier(config.home):
        # It may have carried everything and ended before we looked.
        if started.poll() is not None:
            if started.returncode:
                raise ConfigError(f"the background carrier ended with {started.returncode}; see {log_file}")
            return
        time.sleep(0.02)
