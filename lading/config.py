"""Settings: one TOML file, read here and nowhere else, turned into frozen values with messages a person can act on."""

import dataclasses
import difflib
import os
import tomllib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from datetime import datetime
from pathlib import Path
from typing import Any, TypeVar

import attrs
import cattrs
import platformdirs
from cattrs.gen import make_dict_structure_fn

from lading.errors import ConfigError
from lading.hours import Hours
from lading.listing.digests import are_digests
from lading.secret_places import anchored
from lading.toml_values import is_tuple, list_hook, strict, table

T = TypeVar("T")
Settings = Mapping[str, object]

BASE: ContextVar[Path | None] = ContextVar("base", default=None)
"""The folder that relative paths in settings are relative to."""

CONFIG_ENV = "LADING_CONFIG"
CONFIG_NAME = "lading.toml"


_NOT_NEGATIVE = attrs.validators.ge(0.0)
_AT_LEAST_ONE = attrs.validators.ge(1)


@attrs.frozen(kw_only=True)
class InboxConfig:
    """A staging inbox on this machine's file systems (`[inboxes.NAME]`).

    `quiet` (seconds) and `marker` say when a bare delivery, a folder dropped as PROJECT/participant/SESSION, is complete;
    `bare_route` names the route that bare deliveries take ("" refuses them). `keep_days`: how long the published copy stays
    after VERIFIED. `max_files`, `max_gb`, `keep_free_gb` bound what a sender may do to the disk.
    """

    path: Path
    quiet: float = attrs.field(default=60.0, validator=_NOT_NEGATIVE)
    marker: str = ""
    bare_route: str = ""
    keep_days: float = attrs.field(default=7.0, validator=_NOT_NEGATIVE)
    max_files: int = attrs.field(default=5_000_000, validator=_AT_LEAST_ONE)
    max_gb: float = attrs.field(default=20_000.0, validator=_NOT_NEGATIVE)
    keep_free_gb: float = attrs.field(default=1.0, validator=_NOT_NEGATIVE)


def _are_hours(_: object, attribute: "attrs.Attribute[tuple[str, ...]]", value: tuple[str, ...]) -> None:
    for text in value:
        Hours.parse(text, where=attribute.name)


@attrs.frozen(kw_only=True)
class RepositoryConfig:
    """A repository that receives data (`[repositories.NAME]`).

    `kind` is an importer's entry-point name ("xnat"). `imports` bounds concurrent imports over all workers; two is what
    facilities run today without complaints. `hours`: when new imports may begin, by the clock on the wall, such as
    ["19:00-07:00", "12:00-13:00"]; empty is always. Every other key belongs to the importer and is checked by it (`settings`).
    """

    kind: str
    imports: int = attrs.field(default=2, validator=_AT_LEAST_ONE)
    hours: tuple[str, ...] = attrs.field(default=(), validator=_are_hours)
    settings: Settings = attrs.field(factory=dict)

    def imports_at(self, moment: datetime) -> int:
        """How many imports may run at `moment` (local time): none outside the hours."""
        return self.imports if self.is_open(moment) else 0

    def is_open(self, moment: datetime) -> bool:
        """Whether new imports may begin at `moment` (local time)."""
        return not self.hours or any(Hours.parse(text, where="hours").hold(moment) for text in self.hours)


def _is_one_name(_: object, attribute: "attrs.Attribute[str]", value: str) -> None:
    if value in ("", ".", "..") or value.startswith(".") or any(c in value for c in "/\\:"):
        raise ValueError(f"{attribute.name} = {value!r} must be the plain name of one folder")


@attrs.frozen(kw_only=True)
class LiveConfig:
    """Live mode (`live` of a route): files are pushed while an acquisition goes on, for programs that read along.

    They go to `folder`/PROJECT/participant/SESSION below the transport's target, each whole or not at all, beside a
    STATUS.json and a growing `manifest-sha256.txt`. `settle`: seconds without a change after which a file is carried (again, if it
    changes later). `status_every`: seconds between two writings of list and status. An acquisition is over when the file
    `marker` is there, when nothing changed for `close_after` seconds (0: never by itself), or on `lading live close`. `then`: the
    route by which the closed session is sent like any other, into a repository.
    """

    folder: str = attrs.field(default="deposit", validator=_is_one_name)
    settle: float = attrs.field(default=10.0, validator=attrs.validators.ge(0.0))
    status_every: float = attrs.field(default=10.0, validator=attrs.validators.gt(0.0))
    marker: str = ""
    close_after: float = attrs.field(default=3600.0, validator=attrs.validators.ge(0.0))
    then: str = ""


