"""The stand-in OMERO without its wire: the store, HQL's grammar, accounts."""

import sqlite3
from pathlib import Path
from typing import NoReturn

import pytest

from lading.sandbox.omero.accounts import Accounts, User, fresh_accounts, read, write

pytest.importorskip("omero")

from lading.sandbox.omero import model
from lading.sandbox.omero.errors import Unsupported
from lading.sandbox.omero.hql import Function, Operation, PathTo, parse
from lading.sandbox.omero.permissions import SYSTEM
from lading.sandbox.omero.query import Search
from lading.sandbox.omero.records import Pairs, Quantity, Record, Ref, dump, load
from lading.sandbox.omero.store import Store


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store.sqlite")


# -- the store ------------------------------------------------------------------------------------------------------------


def test_a_transaction_that_fails_leaves_nothing_behind(store: Store, tmp_path: Path):
    kept = store.create("Dataset", {"name": "kept"})
    project = store.create("Project", {"name": "p"})

    def fail() -> None:
        with store.transaction():
            store.change(kept, name="changed")
            store.create("ProjectDatasetLink", {"parent": project.ref, "child": kept.ref})
            with store.transaction():
                store.delete(project)
            raise RuntimeError("power cut")

    with pytest.raises(RuntimeError):
        fail()

    for seen in (store, Store(tmp_path / "store.sqlite")):
        assert [each.text("name") for each in seen.all("Dataset")] == ["kept"]
        assert seen.count("Project") == 1
        assert seen.referrers(kept) == []


def test_what_was_committed_is_there_for_the_next_one(store: Store, tmp_path: Path):
    dataset = store.create("Dataset", {"name": "ü"}, owner=2, group=3)
    store.create("MapAnnotation", {"mapValue": Pairs((("k", "v"), ("a", "b")))})
    store.create("Session", {"uuid": "gone with the server"})

    again = Store(tmp_path / "store.sqlite")

    assert again.get("Dataset", dataset.id) == dataset
    assert [each.get("mapValue") for each in again.all("Annotation")] == [Pairs((("k", "v"), ("a", "b")))]
    assert again.count("Session") == 0
    assert again.create("TagAnnotation", {}).id == 2  # one sequence of numbers for all annotations


def test_collections_keep_the_order_in_which_their_members_came(store: Store):
    fileset = store.create("Fileset", {})
    entries = [store.create("FilesetEntry", {"fileset": fileset.ref, "clientPath": str(n)}) for n in range(5)]

    store.change(entries[0], clientPath="changed")
    store.delete(entries[2])

    assert [each.text("clientPath") for each in store.members(fileset, "usedFiles")] == ["changed", "1", "3", "4"]


def test_a_broken_disk_undoes_the_transaction(store: Store):
    store._database.close()

    with pytest.raises(sqlite3.Error):
        store.create("Dataset", {"name": "x"})

    assert store.count("Dataset") == 0


@pytest.mark.parametrize(
    "value", [None, True, 7, 0.5, "t", Ref("Image", 3), Pairs((("a", "b"),)), Quantity("LengthI", "PIXEL", 1.5)]
)
def test_values_come_back_as_they_were(value):
    record = Record("Pixels", 1, 2, 3, 4, 5, {"f": value}, 6)

    assert load("Pixels", 1, dump(record)) == record


# -- the model ------------------------------------------------------------------------------------------------------------


def test_the_model_is_read_from_the_generated_classes():
    image = model.model_class("Image")

    assert image.java_name == "ome.model.core.Image"
    assert image.references["fileset"] == "Fileset"
    assert (image.collections["pixels"].member, image.collections["pixels"].inverse) == ("Pixels", "image")
    assert model.is_a("TagAnnotation", "Annotation")
    assert model.root("TagAnnotation") == "Annotation"
    assert not model.is_a("Image", "Annotation")
    assert (
        model.short("::omero::model::Dataset")
        == model.short("ome.model.containers.Dataset")
        == model.short("DatasetI")
        == "Dataset"
    )
    assert {name for name in ("PixelsType", "Format", "Image", "Session") if model.is_enumeration(name)} == {
        "PixelsType",
        "Format",
    }


# -- HQL ------------------------------------------------------------------------------------------------------------------


def test_binding_is_as_in_sql():
    query = parse("from Dataset d where d.id = 1 or d.id = 2 and not d.name like 'x''y%'")

    assert isinstance(query.where, Operation)
    assert query.where.kind == "or"
    both = query.where.operands[1]
    assert isinstance(both, Operation)
    assert (both.kind, both.operands[1].kind) == ("and", "not")


