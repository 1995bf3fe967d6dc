"""`python -m lading.demo --root FOLDER`: runs the main job; exit 0 only when everything came out as it must."""

import sys
from pathlib import Path

import click

from lading.cli import output
from lading.demo import omero_story, story
from lading.demo.place import clear


@click.command()
@click.option("--root", type=click.Path(file_okay=False, path_type=Path), default=Path(".demo"), show_default=True)
def main(root: Path) -> None:
    """Four sessions from a watched instrument folder, by rsync through an inbox, into a stand-in XNAT.

    Where the extra `omero` is installed, before that: sessions of a microscope into a stand-in OMERO.
    """
    root = root.resolve()
    clear(root)
    told = ""
    if omero_story.can_be_told():
        told = omero_story.tell(root / "omero")
        if not told:
            sys.exit(1)
        output.say(f"\n{told}\n\nAnd the same with DICOM, into XNAT:", style="bold")
    sys.exit(0 if story.tell(root / "xnat", said_before=told) else 1)


main()
