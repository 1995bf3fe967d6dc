"""omero.api.IContainer: projects, datasets, screens, and the images in them."""

import Ice
import omero.api
import omero.sys
from omero.rtypes import unwrap

from lading.sandbox.omero import graph, model, permissions
from lading.sandbox.omero.permissions import Context
from lading.sandbox.omero.records import Record, Ref
from lading.sandbox.omero.services.base import Service
from lading.sandbox.omero.wire import servant

_CHILDREN: dict[str, graph.Plan] = {
    "Project": {"datasetLinks": {"child": {}}},
    "Dataset": {"imageLinks": {"child": {}}},
    "Screen": {"plateLinks": {"child": {}}},
}
_IMAGE: graph.Plan = {"pixels": {"channels": {"logicalChannel": {}}}}


@servant
class ContainerService(Service, omero.api.IContainer):
    """The hierarchy as trees."""

    uses_database = True

    def loadContainerHierarchy(
        self, cls: str, ids: list[int], options: omero.sys.Parameters, current: Ice.Current
    ) -> list[omero.model.IObject]:
        name, context = model.short(cls), self.context(current)
        plan = _CHILDREN.get(name, {}) if not ids or _leaves(options) or name == "Project" else {}
        return [self._show(record, context, plan) for record in self._some(name, ids, context, options)]

    def findContainerHierarchies(
        self, cls: str, images: list[int], options: omero.sys.Parameters, current: Ice.Current
    ) -> list[omero.model.IObject]:
        context = self.context(current)
        found: dict[tuple[str, int], Record] = {}
        for number in images:
            for dataset in self._parents("DatasetImageLink", "Image", number):
                projects = (
                    self._parents("ProjectDatasetLink", "Dataset", dataset.id) if model.short(cls) == "Project" else []
                )
                for record in projects or [dataset]:
                    found.setdefault((record.cls, record.id), record)
        return [self._show(record, context, _CHILDREN[record.cls]) for record in found.values()]

    def getCollectionCount(
        self, cls: str, collection: str, ids: list[int], options: omero.sys.Parameters, current: Ice.Current
    ) -> dict[int, int]:
        name = collection.rpartition("_")[2]
        records = [self.store.get(model.short(cls), number) for number in ids]
        return {record.id: len(self.store.members(record, name)) for record in records if record is not None}

    def getImages(
        self, cls: str, ids: list[int], options: omero.sys.Parameters, current: Ice.Current
    ) -> list[omero.model.IObject]:
        context, name = self.context(current), model.short(cls)
        numbers = [number for each in ids for number in self._images(name, each)]
        records = [self.store.get("Image", number) for number in dict.fromkeys(numbers)]
        return [
            self._show(each, context, _IMAGE)
            for each in records
            if each and permissions.can_read(self.store, context, each)
        ]

    def getUserImages(self, options: omero.sys.Parameters, current: Ice.Current) -> list[omero.model.IObject]:
        context = self.context(current)
        mine = [image for image in self._some("Image", [], context, options) if image.owner == context.user]
        return [self._show(image, context, _IMAGE) for image in mine]

    def getImagesBySplitFilesets(
        self, included: dict[str, list[int]], options: omero.sys.Parameters, current: Ice.Current
    ) -> dict[int, dict[bool, list[int]]]:
        """Filesets of which only some images are among the given ones: fileset → (among them, image ids)."""
        given = {
            image for cls, ids in included.items() for each in ids for image in self._images(model.short(cls), each)
        }
        split: dict[int, dict[bool, list[int]]] = {}
        for number in sorted(given):
            image = self.store.get("Image", number)
            fileset = image.reference("fileset") if image else None
            if fileset is None or fileset.id in split:
                continue
            images = [each.id for each in self.store.referring("Image", "fileset", fileset.id)]
            if not given.issuperset(images):
                split[fileset.id] = {
                    among: [each for each in images if (each in given) == among] for among in (True, False)
                }
        return split

    def _some(self, name: str, ids: list[int], context: Context, options: omero.sys.Parameters) -> list[Record]:
        owner = unwrap(options.theFilter.ownerId) if options is not None and options.theFilter is not None else None
        records = [self.store.get(name, number) for number in ids] if ids else list(self.store.all(name))
        return [
            record
            for record in records
            if record is not None
            and permissions.can_read(self.store, context, record)
            and (owner in (None, -1) or record.owner == owner)
        ]

    def _images(self, name: str, number: int) -> list[int]:
        match name:
            case "Image":
                return [number]
            case "Dataset":
                links = self.store.find("DatasetImageLink", parent=Ref("Dataset", number))
                return [ref.id for link in links if (ref := link.reference("child"))]
            case "Project":
                datasets = self.store.find("ProjectDatasetLink", parent=Ref("Project", number))
                below = [ref.id for link in datasets if (ref := link.reference("child"))]
                return [image for dataset in below for image in self._images("Dataset", dataset)]
            case "Fileset":
                return [image.id for image in self.store.referring("Image", "fileset", number)]
        return []

    def _parents(self, link: str, cls: str, number: int) -> list[Record]:
        links = self.store.find(link, child=Ref(cls, number))
        return [parent for each in links if (parent := self.store.follow(each.get("parent"))) is not None]

    def _show(self, record: Record, context: Context, plan: graph.Plan) -> omero.model.IObject:
        return graph.build(self.store, record, context, plan)


def _leaves(options: omero.sys.Parameters) -> bool:
    return bool(options is not None and options.theOptions is not None and unwrap(options.theOptions.leaf))
