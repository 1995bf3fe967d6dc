"""What the protocols over HTTP share: TLS is required, certificates are verified, and a refusal says which CA to name."""

import ipaddress
import ssl
from pathlib import Path
from urllib.parse import urlsplit

from lading.errors import AccessDenied, ConfigError

_LOCAL_NAMES = frozenset({"localhost", "ip6-localhost"})


def demand_tls(url: str, *, key: str) -> None:
    """Raises ConfigError unless `url`, the setting `key`, is https, or http to this very machine; or when it holds a login."""
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise ConfigError(f"{key} must look like https://host/…", next_command="lading doctor")
    if parts.username is not None or parts.password is not None:
        raise ConfigError(f"{key} holds a login: name it with `credentials` instead", next_command="lading doctor")
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ConfigError(
            f"{key} is http: data and log-in would cross the network {parts.hostname} in the open; use https",
            next_command="lading doctor",
        )


def is_loopback(host: str) -> bool:
    """Whether `host` is this machine."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host.lower() in _LOCAL_NAMES


def tls_context(ca: Path | None) -> ssl.SSLContext:
    """Verifies certificates and host names, against `ca` (PEM) alone where it is given. Raises ConfigError."""
    try:
        return ssl.create_default_context(cafile=str(ca) if ca else None)
    except (OSError, ssl.SSLError) as exc:
        raise ConfigError(f"ca: cannot read certificates from {ca}: {exc}", next_command="lading doctor") from exc


def certificate_refused(exc: BaseException) -> bool:
    """Whether, somewhere below, `exc` is about a certificate that does not hold (and not a line that broke during TLS)."""
    seen: BaseException | None = exc
    while seen is not None:
        if isinstance(seen, ssl.SSLCertVerificationError) or "CERTIFICATE_VERIFY_FAILED" in str(seen):
            return True
        seen = seen.__cause__ or seen.__context__
    return False


def untrusted(name: str, ca: Path | None) -> AccessDenied:
    """The error for a certificate that does not hold."""
    wanted = f"it is not signed by the CA in {ca}" if ca else "no CA that this machine trusts has signed it"
    return AccessDenied(
        f"the certificate of {name} is not trusted: {wanted}, it has expired, or it is for another host",
        safe="nothing was sent",
        next_command="ask the server's administrator for its CA certificate (PEM) and set ca = PATH in the route's transport",
    )
