"""omero.api.ITimeline: what was imported lately."""

import Ice
import omero.api
import omero.sys
from omero.rtypes import unwrap

from lading.sandbox.omero import graph, permissions
from lading.sandbox.omero.records import Record
from lading.sandbox.omero.services.base import Service
from lading.sandbox.omero.wire import servant

_CLASSES = ("Project", "Dataset", "Image")


@servant
class TimelineService(Service, omero.api.ITimeline):
    """By the time at which objects were added."""

    uses_database = True

    def countByPeriod(
        self,
        classes: list[str],
        start: omero.RTime,
        end: omero.RTime,
        options: omero.sys.Parameters,
        current: Ice.Current,
    ) -> dict[str, int]:
        return {cls: len(self._within(cls, start, end, options, current)) for cls in classes or _CLASSES}

    def getByPeriod(
        self,
        classes: list[str],
        start: omero.RTime,
        end: omero.RTime,
        options: omero.sys.Parameters,
        merge: bool,
        current: Ice.Current,
    ) -> dict[str, list[omero.model.IObject]]:
        context = self.context(current)
        return {
            cls: [
                graph.build(self.store, record, context) for record in self._within(cls, start, end, options, current)
            ]
            for cls in classes or _CLASSES
        }

    def _within(
        self, cls: str, start: omero.RTime, end: omero.RTime, options: omero.sys.Parameters, current: Ice.Current
    ) -> list[Record]:
        context = self.context(current)
        wanted = options.theFilter if options is not None else None
        owner = unwrap(wanted.ownerId) if wanted is not None else None
        limit = unwrap(wanted.limit) if wanted is not None else None
        found = [
            record
            for record in self.store.all(cls)
            if unwrap(start) <= record.created <= unwrap(end)
            and permissions.can_read(self.store, context, record)
            and (owner in (None, -1) or record.owner == owner)
        ]
        return sorted(found, key=lambda record: record.created, reverse=True)[:limit]
