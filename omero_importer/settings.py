"""The importer's two tables: `[repositories.NAME]` (the server) and `[routes.NAME.import]` (what to do with a delivery)."""

import re
from collections.abc import Mapping
from pathlib import Path

import attrs

from lading.config import nearest, structure
from lading.delivery import Labels
from lading.errors import ConfigError
from lading.ports import Settings
from omero_importer.bioformats import BioFormatsSettings
from omero_importer.file_rules import FileSettings, checked
from omero_importer.hashes import ALGORITHMS
from omero_importer.in_place_rules import InPlaceSettings, checked_in_place
from omero_importer.session_in_hand import DEFAULT_PORT, SessionInHand, taken_from


@attrs.frozen(kw_only=True)
class SslSettings:
    """How the server's certificate is looked at.

    `verify`: against `ca` (a PEM file), or the system's authorities when `ca` is "". OMERO's own certificates are self-signed and
    its clients verify nothing; with `verify = false` whoever answers gets the password, and `lading doctor` says so.
    `check_name`: the certificate must name the host; OMERO's own ones say "localhost", so that pinning one needs `false`.
    `ciphers`: what old servers without a certificate need is "HIGH:ADH:@SECLEVEL=0".
    """

    verify: bool = True
    ca: Path | None = None
    check_name: bool = True
    ciphers: str = ""


@attrs.frozen(kw_only=True)
class ValveSettings:
    """When to leave the server alone (times in seconds), and for how long.

    The valve closes when `verifyUpload` waits longer than `verify_wait`, when a query to its database takes longer than
    `database_wait`, or `database_factor` times as long as it usually does, or when less than `free_gb` of its disk is free.
    It stays closed for `first_pause`, twice as long each time, up to `longest_pause`; then imports pass one at a time until
    `calm` of them went well. `slots`: imports at once, from `verifyUpload` to their end, over all workers of this machine; where
    the repository's `imports` lets more deliveries in, those upload in the meantime.
    """

    slots: int = 2
    verify_wait: float = 30.0
    database_wait: float = 2.0
    database_factor: float = 5.0
    free_gb: float = 10.0
    first_pause: float = 30.0
    longest_pause: float = 900.0
    calm: int = 3


@attrs.frozen(kw_only=True)
class CliSettings:
    """How to run `omero import` (for routes with `engine = "cli"`).

    `command`: the program and its first words. `client_dir`: the folder with the jars of OMERO.java, of the server's version;
    nothing is ever downloaded.
    """

    command: tuple[str, ...] = ("omero",)
    client_dir: str = ""


@attrs.frozen(kw_only=True)
class RepositorySettings:
    """How to reach one OMERO. Times are in seconds.

    `credentials`: "env", "env:PREFIX", "keyring", "keyring:SERVICE", "file:PATH" (mode 0600); a session key works as well as
    a user and password. `ssl`: see there. `plain`: talk without encryption (`port` is then 4063); only to this machine, or
    when you say so with "anywhere". `web`: address of OMERO.web, for links in receipts.
    `keep_alive`: how often the session is kept from expiring, 5 at least. `connect_timeout` bounds a connection,
    `read_timeout` any answer, `import_timeout` one fileset's import, and `patience` the wait for an import that somebody else
    has under way, and for a server that went away in the middle of an upload. `valve`, `bioformats`, `cli`: see there.
    """

    host: str
    port: int = 0
    credentials: str = "env"
    ssl: SslSettings = attrs.field(factory=SslSettings)
    plain: str = "no"
    web: str = ""
    keep_alive: float = 60.0
    connect_timeout: float = 10.0
    read_timeout: float = 120.0
    import_timeout: float = 14400.0
    patience: float = 60.0
    valve: ValveSettings = attrs.field(factory=ValveSettings)
    bioformats: BioFormatsSettings = attrs.field(factory=BioFormatsSettings)
    cli: CliSettings = attrs.field(factory=CliSettings)


@attrs.frozen(kw_only=True)
class RouteSettings:
    """What to do with the deliveries of one route.

    `engine`: "ice" imports by itself, "cli" has `omero import` do it.
    Templates take {project}, {participant}, {session}. `project`, `dataset`: where images go; with `screen` set, plates
    go there instead, and neither project nor dataset is used. `create`: "all" makes what is missing, "dataset" wants
    the project to be there (a mistyped label then makes no new project), "none" wants both.
    `group`: the OMERO group, "" is the account's own. `owner`: whose the data shall be: a user name or template, "" is the
    account's own user, and "{sender}" whoever the delivery's papers say has sent it; `owners` and `groups` map what the
    templates give to OMERO's names. Another owner needs an account with the privilege Sudo.
    `on_existing`: another delivery has filled this session before: "refuse", or "append". The same content is never doubled.
    `checksum`: one of OMERO's names, "" lets the server choose among those that the manifest has.
    `reread`: for the proof, the server reads its files again; "" trusts what it computed when they arrived.
    `blank_digest`: what to do where OMERO shows no checksum: "unverified", or "download" the file and compare.
    `stats`, `thumbnails`: let the server read every pixel for minima and maxima, and draw previews, during the import.
    `annotate`: what carries the delivery's key-values, of "dataset" and "images". `tags`: templates.
    `files`: which files form filesets; `in_place`: how they get to the server (see there).
    `uploads`: files under way at once. `block_kb`: bytes per message.
    """

    engine: str = "ice"
    project: str = "{project}"
    dataset: str = "{participant}_{session}"
    screen: str = ""
    create: str = "all"
    group: str = ""
    owner: str = ""
    groups: Mapping[str, str] = attrs.field(factory=dict)
    owners: Mapping[str, str] = attrs.field(factory=dict)
    on_existing: str = "refuse"
    checksum: str = ""
    reread: bool = False
    blank_digest: str = "unverified"
    stats: bool = True
    thumbnails: bool = True
    annotate: tuple[str, ...] = ("dataset", "images")
    tags: tuple[str, ...] = ()
    uploads: int = 4
    block_kb: int = 4096
    files: FileSettings = attrs.field(factory=FileSettings)
    in_place: InPlaceSettings = attrs.field(factory=InPlaceSettings)


