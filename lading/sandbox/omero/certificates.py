"""A TLS identity of the stand-in's own: a self-signed certificate for localhost, as `omero certificates` makes one."""

import datetime
import ipaddress
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from lading.disk import write_whole

_DAYS = 365


@dataclass(frozen=True, slots=True)
class Identity:
    """Two PEM files. `certificate` is also what a client needs to verify it."""

    certificate: Path
    key: Path


def identity(folder: Path) -> Identity:
    """The identity in `folder`, made when it is not there."""
    made = Identity(folder / "certificate.pem", folder / "key.pem")
    if made.certificate.exists() and made.key.exists():
        return made
    folder.mkdir(parents=True, exist_ok=True)
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "localhost")])
    now = datetime.datetime.now(datetime.UTC)
    addresses = [x509.DNSName("localhost"), x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=_DAYS))
        .add_extension(x509.SubjectAlternativeName(addresses), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    write_whole(made.key, private, mode=0o600)
    write_whole(made.certificate, certificate.public_bytes(serialization.Encoding.PEM))
    return made
