"""Serving: inboxes, the server, and the stand-in repositories."""

import signal
import threading
from pathlib import Path

import click

from lading.assembly import inbox_limits
from lading.cli import output
from lading.cli.context import App, json_option, pass_app
from lading.config import nearest
from lading.errors import ConfigError, LadingError
from lading.inbox import Inbox


@click.group()
def inbox() -> None:
    """Staging inboxes: make, look, check."""


@inbox.command("create")
@click.argument("name", required=False)
@json_option
@pass_app
def create(app: App, name: str | None, as_json: bool) -> None:
    """Make the inbox NAME of the settings (or all of them): its folders and its sentinel."""
    made = []
    if not app.config.inboxes:
        raise ConfigError(
            "the settings name no inbox: it is made on the machine that serves it, from [inboxes.NAME] in its settings",
            next_command=f"edit {app.config.file}",
        )
    for each in [name] if name else list(app.config.inboxes):
        if each not in app.config.inboxes:
            raise ConfigError(f"no inbox {each!r} in the settings{nearest(each, app.config.inboxes)}")
        config = app.config.inboxes[each]
        made.append((each, Inbox.create(config.path, limits=inbox_limits(config))))
    if as_json:
        output.answer({"inboxes": [{"name": n, "path": str(i.root), "id": i.id} for n, i in made]})
        return
    for each, opened in made:
        output.say(f"inbox {each} is ready at {opened.root} (id {opened.id})")


@inbox.command("list")
@json_option
@pass_app
def list_inboxes(app: App, as_json: bool) -> None:
    """Every inbox of the settings: sentinel, room, what lies in it."""
    found: list[tuple[str, str, str, int | None, int | None]] = []
    for name, config in app.config.inboxes.items():
        try:
            opened = Inbox.open(config.path)
            free, _ = opened.room()
            found.append((name, str(config.path), "ready", free, sum(1 for _ in opened.arrivals())))
        except LadingError as exc:
            found.append((name, str(config.path), exc.message, None, None))
    if as_json:
        keys = ("name", "path", "state", "free_bytes", "sealed")
        output.answer({"inboxes": [dict(zip(keys, one, strict=True)) for one in found]})
        return
    rows = [
        (name, path, state, "" if free is None else output.size(free), "" if sealed is None else str(sealed))
        for name, path, state, free, sealed in found
    ]
    output.table(("inbox", "path", "state", "free", "sealed"), rows, right=("free", "sealed"))


@click.group()
def server() -> None:
    """The program on the staging host: accepts, checks, imports, verifies, signs receipts."""


@server.command("run")
@pass_app
def run(app: App) -> None:
    """Serve every inbox of the settings until stopped."""
    from lading.assembly import serve  # noqa: PLC0415 - the agent's install has no server libraries

    stop = threading.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: stop.set())
    from lading.metrics.endpoint import served  # noqa: PLC0415 - an HTTP server, for programs that run on

    with served(app.config, "server"):
        serve(app.config, stop=stop)


@click.group()
def sandbox() -> None:
    """Stand-in repositories to try things with; never for real data."""


@sandbox.command("xnat")
@click.option(
    "--root", type=click.Path(file_okay=False, path_type=Path), default=Path("sandbox-xnat"), show_default=True
)
@click.option("--port", type=click.IntRange(0, 65535), default=8104, show_default=True, help="0 takes a free one.")
@click.option("--project", "projects", multiple=True, metavar="ID[:auto|manual]", help="Make a project; repeatable.")
@click.option(
    "--ready-file", type=click.Path(dir_okay=False, path_type=Path), help="Written, with the URL, once it listens."
)
def xnat(root: Path, port: int, projects: tuple[str, ...], ready_file: Path | None) -> None:
    """A stand-in XNAT on this machine only (user admin, password admin). Not XNAT: it says so."""
    try:
        from lading.sandbox.xnat.server import serve as serve_xnat  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise ConfigError(
            f"the sandbox needs the Python package {exc.name!r}", next_command="pip install 'lading[sandbox]'"
        ) from exc
    serve_xnat(root, port=port, projects=projects, ready_file=ready_file)


@sandbox.command("omero")
@click.option(
    "--root", type=click.Path(file_okay=False, path_type=Path), default=Path("sandbox-omero"), show_default=True
)
@click.option(
    "--port", type=click.IntRange(-1, 65535), default=-1, show_default=True, help="TCP without TLS; -1: none."
)
@click.option(
    "--ssl-port", type=click.IntRange(-1, 65535), default=4064, show_default=True, help="TLS. 0 takes a free one."
)
@click.option(
    "--accounts",
    type=click.Path(dir_okay=False, path_type=Path),
    help="Users, passwords and groups (JSON). Without it ROOT/accounts.json, made with new passwords if need be.",
)
@click.option("--glacier2", is_flag=True, help="Put Debian's real glacier2router in front.")
@click.option(
    "--ready-file", type=click.Path(dir_okay=False, path_type=Path), help="Written, with the ports, once it listens."
)
def omero(root: Path, port: int, ssl_port: int, accounts: Path | None, glacier2: bool, ready_file: Path | None) -> None:
    """A stand-in OMERO on this machine only, for the real `omero` command and every other client. Not OMERO: it says so."""
    try:
        from lading.sandbox.omero import server as sandbox_omero  # noqa: PLC0415 - an extra
    except ImportError as exc:
        raise ConfigError(
            f"the sandbox needs the Python package {exc.name!r}",
            next_command="make omero, then pip install 'lading[omero]'",
        ) from exc
    try:
        options = sandbox_omero.make_options(
            root, tcp_port=port, ssl_port=ssl_port, people=accounts, behind_glacier2=glacier2
        )
        output.say(sandbox_omero.BANNER)
        output.say(f"users and passwords: {accounts or options.root / sandbox_omero.ACCOUNTS_NAME}")
        sandbox_omero.serve(options, ready_file=ready_file)
    except (OSError, ValueError, RuntimeError) as exc:
        raise ConfigError(f"the stand-in OMERO cannot start below {root}: {exc}") from exc
