"""Every figure there is: its name, its labels, what it says. The reference page is made of this.

Names as Prometheus likes them: the unit at the end, `_total` for what only grows. Times of day are `_timestamp_seconds`, so that
they stay true in a file that nobody writes any more.
"""

from lading.metrics.figures import Family, Kind

_GAUGE, _COUNTER = Kind.GAUGE, Kind.COUNTER

# -- both programs -----------------------------------------------------------------------------------------------------

UP = Family(
    "lading_up",
    _GAUGE,
    "1 when the program's memory (the server's database, the agent's outbox) could be read, else 0, and its figures are missing",
    ("program",),
)
RUNNING = Family("lading_running", _GAUGE, "1 when the program shows a sign of life", ("program",))
INFO = Family("lading_build_info", _GAUGE, "always 1; the version is in the label", ("program", "version"))
HOME_FREE = Family("lading_home_free_bytes", _GAUGE, "room left where the program keeps its state", ("program",))
REPORTS_KEPT_BACK = Family(
    "lading_reports_kept_back",
    _GAUGE,
    "1 while the mail server, or a chat, does not take the program's reports to people",
    ("program",),
)
COLLECTED = Family("lading_metrics_timestamp_seconds", _GAUGE, "when these figures were taken (seconds since 1970)")
COLLECTING = Family("lading_metrics_collect_seconds", _GAUGE, "how long it took to take them")
BOTH = (UP, RUNNING, INFO, HOME_FREE, REPORTS_KEPT_BACK, COLLECTED, COLLECTING)

# -- the server: deliveries --------------------------------------------------------------------------------------------

DELIVERIES = Family(
    "lading_deliveries",
    _GAUGE,
    "deliveries that are not at their end (VERIFIED, CANCELLED); REJECTED and HELD wait for a person",
    ("route", "stage"),
)
DELIVERIES_BYTES = Family("lading_deliveries_bytes", _GAUGE, "bytes in those deliveries", ("route", "stage"))
OLDEST = Family(
    "lading_oldest_delivery_age_seconds",
    _GAUGE,
    "how long ago the oldest of those deliveries arrived; missing when there is none",
    ("route", "stage"),
)
FAILING = Family(
    "lading_deliveries_failing",
    _GAUGE,
    "deliveries whose last step failed, by the code of the error (see errors.md); most are tried again by themselves",
    ("route", "code"),
)
ENDED = Family(
    "lading_ended_total",
    _COUNTER,
    "deliveries that came to VERIFIED, REJECTED, HELD or CANCELLED; one that comes there again counts again",
    ("route", "stage"),
)
VERIFIED_FILES = Family("lading_verified_files_total", _COUNTER, "files of deliveries that were VERIFIED", ("route",))
VERIFIED_BYTES = Family("lading_verified_bytes_total", _COUNTER, "bytes of deliveries that were VERIFIED", ("route",))
FAILED = Family("lading_failed_attempts_total", _COUNTER, "attempts at a step that failed", ("route", "code"))

# -- the server: its engine --------------------------------------------------------------------------------------------

JOBS = Family(
    "lading_jobs",
    _GAUGE,
    "jobs in the queue: waiting for a worker, waiting for a later time, running",
    ("state",),
)
WORKERS = Family("lading_workers", _GAUGE, "worker processes on this database with a fresh heartbeat")
WORKER_HEARTBEAT = Family(
    "lading_worker_heartbeat_age_seconds", _GAUGE, "the oldest of all workers' heartbeats; missing without workers"
)
SERVER_HEARTBEAT = Family("lading_server_heartbeat_age_seconds", _GAUGE, "since the server's last sign of life")
DATABASE_ANSWER = Family("lading_database_answer_seconds", _GAUGE, "how long the server's own database took to answer")
CHORES = Family(
    "lading_chore_timestamp_seconds",
    _GAUGE,
    "when a chore last went well everywhere: `adopt` (folders dropped into inboxes), `tidy` (copies withdrawn, inboxes swept)",
    ("chore",),
)
REPORTS = Family("lading_reports_waiting", _GAUGE, "reports to people that have not been taken over yet")
OLDEST_REPORT = Family("lading_oldest_report_age_seconds", _GAUGE, "the oldest of them; missing when there is none")
ALARMS = Family("lading_alarms", _GAUGE, "alarms that stand")
INBOX_UP = Family(
    "lading_inbox_up", _GAUGE, "1 when the inbox is there, with its sentinel, and answers in time", ("inbox",)
)
INBOX_FREE = Family("lading_inbox_free_bytes", _GAUGE, "room left in the inbox", ("inbox",))
INBOX_KEEP = Family(
    "lading_inbox_keep_free_bytes", _GAUGE, "below this much room no sender gets in (`keep_free_gb`)", ("inbox",)
)

