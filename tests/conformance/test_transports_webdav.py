"""The WebDAV transport over real WebDAV servers and our stand-in for Nextcloud, against the suite of all transports."""

from dataclasses import replace

import pytest

from lading.testing.certificates import certificates
from lading.testing.dav_servers import apache_dav, missing_for_apache, nextcloud, wsgidav
from lading.testing.naming import FORBIDDEN_ON_WINDOWS
from lading.testing.servers import free_port
from lading.testing.site import Site
from lading.testing.transport_suite import TransportSuite


@pytest.fixture(scope="module")
def tls(tmp_path_factory):
    return certificates(tmp_path_factory.mktemp("tls"))


def _site(running, tls, folder, **settings):
    """A site where the `running` server serves `folder`."""

    def reach(inbox):
        return {
            "url": f"{running.url}/{inbox.relative_to(folder).as_posix()}",
            "user": running.user,
            "password": f"file:{running.password_file}",
            "ca": str(tls.ca),
            "timeout": 15,
            **settings,
        }

    def at(port):
        # Only a site's own inbox is ever reached through a proxy.
        return f"{running.url.replace(str(running.port), str(port))}/desk/inbox"

    return Site(
        "transport.webdav:WebdavTransport.from_settings",
        reach,
        denied={
            "a wrong password": {"password": f"file:{running.wrong_password_file}"},
        },
        untrusted={
            "a CA that did not sign the certificate": {"ca": str(tls.other_ca)},
        },
        unreachable={"nobody listens": {"url": at(free_port())}},
        server=("127.0.0.1", running.port),
        through=lambda proxy: {"url": at(proxy.port), "timeout": 5, "connect_timeout": 5},
        secrets=(running.password,),
    )


@pytest.mark.skipif(bool(missing_for_apache()), reason=missing_for_apache())
class TestWebdavOverApache(TransportSuite):
    @pytest.fixture
    def site(self, tmp_path, tmp_path_factory, tls):
        with apache_dav(tmp_path_factory.mktemp("apache"), tmp_path, tls) as server:
            yield _site(server, tls, tmp_path)


class TestWebdavOverWsgidav(TransportSuite):
    """As strict as Seafile about names: the two are relatives."""

    @pytest.fixture
    def site(self, tmp_path, tmp_path_factory, tls):
        with wsgidav(tmp_path_factory.mktemp("wsgidav"), tmp_path, tls) as server:
            site = _site(server, tls, tmp_path, server="seafile")
            yield replace(site, stricter={"Seafile's clients on Windows cannot hold it": FORBIDDEN_ON_WINDOWS})


class TestNextcloud(TransportSuite):
    @pytest.fixture
    def site(self, tmp_path, tmp_path_factory, tls):
        with nextcloud(tmp_path_factory.mktemp("nextcloud"), tmp_path, tls) as server:
            yield _site(server, tls, tmp_path, chunk_mib=5)
