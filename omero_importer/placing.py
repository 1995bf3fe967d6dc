"""Where OMERO keeps what was imported: images in datasets, plates on screens. It keeps the two apart, and an import that was told
the other one leaves its images nowhere, without a word.
"""

from collections.abc import Iterable, Mapping, Sequence

from lading.delivery import Labels
from lading.errors import Refused
from lading.listing.names import printable
from omero_importer.annotations import batches
from omero_importer.filesets import FilesetPlan, Place
from omero_importer.ice import ParametersI, model, plain, unloaded
from omero_importer.session import Connection

_ON_PLATES = "select i.id, p.id from WellSample s join s.image i join s.well w join w.plate p where i.id in (:ids)"  # of any screen


def put_back(connection: Connection, place: Place, astray: Sequence[int]) -> None:
    """Link these images, none of which is in the place, as far as they belong into such a one."""
    plates = _plates(connection, astray)
    if place.kind == "Dataset":
        links = [_link("DatasetImageLinkI", place, "Image", image) for image in astray if image not in plates]
    else:
        links = [_link("ScreenPlateLinkI", place, "Plate", plate) for plate in sorted(set(plates.values()))]
    if links:
        connection.updates.saveArray(links)


def demand_belonging(
    connection: Connection,
    place: Place,
    labels: Labels,
    plans: Iterable[FilesetPlan],
    images: Mapping[str, tuple[int, ...]],
) -> None:
    """Raises Refused when a fileset became what such a place cannot hold. `images`: by the fileset's key."""
    plates = _plates(connection, sorted(image for some in images.values() for image in some))
    for plan in plans:
        on_plates = [image in plates for image in images.get(plan.key, ())]
        if place.kind == "Dataset" and any(on_plates):
            raise Refused(
                f"importing {labels}: {printable(plan.entry)} is a plate, and the route has a dataset for it; OMERO hangs plates "
                "on screens only",
                safe="The plate is in OMERO, on no screen yet. The files are in the inbox.",
                next_command="set import.screen of the route, then: lading retry",
            )
        if place.kind == "Screen" and not all(on_plates):
            raise Refused(
                f"importing {labels}: {printable(plan.entry)} is on no plate, and the route has a screen for it; OMERO hangs "
                "plates only on screens",
                safe="The image is in OMERO, in no dataset. The files are in the inbox.",
                next_command="send it by a route with a dataset, or remove it in OMERO and name it in attach or leave_out of the "
                "route's import.files; then: lading retry",
            )


def _plates(connection: Connection, images: Sequence[int]) -> dict[int, int]:
    """Image → its plate, of those that are on one."""
    found: dict[int, int] = {}
    for batch in batches(images):
        found |= {
            row[0]: row[1] for row in plain(connection.queries.projection(_ON_PLATES, ParametersI().addIds(batch)))
        }
    return found


def _link(cls: str, place: Place, kind: str, child: int) -> "model.IObject":
    new = getattr(model, cls)()
    new.parent, new.child = unloaded(place.kind, place.id), unloaded(kind, child)
    return new
