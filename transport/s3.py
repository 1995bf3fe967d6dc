"""Drops deliveries into a bucket, and takes them from one, by S3.

An object appears whole or not at all, so nothing needs a temporary name. Large files go in parts; a carry that was cut
finds its own upload by the object's key and sends the parts that are missing.
"""

import threading
import time
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import attrs
import boto3
from botocore import UNSIGNED
from botocore import exceptions as boto
from botocore.config import Config

from lading.config import structure
from lading.errors import AccessDenied, ConfigError
from lading.manifest import NameLimits
from lading.ports import Clock, Settings
from transport.https import demand_tls, tls_context
from transport.logins import password
from transport.placing import PlacingTransport
from transport.remote import RemoteTraits
from transport.s3_errors import Answers
from transport.s3_objects import S3Files
from transport.s3_stale import Stale
from transport.s3_uploads import MIB, SMALLEST_PART, Uploads

_ADDRESSING = ("auto", "path", "virtual")
_SSE = ("", "AES256", "aws:kms")
_CHECKSUMS = ("crc32", "none")
_KEY_BYTES = 1024  # of S3, for the whole key
_AT_ONCE = MIB  # sent in vain when the server refuses it, instead of a turn for each
_SLOT_BYTES = 100  # of `.lading/incoming/ID/data/`


@attrs.frozen(kw_only=True)
class S3Config:
    """`bucket`; `prefix`: the inbox's folder in it, one per project or instrument as you like; `endpoint`: "" is Amazon.

    `access_key`, with its secret in `secret_key` as "env:NAME", "file:PATH" (0600) or "keyring:SERVICE/USER"; or `profile`,
    one of ~/.aws; or `anonymous`; else Amazon's own chain looks for a login (environment, ~/.aws, instance role).
    `ca`: certificates (PEM) to trust instead of the usual ones. `addressing`: "path", "virtual", "auto".
    `sse`: "AES256" or "aws:kms" with `kms_key`; `storage_class` as the server names it, like "STANDARD_IA".
    `part_mib`: files larger than that go in parts of it; `parts_at_once`: over all files, each held in memory; `streams`:
    files at a time (Amazon's own tools: ten). `checksum`: "crc32" hands the server the checksum of each part and of the
    whole object, "none" is for servers that refuse it (each part then has its MD5 alone). `trust_checksums`: believe the
    SHA-256 that the server keeps of an object instead of reading it back; Amazon proves it on arrival, others may only
    store what they were told.
    `stale_days`: unfinished uploads of deliveries to which nothing was added for so long are given up, 0 keeps them; they are
    looked for at the first file and then once a day.
    `connect_timeout` and `timeout` (seconds without an answer); `tries` of each request.
    """

    bucket: str
    prefix: str = ""
    endpoint: str = ""
    region: str = ""
    access_key: str = ""
    secret_key: str = ""
    profile: str = ""
    anonymous: bool = False
    ca: Path | None = None
    addressing: str = "auto"
    sse: str = ""
    kms_key: str = ""
    storage_class: str = ""
    part_mib: int = 8
    parts_at_once: int = 8
    streams: int = 8
    checksum: str = "crc32"
    trust_checksums: bool | None = None
    stale_days: float = 7.0
    connect_timeout: float = 10.0
    timeout: float = 30.0
    tries: int = 3

    def __attrs_post_init__(self) -> None:
        """Refuse what cannot work. Raises ValueError, which `structure` turns into a ConfigError."""
        for key, valid in (("addressing", _ADDRESSING), ("sse", _SSE), ("checksum", _CHECKSUMS)):
            if getattr(self, key) not in valid:
                raise ValueError(f"{key} must be one of {', '.join(repr(word) for word in valid)}")
        if bool(self.access_key) != bool(self.secret_key):
            raise ValueError("access_key and secret_key belong together")
        if not self.bucket or "/" in self.bucket:
            raise ValueError("bucket must be the name of a bucket; folders in it go to prefix")
        if self.kms_key and self.sse != "aws:kms":
            raise ValueError('kms_key needs sse = "aws:kms"')
        if self.part_mib * MIB < SMALLEST_PART or self.parts_at_once < 1 or self.streams < 1:
            raise ValueError("part_mib must be at least 5, parts_at_once and streams at least 1")
        if any(part in {".", ".."} for part in self.prefix.split("/")):
            raise ValueError("prefix must not hold . or ..")


