"""Finds the login for one OMERO: a user and password, or the key of a session. Never taken from argv, and never shown."""

from lading.logins import Login, Place, login

__all__ = ["Login", "find"]


def find(spec: str, host: str) -> Login:
    """The login that `spec` points to, for the OMERO at `host`: see `lading.logins.login`, with LADING_OMERO_… or the host.

    The key of a session will do as well (PREFIX_SESSION, or `session` in the file). Raises ConfigError, AccessDenied.
    """
    return login(spec, Place("OMERO", service=host, prefix="LADING_OMERO", sessions=True))
