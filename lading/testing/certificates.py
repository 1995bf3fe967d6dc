"""Certificates for servers on loopback: a CA of our own, one that nobody asked for, and what they sign."""

from dataclasses import dataclass
from pathlib import Path

import trustme


@dataclass(frozen=True)
class Certificates:
    """Files: `ca` is the one to trust, `other_ca` another; `cert` and `key` are 127.0.0.1's and localhost's (RSA)."""

    ca: Path
    other_ca: Path
    cert: Path
    key: Path


def certificates(folder: Path, *more_names: str) -> Certificates:
    """Fresh ones, in `folder`; for `more_names` too."""
    folder.mkdir(parents=True, exist_ok=True)
    ours, other = trustme.CA(), trustme.CA()
    made = Certificates(folder / "ca.pem", folder / "other-ca.pem", folder / "server.crt", folder / "server.key")
    ours.cert_pem.write_to_path(str(made.ca))
    other.cert_pem.write_to_path(str(made.other_ca))
    issued = ours.issue_cert("127.0.0.1", "localhost", *more_names, key_type=trustme.KeyType.RSA)
    issued.private_key_pem.write_to_path(str(made.key))
    made.cert.write_bytes(b"".join(pem.bytes() for pem in issued.cert_chain_pems))
    return made
