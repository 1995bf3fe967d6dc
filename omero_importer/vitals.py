"""How the server feels, as far as an ordinary client can tell."""

from omero_importer.ice import omero
from omero_importer.session import Connection
from omero_importer.valve import Valve


def measure(connection: Connection, valve: Valve) -> None:
    """Tell the valve how the server feels: how fast its database answers, and how full its disk is."""
    valve.saw_database(connection.time_database())
    try:
        free = connection.factory.getRepositoryInfoService().getFreeSpaceInKilobytes()
    except (omero.SecurityViolation, omero.ApiUsageException):
        return  # not for everybody to know
    valve.saw_free(int(free))
