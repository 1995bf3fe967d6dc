"""Removable disks: give one an identity, and learn whether it may be unplugged."""

from pathlib import Path

import click
from rich.text import Text

from lading.cli import output
from lading.cli.context import App, json_option, pass_app
from lading.errors import Corrupted
from transport.disk_care import OnDisk, Standing, look_over, prepare_disk
from transport.volumes import mount_of, needs_windows_names

NOT_FINISHED = 7
_STYLES = {Standing.WHOLE: "green", Standing.DAMAGED: "bold red", Standing.UNFINISHED: "yellow"}
_folder = click.argument("path", type=click.Path(exists=True, file_okay=False, path_type=Path))


@click.group()
def disk() -> None:
    """Removable disks that carry deliveries: prepare, check."""


@disk.command("prepare")
@_folder
@json_option
def prepare(path: Path, as_json: bool) -> None:
    """Make the folder PATH of a mounted disk ready to carry deliveries. What is on it stays; again: the id stays too."""
    made = prepare_disk(path)
    names = "windows" if needs_windows_names(mount_of(path)) else "posix"
    if as_json:
        output.answer({"volume": made.id, "path": str(path), "names": names})
        return
    output.say(f"the disk at {output.printable(str(path))} is ready; in the settings of the sender:\n")
    output.say("[routes.NAME.transport]")
    output.say(f'kind = "disk"\npath = "{output.printable(str(path))}"\nvolume = "{made.id}"\nnames = "{names}"')


@disk.command("check")
@_folder
@json_option
@pass_app
def check(app: App, path: Path, as_json: bool) -> None:
    """Flush the disk at PATH and read back everything on it: is it safe to unplug?

    Exit code 3: something is damaged; 7: a delivery is not finished, let the sender go on.
    """
    found = list(look_over(path))
    damaged = [one for one in found if one.standing is Standing.DAMAGED]
    unfinished = [one for one in found if one.standing is Standing.UNFINISHED]
    if as_json:
        output.answer(
            {"safe_to_unplug": not damaged and not unfinished, "deliveries": [_as_dict(one) for one in found]}
        )
    else:
        _show(found)
        if not damaged and not unfinished:
            output.say("safe to unplug: everything was read back from the disk; unmount it first", style="bold green")
        elif unfinished and not damaged:
            output.say("not safe to unplug yet: the sender has not finished", style="bold yellow")
            output.say_next(f"{app.program} status")
    if damaged:
        raise Corrupted(
            f"{len(damaged)} deliveries on the disk at {path} are damaged",
            paths=[one.delivery for one in damaged],
            safe="the sources are untouched",
            next_command=f"{app.program} retry {damaged[0].delivery}",
        )
    if unfinished:
        raise SystemExit(NOT_FINISHED)


def _show(found: list[OnDisk]) -> None:
    output.table(
        ("delivery", "state", "files", "size", "note"),
        (
            (
                one.delivery,
                Text(str(one.standing), style=_STYLES.get(one.standing, "cyan")),
                str(one.files),
                output.size(one.bytes),
                one.note or ", ".join(output.printable(path) for path in one.wrong[:3]),
            )
            for one in found
        ),
        right=("files", "size"),
        whole=("delivery",),
    )


def _as_dict(one: OnDisk) -> dict[str, output.Json]:
    return {
        "delivery": one.delivery,
        "standing": str(one.standing),
        "files": one.files,
        "bytes": one.bytes,
        "wrong": list(one.wrong),
        "note": one.note,
    }