@attrs.frozen(kw_only=True)
class RouteConfig:
    """A named way from senders into a repository (`[routes.NAME]`).

    `transport` (table with `kind`) is what a sender uses; `inbox` and `repository` are what the server uses: each machine
    needs only its half. `checks` maps a check's name to its settings; `false` switches one off. `import` goes to the importer.
    `fetch` (table with `kind`) says where the server fetches sessions from, into `inbox` (see `lading fetch`).
    `live` (table, may be empty) pushes files while an acquisition goes on (see `lading live`).
    `include`, `exclude`, `junk` say which files belong to a delivery. `digests`: besides SHA-256, what the repository compares by,
    from the same read: "md5", "sha1", and OMERO's "Murmur3-128", "Murmur3-32", "CRC-32", "Adler-32", "File-Size-64";
    "xxh128" is what rsync says of each file that it sends, and is compared with.
    """

    inbox: str = ""
    repository: str = ""
    transport: Settings = attrs.field(factory=dict)
    fetch: Settings = attrs.field(factory=dict)
    live: LiveConfig | None = None
    checks: Settings = attrs.field(factory=dict)
    importer: Settings = attrs.field(factory=dict)
    include: tuple[str, ...] = ()
    exclude: tuple[str, ...] = ()
    junk: bool = True
    digests: tuple[str, ...] = attrs.field(default=("md5",), validator=are_digests)
    attempts: int = attrs.field(default=8, validator=_AT_LEAST_ONE)
    priority: int = attrs.field(default=0, validator=[attrs.validators.ge(-1000), attrs.validators.le(1000)])


@attrs.frozen(kw_only=True)
class WatchConfig:
    """A folder that the agent watches (`[[agent.watch]]`).

    `template` names the path below `path` with {project}, {participant}, {session} (literals and other {names} allowed);
    {sender} is the person whom a folder belongs to, who then gets the mail about it.
    A session is complete when size and time of every file were unchanged for `quiet` seconds and, when `marker` is set, that file
    is there too. `clean`: remove the source after `grace_days`, only against a receipt that proves every file.
    `events`: wake early through the operating system where that works; the scan stays the truth.
    """

    path: Path
    route: str
    template: str = "{project}/{participant}/{session}"
    source: str = "quiet-folder"
    quiet: float = attrs.field(default=60.0, validator=_NOT_NEGATIVE)
    marker: str = ""
    events: bool = True
    clean: bool = False
    grace_days: float = attrs.field(default=7.0, validator=_NOT_NEGATIVE)


@attrs.frozen(kw_only=True)
class AgentConfig:
    """The agent on the instrument (`[agent]`). `scan_every`: seconds between scans of every watched folder.

    `metrics`: where its figures are served, such as "127.0.0.1:9464" (see `[metrics]`); "" for nowhere.
    """

    watch: tuple[WatchConfig, ...] = ()
    scan_every: float = attrs.field(default=30.0, validator=_NOT_NEGATIVE)
    receipts_every: float = attrs.field(default=15.0, validator=_NOT_NEGATIVE)
    carriers: int = attrs.field(default=2, validator=_AT_LEAST_ONE)
    metrics: str = ""


@attrs.frozen(kw_only=True)
class ServerConfig:
    """The server on the staging host (`[server]`).

    `database`: "embedded" or a PostgreSQL DSN. `workers`: processes; each handles `concurrency` jobs at a time.
    `stale_after`: seconds without a heartbeat before a worker is taken for dead.
    `metrics`: where its figures are served, such as "127.0.0.1:9464" (see `[metrics]`); "" for nowhere.
    """

    database: str = "embedded"
    workers: int = attrs.field(default=2, validator=_AT_LEAST_ONE)
    concurrency: int = attrs.field(default=4, validator=_AT_LEAST_ONE)
    scan_every: float = attrs.field(default=2.0, validator=_NOT_NEGATIVE)
    stale_after: float = attrs.field(default=30.0, validator=_NOT_NEGATIVE)
    metrics: str = ""


