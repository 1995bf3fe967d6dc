"""Which name belongs to which service. A service that is not here is refused by name when a client asks for it."""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from lading.sandbox.omero.raw_files import RawFileStore
from lading.sandbox.omero.repository import RepositoryInfo, SharedResources
from lading.sandbox.omero.services.admin import AdminService
from lading.sandbox.omero.services.base import Service, StatefulService
from lading.sandbox.omero.services.config import ConfigService
from lading.sandbox.omero.services.container import ContainerService
from lading.sandbox.omero.services.metadata import MetadataService
from lading.sandbox.omero.services.query import QueryService
from lading.sandbox.omero.services.session import SessionService
from lading.sandbox.omero.services.timeline import TimelineService
from lading.sandbox.omero.services.types import TypesService
from lading.sandbox.omero.services.update import UpdateService
from lading.sandbox.omero.sessions import Session

if TYPE_CHECKING:
    from lading.sandbox.omero.site import Site

STATELESS: dict[str, Callable[["Site", Session], Service]] = {
    "IAdmin": AdminService,
    "IConfig": ConfigService,
    "IContainer": ContainerService,
    "IMetadata": MetadataService,
    "IQuery": QueryService,
    "IRepositoryInfo": RepositoryInfo,
    "ISession": SessionService,
    "ITimeline": TimelineService,
    "ITypes": TypesService,
    "IUpdate": UpdateService,
    "SharedResources": SharedResources,
}
"""One servant per session; name → what makes it."""

STATEFUL: dict[str, Callable[["Site", Session], StatefulService]] = {"RawFileStore": RawFileStore}
"""One servant per `create…` call."""


def known() -> Mapping[str, bool]:
    """Every name → whether it has state."""
    return {**dict.fromkeys(STATELESS, False), **dict.fromkeys(STATEFUL, True)}
