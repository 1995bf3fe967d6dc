"""An OMERO to talk to in contract tests: the stand-in, or a real one that the environment names.

LADING_TEST_OMERO_HOST, _PORT, _USER and _PASSWORD choose a real server. What needs other users, root, or a look inside
the server runs against the stand-in only.
"""

import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import omero
import omero.clients
import omero.sys
from omero.rtypes import rlong, rstring, unwrap
from omero.rtypes import wrap as wrapped

from lading.sandbox.omero import SandboxOmero
from lading.sandbox.omero.glacier2 import missing as missing_glacier2

KINDS = ("ssl", "tcp", "glacier2")


@dataclass(frozen=True)
class OmeroServer:
    """Where to log in, and as whom. `address` is what omero.client takes; `sandbox` is None for a real server."""

    address: str
    port: int
    user: str
    password: str
    sandbox: SandboxOmero | None

    def login(self, user: str = "") -> "Login":
        """A session of its own; of another user only on the stand-in."""
        password = self.password if user in ("", self.user) else self.inside.password(user)
        return Login(self, user or self.user, password)

    @property
    def inside(self) -> SandboxOmero:
        """The stand-in. Raises AssertionError on a real server."""
        assert self.sandbox is not None
        return self.sandbox


class Login:
    """One client with its session, logged out at the end of the block."""

    def __init__(self, server: OmeroServer, user: str, password: str) -> None:
        self.client = omero.client(server.address, server.port)
        try:
            self.factory = self.client.createSession(user, password)
        except BaseException:
            self.client.__del__()
            raise

    def __enter__(self) -> "Login":
        return self

    def __exit__(self, *_: object) -> None:
        self.client.closeSession()

    def save(self, cls: str, group: int | None = None, **fields: str) -> int:
        """A new object with these texts; its id."""
        made = getattr(omero.model, cls + "I")()
        for name, value in fields.items():
            setattr(made, name, rstring(value))
        context = {} if group is None else {"omero.group": str(group)}
        return int(self.factory.getUpdateService().saveAndReturnObject(made, context).id.val)

    def link(self, cls: str, parent: tuple[str, int], child: tuple[str, int], group: int | None = None) -> int:
        """A new link; its id."""
        made = getattr(omero.model, cls + "I")()
        made.parent = getattr(omero.model, parent[0] + "I")(parent[1], loaded=False)
        made.child = getattr(omero.model, child[0] + "I")(child[1], loaded=False)
        context = {} if group is None else {"omero.group": str(group)}
        return int(self.factory.getUpdateService().saveAndReturnObject(made, context).id.val)

    def rows(self, hql: str, group: int | None = None, **parameters: object) -> list[list[object]]:
        """A projection, unwrapped."""
        given = _parameters(parameters)
        context = {} if group is None else {"omero.group": str(group)}
        found: list[list[object]] = unwrap(self.factory.getQueryService().projection(hql, given, context))
        return found

    def objects(self, hql: str, group: int | None = None, **parameters: object) -> list[omero.model.IObject]:
        """findAllByQuery."""
        context = {} if group is None else {"omero.group": str(group)}
        found: list[omero.model.IObject] = self.factory.getQueryService().findAllByQuery(
            hql, _parameters(parameters), context
        )
        return found

    def group(self, name: str) -> int:
        """A group's number."""
        return int(self.factory.getAdminService().lookupGroup(name).id.val)


@contextmanager
def omero_server(kind: str, folder: Path) -> Iterator[OmeroServer]:
    """One of KINDS; a real server is the same for "ssl", and there is no other kind of it. See `unavailable`."""
    host = os.environ.get("LADING_TEST_OMERO_HOST")
    if host:
        port = int(os.environ.get("LADING_TEST_OMERO_PORT", "4064"))
        user, password = os.environ["LADING_TEST_OMERO_USER"], os.environ["LADING_TEST_OMERO_PASSWORD"]
        yield OmeroServer(host, port, user, password, None)
        return
    with SandboxOmero(folder, java=False, glacier2=kind == "glacier2") as box:
        address = f"tcp://{box.host}" if kind == "tcp" else box.host
        yield OmeroServer(address, box.tcp_port if kind == "tcp" else box.port, "alice", box.password("alice"), box)


def unavailable(kind: str) -> str:
    """Why this kind cannot be had here, or ""."""
    if kind != "ssl" and os.environ.get("LADING_TEST_OMERO_HOST"):
        return "a real server is talked to over TLS"
    return missing_glacier2() if kind == "glacier2" else ""


def _parameters(values: Mapping[str, object]) -> omero.sys.ParametersI:
    made = omero.sys.ParametersI()
    for name, value in values.items():
        made.map[name] = rlong(value) if isinstance(value, int) and not isinstance(value, bool) else wrapped(value)
    return made
