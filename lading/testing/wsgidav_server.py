"""A WsgiDAV server from a shell: `python -m lading.testing.wsgidav_server SETTINGS.json`."""

import json
import sys
from pathlib import Path

from cheroot import wsgi
from cheroot.ssl.builtin import BuiltinSSLAdapter
from wsgidav.wsgidav_app import WsgiDAVApp


def main(settings: str) -> None:
    """Serve until we are ended. The file has port, folder, cert and key (empty: no TLS), user, password."""
    asked = json.loads(Path(settings).read_text(encoding="utf-8"))
    app = WsgiDAVApp(
        {
            "provider_mapping": {"/": asked["folder"]},
            "http_authenticator": {"accept_basic": True, "accept_digest": False, "default_to_digest": False},
            "simple_dc": {"user_mapping": {"*": {asked["user"]: {"password": asked["password"]}}}},
            "dir_browser": {"enable": False},
            "verbose": 1,
            "lock_storage": True,
            "property_manager": True,
        }
    )
    server = wsgi.Server(("127.0.0.1", asked["port"]), app, numthreads=8, timeout=30)
    if asked["cert"]:
        server.ssl_adapter = BuiltinSSLAdapter(asked["cert"], asked["key"])
    server.start()


if __name__ == "__main__":
    main(sys.argv[1])
