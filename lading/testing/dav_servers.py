"""Real WebDAV servers on loopback: Apache's mod_dav, and WsgiDAV, of which Seafile's server is a relative."""

import base64
import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from lading.testing.certificates import Certificates
from lading.testing.s3_servers import secret_file
from lading.testing.servers import free_port, server

APACHE = "/usr/sbin/apache2"
_MODULES_FOLDER = "/usr/lib/apache2/modules"
_MODULES = (
    "mpm_event authn_core authn_file authz_core authz_user auth_basic dav dav_fs headers reqtimeout ssl socache_shmcb"
)
USER = "lab"
PASSWORD = "an-app-password-of-the-test"  # noqa: S105 - of a server on loopback that lives for one test


@dataclass(frozen=True)
class DavServer:
    """A running server: `url` of the folder that it serves, and files (0600) with the password of `user` and a wrong one."""

    url: str
    port: int
    user: str
    password: str
    password_file: Path
    wrong_password_file: Path


def missing_for_apache() -> str:
    """What is missing on this machine to run an Apache with WebDAV, or ""."""
    if not Path(APACHE).exists() or not Path(_MODULES_FOLDER, "mod_dav_fs.so").exists():
        return "apache2 is not installed (Debian: apache2-bin)"
    return ""


@contextlib.contextmanager
def apache_dav(folder: Path, served: Path, tls: Certificates) -> Iterator[DavServer]:
    """Apache, serving `served` over https; configuration, locks and logs in `folder`."""
    (folder / "run").mkdir(parents=True, exist_ok=True)
    port = free_port()
    digest = base64.b64encode(hashlib.sha1(PASSWORD.encode()).digest()).decode()  # noqa: S324 - Apache's own format
    (folder / "users").write_text(f"{USER}:{{SHA}}{digest}\n")
    modules = "\n".join(f'LoadModule {m}_module "{_MODULES_FOLDER}/mod_{m}.so"' for m in _MODULES.split())
    config = folder / "apache.conf"
    config.write_text(
        f"""\
ServerRoot "{folder}"
ServerName 127.0.0.1
Listen 127.0.0.1:{port}
PidFile "{folder}/run/pid"
Mutex "file:{folder}/run" default
ErrorLog "{folder}/error.log"
LogLevel warn
{modules}
DocumentRoot "{served}"
DavLockDB "{folder}/run/locks"
AllowEncodedSlashes On
# Since 2.4.54 Apache takes 1 GiB only unless it is told otherwise.
LimitRequestBody 0
RequestReadTimeout header=20-40,MinRate=500 body=20,MinRate=500
StartServers 1
SSLEngine on
SSLCertificateFile "{tls.cert}"
SSLCertificateKeyFile "{tls.key}"
<Directory "{served}">
    Options None
    Dav On
    AuthType Basic
    AuthName test
    AuthUserFile "{folder}/users"
    Require valid-user
    ForceType application/octet-stream
</Directory>
"""
    )
    with server([*_as_www_data(), APACHE, "-f", str(config), "-DFOREGROUND"], port, folder / "apache.log"):
        yield _described(folder, f"https://127.0.0.1:{port}", port)


def _as_www_data() -> list[str]:
    """Apache refuses to serve as root; another account may not enter the folders of root's tests, but for these rights."""
    if os.geteuid():
        return []
    rights = "+dac_override,+dac_read_search,+fowner"
    return [
        "setpriv",
        "--reuid=www-data",
        "--regid=www-data",
        "--clear-groups",
        f"--inh-caps={rights}",
        f"--ambient-caps={rights}",
    ]


@contextlib.contextmanager
def wsgidav(folder: Path, served: Path, tls: Certificates | None) -> Iterator[DavServer]:
    """WsgiDAV, serving `served` over https, or over http without `tls`; logs in `folder`."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    described = _described(folder, f"{'https' if tls else 'http'}://127.0.0.1:{port}", port)
    settings = {
        "port": port,
        "folder": str(served),
        "cert": str(tls.cert) if tls else "",
        "key": str(tls.key) if tls else "",
        "user": USER,
        "password": PASSWORD,
    }
    (folder / "settings.json").write_text(json.dumps(settings))
    argv = [sys.executable, "-m", "lading.testing.wsgidav_server", str(folder / "settings.json")]
    with server(argv, port, folder / "wsgidav.log"):
        yield described


@contextlib.contextmanager
def nextcloud(folder: Path, served: Path, tls: Certificates | None) -> Iterator[DavServer]:
    """Our stand-in for a Nextcloud, serving `served` as the files of its user; chunks and logs in `folder`. No `tls`: http."""
    folder.mkdir(parents=True, exist_ok=True)
    port = free_port()
    described = _described(folder, f"{'https' if tls else 'http'}://127.0.0.1:{port}/remote.php/dav/files/{USER}", port)
    argv = [sys.executable, "-m", "lading.sandbox.nextcloud", "--port", str(port), "--files", str(served)]
    argv += ["--uploads", str(folder / "uploads"), "--user", USER, "--password-file", str(described.password_file)]
    argv += ["--cert", str(tls.cert), "--key", str(tls.key)] if tls else []
    with server(argv, port, folder / "nextcloud.log"):
        yield described


def _described(folder: Path, url: str, port: int) -> DavServer:
    return DavServer(
        url,
        port,
        USER,
        PASSWORD,
        secret_file(folder / "password", PASSWORD),
        secret_file(folder / "wrong-password", "somebody-else's"),
    )
