"""Who types a command, where a repository's own command line knows it; and the list of commands that it shows."""

from typing import Protocol

from lading.config import Config


class Person(Protocol):
    """Somebody with a login of their own at a repository. Asked only by what is done in person: `doctor`, `send`, `verify`."""

    @property
    def insists(self) -> bool:
        """Whether they said who they are for this one call, so that a login that fails must not pass unnoticed."""

    def settings(self, config: Config) -> Config:
        """`config` with their session in place of the account that it names, at each repository that the session opens.

        Logs in where there is such a repository. Raises AccessDenied, TargetUnavailable.
        """

    def reads(self, config: Config, route: str) -> Config | None:
        """`config` as by `settings`, where their session opens the repository of `route`; else None. Raises as `settings`."""

    def sender(self, config: Config, route: str) -> str:
        """user@host that a delivery by `route` is sent as; "" when the route leads elsewhere. Raises as `settings`."""


def commands() -> str:
    """The commands with a line on each, as text for another program's help."""
    from lading.cli.main import lading  # noqa: PLC0415 - the tree imports everything; help is shown seldom

    rows = [(name, command.get_short_help_str(limit=90)) for name, command in lading.commands.items()]
    width = max(len(name) for name, _ in rows)
    lines = [f"  {name:<{width}}  {text}" for name, text in rows]
    return "\n".join(["Commands:", *lines, "", _NOTES])


_NOTES = """\
They are the commands of `lading`, with the same options; see `omero transport COMMAND -h`. Login options come before the
command. What a command does in person (doctor, send, verify) it does with your OMERO session; what the server does later it does
with its own account. `omero transfer` is another plug-in: it packs annotated data and moves it between OMERO servers."""
