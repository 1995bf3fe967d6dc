"""Which nasty names a transport's table refuses, and which of those its server would in truth keep."""

import contextlib
import os
from collections.abc import Iterable

from lading.errors import LadingError
from lading.findings import Severity
from lading.listing.names import NameLimits, name_findings
from lading.testing.carrying import Errand
from lading.testing.site import Desk, does_not_apply
from lading.testing.trees import NASTY_NAMES
from transport.bodies import SmallBody
from transport.placing import PlacingTransport

OF_WINDOWS = frozenset({b"CON", b"aux.txt", b"trailing space ", b"trailing.dot."})
"""What Windows alone refuses or changes, and no server on Linux that speaks for it."""
FORBIDDEN_ON_WINDOWS = OF_WINDOWS | {
    *(b"a|b<c>d", b"back\\slash", b"host:colon", b"quotes \" and '", b"\\#012 like an escape", b"\x1besc and \x07bell"),
}
"""And with characters that Windows forbids; but for those that a server on Linux has its own trouble with."""
TOO_LONG = b"n" * 252 + b".dcm"
"""A name that no disk here can hold; only a server without a disk could."""
_ALLOWED = "nobody refuses this.dcm"
_WHEN = 1_600_000_000.0


def refused_by(limits: NameLimits, paths: Iterable[str]) -> set[str]:
    """Those of `paths` (relative POSIX) that a target with `limits` refuses, for a name or for one of its folders."""
    return {path for path in paths if any(_is_refused(limits, folder, name) for folder, name in _steps(path))}


def kept_by_the_server(desk: Desk, errand: Errand) -> frozenset[bytes]:
    """The nasty names that the errand's transport refuses and its server keeps as they are, asked past the table.

    Ends the test where nobody but the transport's own program reaches the server.
    """
    transport = errand.transport()
    if not isinstance(transport, PlacingTransport):
        does_not_apply("another program than ours carries the names")
    names = refused_by(transport.traits.names, map(os.fsdecode, (*NASTY_NAMES, TOO_LONG)))
    if not names:
        does_not_apply("the table refuses no name that is in use")
    kept = {name for name in (_ALLOWED, *names) if _is_kept(desk, transport, errand, name)}
    if _ALLOWED not in kept:
        raise AssertionError("the server keeps no name at all: this proves nothing")
    return frozenset(os.fsencode(name) for name in kept - {_ALLOWED})


def _is_kept(desk: Desk, transport: PlacingTransport, errand: Errand, name: str) -> bool:
    """A connection for each: some servers hang up on a name that they cannot read."""
    with contextlib.suppress(LadingError, OSError, ValueError):  # not said, or not taken: not kept
        files = transport.place_type.from_settings(errand.settings).connect()
        try:
            files.make_folders(errand.slot.data)
            files.place(f"{errand.slot.data}/{name}", SmallBody(os.fsencode(name), _WHEN))
        finally:
            files.close()
        return (desk.data(errand) / name).read_bytes() == os.fsencode(name)
    return False


def _steps(path: str) -> Iterable[tuple[str, str]]:
    parts = path.split("/")
    return (("/".join(parts[:depth]), parts[depth]) for depth in range(len(parts)))


def _is_refused(limits: NameLimits, folder: str, name: str) -> bool:
    return any(finding.severity is Severity.ERROR for finding in name_findings(folder, name, limits))
