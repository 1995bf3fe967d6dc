"""`python -m lading.demo --root FOLDER`: runs the main job; exit 0 only when everything came out as it must."""

import sys
from pathlib import Path

import click

from lading.demo.story import tell


@click.command()
@click.option("--root", type=click.Path(file_okay=False, path_type=Path), default=Path(".demo"), show_default=True)
def main(root: Path) -> None:
    """Four sessions from a watched instrument folder, by rsync through an inbox, into a stand-in XNAT."""
    sys.exit(0 if tell(root.resolve()) else 1)


main()
