"""The importer's two tables: `[repositories.NAME]` (the server) and `[routes.NAME.import]` (what to do with a delivery)."""

import ipaddress
import re
from pathlib import Path
from urllib.parse import urlsplit

import attrs

from lading.config import nearest, structure
from lading.errors import ConfigError
from lading.ports import Settings


@attrs.frozen(kw_only=True)
class RepositorySettings:
    """How to reach one XNAT. Times are in seconds.

    `credentials`: "env", "env:PREFIX", "keyring", "keyring:SERVICE", "file:PATH" (mode 0600), "netrc", "netrc:PATH".
    `inbox_path`: the server's own path of our inbox folder; "" when it does not mount it (with `route = "inbox"`: the same
    path as ours).
    `archive_timeout` is above the 600 s after which XNAT itself gives up waiting for its archiver.
    `patience`: how long a request may show no change at all before we leave it for now.
    `grace`: how long XNAT may take to go on by itself (build, auto-archive) before we do it.
    """

    url: str
    credentials: str = "env"
    ca_bundle: Path | None = None
    verify: bool = True
    plain_http: bool = False
    inbox_path: str = ""
    connect_timeout: float = 10.0
    read_timeout: float = 120.0
    upload_timeout: float = 3600.0
    archive_timeout: float = 660.0
    patience: float = 900.0
    grace: float = 15.0


@attrs.frozen(kw_only=True)
class ResourceRule:
    """Non-DICOM files that match `match` (shell style, on the path or the bare name) go to resource `resource`.

    `scan` names the scan that owns the resource; "" is the session.
    """

    match: str
    resource: str
    scan: str = ""


@attrs.frozen(kw_only=True)
class RouteSettings:
    """What to do with the deliveries of one route.

    `route`: "inbox" (XNAT reads the published folder), "upload" (we send it), "auto" (inbox where the server mounts it).
    `archive`: "auto" (wait for projects that archive by themselves, archive in the others), "always" (never wait),
    "never" (a person archives in XNAT; DICOM is verified in the prearchive).
    `on_existing`: a session of that label with the same study is there already: "append" what is missing, or "refuse".
    `overwrite`: replace a companion that is there with other content and not from this delivery.
    `companions`: the session resource for non-DICOM files that no rule in `resources` names.
    `anonymised`: the proof asked for where XNAT rewrites headers: "pixels" (read back and compare) or "uid" (identifiers only).
    `blank_digest`: what to do where XNAT shows no digest: "unverified", or "download" the file and compare.
    `session_label`: XNAT's label of the session, from {project}, {participant}, {session}. XNAT wants it unique in the whole
    project: where every participant has a session "MR1", set "{participant}_{session}".
    `bulk_above`: more files than this go to a resource as one archive. `part_mb`: size of one upload.
    """

    route: str = "auto"
    archive: str = "auto"
    on_existing: str = "append"
    overwrite: bool = False
    companions: str = "COMPANIONS"
    resources: tuple[ResourceRule, ...] = ()
    session_type: str = "xnat:otherDicomSessionData"
    anonymised: str = "pixels"
    blank_digest: str = "unverified"
    session_label: str = "{session}"
    bulk_above: int = 20
    part_mb: int = 2048


_PLACEHOLDER = re.compile(r"\{(?:project|participant|session)\}")

_WORDS = {
    "route": ("auto", "inbox", "upload"),
    "archive": ("auto", "always", "never"),
    "on_existing": ("append", "refuse"),
    "anonymised": ("pixels", "uid"),
    "blank_digest": ("unverified", "download"),
}


def repository_settings(settings: Settings, where: str = "repositories.xnat") -> RepositorySettings:
    """The checked table. Raises ConfigError naming the key."""
    # "" is no path, and would be the folder of the settings.
    given = {key: value for key, value in settings.items() if (key, value) != ("ca_bundle", "")}
    found = structure(given, RepositorySettings, where=where)
    url = urlsplit(found.url)
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError(f"{where}.url = {found.url!r} is not a web address", next_command="lading doctor")
    if url.username or url.password or url.query or url.fragment:
        raise ConfigError(
            f"{where}.url must be an address only; a user, password, query or fragment does not belong there",
            next_command="lading doctor",
        )
    if not found.verify:
        raise ConfigError(
            f"{where}.verify = false is not offered: whoever answers would get the password and the patients' data; "
            "set ca_bundle to the site's own CA instead",
            next_command="lading doctor",
        )
    if url.scheme == "http" and not found.plain_http and not _is_loopback(url.hostname):
        raise ConfigError(
            f"{where}.url is plain http: password and data could be read on the way; use https, or set plain_http = true",
            next_command="lading doctor",
        )
    if found.ca_bundle and not found.ca_bundle.is_file():
        raise ConfigError(f"{where}.ca_bundle: there is no file {found.ca_bundle}", next_command="lading doctor")
    return attrs.evolve(found, url=found.url.rstrip("/"))


def route_settings(settings: Settings, where: str = "routes.X.import") -> RouteSettings:
    """The checked table. Raises ConfigError naming the key and the nearest valid word."""
    found = structure(settings, RouteSettings, where=where)
    for key, words in _WORDS.items():
        value = getattr(found, key)
        if value not in words:
            raise ConfigError(f"{where}.{key} = {value!r}{nearest(value, words)}", next_command="lading doctor")
    literal = _PLACEHOLDER.sub("", found.session_label)
    if "{session}" not in found.session_label or not re.fullmatch(r"[A-Za-z0-9_-]*", literal):
        raise ConfigError(
            f"{where}.session_label = {found.session_label!r} must hold {{session}}; besides, {{project}}, {{participant}}, "
            "letters, digits, _ and - are allowed",
            next_command="lading doctor",
        )
    if found.part_mb < 1:
        raise ConfigError(f"{where}.part_mb must be at least 1", next_command="lading doctor")
    return found


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
