"""Saving objects and asking for them, over IUpdate and IQuery."""

import uuid

import omero
import omero.model
import pytest
from omero.rtypes import rint, rstring

from lading.testing.omero_server import Login


@pytest.fixture
def name() -> str:
    return f"t-{uuid.uuid4().hex[:12]}"


def test_an_object_comes_back_with_its_id_and_its_owner(login: Login, name: str):
    me = login.factory.getAdminService().getEventContext()
    project = omero.model.ProjectI()
    project.name, project.description = rstring(name), rstring("ümlaut \N{MICROSCOPE}")

    saved = login.factory.getUpdateService().saveAndReturnObject(project)

    found = login.factory.getQueryService().get("Project", saved.id.val)
    assert (found.name.val, found.description.val) == (name, "ümlaut \N{MICROSCOPE}")
    assert (found.details.owner.id.val, found.details.group.id.val) == (me.userId, me.groupId)
    assert found.details.permissions.canLink()


def test_a_graph_is_saved_whole(login: Login, name: str):
    project, dataset = omero.model.ProjectI(), omero.model.DatasetI()
    project.name, dataset.name = rstring(name), rstring(name + "-d")
    project.linkDataset(dataset)

    saved = login.factory.getUpdateService().saveAndReturnObject(project)

    assert login.rows("select l.child.name from ProjectDatasetLink l where l.parent.id = :id", id=saved.id.val) == [
        [name + "-d"]
    ]


def test_only_what_the_query_fetches_is_loaded(login: Login, name: str):
    project, dataset = login.save("Project", name=name), login.save("Dataset", name=name)
    login.link("ProjectDatasetLink", ("Project", project), ("Dataset", dataset))

    (plain,) = login.objects("select p from Project p where p.id = :id", id=project)
    (fetched,) = login.objects(
        "select p from Project p left outer join fetch p.datasetLinks l left outer join fetch l.child where p.id = :id",
        id=project,
    )

    assert not plain.isDatasetLinksLoaded()
    assert [link.child.name.val for link in fetched.copyDatasetLinks()] == [name]


def test_a_link_can_be_made_once_only(login: Login, name: str):
    project, dataset = login.save("Project", name=name), login.save("Dataset", name=name)
    login.link("ProjectDatasetLink", ("Project", project), ("Dataset", dataset))

    with pytest.raises(omero.ValidationException):
        login.link("ProjectDatasetLink", ("Project", project), ("Dataset", dataset))

    assert login.rows("select count(l) from ProjectDatasetLink l where l.parent.id = :id", id=project) == [[1]]


def test_an_object_without_its_name_is_refused(login: Login):
    with pytest.raises(omero.ValidationException):
        login.factory.getUpdateService().saveObject(omero.model.DatasetI())


def test_of_several_objects_either_all_are_saved_or_none(login: Login, name: str):
    good, bad = omero.model.DatasetI(), omero.model.DatasetI()
    good.name = rstring(name)

    with pytest.raises(omero.ValidationException):
        login.factory.getUpdateService().saveArray([good, bad])

    assert login.rows("select d.id from Dataset d where d.name = :name", name=name) == []


def test_who_saves_an_old_copy_is_told(login: Login, name: str):
    number = login.save("Dataset", name=name)
    one, other = (login.factory.getQueryService().get("Dataset", number) for _ in range(2))
    one.description, other.description = rstring("one"), rstring("other")
    login.factory.getUpdateService().saveObject(one)

    with pytest.raises(omero.OptimisticLockException):
        login.factory.getUpdateService().saveObject(other)

    assert login.factory.getQueryService().get("Dataset", number).description.val == "one"


def test_annotations_carry_names_and_values_in_order(login: Login, name: str):
    dataset = login.save("Dataset", name=name)
    annotation = omero.model.MapAnnotationI()
    annotation.ns = rstring(name)
    annotation.setMapValue([omero.model.NamedValue("b", "1"), omero.model.NamedValue("a", "2")])
    link = omero.model.DatasetAnnotationLinkI()
    link.parent, link.child = omero.model.DatasetI(dataset, False), annotation

    login.factory.getUpdateService().saveObject(link)

    (found,) = login.objects(
        "select a from Dataset d join d.annotationLinks l join l.child a where d.id = :id", id=dataset
    )
    assert isinstance(found, omero.model.MapAnnotation)
    assert [(pair.name, pair.value) for pair in found.getMapValue()] == [("b", "1"), ("a", "2")]
    assert login.rows(
        "select d.id from Dataset d join d.annotationLinks l join l.child a join a.mapValue v "
        "where a.ns = :ns and v.name = 'a' and v.value = '2'",
        ns=name,
    ) == [[dataset]]


def test_enumerations_are_the_servers(login: Login):
    types = login.factory.getTypesService()

    algorithms = {each.value.val for each in types.allEnumerations("ChecksumAlgorithm")}

    assert {"SHA1-160", "MD5-128", "Murmur3-32", "Murmur3-128", "CRC-32", "Adler-32", "File-Size-64"} <= algorithms
    assert types.getEnumeration("PixelsType", "uint16").value.val == "uint16"


