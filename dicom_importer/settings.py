"""The importer's two tables: `[repositories.NAME]` (the node) and `[routes.NAME.import]` (what to do with a delivery)."""

import re
import ssl
from collections.abc import Mapping
from pathlib import Path

import attrs

from lading.config import nearest, structure
from lading.errors import ConfigError
from lading.ports import Settings
from transport.https import is_loopback

_AE = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,16}")  # PS3.5: no backslash, no control characters
_DOCTOR = "lading doctor"
_PROOFS = ("auto", "read-back", "commitment", "presence")
_OTHERS = ("hold", "leave")


def _ae_title(_: object, attribute: "attrs.Attribute[str]", value: str) -> None:
    if not _AE.fullmatch(value) or not value.strip():
        raise ValueError(
            f"{attribute.name} = {value!r} is no AE title: 1 to 16 printable ASCII characters, no backslash"
        )


def _positive(_: object, attribute: "attrs.Attribute[float]", value: float) -> None:
    if value <= 0:
        raise ValueError(f"{attribute.name} must be more than 0")


@attrs.frozen(kw_only=True)
class RepositorySettings:
    """How to reach one DICOM node. Times are in seconds.

    `called` is the node's AE title, `calling` is ours. `tls` with `ca` (PEM; without, what this machine trusts), and with
    `certificate` and `key` where the node wants ours. Without TLS only this machine is spoken to, unless `plain_text` says that
    the network is trusted.
    `associations`: so many are stored over at a time, if the node takes them.
    `proof`: "read-back" (C-GET, compared byte for byte), "commitment" (the node's report about its safekeeping), "presence"
    (C-FIND, which proves nothing: such deliveries are held), "auto" (the strongest that the node offers, in this order).
    `commitment_port`: where the node sends its report to, on `commitment_host`; 0 is no storage commitment.
    `report_wait`: how long a report is waited for before other deliveries get their turn; it may come later.
    `settle`: how long the node may take to show what it has taken.
    `may_change`: keywords of elements that the node may set ("RetrieveAETitle"): they are not compared.
    """

    host: str
    port: int = attrs.field(default=104, validator=[attrs.validators.ge(1), attrs.validators.lt(65536)])
    called: str = attrs.field(default="ANY-SCP", validator=_ae_title)
    calling: str = attrs.field(default="LADING", validator=_ae_title)
    tls: bool = True
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    plain_text: bool = False
    associations: int = attrs.field(default=4, validator=[attrs.validators.ge(1), attrs.validators.le(64)])
    proof: str = "auto"
    commitment_host: str = "0.0.0.0"  # noqa: S104 - it must be reached by the node, and is off unless a port is named
    commitment_port: int = attrs.field(default=0, validator=[attrs.validators.ge(0), attrs.validators.lt(65536)])
    report_wait: float = attrs.field(default=30.0, validator=_positive)
    settle: float = attrs.field(default=30.0, validator=attrs.validators.ge(0))
    may_change: tuple[str, ...] = ()
    connect_timeout: float = attrs.field(default=10.0, validator=_positive)
    answer_timeout: float = attrs.field(default=120.0, validator=_positive)

    @property
    def address(self) -> str:
        """The node as messages and receipts name it, without an AE title."""
        return f"{self.host}:{self.port}"


@attrs.frozen(kw_only=True)
class RouteSettings:
    """What to do with the deliveries of one route.

    `called` maps projects to AE titles, where the node tells projects apart by them; a project that is not in it is refused.
    Empty: all go to the repository's `called`.
    `others`: files that are no DICOM cannot go to a node. "hold" the delivery for that, or "leave" them in the inbox, named
    as filtered in the receipt (the source is then never cleaned).
    """

    called: Mapping[str, str] = attrs.field(factory=dict)
    others: str = "hold"

    def title(self, project: str, default: str) -> str | None:
        """The AE title to call for `project`, or None when there is none."""
        return self.called.get(project) if self.called else default


def repository_settings(settings: Settings, where: str = "repositories.NAME") -> RepositorySettings:
    """The checked table. Raises ConfigError naming the key."""
    found = structure(settings, RepositorySettings, where=where)
    if found.proof not in _PROOFS:
        raise ConfigError(f"{where}.proof = {found.proof!r}{nearest(found.proof, _PROOFS)}", next_command=_DOCTOR)
    if found.proof == "commitment" and not found.commitment_port:
        raise ConfigError(
            f"{where}.proof = 'commitment' needs commitment_port, where the node sends its report to",
            next_command=_DOCTOR,
        )
    if bool(found.certificate) != bool(found.key):
        raise ConfigError(f"{where}: certificate and key belong together", next_command=_DOCTOR)
    if (found.ca or found.certificate) and not found.tls:
        raise ConfigError(f"{where}: ca, certificate and key need tls = true", next_command=_DOCTOR)
    if not found.tls and not found.plain_text and not is_loopback(found.host):
        raise ConfigError(
            f"{where}: tls = false would send images of people through the network in the open; leave it on, or set "
            "plain_text = true where the network itself is trusted",
            next_command=_DOCTOR,
        )
    return found


def route_settings(settings: Settings, where: str = "routes.X.import") -> RouteSettings:
    """The checked table. Raises ConfigError naming the key and the nearest valid word."""
    found = structure(settings, RouteSettings, where=where)
    if found.others not in _OTHERS:
        raise ConfigError(f"{where}.others = {found.others!r}{nearest(found.others, _OTHERS)}", next_command=_DOCTOR)
    for project, title in found.called.items():
        if not _AE.fullmatch(title) or not title.strip():
            raise ConfigError(f"{where}.called.{project} = {title!r} is no AE title", next_command=_DOCTOR)
    return found


def client_tls(node: RepositorySettings) -> ssl.SSLContext | None:
    """Our side towards the node: its certificate is verified. None without TLS. Raises ConfigError."""
    if not node.tls:
        return None
    try:
        context = ssl.create_default_context(cafile=str(node.ca) if node.ca else None)
        if node.certificate and node.key:
            context.load_cert_chain(node.certificate, node.key)
    except (OSError, ssl.SSLError) as exc:
        raise _useless(node, exc) from exc
    return context


def report_tls(node: RepositorySettings) -> ssl.SSLContext | None:
    """Our side towards a node that brings a report: only those of `ca` are let in. None where we have no certificate."""
    if not node.tls or not node.certificate or not node.key:
        return None
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(node.certificate, node.key)
        if node.ca:
            context.load_verify_locations(node.ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as exc:
        raise _useless(node, exc) from exc
    return context


def _useless(node: RepositorySettings, exc: Exception) -> ConfigError:
    files = ", ".join(str(file) for file in (node.ca, node.certificate, node.key) if file)
    return ConfigError(
        f"the DICOM node {node.address}: cannot use the certificates {files}: {exc}", next_command=_DOCTOR
    )