# -- the server: repositories ------------------------------------------------------------------------------------------

REPOSITORY_UP = Family("lading_repository_up", _GAUGE, "0 once a delivery found the repository away", ("repository",))
REPOSITORY_FAILURES = Family(
    "lading_repository_failures", _GAUGE, "unbroken failures to reach the repository", ("repository",)
)
REPOSITORY_PAUSED = Family("lading_repository_paused", _GAUGE, "1 while it is paused on request", ("repository",))
IMPORTS = Family(
    "lading_repository_imports",
    _GAUGE,
    "deliveries in import slots: their files are being sent, or an import of theirs is under way",
    ("repository",),
)
IMPORTS_LIMIT = Family(
    "lading_repository_imports_limit",
    _GAUGE,
    "how many may be at once, at this hour (`imports`, `hours`)",
    ("repository",),
)
QUEUED = Family("lading_repository_queued", _GAUGE, "deliveries that wait to be imported", ("repository",))

VALVE = Family(
    "lading_valve",
    _GAUGE,
    "1 for the valve's position now, 0 for the others: open, ajar, closed",
    ("repository", "position"),
)
VALVE_CAUSE = Family(
    "lading_valve_cause",
    _GAUGE,
    "always 1, while it is not open: what closed it (database, disk, busy, write, slot); `lading status` has the words",
    ("repository", "cause"),
)
VALVE_LEFT = Family(
    "lading_valve_closed_for_seconds", _GAUGE, "how long the valve stays closed from now", ("repository",)
)
VALVE_PAUSE = Family(
    "lading_valve_pause_seconds", _GAUGE, "for how long it was closed last; 0 when all is well", ("repository",)
)
VALVE_TO_GO = Family(
    "lading_valve_imports_to_go", _GAUGE, "imports that must go well before it is fully open", ("repository",)
)
VALVE_UNDER_WAY = Family(
    "lading_valve_imports_under_way",
    _GAUGE,
    "imports at the repository, from `verifyUpload` to their end, by workers of this machine; a delivery has one at most",
    ("repository",),
)
VALVE_DATABASE = Family(
    "lading_valve_database_seconds", _GAUGE, "how long the repository's database took to answer last", ("repository",)
)
VALVE_USUAL = Family(
    "lading_valve_database_usual_seconds", _GAUGE, "how long it usually takes: the baseline", ("repository",)
)
VALVE_SLOT = Family(
    "lading_valve_verify_seconds",
    _GAUGE,
    "how long `verifyUpload` took last: the wait for one of the repository's background slots",
    ("repository",),
)
VALVE_FREE = Family("lading_valve_free_bytes", _GAUGE, "room on the repository's disk when last asked", ("repository",))

# -- the server: fetching ----------------------------------------------------------------------------------------------

FETCH = Family("lading_fetch_folders", _GAUGE, "remote folders, by how far they have come", ("route", "state"))
FETCH_URGENT = Family(
    "lading_fetch_urgent", _GAUGE, "remote folders that are not safe yet and that the source removes soon", ("route",)
)
FETCH_DUE = Family(
    "lading_fetch_due_timestamp_seconds",
    _GAUGE,
    "when the source removes the first folder that is not safe yet; missing when there is none",
    ("route",),
)
SERVER = (
    DELIVERIES, DELIVERIES_BYTES, OLDEST, FAILING, ENDED, VERIFIED_FILES, VERIFIED_BYTES, FAILED,
    JOBS, WORKERS, WORKER_HEARTBEAT, SERVER_HEARTBEAT, DATABASE_ANSWER, CHORES, REPORTS, OLDEST_REPORT, ALARMS,
    INBOX_UP, INBOX_FREE, INBOX_KEEP,
    REPOSITORY_UP, REPOSITORY_FAILURES, REPOSITORY_PAUSED, IMPORTS, IMPORTS_LIMIT, QUEUED,
    VALVE, VALVE_CAUSE, VALVE_LEFT, VALVE_PAUSE, VALVE_TO_GO, VALVE_UNDER_WAY, VALVE_DATABASE, VALVE_USUAL, VALVE_SLOT, VALVE_FREE,
    FETCH, FETCH_URGENT, FETCH_DUE,
)  # fmt: skip

