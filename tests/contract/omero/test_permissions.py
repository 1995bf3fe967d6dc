"""Who sees and changes what: four kinds of groups, leaders, administrators, and looking across groups."""

import uuid

import omero
import omero.model
import pytest
from omero.rtypes import rstring

from lading.testing.omero_server import Login, OmeroServer

GROUPS = [
    ("private", set()),
    ("readonly", {"see"}),
    ("lab", {"see", "annotate"}),
    ("shared", {"see", "annotate", "change"}),
]
"""And what Bob may do there with Alice's dataset."""


@pytest.fixture
def name() -> str:
    return f"p-{uuid.uuid4().hex[:12]}"


def describe(login: Login, dataset: int, group: int) -> None:
    found = login.factory.getQueryService().get("Dataset", dataset, {"omero.group": str(group)})
    found.description = rstring("changed")
    login.factory.getUpdateService().saveObject(found, {"omero.group": str(group)})


def annotate(login: Login, dataset: int, group: int) -> None:
    comment = login.save("CommentAnnotation", group=group, textValue="seen")
    login.link("DatasetAnnotationLink", ("Dataset", dataset), ("CommentAnnotation", comment), group)


@pytest.mark.parametrize(("group_name", "may"), GROUPS)
def test_what_a_colleague_may(stand_in: OmeroServer, name: str, group_name: str, may: set[str]):
    sees, annotates, changes = (each in may for each in ("see", "annotate", "change"))
    with stand_in.login("alice") as alice, stand_in.login("bob") as bob:
        group = alice.group(group_name)
        dataset = alice.save("Dataset", group=group, name=name)

        found = bob.objects("select d from Dataset d where d.name = :n", group, n=name)

        assert [each.id.val for each in found] == ([dataset] if sees else [])
        if sees:
            permissions = found[0].details.permissions
            assert (permissions.canAnnotate(), permissions.canEdit()) == (annotates, changes)
            assert (permissions.canLink(), permissions.canDelete()) == (changes, changes)
        for allowed, act in ((annotates, annotate), (changes, describe)):
            if allowed:
                act(bob, dataset, group)
            else:
                with pytest.raises(omero.SecurityViolation):
                    act(bob, dataset, group)


def test_what_one_owns_one_may_do_everything_with(login: Login, name: str):
    dataset = login.save("Dataset", name=name)

    permissions = login.factory.getQueryService().get("Dataset", dataset).details.permissions

    assert permissions.canLink()
    assert permissions.canEdit()
    assert permissions.canAnnotate()
    assert permissions.canDelete()


def test_a_leader_may_change_what_the_members_own(stand_in: OmeroServer, name: str):
    with stand_in.login("alice") as alice, stand_in.login("carol") as carol:
        group = alice.group("lab")
        dataset = alice.save("Dataset", group=group, name=name)

        describe(carol, dataset, group)

        found = alice.factory.getQueryService().get("Dataset", dataset, {"omero.group": str(group)})
        assert (found.description.val, found.details.owner.id.val != number_of(carol)) == ("changed", True)


def number_of(login: Login) -> int:
    return int(login.factory.getAdminService().getEventContext().userId)


def test_linking_into_somebody_elses_dataset_is_refused(stand_in: OmeroServer, name: str):
    with stand_in.login("alice") as alice, stand_in.login("bob") as bob:
        group = alice.group("lab")
        project = alice.save("Project", group=group, name=name)
        dataset = bob.save("Dataset", group=group, name=name)

        with pytest.raises(omero.SecurityViolation):
            bob.link("ProjectDatasetLink", ("Project", project), ("Dataset", dataset), group)

        assert alice.rows("select count(l) from ProjectDatasetLink l where l.parent.id = :id", group, id=project) == [
            [0]
        ]


def test_objects_of_two_groups_are_never_linked(stand_in: OmeroServer, login: Login, name: str):
    project = login.save("Project", group=login.group("lab"), name=name)
    dataset = login.save("Dataset", group=login.group("shared"), name=name)

    for group in (login.group("lab"), login.group("shared"), -1):
        with pytest.raises(omero.SecurityViolation):
            login.link("ProjectDatasetLink", ("Project", project), ("Dataset", dataset), group)


def test_one_group_at_a_time_or_all_of_them(stand_in: OmeroServer, login: Login, name: str):
    groups = [login.group("lab"), login.group("private")]
    numbers = [login.save("Dataset", group=group, name=name) for group in groups]

    seen = [
        login.rows("select d.id from Dataset d where d.name = :n order by d.id", group, n=name)
        for group in (*groups, -1)
    ]

    assert seen == [[[numbers[0]]], [[numbers[1]]], [[number] for number in numbers]]


def test_across_groups_a_link_goes_where_its_ends_are(stand_in: OmeroServer, login: Login, name: str):
    group = login.group("shared")
    project, dataset = login.save("Project", group=group, name=name), login.save("Dataset", group=group, name=name)

    link = login.link("ProjectDatasetLink", ("Project", project), ("Dataset", dataset), -1)

    found = login.factory.getQueryService().get("ProjectDatasetLink", link, {"omero.group": "-1"})
    assert found.details.group.id.val == group


def test_across_groups_a_new_object_has_no_place(stand_in: OmeroServer, login: Login, name: str):
    with pytest.raises(omero.SecurityViolation):
        login.save("Dataset", group=-1, name=name)


def test_what_cannot_be_read_cannot_be_got_by_its_number(stand_in: OmeroServer, name: str):
    with stand_in.login("alice") as alice, stand_in.login("bob") as bob:
        group = alice.group("private")
        dataset = alice.save("Dataset", group=group, name=name)

        with pytest.raises(omero.SecurityViolation):
            bob.factory.getQueryService().get("Dataset", dataset, {"omero.group": str(group)})
        with stand_in.login("root") as root:
            assert root.factory.getQueryService().get("Dataset", dataset, {"omero.group": "-1"}).name.val == name


def test_only_administrators_make_users(stand_in: OmeroServer, login: Login, name: str):
    person = omero.model.ExperimenterI()
    person.omeName, person.firstName, person.lastName = rstring(name), rstring("New"), rstring("User")
    lab, everybody = omero.model.ExperimenterGroupI(login.group("lab"), False), omero.model.ExperimenterGroupI(1, False)
    arguments = (person, rstring("secret of the new one"), lab, [everybody])

    with pytest.raises(omero.SecurityViolation):
        login.factory.getAdminService().createExperimenterWithPassword(*arguments)
    with pytest.raises(omero.SecurityViolation):
        login.factory.getUpdateService().saveObject(person)
    with stand_in.login("root") as root:
        root.factory.getAdminService().createExperimenterWithPassword(*arguments)

    with Login(stand_in, name, "secret of the new one") as new:
        assert new.factory.getAdminService().getEventContext().userName == name


def test_what_an_administrator_makes_can_belong_to_others(stand_in: OmeroServer, name: str):
    with stand_in.login("root") as root, stand_in.login("bob") as bob:
        dataset = omero.model.DatasetI()
        dataset.name = rstring(name)
        dataset.details.owner = omero.model.ExperimenterI(number_of(bob), False)
        group = root.group("lab")

        saved = root.factory.getUpdateService().saveAndReturnObject(dataset, {"omero.group": str(group)})

        assert bob.factory.getQueryService().get("Dataset", saved.id.val).details.owner.id.val == number_of(bob)


def test_settings_that_are_not_for_everybody_are_refused_not_empty(stand_in: OmeroServer, login: Login):
    with pytest.raises(omero.SecurityViolation):
        login.factory.getConfigService().getConfigValue("omero.db.poolsize")
