"""A stand-in XNAT on HTTP, for tests and demonstrations. It is not XNAT and keeps no data safe.

Read first: ``state.py`` (what it knows), then ``app.py`` (how a request travels), then ``gradual.py`` and
``archive.py`` (the way of a DICOM object). The traps of real servers are on by default; ``faults.py`` adds more.
"""

from lading.sandbox.xnat.faults import Faults
from lading.sandbox.xnat.server import SandboxXnat, serve

__all__ = ["Faults", "SandboxXnat", "serve"]