_WORDS: Mapping[str, tuple[str, ...]] = {
    "engine": ("ice", "cli"),
    "create": ("all", "dataset", "none"),
    "on_existing": ("refuse", "append"),
    "blank_digest": ("unverified", "download"),
    "checksum": ("", *ALGORITHMS),
}
_LOOPBACK = ("localhost", "127.0.0.1", "::1")
_FIELD = re.compile(r"\{([^{}]*)\}")
_DOCTOR = "lading doctor"
_KEEP_ALIVE_S = 5


def repository_settings(
    settings: Settings, where: str = "repositories.omero"
) -> tuple[RepositorySettings, SessionInHand | None]:
    """The checked table, and the session that a person lent us for this run. Raises ConfigError naming the key."""
    in_hand, rest = taken_from(settings)
    found = structure(rest, RepositorySettings, where=where)
    if not found.host or "/" in found.host or "@" in found.host:
        raise ConfigError(
            f"{where}.host = {found.host!r} is not a host name; the port has a key of its own", next_command=_DOCTOR
        )
    plain_words = ("no", "loopback", "anywhere")
    if found.plain not in plain_words:
        raise ConfigError(f"{where}.plain = {found.plain!r}{nearest(found.plain, plain_words)}", next_command=_DOCTOR)
    if found.plain == "loopback" and found.host not in _LOOPBACK:
        raise ConfigError(
            f'{where}.plain: password and data could be read on the way to {found.host}; leave it out, or set plain = "anywhere"',
            next_command=_DOCTOR,
        )
    if found.ssl.ca is not None and not found.ssl.ca.is_file():
        raise ConfigError(f"{where}.ssl.ca: there is no file {found.ssl.ca}", next_command=_DOCTOR)
    if not 0 <= found.port < 1 << 16:
        raise ConfigError(f"{where}.port = {found.port} is no port", next_command=_DOCTOR)
    if found.keep_alive < _KEEP_ALIVE_S:
        raise ConfigError(
            f"{where}.keep_alive = {found.keep_alive:g}: OMERO's client gives no sign of life more often than every "
            f"{_KEEP_ALIVE_S} s",
            next_command=_DOCTOR,
        )
    if found.valve.slots < 1:
        raise ConfigError(
            f"{where}.valve.slots = {found.valve.slots}: no import could ever begin", next_command=_DOCTOR
        )
    port = found.port or (DEFAULT_PORT if found.plain == "no" else DEFAULT_PORT - 1)
    return attrs.evolve(found, port=port), in_hand


def route_settings(settings: Settings, where: str = "routes.X.import") -> RouteSettings:
    """The checked table. Raises ConfigError naming the key and the nearest valid word."""
    found = structure(settings, RouteSettings, where=where)
    for key, words in _WORDS.items():
        value = getattr(found, key)
        if value not in words:
            raise ConfigError(f"{where}.{key} = {value!r}{nearest(value, words)}", next_command=_DOCTOR)
    for word in found.annotate:
        if word not in ("dataset", "images"):
            raise ConfigError(f"{where}.annotate: {word!r}{nearest(word, ('dataset', 'images'))}", next_command=_DOCTOR)
    for key in ("project", "dataset", "screen", "group"):
        _demand_template(getattr(found, key), f"{where}.{key}")
    _demand_template(found.owner, f"{where}.owner", "sender")
    for tag in found.tags:
        _demand_template(tag, f"{where}.tags")
    if not found.screen and not (found.project and found.dataset):
        raise ConfigError(f"{where}: images need a project and a dataset, or a screen", next_command=_DOCTOR)
    # 5 MB is OMERO's own block; its servers refuse messages of 64 MB.
    if not 1 <= found.block_kb <= 4882 or not 1 <= found.uploads <= 32:
        raise ConfigError(f"{where}: block_kb must be 1 to 4882, uploads 1 to 32", next_command=_DOCTOR)
    checked_in_place(found.in_place, f"{where}.in_place")
    return attrs.evolve(found, files=checked(found.files, f"{where}.files"))


def filled(template: str, labels: Labels, sender: str = "") -> str:
    """The template with the delivery's labels in it, and the user in `sender` (user@host)."""
    values = labels.as_dict() | {"sender": sender.partition("@")[0]}
    return _FIELD.sub(lambda match: values[match.group(1)], template)


def _demand_template(template: str, where: str, *more: str) -> None:
    words = ("project", "participant", "session", *more)
    for name in _FIELD.findall(template):
        if name not in words:
            raise ConfigError(
                f"{where} = {template!r}: {{{name}}} is unknown{nearest(name, words)}", next_command=_DOCTOR
            )
