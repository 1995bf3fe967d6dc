"""A stand-in OMERO on the real Ice wire, for tests and demonstrations. It is not OMERO.server and keeps no data safe.

Unmodified clients talk to it: the `omero` command, BlitzGateway, ezomero. Read first: ``site.py`` (what the parts share),
then ``wire.py`` (how a call reaches its method), ``router.py`` and ``sessions.py`` (logging in), ``store.py`` and
``graph.py`` (objects), ``hql.py``, ``query.py`` and ``values.py`` (questions), ``services/`` (one module per service).
This module and ``process.py`` import no Ice, so that whoever starts a stand-in needs none.
"""

from lading.sandbox.omero.accounts import Accounts, User
from lading.sandbox.omero.process import SandboxOmero

__all__ = ["Accounts", "SandboxOmero", "User"]
