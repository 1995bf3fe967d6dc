"""omero.api.IMetadata: annotations and logs, as far as clients of an import ask for them."""

import Ice
import omero.api
import omero.sys

from lading.sandbox.omero import errors, graph, model, permissions
from lading.sandbox.omero.records import Record, Ref
from lading.sandbox.omero.services.base import Service
from lading.sandbox.omero.wire import servant

LOG_MIMETYPE = "application/omero-log-file"
_PLAN: graph.Plan = {"file": {}, "details": {"owner": {}}}


@servant
class MetadataService(Service, omero.api.IMetadata):
    """Read only."""

    uses_database = True

    def loadAnnotations(
        self,
        cls: str,
        ids: list[int],
        kinds: list[str],
        annotators: list[int],
        options: omero.sys.Parameters,
        current: Ice.Current,
    ) -> dict[int, list[omero.model.IObject]]:
        wanted = [model.short(kind) for kind in kinds or ()]
        context, link = self.context(current), f"{model.short(cls)}AnnotationLink"

        def of(number: int) -> list[omero.model.IObject]:
            links = self.store.find(link, parent=Ref(model.short(cls), number))
            found = [each for line in links if (each := self.store.follow(line.get("child")))]
            return [
                graph.build(self.store, each, context, _PLAN)
                for each in found
                if permissions.can_read(self.store, context, each)
                and (not wanted or any(model.is_a(each.cls, kind) for kind in wanted))
                and (not annotators or each.owner in annotators)
            ]

        return {number: of(number) for number in ids}

    def loadAnnotation(self, ids: list[int], current: Ice.Current) -> list[omero.model.IObject]:
        context = self.context(current)
        found = [self.store.get("Annotation", number) for number in ids]
        return [graph.build(self.store, each, context, _PLAN) for each in found if each is not None]

    def loadLogFiles(self, cls: str, ids: list[int], current: Ice.Current) -> dict[int, list[omero.model.IObject]]:
        """The logs of the imports that made the filesets."""
        if model.short(cls) != "Fileset":
            raise errors.api_usage("log files belong to filesets")
        context = self.context(current)
        return {number: [graph.build(self.store, log, context) for log in self._logs(number)] for number in ids}

    def _logs(self, fileset: int) -> list[Record]:
        jobs = [
            ref
            for link in self.store.find("FilesetJobLink", parent=Ref("Fileset", fileset))
            if (ref := link.reference("child"))
        ]
        links = [link for job in jobs for link in self.store.find("JobOriginalFileLink", parent=job)]
        files = [file for link in links if (file := self.store.follow(link.get("child"))) is not None]
        return [file for file in files if file.get("mimetype") == LOG_MIMETYPE]
