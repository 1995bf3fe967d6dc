"""The people of the stand-in: what a fresh database holds, who is who, whose password is right."""

import hashlib
import hmac
import os

from lading.sandbox.omero import errors
from lading.sandbox.omero.accounts import Accounts
from lading.sandbox.omero.enumerations import VALUES
from lading.sandbox.omero.permissions import GUEST, GUEST_GROUP, PERMISSIONS_FIELD, ROOT, SYSTEM_GROUP, USER_GROUP
from lading.sandbox.omero.records import Record, Ref
from lading.sandbox.omero.store import Store

_HASH_FIELD = "@hash"
_FIXED_GROUPS = {"system": SYSTEM_GROUP, "user": USER_GROUP, "guest": GUEST_GROUP}


def furnish(store: Store, accounts: Accounts) -> None:
    """Enumerations, the groups and users every OMERO has, and the accounts. May run again: adds what is missing."""
    with store.transaction():
        for cls, values in VALUES.items():
            known = {record.get("value") for record in store.all(cls)}
            for value in values:
                if value not in known:
                    store.create(cls, {"value": value})
        if store.get("ExperimenterGroup", SYSTEM_GROUP) is None:
            _furnish_fixed(store)
        for name, permissions in accounts.groups.items():
            if group_named(store, name) is None:
                create_group(store, name, permissions)
        for name, user in accounts.users.items():
            person = user_named(store, name) or create_user(store, name, name.capitalize(), "Example", user.groups)
            set_password(store, person, user.password)
            for group in user.leads:
                add_to_group(store, person, group, leads=True)


def _furnish_fixed(store: Store) -> None:
    for name, number in _FIXED_GROUPS.items():
        permissions = {"system": "rw----", "user": "rwr-r-", "guest": "rw----"}[name]
        create_group(store, name, permissions, number=number)
    create_user(store, "root", "root", "root", ("system",), number=ROOT)
    create_user(store, "guest", "Guest", "Account", ("guest",), number=GUEST)


def create_group(
    store: Store, name: str, permissions: str, *, number: int | None = None, description: str = ""
) -> Record:
    """Raises ValidationException when the name is taken."""
    if group_named(store, name) is not None:
        raise errors.validation(f"a group {name} exists already")
    return store.create(
        "ExperimenterGroup",
        {"name": name, "ldap": False, "description": description, PERMISSIONS_FIELD: permissions},
        number=number,
    )


def create_user(
    store: Store,
    name: str,
    first: str,
    last: str,
    groups: tuple[str, ...],
    *,
    number: int | None = None,
    email: str = "",
) -> Record:
    """A person in these groups, the first as the default, and in "user". Raises ValidationException."""
    if user_named(store, name) is not None:
        raise errors.validation(f"a user {name} exists already")
    with store.transaction():
        person = store.create(
            "Experimenter",
            {"omeName": name, "firstName": first, "lastName": last, "ldap": False, "email": email or None},
            number=number,
        )
        for group in [*groups, *([] if name == "guest" else ["user"])]:
            add_to_group(store, person, group)
    return person


def add_to_group(store: Store, person: Record, group: str, *, leads: bool = False) -> None:
    """Make the person a member (or leader) of the group; nothing is lost when it is one. Raises ValidationException."""
    found = group_named(store, group)
    if found is None:
        raise errors.validation(f"no group {group}")
    for membership in store.find("GroupExperimenterMap", child=person.ref, parent=found.ref):
        if leads and not membership.get("owner"):
            store.change(membership, owner=True)
        return
    store.create("GroupExperimenterMap", {"parent": found.ref, "child": person.ref, "owner": leads})


def group_named(store: Store, name: str) -> Record | None:
    """By name, or by its number in digits (clients send both)."""
    for group in store.all("ExperimenterGroup"):
        if group.get("name") == name:
            return group
    return store.get("ExperimenterGroup", int(name)) if name.isdecimal() and name.isascii() else None


def user_named(store: Store, name: str) -> Record | None:
    """By login name."""
    return next(store.find("Experimenter", omeName=name), None)


def set_password(store: Store, person: Record, password: str) -> None:
    """Only a salted hash is kept, and only written when it changes."""
    if not right_password(person, password):
        salt = os.urandom(16)
        store.change(person, **{_HASH_FIELD: f"{salt.hex()}:{_hash(salt, password)}"})


def right_password(person: Record, password: str) -> bool:
    """False for everybody who has none."""
    salt, _, kept = person.text(_HASH_FIELD).partition(":")
    return bool(kept) and hmac.compare_digest(kept, _hash(bytes.fromhex(salt), password))


def default_group(store: Store, person: Record) -> Record:
    """Where the person works when nobody says otherwise: the first group it was put into."""
    for membership in store.find("GroupExperimenterMap", child=Ref("Experimenter", person.id)):
        group = store.follow(membership.get("parent"))
        if group is not None and group.id != USER_GROUP:
            return group
    raise errors.security(f"user {person.text('omeName')} is in no group")


def _hash(salt: bytes, password: str) -> str:
    # Weak on purpose: logins must be quick, and these passwords guard nothing.
    return hashlib.scrypt(password.encode("utf-8"), salt=salt, n=1024, r=8, p=1).hex()
