"""omero.grid: the managed repository, what leads to it, and how full its disk is."""

import shutil
from typing import TYPE_CHECKING

import Ice
import omero
import omero.api
import omero.grid
import omero.model
from omero.rtypes import rstring

from lading.sandbox.omero import errors, permissions
from lading.sandbox.omero.checksums import ALGORITHMS, checksum
from lading.sandbox.omero.import_process import ImportProcess, begin_import
from lading.sandbox.omero.paths import components
from lading.sandbox.omero.permissions import Context
from lading.sandbox.omero.raw_files import RawFileStore
from lading.sandbox.omero.records import Record
from lading.sandbox.omero.services.base import Service, client_of
from lading.sandbox.omero.wire import servant

if TYPE_CHECKING:
    from lading.sandbox.omero.site import Site

REPOSITORY_SERVICE = "ManagedRepository"


@servant
class SharedResources(Service, omero.grid.SharedResources):
    """Leads to the repository. There are no tables and no scripts."""

    def repositories(self, current: Ice.Current) -> omero.grid.RepositoryMap:
        """A null proxy is legal: the repository is not up yet."""
        proxy = None
        if not self.site.faults.take("no_repository"):
            shared = self.site.shared(
                self.session, REPOSITORY_SERVICE, self.session.uuid, lambda: ManagedRepository(self.site, self.session)
            )
            proxy = omero.grid.RepositoryPrx.uncheckedCast(shared)
        made = omero.grid.RepositoryMap()
        made.descriptions, made.proxies = [_description(self.site)], [proxy]
        return made

    def areTablesEnabled(self, current: Ice.Current) -> bool:
        return False

    def getScriptRepository(self, current: Ice.Current) -> Ice.ObjectPrx | None:
        return None


@servant
class ManagedRepository(Service, omero.grid.ManagedRepository):
    """Takes imports in, and answers for the files that it keeps."""

    uses_database = True

    def root(self, current: Ice.Current) -> omero.model.OriginalFile:
        return _description(self.site)

    def listChecksumAlgorithms(self, current: Ice.Current) -> list[omero.model.ChecksumAlgorithm]:
        return [self._algorithm(name) for name in self.site.faults.checksums or ALGORITHMS]

    def suggestChecksumAlgorithm(
        self, supported: list[omero.model.ChecksumAlgorithm], current: Ice.Current
    ) -> omero.model.ChecksumAlgorithm | None:
        """The first of ours that the client has too."""
        names = {each.value.val for each in supported}
        ours = self.site.faults.checksums or ALGORITHMS
        return next((self._algorithm(name) for name in ours if name in names), None)

    def importFileset(
        self, fileset: omero.model.Fileset, settings: omero.grid.ImportSettings, current: Ice.Current
    ) -> Ice.ObjectPrx:
        return begin_import(self.site, self.session, self.context(current), fileset, settings, client_of(current))

    def importPaths(self, paths: list[str], current: Ice.Current) -> Ice.ObjectPrx:
        """For clients without Bio-Formats: no target, no name, our own algorithm."""
        fileset = omero.model.FilesetI()
        for path in paths:
            entry = omero.model.FilesetEntryI()
            entry.clientPath = rstring(path)
            fileset.addFilesetEntry(entry)
        fileset.linkJob(omero.model.UploadJobI())
        settings = omero.grid.ImportSettings()
        settings.checksumAlgorithm = self._algorithm(next(iter(self.site.faults.checksums or ALGORITHMS)))
        return begin_import(self.site, self.session, self.context(current), fileset, settings, client_of(current))

    def listImports(self, current: Ice.Current) -> list[Ice.ObjectPrx]:
        """Those that are open and that the user may change."""
        context = self.context(current)
        held = [each for session in self.site.sessions.all() for each in self.site.stateful(session)]
        return [
            each.proxy for each in held if isinstance(each, ImportProcess) and self._may_edit(context, each.fileset)
        ]

    def verifyChecksums(self, numbers: list[int], current: Ice.Current) -> list[int]:
        """Read each file again: those that differ from their record. A file that is not there is an error, as in OMERO."""
        return [record.id for record in self._files(numbers, current) if not self._intact(record)]

    def setChecksumAlgorithm(
        self, wanted: omero.model.ChecksumAlgorithm, numbers: list[int], current: Ice.Current
    ) -> list[int]:
        """Hash files another way, once they are proved to be what they were. Raises ServerError for one that is not."""
        algorithm = self.site.files.algorithm(wanted.value.val)
        changed = []
        for record in self._files(numbers, current):
            if record.get("hash") is not None and record.reference("hasher") == algorithm:
                continue
            if not self._intact(record):
                raise errors.internal("omero.ServerError", f"hash mismatch on file ID {record.id}")
            found = checksum(self.site.files.path(record), wanted.value.val)
            self.store.change(record, hasher=algorithm, hash=found)
            changed.append(record.id)
        return changed

    def fileExists(self, path: str, current: Ice.Current) -> bool:
        return self.site.files.root.joinpath(*components(path)).exists()

    def fileById(self, number: int, current: Ice.Current) -> Ice.ObjectPrx:
        """To read it."""
        if not self._files([number], current):
            raise errors.validation(f"OriginalFile:{number} is not in this repository")
        service = RawFileStore(self.site, self.session)
        service.setFileId(number, current)
        return omero.api.RawFileStorePrx.uncheckedCast(self.site.add_stateful(service))

    # -- inside -----------------------------------------------------------------------------------------------------

    def _algorithm(self, name: str) -> omero.model.ChecksumAlgorithm:
        record = self.store.follow(self.site.files.algorithm(name))
        assert record is not None
        return self.site.build(record)

    def _files(self, numbers: list[int], current: Ice.Current) -> list[Record]:
        """Those of this repository that the user may read, in any group."""
        context = self.site.sessions.context(self.session, {"omero.group": "-1"})
        found = [self.store.get("OriginalFile", number) for number in numbers]
        return [
            record
            for record in found
            if record and self.site.files.managed(record) and permissions.can_read(self.store, context, record)
        ]

    def _intact(self, record: Record) -> bool:
        return record.get("hash") is None or self.site.files.hash(record) == record.get("hash")

    def _may_edit(self, context: Context, fileset: int) -> bool:
        record = self.store.get("Fileset", fileset)
        return record is not None and permissions.rights(self.store, context, record).edit


@servant
class RepositoryInfo(Service, omero.api.IRepositoryInfo):
    """How full the disk is."""

    def getUsedSpaceInKilobytes(self, current: Ice.Current) -> int:
        return self._total() - self._free()

    def getFreeSpaceInKilobytes(self, current: Ice.Current) -> int:
        return self._free()

    def getUsageFraction(self, current: Ice.Current) -> float:
        return 1.0 - self._free() / self._total()

    def sanityCheckRepository(self, current: Ice.Current) -> None:
        """Nothing to complain about."""

    def removeUnusedFiles(self, current: Ice.Current) -> None:
        """There are none."""

    def _total(self) -> int:
        return shutil.disk_usage(self.site.files.root).total // 1024

    def _free(self) -> int:
        told = self.site.faults.free_kib
        return told if told >= 0 else shutil.disk_usage(self.site.files.root).free // 1024


def _description(site: "Site") -> omero.model.OriginalFile:
    return site.build(site.files.record)
