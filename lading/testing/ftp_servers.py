"""Real FTP servers inside TLS on loopback for tests: proftpd, which can do much, and vsftpd, which is strict and can do little."""

import contextlib
import os
import random
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from lading.testing.certificates import Certificates
from lading.testing.faultproxy import FaultProxy
from lading.testing.s3_servers import secret_file
from lading.testing.servers import free_port, server

OTHER_ADDRESS = "127.0.0.2"
"""Where a proxy stands before such a server: clients connect for data to the host they log in to, at the port it says."""
_UNPACKED = Path(__file__).parents[2] / ".cache" / "ftp-servers"
_DATA_PORTS = 24


@dataclass(frozen=True)
class FtpServer:
    """A server at 127.0.0.1:`port`, which shows the folder it was started for at `root`. Secrets are in files, 0600."""

    port: int
    data_ports: range
    user: str
    password: str
    password_file: Path
    wrong_password_file: Path
    root: str = ""

    def through(self, proxy: FaultProxy) -> str:
        """Host and port of `proxy`, which stands before the control connection and all data connections."""
        control = proxy.also((OTHER_ADDRESS, 0), ("127.0.0.1", self.port))
        for port in self.data_ports:
            proxy.also((OTHER_ADDRESS, port), ("127.0.0.1", port))
        return f"{OTHER_ADDRESS}:{control}"


def missing_for_ftp_servers() -> str:
    """What is missing on this machine to run proftpd and vsftpd, or ""."""
    if os.name != "posix" or os.geteuid() != 0:
        return "proftpd and vsftpd are run as root here"
    return "" if (_UNPACKED / ".ready").exists() else "proftpd and vsftpd are not unpacked (tools/ftp-servers.sh)"


@contextlib.contextmanager
def proftpd(folder: Path, served: Path, tls: Certificates, *, secure: bool = True) -> Iterator[FtpServer]:
    """proftpd with `served` as its root; all its own files in `folder`. Without `secure` it knows no TLS."""
    folder.mkdir(parents=True, exist_ok=True)
    with _data_ports() as ports:
        described = _described(folder, "lab", ports)
        argv = _proftpd_command(folder, served, tls, described, secure=secure)
        with server(argv, described.port, folder / "stderr.log"):
            yield described


def _proftpd_command(folder: Path, served: Path, tls: Certificates, described: FtpServer, *, secure: bool) -> list[str]:
    passwd = folder / "passwd"
    subprocess.run(
        [
            *(str(_UNPACKED / "usr/sbin/ftpasswd"), "--passwd", f"--file={passwd}", "--name=lab", "--stdin"),
            *(f"--uid={os.geteuid()}", f"--gid={os.getegid()}", f"--home={served}", "--shell=/bin/sh"),
        ],
        input=described.password.encode() + b"\n",
        capture_output=True,
        check=True,
    )
    passwd.chmod(0o600)
    config, switch = folder / "proftpd.conf", "on" if secure else "off"
    config.write_text(
        f"""\
ServerName test
ServerType standalone
ModulePath {_UNPACKED}/usr/lib/proftpd
LoadModule mod_tls.c
LoadModule mod_digest.c
LoadModule mod_tls_shmcache.c
DefaultAddress 127.0.0.1
SocketBindTight on
Port {described.port}
User root
Group root
RootLogin on
DefaultRoot ~
PassivePorts {described.data_ports[0]} {described.data_ports[-1]}
AuthUserFile {passwd}
AuthOrder mod_auth_file.c
RequireValidShell off
WtmpLog off
UseReverseDNS off
PidFile {folder}/pid
ScoreboardFile {folder}/scoreboard
DelayTable none
ControlsEngine off
SystemLog {folder}/log
TransferLog none
AllowOverwrite on
AllowStoreRestart on
AllowRetrieveRestart on
MaxInstances 60
TLSEngine {switch}
TLSRequired {switch}
TLSRSACertificateFile {tls.cert}
TLSRSACertificateKeyFile {tls.key}
TLSProtocol TLSv1.2 TLSv1.3
TLSSessionCache shm:/file={folder}/sessions
DigestEngine on
DigestAlgorithms all
DigestCache off
DigestMaxSize 10 GB
"""
    )
    tls.key.chmod(0o600)
    return [str(_UNPACKED / "usr/sbin/proftpd"), "-n", "-q", "-c", str(config)]


@contextlib.contextmanager
def vsftpd(folder: Path, served: Path, tls: Certificates, *, writable: bool = True) -> Iterator[FtpServer]:
    """vsftpd for `served`; it knows one user, anonymous, and no password. It keeps no times and knows no checksums.

    As somebody whose account it does not change it shows the whole disk.
    """
    (folder / "empty").mkdir(parents=True, mode=0o555)
    with _data_ports() as ports:
        described = replace(_described(folder, "anonymous", ports), root=str(served))
        argv = _vsftpd_command(folder, served, tls, described, writable=writable)
        with server(argv, described.port, folder / "stderr.log"):
            yield described


def _vsftpd_command(
    folder: Path, served: Path, tls: Certificates, described: FtpServer, *, writable: bool
) -> list[str]:
    allowed = "YES" if writable else "NO"
    config = folder / "vsftpd.conf"
    config.write_text(
        f"""\
listen=YES
listen_address=127.0.0.1
listen_port={described.port}
background=NO
pasv_min_port={described.data_ports[0]}
pasv_max_port={described.data_ports[-1]}
local_enable=NO
anonymous_enable=YES
anon_root={served}
anon_umask=022
anon_world_readable_only=NO
run_as_launching_user=YES
ftp_username=root
write_enable={allowed}
anon_upload_enable={allowed}
anon_mkdir_write_enable={allowed}
anon_other_write_enable={allowed}
secure_chroot_dir={folder}/empty
allow_anon_ssl=YES
ssl_enable=YES
force_anon_logins_ssl=YES
force_anon_data_ssl=YES
force_local_data_ssl=YES
force_local_logins_ssl=YES
rsa_cert_file={tls.cert}
rsa_private_key_file={tls.key}
ssl_tlsv1=YES
ssl_ciphers=HIGH
require_ssl_reuse=YES
seccomp_sandbox=NO
utf8_filesystem=YES
xferlog_enable=YES
vsftpd_log_file={folder}/log
xferlog_file={folder}/transfers
"""
    )
    return [str(_UNPACKED / "usr/sbin/vsftpd"), str(config)]


def _described(folder: Path, user: str, data_ports: range) -> FtpServer:
    password = "a-secret-of-the-FTP-server"  # noqa: S105 - of a test
    files = secret_file(folder / "password", password), secret_file(folder / "wrong", "not the password")
    return FtpServer(free_port(), data_ports, user, password, *files)


@contextlib.contextmanager
def _data_ports() -> Iterator[range]:
    """Neighbouring ports that nobody listens on, here and at the other address.

    A server listens on them only now and then, so another test could take them for free: a UDP socket keeps that one away.
    """
    blocks = list(range(20_000, 32_000, _DATA_PORTS))  # below those that the system hands out
    random.shuffle(blocks)
    for first in blocks:
        ports = range(first, first + _DATA_PORTS)
        with socket.socket(type=socket.SOCK_DGRAM) as mine:
            try:
                mine.bind(("127.0.0.1", first))
            except OSError:
                continue
            if all(_is_free(address, port) for port in ports for address in ("127.0.0.1", OTHER_ADDRESS)):
                yield ports
                return
    raise RuntimeError("no neighbouring ports are free")


def _is_free(address: str, port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with contextlib.suppress(OSError):
            probe.bind((address, port))
            return True
    return False
