"""omero.api.ITypes: enumerations."""

import Ice
import omero.api

from lading.sandbox.omero import errors, graph, model
from lading.sandbox.omero.services.base import Service
from lading.sandbox.omero.wire import servant


@servant
class TypesService(Service, omero.api.ITypes):
    """Looking up the values of enumerations."""

    uses_database = True

    def allEnumerations(self, cls: str, current: Ice.Current) -> list[omero.model.IObject]:
        context = self.context(current)
        return [graph.build(self.store, record, context) for record in self.store.all(self._enumeration(cls))]

    def getEnumeration(self, cls: str, value: str, current: Ice.Current) -> omero.model.IObject:
        for record in self.store.find(self._enumeration(cls), value=value):
            return graph.build(self.store, record, self.context(current))
        raise errors.api_usage(f"An enum of type {cls} with value {value!r} does not exist")

    def getEnumerationTypes(self, current: Ice.Current) -> list[str]:
        return [name for name in sorted(model.names()) if model.is_enumeration(name)]

    def _enumeration(self, cls: str) -> str:
        name = model.short(cls)
        if not model.is_enumeration(name):
            raise errors.api_usage(f"{cls} is no enumeration")
        return name
