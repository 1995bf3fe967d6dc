"""The stand-in from a shell: `python -m lading.sandbox.globus --port 8080 --collection "Microscope=DIR" …`.

Prints the id of every collection; the secret of the service account is read from `--secret-file`.
"""

import argparse
import sys
import uuid
from pathlib import Path

from lading.sandbox.globus.server import Server
from lading.sandbox.globus.world import Collection, World


def main() -> None:
    """Serve until we are ended."""
    parser = argparse.ArgumentParser(prog="python -m lading.sandbox.globus")
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--collection", action="append", required=True, metavar="NAME=FOLDER")
    parser.add_argument("--client", default=str(uuid.uuid4()))
    parser.add_argument("--secret-file", type=Path)
    asked = parser.parse_args()
    collections = []
    for given in asked.collection:
        name, _, folder = given.partition("=")
        # The same name has the same id in every run: settings stay valid.
        collections.append(Collection(str(uuid.uuid5(uuid.NAMESPACE_DNS, name)), name, Path(folder).resolve()))
    services = {asked.client: asked.secret_file.read_text("utf-8").splitlines()[0]} if asked.secret_file else {}
    server = Server(("127.0.0.1", asked.port), World(collections), services)
    sys.stdout.write("".join(f"{one.id} {one.name}\n" for one in collections) + f"{server.url}\n")
    sys.stdout.flush()
    server.serve_forever()


if __name__ == "__main__":
    main()