@attrs.frozen(kw_only=True)
class MetricsConfig:
    """Who may read the figures of the server and the agent (`[metrics]`), where `metrics` of either names an address.

    On an address of this machine alone nothing is needed. Beyond it, TLS and a token are: `certificate` and `key` are PEM files
    (the key mode 0600), or `behind_proxy = true` declares that a proxy in front of us speaks TLS. `token`: "file:PATH" (its first
    line, mode 0600), "env:NAME" or "keyring:SERVICE/USER"; a scraper sends it as `Authorization: Bearer TOKEN`.
    """

    certificate: Path | None = None
    key: Path | None = None
    behind_proxy: bool = False
    token: str = ""


@attrs.frozen(kw_only=True)
class MailConfig:
    """Who is told what, and the mail server that takes it (`[mail]`). Without `server` nobody gets a mail.

    `security`: "starttls", "tls", or "plain", which only a server on this machine may use; `port` 0 is 587, 465 or 25 then.
    Certificates are verified, against `ca_file` when it is set. `credentials`: "" for none, "env" (LADING_MAIL_USER and
    LADING_MAIL_PASSWORD), "file:PATH" (mode 0600) or "keyring". `sender` stands in From; `admin` are the operators.
    `labels = false` leaves out PROJECT/participant/SESSION and whatever may quote them.

    Deliveries that end close together share one mail: it leaves when nothing ended for `quiet` seconds, or `longest` seconds after
    the first. An alarm is raised once something has been wrong for `alarm_after` seconds, and called off once it has been well for
    `recovered_after`. `expect` maps a sending computer (the host in `sender`) to the hours after which its silence is an alarm.
    """

    server: str = ""
    port: int = 0
    security: str = "starttls"
    sender: str = ""
    admin: tuple[str, ...] = ()
    credentials: str = ""
    ca_file: Path | None = None
    timeout: float = 30.0
    labels: bool = True
    quiet: float = 60.0
    longest: float = 600.0
    alarm_after: float = 900.0
    recovered_after: float = 60.0
    expect: Mapping[str, float] = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class PeopleConfig:
    """Whose delivery it is (`[people]`): where the mail about it goes.

    `addresses` maps a sender ("alice@scanner" or "alice"), a participant, or a project to a mail address, and is asked in that
    order; then `template`, such as "{sender}@example.org", is filled in: {sender} (without its host), {project}, {participant},
    {session}. A delivery of nobody known goes to the admins when somebody must act, and to no one else.
    """

    addresses: Mapping[str, str] = attrs.field(factory=dict)
    template: str = ""


@attrs.frozen(kw_only=True)
class ReporterConfig:
    """A further place that is told what the admins are told (`[reporters.NAME]`), such as a chat.

    `kind` is a reporter's entry-point name ("apprise"). Every other key belongs to it (`settings`).
    `labels`: as in `[mail]`, but off.
    """

    kind: str
    labels: bool = False
    settings: Settings = attrs.field(factory=dict)


@attrs.frozen(kw_only=True)
class Config:
    """The whole file. `home` is where the programs keep their own state (outbox, embedded database, keys, logs).

    `dicom` belongs to the DICOM receiver and is checked by it.
    """

    home: Path
    inboxes: Mapping[str, InboxConfig] = attrs.field(factory=dict)
    repositories: Mapping[str, RepositoryConfig] = attrs.field(factory=dict)
    routes: Mapping[str, RouteConfig] = attrs.field(factory=dict)
    agent: AgentConfig = attrs.field(factory=AgentConfig)
    server: ServerConfig = attrs.field(factory=ServerConfig)
    metrics: MetricsConfig = attrs.field(factory=MetricsConfig)
    mail: MailConfig = attrs.field(factory=MailConfig)
    people: PeopleConfig = attrs.field(factory=PeopleConfig)
    reporters: Mapping[str, ReporterConfig] = attrs.field(factory=dict)
    dicom: Settings = attrs.field(factory=dict)
    file: Path | None = None

    @property
    def folder(self) -> Path:
        """What relative paths in the file are relative to."""
        return self.file.parent if self.file else Path.cwd()

    def route(self, name: str) -> RouteConfig:
        """The route called `name`. Raises ConfigError naming the nearest."""
        try:
            return self.routes[name]
        except KeyError:
            raise ConfigError(
                f"no route {name!r} in {self.file or 'the settings'}{nearest(name, self.routes)}",
                next_command="lading doctor",
            ) from None


