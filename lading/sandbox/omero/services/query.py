"""omero.api.IQuery: reading."""

import re

import Ice
import omero.api
import omero.sys
from omero.rtypes import unwrap

from lading.sandbox.omero import errors, graph, model, permissions
from lading.sandbox.omero.query import Search, parse
from lading.sandbox.omero.records import Record
from lading.sandbox.omero.services.base import Service
from lading.sandbox.omero.values import parameters
from lading.sandbox.omero.wire import servant


@servant
class QueryService(Service, omero.api.IQuery):
    """HQL, and looking up by class."""

    uses_database = True

    def get(self, cls: str, number: int, current: Ice.Current) -> omero.model.IObject:
        found = self.find(cls, number, current)
        if found is None:
            raise errors.validation(f"No row with the given identifier exists: [{cls}#{number}]")
        return found

    def find(self, cls: str, number: int, current: Ice.Current) -> omero.model.IObject | None:
        context = self.context(current)
        record = self.store.get(model.short(cls), number)
        if record is None:
            return None
        if not permissions.can_read(self.store, context, record):
            raise errors.security(f"Cannot read {record.cls}:{record.id}")
        return graph.build(self.store, record, context)

    def findAll(self, cls: str, wanted: omero.sys.Filter, current: Ice.Current) -> list[omero.model.IObject]:
        return self._all(self._readable(cls, current), current, *_page(wanted))

    def findByString(self, cls: str, field: str, value: str, current: Ice.Current) -> omero.model.IObject | None:
        found = [record for record in self._readable(cls, current) if record.get(field) == value]
        if len(found) > 1:
            raise errors.api_usage(f"query did not return a unique result: {len(found)}")
        return next(iter(self._all(found, current)), None)

    def findAllByString(
        self, cls: str, field: str, value: str, exact_case: bool, wanted: omero.sys.Filter, current: Ice.Current
    ) -> list[omero.model.IObject]:
        like = re.compile(".*".join(re.escape(part) for part in value.split("%")), re.S if exact_case else re.S | re.I)
        found = [record for record in self._readable(cls, current) if like.fullmatch(record.text(field))]
        return self._all(found, current, *_page(wanted))

    def findByQuery(self, text: str, given: omero.sys.Parameters, current: Ice.Current) -> omero.model.IObject | None:
        found = self.findAllByQuery(text, given, current)
        if len(found) > 1:
            raise errors.api_usage(f"query did not return a unique result: {len(found)}")
        return found[0] if found else None

    def findAllByQuery(self, text: str, given: omero.sys.Parameters, current: Ice.Current) -> list[omero.model.IObject]:
        search = self._search(text, given, current)
        records, plan = search.records(*_page(given.theFilter if given else None)), search.plan()
        builder = graph.Builder(self.store, self.context(current))
        return [builder.build(record, plan) for record in records]

    def projection(self, text: str, given: omero.sys.Parameters, current: Ice.Current) -> list[list[object]]:
        search = self._search(text, given, current)
        return search.projection(*_page(given.theFilter if given else None))

    def refresh(self, thing: omero.model.IObject, current: Ice.Current) -> omero.model.IObject:
        return self.get(model.class_of(thing), thing.id.val, current)

    def clear(self, current: Ice.Current) -> None:
        """There is no cache to be cleared."""

    def _search(self, text: str, given: omero.sys.Parameters, current: Ice.Current) -> Search:
        text = " ".join(text.split())
        self.site.queries[text] += 1
        return Search(self.store, self.context(current), parse(text), parameters(given))

    def _readable(self, cls: str, current: Ice.Current) -> list[Record]:
        context = self.context(current)
        return [
            record for record in self.store.all(model.short(cls)) if permissions.can_read(self.store, context, record)
        ]

    def _all(
        self, records: list[Record], current: Ice.Current, offset: int = 0, limit: int | None = None
    ) -> list[omero.model.IObject]:
        builder = graph.Builder(self.store, self.context(current))
        return [builder.build(record, {}) for record in records[offset : None if limit is None else offset + limit]]


def _page(wanted: omero.sys.Filter | None) -> tuple[int, int | None]:
    if wanted is None:
        return 0, None
    return unwrap(wanted.offset) or 0, unwrap(wanted.limit)
