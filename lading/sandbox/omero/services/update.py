"""omero.api.IUpdate: writing."""

import Ice
import omero.api
from omero.rtypes import rint

from lading.sandbox.omero import delete, errors, graph, model
from lading.sandbox.omero.services.base import Service
from lading.sandbox.omero.wire import servant


@servant
class UpdateService(Service, omero.api.IUpdate):
    """Each call is one transaction."""

    uses_database = True

    def saveObject(self, thing: omero.model.IObject, current: Ice.Current) -> None:
        self._save([thing], current)

    def saveAndReturnObject(self, thing: omero.model.IObject, current: Ice.Current) -> omero.model.IObject:
        self._save([thing], current)
        return thing

    def saveCollection(self, things: list[omero.model.IObject], current: Ice.Current) -> None:
        self._save(things, current)

    def saveArray(self, things: list[omero.model.IObject], current: Ice.Current) -> None:
        self._save(things, current)

    def saveAndReturnArray(self, things: list[omero.model.IObject], current: Ice.Current) -> list[omero.model.IObject]:
        self._save(things, current)
        return things

    def saveAndReturnIds(self, things: list[omero.model.IObject], current: Ice.Current) -> list[int]:
        self._save(things, current)
        return [thing.id.val for thing in things]

    def deleteObject(self, thing: omero.model.IObject, current: Ice.Current) -> None:
        """Only what nothing refers to; everything else needs a Delete2 request."""
        record = self.store.get(model.class_of(thing), thing.id.val)
        if record is None:
            raise errors.validation(f"No row with the given identifier exists: {model.class_of(thing)}:{thing.id.val}")
        delete.delete_alone(self.store, self.context(current), record)

    def _save(self, things: list[omero.model.IObject], current: Ice.Current) -> None:
        if any(thing is None for thing in things):
            raise errors.api_usage("null cannot be saved")
        for thing in things:
            if hasattr(thing, "_version") and thing._id is None:
                thing._version = rint(0)
        graph.save_all(self.store, things, self.context(current))
