"""``python -m lading.sandbox.xnat``: the stand-in XNAT in the foreground."""

from lading.sandbox.xnat.server import main

if __name__ == "__main__":
    raise SystemExit(main())