@pytest.fixture
def three(login: Login, name: str) -> tuple[str, list[int]]:
    numbers = []
    for letter, description in (("a", "one"), ("b", ""), ("c", "three")):
        fields = {"name": f"{name}-{letter}"} | ({"description": description} if description else {})
        numbers.append(login.save("Dataset", **fields))
    return name, numbers


QUERIES = {
    "like": ("where d.name like :p", [0, 1, 2]),
    "lower": ("where lower(d.name) like lower(:p) and upper(d.name) <> d.name", [0, 1, 2]),
    "null": ("where d.name like :p and d.description is null", [1]),
    "not null": ("where d.name like :p and d.description is not null", [0, 2]),
    "or": ("where d.name like :p and (d.description = 'one' or d.description = 'three')", [0, 2]),
    "not": ("where d.name like :p and not d.description = 'one'", [2]),
    "in": ("where d.id in (:ids) and d.name like :p", [0, 1, 2]),
    "not in": ("where d.name like :p and d.id not in (:ids)", []),
    "between": ("where d.name like :p and d.id between :low and :high", [0, 1]),
    "implicit join": ("where d.name like :p and d.details.owner.omeName = :me", [0, 1, 2]),
    "exists": (
        "where d.name like :p and not exists (select l from ProjectDatasetLink l where l.child.id = d.id)",
        [0, 1, 2],
    ),
    "sub-query": ("where d.id in (select e.id from Dataset e where e.name like :p and e.description = 'three')", [2]),
    "size": ("where d.name like :p and size(d.imageLinks) = 0", [0, 1, 2]),
    "concatenation": ("where d.name like :p and d.name || '!' like '%-b!'", [1]),
}


@pytest.mark.parametrize("kind", QUERIES)
def test_conditions(login: Login, three: tuple[str, list[int]], any_omero, kind: str):
    prefix, numbers = three
    condition, expected = QUERIES[kind]
    given = {"p": prefix + "%", "ids": numbers, "low": numbers[0], "high": numbers[1], "me": any_omero.user}
    wanted = {key: value for key, value in given.items() if f":{key}" in condition}

    found = login.rows(f"select d.id from Dataset d {condition} order by d.id", **wanted)

    assert [number for (number,) in found] == [numbers[each] for each in expected]


def test_counting_grouping_and_ordering(login: Login, three: tuple[str, list[int]]):
    prefix, numbers = three
    project = login.save("Project", name=prefix)
    for number in numbers[:2]:
        login.link("ProjectDatasetLink", ("Project", project), ("Dataset", number))

    counted = login.rows("select count(d), min(d.id), max(d.id) from Dataset d where d.name like :p", p=prefix + "%")
    grouped = login.rows(
        "select p.id, count(distinct d.id) from Project p join p.datasetLinks l join l.child d where p.id = :id group by p.id",
        id=project,
    )
    ordered = login.rows("select d.name from Dataset d where d.name like :p order by d.name desc", p=prefix + "%")

    assert counted == [[3, numbers[0], numbers[2]]]
    assert grouped == [[project, 2]]
    assert [text[-1] for (text,) in ordered] == ["c", "b", "a"]


def test_pages(login: Login, three: tuple[str, list[int]]):
    prefix, numbers = three
    page = omero.sys.ParametersI().addString("p", prefix + "%").page(1, 1)

    (found,) = login.factory.getQueryService().findAllByQuery("from Dataset d where d.name like :p order by d.id", page)

    assert found.id.val == numbers[1]


@pytest.mark.parametrize(
    "hql",
    [
        "select x from Nothing x",
        "select d from Dataset d where d.colour = 'red'",
        "select d from Dataset d where",
        "select d from Dataset d where d.id = :missing",
        "delete from Dataset",
    ],
)
def test_what_is_not_understood_is_refused_not_guessed(login: Login, hql: str):
    with pytest.raises(omero.ServerError):
        login.factory.getQueryService().findAllByQuery(hql, None)


def test_an_operation_that_the_stand_in_lacks_fails_at_once(stand_in, login: Login):
    with pytest.raises(omero.InternalException, match="not in the stand-in"):
        login.factory.getContainerService().retrieveCollection(omero.model.DatasetI(1, False), "imageLinks", None)


def test_integers_come_as_the_fields_type(login: Login, name: str):
    well, plate = omero.model.WellI(), omero.model.PlateI()
    plate.name = rstring(name)
    well.row, well.column = rint(3), rint(4)
    plate.addWell(well)
    saved = login.factory.getUpdateService().saveAndReturnObject(plate)

    ((row, number),) = login.factory.getQueryService().projection(
        "select w.row, w.id from Well w where w.plate.id = :id", omero.sys.ParametersI().addId(saved.id.val)
    )

    assert isinstance(row, omero.RInt)
    assert isinstance(number, omero.RLong)
