"""Settings of the DICOM receiver, and what becomes of them: labels for a study, a TLS context for the port."""

import re
import ssl
from collections.abc import Mapping
from pathlib import Path

import attrs

from lading.config import Settings, nearest, structure
from lading.delivery import Labels
from lading.errors import ConfigError
from transport.https import is_loopback

FIELDS = (
    "PatientID",
    "PatientName",
    "StudyDate",
    "StudyTime",
    "StudyID",
    "StudyDescription",
    "AccessionNumber",
    "StationName",
    "Modality",
    "StudyInstanceUID",
)
"""What a template may name, by DICOM keyword; besides these {calling} and {called}, the two AE titles."""

_AE_TITLES = ("calling", "called")
_FIELD = re.compile(r"\{([^{}]*)\}")
_AE = re.compile(r"[\x20-\x5b\x5d-\x7e]{1,16}")  # PS3.5: no backslash, no control characters
_UNFIT = re.compile(r"[^A-Za-z0-9_-]+")  # XNAT keeps no other characters in a label
_LONGEST = 64
_DOCTOR = "lading doctor"


def _ae_title(_: object, attribute: "attrs.Attribute[str]", value: str) -> None:
    if not _AE.fullmatch(value) or not value.strip():
        raise ValueError(
            f"{attribute.name} = {value!r} is no AE title: 1 to 16 printable ASCII characters, no backslash"
        )


def _template(_: object, attribute: "attrs.Attribute[str]", value: str) -> None:
    valid = (*FIELDS, *_AE_TITLES)
    for name in _FIELD.findall(value):
        if name not in valid:
            raise ValueError(f"{attribute.name} = {value!r} names {{{name}}}{nearest(name, valid)}")
    if "{" in _FIELD.sub("", value) or "}" in _FIELD.sub("", value):
        raise ValueError(f"{attribute.name} = {value!r} has a brace that names nothing")


def _positive(_: object, attribute: "attrs.Attribute[float]", value: float) -> None:
    if value <= 0:
        raise ValueError(f"{attribute.name} must be more than 0")


@attrs.frozen(kw_only=True)
class ReceiveConfig:
    """The DICOM receiver (`[dicom]`): a C-STORE SCP in front of a watched folder.

    `folder` is the watched one; complete studies appear in it as PROJECT/participant/SESSION. `projects` maps AE titles to
    projects, the called one first, then the calling one; the template `project` serves those that are not in it ("" none).
    `participant` and `session` are templates over FIELDS. `callers`: the only calling AE titles let in (empty: all).
    A study is complete when every association that stored to it was released and nothing came for `quiet` seconds. After a
    broken association, or a restart, `after_broken` seconds: senders try again. When the images announce a number
    (NumberOfStudyRelatedInstances) that is not reached, `patience` seconds.
    `certificate` and `key` (PEM) switch TLS on, `client_ca` lets in only those who have a certificate by it. Without TLS the
    port is open to this machine only, unless `plain_text` says that the network is trusted: AE titles prove nothing.
    Images are refused as "out of resources" when fewer than `keep_free_gb` would stay free, or when larger than `max_image_gb`.
    """

    folder: Path
    host: str = "127.0.0.1"
    port: int = attrs.field(default=11112, validator=[attrs.validators.ge(0), attrs.validators.lt(65536)])
    ae_title: str = attrs.field(default="LADING", validator=_ae_title)
    projects: Mapping[str, str] = attrs.field(factory=dict)
    project: str = attrs.field(default="", validator=_template)
    participant: str = attrs.field(default="{PatientID}", validator=_template)
    session: str = attrs.field(default="{StudyDate}_{StudyTime}", validator=_template)
    callers: tuple[str, ...] = ()
    quiet: float = attrs.field(default=60.0, validator=_positive)
    after_broken: float = attrs.field(default=600.0, validator=_positive)
    patience: float = attrs.field(default=3600.0, validator=_positive)
    associations: int = attrs.field(default=16, validator=attrs.validators.ge(1))
    certificate: Path | None = None
    key: Path | None = None
    client_ca: Path | None = None
    plain_text: bool = False
    keep_free_gb: float = 1.0
    max_image_gb: float = attrs.field(default=16.0, validator=_positive)


def receive_config(settings: Settings) -> ReceiveConfig:
    """From the table `[dicom]`. Raises ConfigError."""
    if not settings:
        raise ConfigError(
            "the settings have no table [dicom], so there is nothing to receive into", next_command=_DOCTOR
        )
    config = structure(settings, ReceiveConfig, where="dicom")
    if bool(config.certificate) != bool(config.key):
        raise ConfigError("dicom: certificate and key belong together", next_command=_DOCTOR)
    if config.client_ca and not config.certificate:
        raise ConfigError("dicom: client_ca needs TLS: set certificate and key", next_command=_DOCTOR)
    if not config.certificate and not config.plain_text and not is_loopback(config.host):
        raise ConfigError(
            f"dicom: host = {config.host!r} would take images of people from the network in the open; set certificate and "
            "key, or plain_text = true where the network itself is trusted",
            next_command=_DOCTOR,
        )
    return config


def tls(config: ReceiveConfig) -> ssl.SSLContext | None:
    """The receiver's side of TLS, or None without. Raises ConfigError."""
    if not config.certificate or not config.key:
        return None
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(config.certificate, config.key)
        if config.client_ca:
            context.load_verify_locations(config.client_ca)
            context.verify_mode = ssl.CERT_REQUIRED
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(
            f"dicom: cannot use the certificates {config.certificate}, {config.key}, {config.client_ca or '-'}: {exc}",
            next_command=_DOCTOR,
        ) from exc
    return context


def labels_of(config: ReceiveConfig, header: Mapping[str, str], calling: str, called: str) -> tuple[Labels | None, str]:
    """Where a study belongs, or None and the reason. `header`: its fields by keyword. What labels cannot hold becomes "_"."""
    values = {**header, "calling": calling, "called": called}
    project = config.projects.get(called) or config.projects.get(calling) or _filled(config.project, values)
    if not project:
        return None, f"no project is set for the AE titles {called!r} (called) and {calling!r} (calling)"
    made = [as_label(project)]
    for name, template in (("participant", config.participant), ("session", config.session)):
        missing = [field for field in _FIELD.findall(template) if not values.get(field, "").strip()]
        if missing:
            return None, f"the images have no {missing[0]}, which the {name} {template!r} needs"
        made.append(as_label(_filled(template, values)))
    if not all(made):
        return None, f"nothing is left of a label: {'/'.join(made)!r}"
    return Labels(*made), ""


def _filled(template: str, values: Mapping[str, str]) -> str:
    return _FIELD.sub(lambda match: values.get(match[1], "").strip(), template)


def as_label(text: str) -> str:
    """`text` with what a label cannot hold made "_"; "" when nothing is left."""
    return _UNFIT.sub("_", text).strip("_-")[:_LONGEST]