def find_config(explicit: Path | None = None) -> Path:
    """Where the settings are: `explicit`, $LADING_CONFIG, ./lading.toml, the user's folder, the site's folder.

    Raises ConfigError when there is none.
    """
    if explicit:
        candidates = [explicit]
    elif os.environ.get(CONFIG_ENV):
        candidates = [Path(os.environ[CONFIG_ENV])]
    else:
        candidates = [
            Path.cwd() / CONFIG_NAME,
            platformdirs.user_config_path("lading", appauthor=False) / CONFIG_NAME,
            platformdirs.site_config_path("lading", appauthor=False) / CONFIG_NAME,
        ]
    for candidate in candidates:
        if candidate.is_file():
            return candidate
    raise ConfigError(
        "no settings found; looked for " + ", ".join(str(c) for c in candidates), next_command="lading init"
    )


def load(path: Path) -> Config:
    """The settings in the TOML file `path`; relative paths in it are relative to its folder.

    Raises ConfigError naming the file, the key and, for an unknown key, the nearest valid one.
    """
    try:
        raw = tomllib.loads(path.read_text(encoding="utf-8-sig"))  # Windows' editors put a mark in front
    except OSError as exc:
        raise ConfigError(f"cannot read the settings {path}: {exc.strerror}", next_command=f"ls -l {path}") from exc
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as exc:
        raise ConfigError(f"{path} is not valid TOML: {exc}", next_command=f"edit {path}") from exc
    try:
        return _read(raw, path)
    except ConfigError as exc:
        exc.next_command = f"edit {path}"  # the doctor reads the same file, and would say the same
        raise


def _read(raw: dict[str, Any], path: Path) -> Config:
    base = path.resolve().parent
    raw = {name: anchored(value, base, name) for name, value in raw.items()}
    raw.setdefault("home", str(platformdirs.user_data_path("lading", appauthor=False)))
    for kind, own in (("repositories", {"kind", "imports", "hours"}), ("reporters", {"kind", "labels"})):
        raw[kind] = {name: _with_settings(table, own) for name, table in _tables(raw, kind, path).items()}
    raw["file"] = str(path.resolve())
    with relative_to(base):
        return _checked(structure(raw, Config, where=str(path)))


@contextmanager
def relative_to(base: Path) -> Iterator[None]:
    """Within the context, relative paths in settings are relative to the folder `base`: that of the settings file."""
    token = BASE.set(base)
    try:
        yield
    finally:
        BASE.reset(token)


def structure(settings: Settings, cls: type[T], *, where: str) -> T:
    """`settings` as a `cls` (attrs or dataclass), no unknown keys. `where` names the table in messages. Raises ConfigError."""
    try:
        return _converter.structure(settings, cls)
    except (cattrs.BaseValidationError, cattrs.errors.ForbiddenExtraKeysError, ValueError, TypeError) as exc:
        raise ConfigError("; ".join(_messages(exc, where)), next_command="lading doctor") from exc


def nearest(word: str, valid: "Mapping[str, object] | list[str] | tuple[str, ...]") -> str:
    """A suggestion to append to a message: "; did you mean 'x'?", or the valid words, or ""."""
    names = list(valid)
    close = difflib.get_close_matches(word, names, n=1)
    if close:
        return f"; did you mean {close[0]!r}?"
    return f"; there are: {', '.join(sorted(names))}" if names else ""


def _with_settings(table: object, own: set[str]) -> object:
    """The keys that are not our `own` belong to the part."""
    if not isinstance(table, dict):
        return table
    return {k: v for k, v in table.items() if k in own} | {"settings": {k: v for k, v in table.items() if k not in own}}


