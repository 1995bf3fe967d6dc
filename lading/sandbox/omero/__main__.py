"""``python -m lading.sandbox.omero``: the stand-in OMERO in the foreground."""

from lading.sandbox.omero.server import main

if __name__ == "__main__":
    raise SystemExit(main())