# -- the agent ---------------------------------------------------------------------------------------------------------

AGENT_DELIVERIES = Family(
    "lading_agent_deliveries",
    _GAUGE,
    "deliveries of the outbox that are not proven to have arrived",
    ("route", "stage"),
)
AGENT_OLDEST = Family(
    "lading_agent_oldest_delivery_age_seconds",
    _GAUGE,
    "how long ago the oldest of them was found, but for live acquisitions; missing when there is none",
    ("route", "stage"),
)
AGENT_UNSENT = Family("lading_agent_unsent_bytes", _GAUGE, "bytes that are listed and have not left yet", ("route",))
AGENT_FAILING = Family(
    "lading_agent_deliveries_failing",
    _GAUGE,
    "those whose last attempt failed, by the code of the error",
    ("route", "code"),
)
AGENT_VERIFIED = Family("lading_agent_verified_total", _COUNTER, "deliveries with a receipt that proves every file")
AGENT_RECEIPT = Family(
    "lading_agent_last_receipt_timestamp_seconds",
    _GAUGE,
    "when a receipt last proved a delivery (of the latest thousand)",
)
WATCH_UP = Family("lading_watch_up", _GAUGE, "1 when the watched folder could be looked into", ("path",))
WATCH_SCAN = Family("lading_watch_scan_timestamp_seconds", _GAUGE, "when it was last looked into", ("path",))
WATCH_INCOMPLETE = Family("lading_watch_incomplete", _GAUGE, "sessions in it that are not complete yet", ("path",))
LIVE = Family(
    "lading_live_acquisitions",
    _GAUGE,
    "acquisitions of live routes that are not closed: acquiring, closing",
    ("route", "state"),
)
LIVE_WAITING = Family(
    "lading_live_files_waiting", _GAUGE, "files that came to rest and are not at the target yet", ("route",)
)
LIVE_WAITING_BYTES = Family("lading_live_bytes_waiting", _GAUGE, "bytes in those files", ("route",))
LIVE_REFUSED = Family(
    "lading_live_files_refused", _GAUGE, "those of them that cannot go: `lading live list`", ("route",)
)
LIVE_LAG = Family(
    "lading_live_lag_seconds", _GAUGE, "how long the oldest of those files has waited; 0 when all are there", ("route",)
)
LIVE_LINK = Family(
    "lading_live_link_up",
    _GAUGE,
    "0 while the last attempt to reach the target failed; missing before the first, and without an acquisition",
    ("route",),
)
LIVE_FILES = Family(
    "lading_live_files_total",
    _COUNTER,
    "files carried while their acquisition went on, as STATUS.json says",
    ("route",),
)
LIVE_BYTES = Family("lading_live_bytes_total", _COUNTER, "bytes in those files", ("route",))
AGENT = (
    AGENT_DELIVERIES, AGENT_OLDEST, AGENT_UNSENT, AGENT_FAILING, AGENT_VERIFIED, AGENT_RECEIPT,
    WATCH_UP, WATCH_SCAN, WATCH_INCOMPLETE,
    LIVE, LIVE_WAITING, LIVE_WAITING_BYTES, LIVE_REFUSED, LIVE_LAG, LIVE_LINK, LIVE_FILES, LIVE_BYTES,
)  # fmt: skip

EVERY = (*BOTH, *SERVER, *AGENT)


_INTRODUCTION = """\
# Metrics

What `/metrics` of the server and of the agent say, and `lading metrics` for both. How to have them scraped, and which rules to
begin with: [watch Lading with Prometheus](../how-to/metrics.md).

A label holds names from the settings only: no project, participant, session or file. A route that the settings do not name is
`(unknown)`, whoever wrote what into an inbox. Counters outlive a restart of the program: they are in its database. While a
program's memory cannot be read, `lading_up` is 0 and the figures from it are missing, not nought.
"""


def page() -> str:
    """The reference page, in Markdown."""
    lines = [_INTRODUCTION]
    for title, families in (("Both programs", BOTH), ("The server", SERVER), ("The agent", AGENT)):
        lines += [f"## {title}", "", "| name | kind | labels | what it says |", "|---|---|---|---|"]
        for one in families:
            labels = ", ".join(f"`{label}`" for label in one.labels)
            lines.append(f"| `{one.name}` | {one.kind} | {labels} | {one.meaning} |")
        lines.append("")
    return "\n".join(lines)
