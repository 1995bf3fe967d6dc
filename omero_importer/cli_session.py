"""The person at `omero transport`: logs in as every OMERO command does, and lends the session to this run's importers."""

from argparse import Namespace
from collections.abc import Iterable
from dataclasses import replace
from typing import Protocol

import attrs

from lading.config import Config, RepositoryConfig
from lading.errors import AccessDenied, TargetUnavailable
from omero_importer.session_in_hand import DEFAULT_PORT, KEY, SessionInHand

KIND = "omero"
_WHO = ("server", "user", "key", "password", "group", "sudo", "create")
_MISPLACED = frozenset(
    (
        "-C",
        "--create",
        "-k",
        "--key",
        "-u",
        "--user",
        "-w",
        "--password",
        "-g",
        "--group",
        "--sudo",
        "--server",
        "--port",
    )
)
# omero-py's own return values for a server that does not answer (its plug-in `sessions`).
_NOBODY_THERE = frozenset((554, 555, 556))


class _EventContext(Protocol):
    userName: str  # noqa: N815 - OMERO's names
    groupName: str  # noqa: N815


class _Client(Protocol):
    def getProperty(self, name: str) -> str: ...  # noqa: N802 - OMERO's names
    def getSessionId(self) -> str: ...  # noqa: N802


class CommandLine(Protocol):
    """What we use of omero.cli.CLI: it keeps the session store, asks for passwords, and says what it did."""

    def conn(self, args: Namespace) -> _Client | None:
        """Log in, or use the session at hand."""

    def get_event_context(self) -> _EventContext:
        """Who is logged in, and in which group."""


class OmeroPerson:
    """Whoever typed `omero transport`. Logs in when first needed, once."""

    def __init__(self, ctx: CommandLine, args: Namespace) -> None:
        self._ctx, self._args = ctx, args
        self._session: SessionInHand | None = None

    @property
    def insists(self) -> bool:
        """Whether a login option was given."""
        return any(getattr(self._args, name, None) for name in _WHO)

    @staticmethod
    def misplaced(arguments: Iterable[str]) -> bool:
        """Whether a login option stands behind the command, where it means nothing or something else."""
        return any(argument.partition("=")[0] in _MISPLACED for argument in arguments)

    def settings(self, config: Config) -> Config:
        """`config` with the session in each OMERO repository that it opens. Raises AccessDenied, TargetUnavailable."""
        ours = {name: repo for name, repo in config.repositories.items() if repo.kind == KIND}
        if not ours and not self.insists:
            return config
        session = self._log_in(config)
        lent = {
            name: attrs.evolve(repo, settings={**repo.settings, KEY: _at(session, repo)})
            for name, repo in ours.items()
            if session.opens(*_address(repo))
        }
        return attrs.evolve(config, repositories={**config.repositories, **lent})

    def reads(self, config: Config, route: str) -> Config | None:
        """`config` as by `settings`, where the session opens the repository of `route`; else None. Raises as `settings`."""
        repository = config.repositories.get(config.route(route).repository)
        if repository is None or repository.kind != KIND or not self._log_in(config).opens(*_address(repository)):
            return None
        return self.settings(config)

    def sender(self, config: Config, route: str) -> str:
        """user@host in OMERO; "" when the settings know that the route leads to another kind of repository."""
        repository = config.repositories.get(config.route(route).repository)
        return "" if repository and repository.kind != KIND else self._log_in(config).sender

    def _log_in(self, config: Config) -> SessionInHand:
        if self._session is None:
            self._session = self._new_session(_with_server(self._args, config))
        return self._session

    def _new_session(self, args: Namespace) -> SessionInHand:
        from omero.cli import NonZeroReturnCode  # noqa: PLC0415 - it is running us, but nobody else may need it for our types

        doing = f"logging in to OMERO at {args.server}" if args.server else "logging in to OMERO"
        try:
            client = self._ctx.conn(args)
        except NonZeroReturnCode as exc:
            # What happened was already said on stderr, in OMERO's own words.
            asked = isinstance(
                exc.__context__, NonZeroReturnCode
            )  # the password was wrong, and there is nobody to ask again
            trouble = TargetUnavailable if exc.rv in _NOBODY_THERE and not asked else AccessDenied
            raise trouble(f"{doing} failed", safe="nothing was done", next_command="omero login") from exc
        except EOFError as exc:
            raise AccessDenied(
                f"{doing}: there is nobody to ask for the password", safe="nothing was done", next_command="omero login"
            ) from exc
        if client is None:
            raise AccessDenied(f"{doing} gave no session", safe="nothing was done", next_command="omero login")
        who = self._ctx.get_event_context()
        return SessionInHand(
            host=client.getProperty("omero.host"),
            port=int(client.getProperty("omero.port") or DEFAULT_PORT),
            user=who.userName,
            group=who.groupName,
            key=client.getSessionId(),
        )


def _with_server(args: Namespace, config: Config) -> Namespace:
    """Where no server was named and the settings know only one, that is the one: nobody needs to be asked."""
    # A copy, as omero's own namespace refuses to change a value.
    copy = Namespace(**vars(args))
    known = {_address(repo) for repo in config.repositories.values() if repo.kind == KIND}
    if not args.server and len(known) == 1:
        host, port = known.pop()
        copy.server, copy.port = host, args.port or (str(port) if port else None)
    return copy


def _at(session: SessionInHand, repository: RepositoryConfig) -> SessionInHand:
    """The session as the importer of this repository joins it: at the other port of the same server, where that is plain."""
    if _address(repository)[1] is not None:
        return session
    port = repository.settings.get("port", 0)
    return replace(session, port=port if isinstance(port, int) and port else DEFAULT_PORT - 1)


def _address(repository: RepositoryConfig) -> tuple[str, int | None]:
    """Host, and port of the encrypted router: a person always logs in there. None where the settings name another one only."""
    host, port = repository.settings.get("host", ""), repository.settings.get("port", 0)
    if repository.settings.get("plain", "no") != "no":
        return str(host), None
    return str(host), port if isinstance(port, int) and port else DEFAULT_PORT
