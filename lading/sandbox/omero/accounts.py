"""Groups, users and their passwords, as whoever starts the stand-in gives them. Knows nothing of Ice: starters import it."""

import json
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from lading.disk import write_whole

GROUPS: Mapping[str, str] = {"lab": "rwra--", "private": "rw----", "readonly": "rwr---", "shared": "rwrw--"}
"""The groups that a stand-in has when nobody says otherwise: name → permissions."""


@dataclass(frozen=True, slots=True)
class User:
    """A person. `groups`: the first is the default one; `leads`: those of them that the person owns."""

    password: str
    groups: tuple[str, ...] = ("lab",)
    leads: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Without the password."""
        return f"User(groups={self.groups!r}, leads={self.leads!r})"


@dataclass(frozen=True, slots=True)
class Accounts:
    """Everybody. "root" is the administrator and must be among the users."""

    users: Mapping[str, User]
    groups: Mapping[str, str]

    def __post_init__(self) -> None:
        """Raises ValueError when root is missing, or a user is in a group that there is not."""
        if "root" not in self.users:
            raise ValueError("the accounts need a user root")
        for name, user in self.users.items():
            for group in {*user.groups, *user.leads} - {*self.groups, "system", "user", "guest"}:
                raise ValueError(f"user {name} is in the group {group}, which is not among the groups")

    def passwords(self) -> dict[str, str]:
        """User name → password."""
        return {name: user.password for name, user in self.users.items()}


def fresh_accounts() -> Accounts:
    """root, alice, bob and carol, with passwords that nobody knows yet. Carol leads the lab; all are in every group."""
    everywhere = tuple(GROUPS)
    users = {
        "root": User(secrets.token_urlsafe(12), ("system",)),
        "alice": User(secrets.token_urlsafe(12), everywhere),
        "bob": User(secrets.token_urlsafe(12), everywhere),
        "carol": User(secrets.token_urlsafe(12), everywhere, ("lab",)),
    }
    return Accounts(users, GROUPS)


def write(path: Path, accounts: Accounts) -> None:
    """As JSON that only our own account can read."""
    users = {
        name: {"password": user.password, "groups": user.groups, "leads": user.leads}
        for name, user in accounts.users.items()
    }
    text = json.dumps({"groups": dict(accounts.groups), "users": users}, indent=1)
    write_whole(path, text.encode("utf-8"), mode=0o600)


def read(path: Path) -> Accounts:
    """What `write` wrote. Raises OSError, ValueError."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        users = {
            str(name): User(str(each["password"]), tuple(each.get("groups", ("lab",))), tuple(each.get("leads", ())))
            for name, each in content["users"].items()
        }
        return Accounts(users, dict(content.get("groups", GROUPS)))
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is no list of accounts: {error!r}") from error