def test_clauses():
    query = parse(
        "SELECT DISTINCT d.name AS n, count(*) FROM ome.model.containers.Dataset AS d "
        "LEFT OUTER JOIN FETCH d.imageLinks l WITH l.id > 3 WHERE d.id IS NOT NULL GROUP BY d.name ORDER BY n DESC, d.id"
    )

    assert query.distinct
    assert query.items == (PathTo(("d", "name")), Function("count", ()))
    assert (query.names, query.sources[0].entity) == (("n", ""), "Dataset")
    assert (query.joins[0].outer, query.joins[0].fetch, query.joins[0].path) == (True, True, ("d", "imageLinks"))
    assert [falling for _, falling in query.order] == [True, False]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "select",
        "from",
        "from Dataset d where (d.id = 1",
        "from Dataset d extra words here",
        "from Dataset d where d.id in ()",
        "from Dataset d where d.id ==== 1",
        "update Dataset set name = 'x'",
        "from Dataset d where d.name = 'open",
        "from Dataset d where " + "(" * 5000 + "1" + ")" * 5000,
    ],
)
def test_nonsense_is_refused(text: str):
    with pytest.raises(Unsupported):
        parse(text)


class Unsearchable(Store):
    """Refuses to be looked through from end to end."""

    def all(self, cls: str) -> NoReturn:
        raise AssertionError(f"it looked through every {cls}")


def test_looking_up_reads_only_what_it_finds():
    """Importers ask for the entries of one fileset on a server that holds many."""
    store = Unsearchable()
    filesets = [store.create("Fileset", {}) for _ in range(3)]
    for fileset in filesets:
        store.create("FilesetEntry", {"fileset": fileset.ref, "clientPath": f"of {fileset.id}"})
    query = parse("select e from FilesetEntry e where e.clientPath like 'of%' and e.fileset.id in (:ids)")

    found = Search(store, SYSTEM, query, {"ids": [filesets[1].id]}).records()

    assert [each.text("clientPath") for each in found] == [f"of {filesets[1].id}"]


@pytest.mark.parametrize(
    ("condition", "given", "found"),
    [
        ("d.id in (:given)", [1, 3], [1, 3]),
        ("d.id in (:given)", [], []),
        ("d.id in (:given)", 2, [2]),
        ("d.id in (:given)", [2, "b"], [2]),
        ("d.id not in (:given)", [1, 3], [2]),
        ("d.name in (:given)", ["b", "x"], [2]),
        ("d.name in (:given)", [1, 2], []),
        ("d.description in (:given)", [1, 2], []),
        ("d.description not in (:given)", [1, 2], []),
        ("d.description not in (:given)", ["x"], []),
        ("d in (:given)", [3], [3]),
    ],
)
def test_a_list_is_compared_with_each_of_its_values(condition: str, given: object, found: list[int]):
    """However it is done for long lists of ids. What nobody knows is in no list, and outside of none."""
    store = Store()
    for name in "abc":
        store.create("Dataset", {"name": name, "description": None})
    query = parse(f"select d from Dataset d where d.name like '%' and {condition}")

    assert [each.id for each in Search(store, SYSTEM, query, {"given": given}).records()] == found


# -- accounts -------------------------------------------------------------------------------------------------------------


def test_accounts_come_back_and_only_we_can_read_them(tmp_path: Path):
    made = fresh_accounts()

    write(tmp_path / "a.json", made)

    assert read(tmp_path / "a.json") == made
    assert (tmp_path / "a.json").stat().st_mode & 0o077 == 0
    assert made.users["alice"].password not in repr(made)
    assert fresh_accounts().passwords() != made.passwords()


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"users": {"root": {}}}', '{"users": {"alice": {"password": "x"}}}'])
def test_a_file_that_holds_no_accounts_is_refused(tmp_path: Path, text: str):
    (tmp_path / "a.json").write_text(text)

    with pytest.raises(ValueError, match="accounts"):
        read(tmp_path / "a.json")


def test_everybody_is_in_a_group_that_there_is():
    with pytest.raises(ValueError, match="nowhere"):
        Accounts({"root": User("x", ("system",)), "alice": User("x", ("nowhere",))}, {})


# -- the servants ---------------------------------------------------------------------------------------------------------


def test_no_operation_is_left_to_a_stub_that_never_answers():
    """The generated skeletons' stubs do nothing: a client would wait for ever."""
    from lading.sandbox.omero import handles, import_process, router
    from lading.sandbox.omero.services import factory, table

    served = [
        *table.STATELESS.values(),
        *table.STATEFUL.values(),
        *(factory.ServiceFactory, router.Router, router.SessionManager, router.PermissionsVerifier),
        *(handles.Handle, import_process.ImportProcess),
    ]
    for cls in served:
        assert isinstance(cls, type)
        operations = [
            name[len("_op_") :] for name in dir(cls) if name.startswith("_op_") and not name.startswith("_op_ice_")
        ]
        assert operations
        for operation in operations:
            asynchronous = hasattr(cls, operation + "_async")
            answering = operation + "_async" if asynchronous else operation
            maker = next(base for base in cls.__mro__ if answering in base.__dict__)
            assert maker.__module__.startswith("lading."), f"{cls.__name__}.{operation}"
