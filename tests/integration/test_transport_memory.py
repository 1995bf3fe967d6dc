"""Memory is flat in the number of files: thousands of tiny files take no more than 500 do."""

import contextlib
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest

from lading.testing.certificates import certificates
from lading.testing.dav_servers import apache_dav, missing_for_apache
from lading.testing.ftp_servers import missing_for_ftp_servers, proftpd
from lading.testing.peaks import peak_of
from lading.testing.s3_servers import rclone, rclone_s3
from lading.testing.servers import missing_for_sshd, sshd
from lading.testing.site import Desk, Site
from lading.testing.smb_server import missing_for_smbd, smbd

FEW, MANY = 500, 20_000
MANY_FOR_SLOW_SERVERS = 5_000
ROOM_KIB = 8 << 10
"""What thousands of files more may take: an allocator does not give back what it had once, and never twice the same."""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.timeout(1500),
    pytest.mark.skipif(os.name != "posix", reason="Windows does not say what a process came to"),
]


@contextlib.contextmanager
def _local(place: Path, served: Path) -> Iterator[Site]:
    yield Site("transport.local:LocalTransport.from_settings", lambda inbox: {"path": str(inbox)})


@contextlib.contextmanager
def _over_ssh(place: Path, served: Path, factory: str, **more: object) -> Iterator[Site]:
    with sshd(place / "ssh") as server:
        yield Site(
            factory,
            lambda inbox: {
                **more,
                "target": f"{server.user}@127.0.0.1:{inbox}",
                "port": server.port,
                "identity": str(server.identity),
                "known_hosts": str(server.known_hosts),
            },
        )


@contextlib.contextmanager
def _rsync(place: Path, served: Path) -> Iterator[Site]:
    if not shutil.which("rsync"):
        pytest.skip("rsync is not installed (Debian: rsync)")
    _need(missing_for_sshd())
    with _over_ssh(place, served, "transport.rsync:RsyncTransport.from_settings") as site:
        yield site


@contextlib.contextmanager
def _sftp(place: Path, served: Path) -> Iterator[Site]:
    _need(missing_for_sshd())
    with _over_ssh(place, served, "transport.sftp:SftpTransport.from_settings") as site:
        yield site


@contextlib.contextmanager
def _sftp_by_a_library(place: Path, served: Path) -> Iterator[Site]:
    _need(missing_for_sshd())
    with _over_ssh(place, served, "transport.sftp:SftpTransport.from_settings", ssh="") as site:
        yield site


@contextlib.contextmanager
def _smb(place: Path, served: Path) -> Iterator[Site]:
    _need(missing_for_smbd())
    with smbd(place / "samba", served) as server:
        yield Site(
            "transport.smb:SmbTransport.from_settings",
            lambda inbox: {
                "share": f"//127.0.0.1/inbox/{inbox.relative_to(served).as_posix()}",
                "port": server.port,
                "user": server.user,
                "password": f"file:{server.password_file}",
            },
        )


@contextlib.contextmanager
def _webdav(place: Path, served: Path) -> Iterator[Site]:
    _need(missing_for_apache())
    tls = certificates(place / "tls")
    with apache_dav(place / "apache", served, tls) as server:
        yield Site(
            "transport.webdav:WebdavTransport.from_settings",
            lambda inbox: {
                "url": f"{server.url}/{inbox.relative_to(served).as_posix()}",
                "user": server.user,
                "password": f"file:{server.password_file}",
                "ca": str(tls.ca),
            },
        )


@contextlib.contextmanager
def _ftps(place: Path, served: Path) -> Iterator[Site]:
    _need(missing_for_ftp_servers())
    tls = certificates(place / "tls")
    with proftpd(place / "proftpd", served, tls) as server:
        yield Site(
            "transport.ftps:FtpsTransport.from_settings",
            lambda inbox: {
                "url": f"ftps://127.0.0.1:{server.port}{server.root}/{inbox.relative_to(served).as_posix()}",
                "user": server.user,
                "password": f"file:{server.password_file}",
                "ca": str(tls.ca),
            },
        )


@contextlib.contextmanager
def _s3(place: Path, served: Path) -> Iterator[Site]:
    _need("" if rclone() else "rclone is not installed (pip install 'lading[dev]')")
    tls = certificates(place / "tls")
    with rclone_s3(place / "rclone", served.parent, tls=tls, alone=True) as server:
        yield Site(
            "transport.s3:S3Transport.from_settings",
            lambda inbox: {
                "endpoint": server.endpoint,
                "bucket": served.name,
                "prefix": inbox.relative_to(served).as_posix(),
                "access_key": server.access_key,
                "secret_key": f"file:{server.secret_file}",
                "ca": str(tls.ca),
                "addressing": "path",
            },
        )


def _need(missing: str) -> None:
    if missing:
        pytest.skip(missing)


def _tiny(root: Path, count: int) -> Path:
    for number in range(count):
        folder = root / f"{number // 1000:03}"
        if number % 1000 == 0:
            folder.mkdir(parents=True)
        (folder / f"{number:06}.dat").write_bytes(b"%d" % number)
    return root


@pytest.mark.parametrize(
    ("family", "files"),
    [
        (_local, MANY),
        (_rsync, MANY),
        (_sftp, MANY),
        (_sftp_by_a_library, MANY),
        (_smb, MANY),
        (_webdav, MANY),
        (_ftps, MANY_FOR_SLOW_SERVERS),
        (_s3, MANY_FOR_SLOW_SERVERS),
    ],
    ids=lambda value: value.__name__[1:] if callable(value) else str(value),
)
def test_thousands_of_files_take_no_more_memory_than_five_hundred(family, files, tmp_path, tmp_path_factory) -> None:
    served = tmp_path / "desk"
    served.mkdir()
    with family(tmp_path_factory.mktemp("servers"), served) as site:
        desk = Desk(served, site)
        few = peak_of(desk.errand(_tiny(tmp_path / "few", FEW)).sealed())
        whole = desk.errand(_tiny(tmp_path / "many", files)).sealed()
        many = peak_of(whole)

    assert sum(len(names) for _, _, names in os.walk(desk.data(whole))) == files
    assert many - few < ROOM_KIB, f"{FEW} files: {few} KiB, {files} files: {many} KiB"
