"""Transports that always carry with two processes, however few the files are (see transport.hands)."""

from dataclasses import dataclass

from lading.ports import Settings
from lading.testing import folder_place
from transport import ftps
from transport.hands import Recipe
from transport.on_the_way import Load
from transport.placing import PlacingTransport

_START_S = 60.0


@dataclass(frozen=True)
class Always(Recipe):
    """It is always worth it."""

    def suits(self, load: Load) -> bool:  # noqa: ARG002
        """Yes."""
        return True


class _TwoHanded(PlacingTransport):
    @classmethod
    def recipe(cls, settings: Settings) -> Recipe:
        """The same, and the other process is waited for."""
        usual = super().recipe(settings)
        return Always(usual.place, usual.settings, usual.base, wait_s=_START_S)


class Folder(_TwoHanded, folder_place.FolderTransport):
    """A folder."""


class Ftps(_TwoHanded, ftps.FtpsTransport):
    """FTPS."""
