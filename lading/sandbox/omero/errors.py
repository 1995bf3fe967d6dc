"""OMERO's own exceptions, made in one place so that each carries the fields that clients show."""

import omero
import omero.clients


class Unsupported(Exception):
    """The stand-in was asked for something of OMERO that it does not have. Clients get it as an InternalException."""


def api_usage(message: str) -> omero.ApiUsageException:
    """The caller used the API wrongly."""
    return omero.ApiUsageException("", "ome.conditions.ApiUsageException", message)


def validation(message: str) -> omero.ValidationException:
    """The object cannot be stored, or is not there."""
    return omero.ValidationException("", "ome.conditions.ValidationException", message)


def security(message: str) -> omero.SecurityViolation:
    """The user may not do this."""
    return omero.SecurityViolation("", "ome.conditions.SecurityViolation", message)


def mixed_groups(message: str) -> omero.SecurityViolation:
    """Objects of different groups would be linked."""
    return omero.SecurityViolation("", "ome.conditions.GroupSecurityViolation", message)


def resource(message: str) -> omero.ResourceError:
    """The disk, mostly."""
    return omero.ResourceError("", "ome.conditions.ResourceError", message)


def internal(kind: str, message: str) -> omero.InternalException:
    """A bug of the server, or something that the stand-in cannot do."""
    return omero.InternalException("", kind, message)


def stale(message: str) -> omero.OptimisticLockException:
    """Somebody changed the object since the caller read it."""
    return omero.OptimisticLockException("", "ome.conditions.OptimisticLockException", message, 0)


def removed_session(message: str) -> omero.RemovedSessionException:
    """The session was closed."""
    return omero.RemovedSessionException("", "ome.conditions.RemovedSessionException", message)


def session_timeout(message: str) -> omero.SessionTimeoutException:
    """The session was idle for too long."""
    return omero.SessionTimeoutException("", "ome.conditions.SessionTimeoutException", message)


def database_busy(back_off: int) -> omero.DatabaseBusyException:
    """No connection is free; come back after so many milliseconds."""
    message = "cannot open a database connection"
    return omero.DatabaseBusyException("", "ome.conditions.DatabaseBusyException", message, back_off)


def over_usage(message: str) -> omero.OverUsageException:
    """A session holds too much open."""
    return omero.OverUsageException("", "ome.conditions.OverUsageException", message)
