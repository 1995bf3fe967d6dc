"""What OMERO's model classes look like: fields, references, collections, inheritance.

Nothing is written down here: it is read from the text of omero-py's generated classes, which know it all but cannot be
asked (IcePy's type objects are opaque). Names are the short ones: "Dataset", "ImageAnnotationLink".
"""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import omero
import omero.model

from lading.sandbox.omero.errors import Unsupported

TOP = "IObject"
_GENERATED = Path(omero.__file__).parent.parent
_NOT_FIELDS = ("Loaded", "CountPerOwner")


@dataclass(frozen=True, slots=True)
class Collection:
    """A one-to-many property: its members are `member` records whose `inverse` field refers to the owner."""

    member: str
    inverse: str


@dataclass(frozen=True, slots=True)
class ModelClass:
    """One class of the model. `references` maps field → class referred to; `package` is Java's ("ome.model.core")."""

    name: str
    base: str
    package: str
    fields: tuple[str, ...]
    references: Mapping[str, str]
    collections: Mapping[str, Collection]

    @property
    def java_name(self) -> str:
        """As requests and responses of omero.cmd name it: "ome.model.core.Image"."""
        return f"{self.package}.{self.name}"


@cache
def model_class(name: str) -> ModelClass:
    """Raises KeyError when OMERO's model has no such class."""
    if name not in names():
        raise KeyError(name)
    text = (_GENERATED / f"omero_model_{name}_ice.py").read_text(encoding="utf-8")
    base = _base(text, name)
    own_fields, own_references = _own_fields(text, name)
    implementation = _implementation(name)
    own_collections = _own_collections(implementation)
    inherited = model_class(base) if base != TOP else None
    fields = tuple(dict.fromkeys([*(inherited.fields if inherited else ()), *own_fields]))
    return ModelClass(
        name,
        base,
        _package(implementation, name),
        fields,
        {**(inherited.references if inherited else {}), **own_references},
        {**(inherited.collections if inherited else {}), **own_collections},
    )


@cache
def names() -> frozenset[str]:
    """Every class that is stored: IObject's descendants."""
    texts = {path.name[len("omero_model_") : -len("_ice.py")]: path for path in _GENERATED.glob("omero_model_*_ice.py")}
    bases = {name: _base(path.read_text(encoding="utf-8"), name) for name, path in texts.items()}

    def stored(name: str) -> bool:
        while bases.get(name):
            name = bases[name]
        return name == TOP

    return frozenset(name for name in texts if name != TOP and stored(name))


@cache
def is_a(name: str, base: str) -> bool:
    """`name` is `base` or a descendant of it."""
    if base == TOP:
        return True
    while name != TOP:
        if name == base:
            return True
        name = model_class(name).base
    return False


@cache
def root(name: str) -> str:
    """The ancestor just below IObject. All descendants of one root share one sequence of ids."""
    while (base := model_class(name).base) != TOP:
        name = base
    return name


@cache
def relatives(name: str) -> tuple[str, ...]:
    """Every class of the same hierarchy. HQL may name a property that only a sibling has."""
    return tuple(other for other in sorted(names()) if root(other) == root(name))


@cache
def is_enumeration(name: str) -> bool:
    """A class whose records are just values, the same for everybody ("PixelsType", "Format")."""
    described = model_class(name)
    return not described.collections and {"value"} <= set(described.fields) <= {"value", "bitSize", "measurementSystem"}


def is_link(name: str) -> bool:
    """A class that joins a parent to a child."""
    return name.endswith("Link") and {"parent", "child"} <= set(model_class(name).fields)


@cache
def short(name: str) -> str:
    """The short name in "DatasetI", "ome.model.containers.Dataset", "::omero::model::Dataset". Raises Unsupported."""
    last = re.split(r"[.:]", name)[-1]
    for candidate in (last, last.removesuffix("I")):
        if candidate in names():
            return candidate
    raise Unsupported(f"OMERO's model has no class {name}")


def class_of(thing: omero.model.IObject) -> str:
    """The short name of a wire object's class."""
    return short(type(thing).__name__)


@cache
def wrapper(name: str, field: str) -> Callable[[object], object] | None:
    """What makes the wire's RType of a plain value for this field, or None where it is not an RType."""
    info = getattr(getattr(omero.model, name + "I")._field_info, field, None)
    return None if info is None or info.wrapper is omero.proxy_to_instance else info.wrapper


@cache
def required(name: str) -> tuple[str, ...]:
    """The fields that may not be null."""
    info = getattr(omero.model, name + "I")._field_info
    return tuple(
        field for field in model_class(name).fields if (known := getattr(info, field, None)) and not known.nullable
    )


def concrete(name: str) -> bool:
    """There may be records of exactly this class."""
    return hasattr(omero.model, name + "I")


def _base(text: str, name: str) -> str:
    """ "" for classes outside the tree of IObject (units, Permissions, NamedValue)."""
    found = re.search(
        rf"defineClass\('::omero::model::{name}', \w+, -1, \(\), \w+, \w+, _M_omero\.model\._t_(\w+)", text
    )
    return found.group(1) if found else ""


def _own_fields(text: str, name: str) -> tuple[list[str], dict[str, str]]:
    definition = re.search(rf"defineClass\('::omero::model::{name}', .*?_ice_type = ", text, re.S)
    fields: list[str] = []
    references: dict[str, str] = {}
    for field, type_name in re.findall(r"\('_(\w+)', \(\), ([\w.]+)", definition.group(0) if definition else ""):
        if field == "version" or field.endswith(_NOT_FIELDS) or (field.endswith("Seq") and "model._t_" in type_name):
            continue
        fields.append(field)
        target = type_name.rpartition("_M_omero.model._t_")[2] if "_M_omero.model._t_" in type_name else ""
        if target in names():
            references[field] = target
    return fields, references


def _implementation(name: str) -> str:
    path = _GENERATED / f"omero_model_{name}I.py"
    return path.read_text(encoding="utf-8") if path.exists() else ""


def _own_collections(implementation: str) -> dict[str, Collection]:
    return dict(_collections(implementation))


def _collections(implementation: str) -> Iterator[tuple[str, Collection]]:
    pattern = (
        r"def add(\w+)\(self, target, current = None\):.*?self\._(\w+)Seq\.append\( target \);\s+"
        r"target\.set(\w+)\( self \)"
    )
    for member, collection, setter in re.findall(pattern, implementation, re.S):
        yield collection, Collection(member, setter[0].lower() + setter[1:])


def _package(implementation: str, name: str) -> str:
    found = re.search(rf'"(ome\.model\.[\w.]+)\.{name}_', implementation)
    return found.group(1) if found else "ome.model"
