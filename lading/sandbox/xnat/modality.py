"""Which session and scan types the importer chooses for a SOP class or a modality.

After XNAT's ``study-sessions.properties``, ``series-scans.properties`` and ``lead-session-types.txt``.
"""

from collections.abc import Iterable

OTHER = "otherDicom"

_STORAGE = "1.2.840.10008.5.1.4.1.1."
_BY_SOP_CLASS: dict[str, tuple[str, str]] = {
    _STORAGE + suffix: (session, scan)
    for session, scan, suffixes in (
        ("mr", "mr", ("4", "4.1", "4.2", "4.4")),
        ("pet", "pet", ("128", "128.1", "130")),
        ("ct", "ct", ("2", "2.1", "2.2")),
        ("xa", "xa", ("12.1", "12.1.1")),
        ("us", "us", ("6", "6.1", "6.2", "3", "3.1")),
        ("rt", "rtImage", ("481.1", "481.2", "481.3", "481.5")),
        ("cr", "cr", ("1",)),
        ("opt", "opt", ("77.1.5.1", "77.1.5.4")),
        ("mg", "mg", ("1.2", "1.2.1")),
        ("dx", "dx", ("1.1", "1.1.1")),
        ("nm", "nm", ("20",)),
        ("sr", "sr", ("88.11", "88.22", "88.33")),
        ("sm", "sm", ("77.1.6",)),
        ("gm", "gm", ("77.1.2",)),
        (OTHER, "sc", ("7", "7.1", "7.2", "7.3", "7.4")),
        (OTHER, "seg", ("66.4", "66.5")),
    )
    for suffix in suffixes
}
_BY_MODALITY = {"MR": "mr", "PT": "pet", "CT": "ct", "XA": "xa", "US": "us", "CR": "cr", "MG": "mg", "DX": "dx"}
_LEADING = ("pet", "mr", "ct", "xa", "us", "rt", "cr", "opt", "mg", "dx", "nm", "sr", "sm", "gm")

SESSION_TYPES = (*_LEADING, OTHER)


def types_of(sop_class: str, modality: str) -> tuple[str, str]:
    """The session and the scan type, without ``xnat:`` and ``SessionData`` or ``ScanData``."""
    by_modality = _BY_MODALITY.get(modality, OTHER)
    return _BY_SOP_CLASS.get(sop_class, (by_modality, by_modality))


def leading(session_types: Iterable[str]) -> str:
    """The type of a session whose scans would make different ones."""
    present = set(session_types)
    return next((kind for kind in _LEADING if kind in present), OTHER)


def session_xsi(kind: str) -> str:
    return f"xnat:{kind}SessionData"


def scan_xsi(kind: str) -> str:
    return f"xnat:{kind}ScanData"