def _tables(raw: Mapping[str, object], key: str, path: Path) -> Mapping[str, object]:
    value = raw.get(key, {})
    if not isinstance(value, dict):
        raise ConfigError(f"{path}: {key} must be tables like [{key}.NAME]")
    return value


def _checked(config: Config) -> Config:
    for name, route in config.routes.items():
        for key, value, valid in (
            ("inbox", route.inbox, config.inboxes),
            ("repository", route.repository, config.repositories),
        ):
            if value and value not in valid:
                raise ConfigError(
                    f"{config.file}: routes.{name}.{key} = {value!r} is not defined{nearest(value, valid)}"
                )
        _refuse_odd_live(config, name, route)
    for watch in config.agent.watch:
        live = config.route(watch.route).live
        if live and watch.clean and not live.then:
            raise ConfigError(
                f"{config.file}: agent.watch {watch.path}: clean = true needs a receipt, and live mode gives none; name the route"
                f" that sends the closed session into a repository in routes.{watch.route}.live.then"
            )
        if live and watch.marker:
            raise ConfigError(
                f"{config.file}: agent.watch {watch.path}: the marker of live mode is named in routes.{watch.route}.live"
            )
    folders: dict[str, str] = {}
    for name, inbox in config.inboxes.items():
        other = folders.setdefault(os.path.normpath(inbox.path), name)
        if other != name:
            raise ConfigError(f"{config.file}: inboxes.{other} and inboxes.{name} are the same folder, {inbox.path}")
        if inbox.bare_route and inbox.bare_route not in config.routes:
            raise ConfigError(
                f"{config.file}: inboxes.{name}.bare_route = {inbox.bare_route!r} is not defined"
                f"{nearest(inbox.bare_route, config.routes)}"
            )
    return config


def _refuse_odd_live(config: Config, name: str, route: RouteConfig) -> None:
    """Where a closed session goes on to must be another, ordinary route."""
    if route.live is None or not route.live.then:
        return
    then = config.routes.get(route.live.then)
    if then is None or then.live is not None:
        why = "is not defined" if then is None else "is live itself; an ordinary route is needed"
        raise ConfigError(
            f"{config.file}: routes.{name}.live.then = {route.live.then!r} {why}"
            f"{nearest(route.live.then, config.routes) if then is None else ''}"
        )


def _messages(exc: BaseException, where: str) -> list[str]:
    if isinstance(exc, cattrs.errors.ForbiddenExtraKeysError):
        fields = (
            [f.name for f in attrs.fields(exc.cl)]
            if attrs.has(exc.cl)
            else [f.name for f in dataclasses.fields(exc.cl)]
        )
        return [f"{where}: unknown key {key!r}{nearest(key, fields)}" for key in sorted(exc.extra_fields)]
    if isinstance(exc, cattrs.BaseValidationError):
        found = []
        for inner in exc.exceptions:
            place = next((n for n in getattr(inner, "__notes__", [])), None)
            name = getattr(place, "name", None)
            index = getattr(place, "index", None)
            step = f".{name}" if name is not None else f"[{index!r}]" if index is not None else ""
            found += _messages(inner, where + step)
        return found
    if isinstance(exc, KeyError):
        return [f"{where}: the key {exc.args[0]!r} is missing"]
    return [f"{where}: {exc}"]


def _path(text: str) -> Path:
    path = Path(os.path.expandvars(text)).expanduser()
    base = BASE.get()
    return base / path if base else path


def _make_converter() -> cattrs.Converter:
    converter = cattrs.Converter(forbid_extra_keys=True, detailed_validation=True)
    for kind in (str, int, float, bool):
        converter.register_structure_hook(kind, strict)
    converter.register_structure_hook(Path, lambda value, _: _path(strict(value, str)))
    converter.register_structure_hook_factory(is_tuple, list_hook)
    converter.register_structure_hook_func(lambda kind: kind == Settings, lambda value, _: table(value))
    converter.register_structure_hook(
        RouteConfig,
        make_dict_structure_fn(
            RouteConfig,
            converter,
            _cattrs_forbid_extra_keys=True,
            importer=cattrs.gen.override(rename="import"),
        ),
    )
    return converter


_converter = _make_converter()