class S3Place:
    """A bucket, or a prefix in one. Makes one client, which all connections share: it is safe to, and slow to make."""

    def __init__(self, config: S3Config, *, clock: Clock = time.monotonic) -> None:
        if config.endpoint:
            demand_tls(config.endpoint, key="endpoint")
        if config.ca:
            tls_context(config.ca)
        self._config, self._clock = config, clock
        self._prefix = f"{config.prefix.strip('/')}/" if config.prefix.strip("/") else ""
        self._answers = Answers(self.name, config.ca)
        self._lock = threading.Lock()
        self._client: Any = None
        self._uploads: Uploads | None = None

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Made from the route's transport table. Raises ConfigError."""
        return cls(structure(settings, S3Config, where="transport"))

    @property
    def name(self) -> str:
        """Server, bucket and prefix."""
        where = f" at {self._config.endpoint}" if self._config.endpoint else ""
        return f"s3://{self._config.bucket}/{self._prefix}{where}"

    @property
    def traits(self) -> RemoteTraits:
        """A listing does not show the times that are kept with the objects, so they do not count as kept."""
        room = _KEY_BYTES - _SLOT_BYTES - len(self._prefix.encode())
        names = replace(NameLimits.POSIX, path_bytes=room, utf8_only=True)
        return RemoteTraits(keeps_mtime=False, renames=False, whole=True, names=names, stall_s=None)

    @property
    def streams(self) -> int:
        """As configured."""
        return self._config.streams

    def connect(self) -> S3Files:
        """Looks for credentials, at most; the first request tells whether the server takes them."""
        with self._lock:
            if self._uploads is None:
                with self._answers.translating("log in"):
                    self._client = _client(self._config)
                self._uploads = self._make_uploads()
        trusting = self._config.trust_checksums
        return S3Files(
            self._client,
            self._config.bucket,
            self._prefix,
            self._answers,
            self._uploads,
            trust_checksums=not self._config.endpoint if trusting is None else trusting,
        )

    def _make_uploads(self) -> Uploads:
        config = self._config
        hands = ThreadPoolExecutor(config.parts_at_once, thread_name_prefix="lading-s3-part")
        return Uploads(
            self._client,
            config.bucket,
            self._answers,
            hands,
            parts_at_once=config.parts_at_once,
            part_bytes=config.part_mib * MIB,
            with_checksum=config.checksum == "crc32",
            extra=_extra(config),
            stale_prefix=f"{self._prefix}.lading/",
            stale=Stale(config.bucket, config.stale_days, clock=self._clock),
        )


class S3Transport(PlacingTransport):
    """S3: into a bucket, of AWS or of your own store."""

    place_type = S3Place


def _extra(config: S3Config) -> Mapping[str, str]:
    """What every new object is asked to be."""
    wanted = {
        "ServerSideEncryption": config.sse,
        "SSEKMSKeyId": config.kms_key,
        "StorageClass": config.storage_class,
    }
    return {key: value for key, value in wanted.items() if value}


def _client(config: S3Config) -> Any:
    session = boto3.session.Session(profile_name=config.profile or None)
    keys: dict[str, str] = {}
    if config.access_key:
        secret = password(config.secret_key, f"access key {config.access_key} of s3://{config.bucket}")
        keys = {"aws_access_key_id": config.access_key, "aws_secret_access_key": secret}
    elif not config.anonymous and session.get_credentials() is None:
        raise AccessDenied(
            "no S3 credentials: neither the settings nor the environment nor ~/.aws has any",
            next_command="lading doctor",
        )
    signature = {"signature_version": UNSIGNED} if config.anonymous else {}
    try:
        client = session.client(
            "s3",
            region_name=config.region or session.region_name or "us-east-1",
            endpoint_url=config.endpoint or None,
            verify=str(config.ca) if config.ca else True,
            config=Config(
                **signature,
                connect_timeout=config.connect_timeout,
                read_timeout=config.timeout,
                retries={"mode": "standard", "total_max_attempts": max(1, config.tries)},
                max_pool_connections=config.streams + config.parts_at_once + 2,
                s3={"addressing_style": config.addressing},
                # Trailing checksums need a framing that not every server understands; ours go ahead of the body.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
                # Its own tells much of this machine, and takes half a millisecond to make for every request.
                user_agent="lading",
                # Where the data goes is said in our settings, and there alone.
                ignore_configured_endpoint_urls=True,
            ),
            **keys,
        )
    except ValueError as exc:
        raise ConfigError(f"endpoint {config.endpoint!r}: {exc}", next_command="lading doctor") from exc
    except boto.InvalidRegionError as exc:
        raise ConfigError(f"region {config.region!r}: {exc}", next_command="lading doctor") from exc
    client.meta.events.register("before-send.s3.PutObject", _send_small_at_once)
    return client


def _send_small_at_once(request: Any, **_: object) -> None:
    """A small object goes without asking first whether the server would have it: that is a turn for every file."""
    if int(request.headers.get("Content-Length", _AT_ONCE + 1)) <= _AT_ONCE:
        request.headers.pop("Expect", None)
