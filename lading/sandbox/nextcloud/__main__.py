"""The stand-in from a shell: `python -m lading.sandbox.nextcloud --port 8080 --files DIR --uploads DIR --user lab …`."""

import argparse
import ssl
from pathlib import Path

from lading.sandbox.nextcloud.server import Server
from lading.sandbox.nextcloud.store import Store, Uploads


def main() -> None:
    """Serve until we are ended."""
    parser = argparse.ArgumentParser(prog="python -m lading.sandbox.nextcloud")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--files", type=Path, required=True)
    parser.add_argument("--uploads", type=Path, required=True)
    parser.add_argument("--user", required=True)
    parser.add_argument("--password-file", type=Path, required=True)
    parser.add_argument("--cert", type=Path)
    parser.add_argument("--key", type=Path)
    asked = parser.parse_args()
    asked.uploads.mkdir(parents=True, exist_ok=True)
    password = asked.password_file.read_text(encoding="utf-8").splitlines()[0]
    server = Server(("127.0.0.1", asked.port), Store(asked.files), Uploads(asked.uploads), asked.user, password)
    if asked.cert:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(asked.cert, asked.key)
        # The handshake belongs to the connection's own thread: one silent client must not keep others waiting.
        server.socket = context.wrap_socket(server.socket, server_side=True, do_handshake_on_connect=False)
    server.serve_forever()


if __name__ == "__main__":
    main()
