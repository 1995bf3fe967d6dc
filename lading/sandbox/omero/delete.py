"""What goes when something is deleted, and whether it may go.

Whatever cannot be without a deleted record goes too (a link without its parent, pixels without their image); what merely
mentioned it forgets it. Downwards, contents go with the last container that holds them: images with their dataset, the
fileset with its last image, annotations with what they were about unless they are of a kind that people share.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from lading.sandbox.omero import errors, model, permissions
from lading.sandbox.omero.permissions import Context
from lading.sandbox.omero.records import Record
from lading.sandbox.omero.store import Store

_Key = tuple[str, int]

# When the record on the left goes, what its field refers to goes too, unless another such record still refers to it.
_CONTENTS: Mapping[str, str] = {
    "ProjectDatasetLink": "child",
    "DatasetImageLink": "child",
    "ScreenPlateLink": "child",
    "FilesetJobLink": "child",
    "JobOriginalFileLink": "child",
    "PixelsOriginalFileMap": "parent",
    "FilesetEntry": "originalFile",
    "FileAnnotation": "file",
    "WellSample": "image",
    "Channel": "logicalChannel",
}
_SHARED_ANNOTATIONS = ("TagAnnotation", "TermAnnotation", "FileAnnotation")


class CannotDelete(Exception):
    """The request is refused as a whole; the message says which object is in the way."""


@dataclass(frozen=True, slots=True)
class Choice:
    """What the caller wants to go or stay, by class names: child options of Delete2."""

    included: tuple[str, ...] = ()
    excluded: tuple[str, ...] = ()

    def keeps(self, cls: str) -> bool:
        """Contents of this class stay."""
        if any(model.is_a(cls, each) for each in self.excluded):
            return True
        if any(model.is_a(cls, each) for each in self.included):
            return False
        return cls in _SHARED_ANNOTATIONS


def delete(
    store: Store, context: Context, targets: Iterable[Record], choice: Choice, *, dry_run: bool = False
) -> list[Record]:
    """Delete the targets and what goes with them, all or nothing. Gives what went (or would go). Raises CannotDelete."""
    with store.transaction():
        reach = _Reach(store, choice)
        reach.add(targets)
        doomed = list(reach.doomed.values())
        for record in doomed:
            if not permissions.rights(store, context, record).delete:
                raise CannotDelete(
                    f"not permitted to delete {record.cls}[{record.id}], which belongs to user {record.owner}"
                )
        if not dry_run:
            _carry_out(store, doomed, reach.forgetting)
    return doomed


def delete_alone(store: Store, context: Context, record: Record) -> None:
    """Delete one record that nothing refers to. Raises SecurityViolation, ValidationException."""
    with store.transaction():
        if not permissions.rights(store, context, record).delete:
            raise errors.security(f"Deleting {record.cls}:{record.id} not allowed.")
        for other, name in store.referrers(record):
            raise errors.validation(
                f"could not delete {record.cls}:{record.id}: {other.cls}:{other.id}.{name} refers to it"
            )
        store.delete(record)


def _carry_out(store: Store, doomed: Sequence[Record], forgetting: Iterable[tuple[Record, str]]) -> None:
    gone = {_key(record) for record in doomed}
    for record, name in forgetting:
        if _key(record) not in gone:
            store.change(record, **{name: None})
    for record in doomed:
        store.delete(record)


@dataclass
class _Reach:
    store: Store
    choice: Choice
    doomed: dict[_Key, Record] = field(default_factory=dict)
    forgetting: list[tuple[Record, str]] = field(default_factory=list)

    def add(self, targets: Iterable[Record]) -> None:
        """The targets and everything that goes with them."""
        waiting, contents = list(targets), dict[_Key, Record]()
        while waiting:
            while waiting:
                self._take(waiting.pop(), waiting, contents)
            # Only now is it known which containers go; contents of those alone go with them.
            waiting = [each for each in contents.values() if _key(each) not in self.doomed and self._orphaned(each)]
            waiting += self._emptied_filesets()
        self._check_filesets()

    def _take(self, record: Record, waiting: list[Record], contents: dict[_Key, Record]) -> None:
        if _key(record) in self.doomed:
            return
        self.doomed[_key(record)] = record
        for other, name in self.store.referrers(record):
            if (
                name in model.required(other.cls)
                or model.is_link(other.cls)
                or (record.cls, name) == ("Fileset", "fileset")
            ):
                waiting.append(other)
            else:
                self.forgetting.append((other, name))
        name = "child" if record.cls.endswith("AnnotationLink") else _CONTENTS.get(record.cls, "")
        content = self.store.follow(record.get(name)) if name else None
        if content is not None and not self.choice.keeps(content.cls):
            contents[_key(content)] = content

    def _orphaned(self, content: Record) -> bool:
        return all(
            _key(other) in self.doomed
            for other, name in self.store.referrers(content)
            if _CONTENTS.get(other.cls) == name or (name == "child" and other.cls.endswith("AnnotationLink"))
        )

    def _emptied_filesets(self) -> list[Record]:
        return [
            fileset
            for fileset, images in self._filesets()
            if _key(fileset) not in self.doomed and all(_key(image) in self.doomed for image in images)
        ]

    def _check_filesets(self) -> None:
        for fileset, images in self._filesets():
            left = [image.id for image in images if _key(image) not in self.doomed]
            if left:
                raise CannotDelete(f"within Fileset[{fileset.id}] may not delete some images while Image{left} remain")

    def _filesets(self) -> list[tuple[Record, list[Record]]]:
        found: dict[int, Record] = {}
        for record in list(self.doomed.values()):
            fileset = self.store.follow(record.get("fileset")) if record.cls == "Image" else None
            if fileset is not None:
                found[fileset.id] = fileset
        return [(fileset, self.store.referring("Image", "fileset", fileset.id)) for fileset in found.values()]


def _key(record: Record) -> _Key:
    return model.root(record.cls), record.id
