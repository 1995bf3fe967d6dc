"""The command line."""

import sys
import traceback
from collections.abc import Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from lading.cli.person import Person


def main(arguments: Sequence[str] | None = None, *, program: str = "lading", person: "Person | None" = None) -> None:
    """Entry point of `lading`, and of `omero transport` with its `person`. `arguments` are the command line's unless given.

    A bug of ours leaves with its traceback and exit code 70, never as a half answer.
    """
    from lading.cli import output  # noqa: PLC0415 - keeps `import lading.cli` light for the omero plug-in
    from lading.cli.main import lading  # noqa: PLC0415
    from lading.errors import UnexpectedFault  # noqa: PLC0415

    try:
        lading(None if arguments is None else list(arguments), prog_name=program, obj=person)
    except Exception as exc:  # noqa: BLE001 - the outermost edge: what nobody translated
        traceback.print_exc()
        fault = UnexpectedFault(
            f"{type(exc).__name__}: {exc}",
            safe="what was recorded before stays recorded; no source was touched by this command",
            next_command="send the lines above to the people who make Lading",
        )
        output.fail(fault, as_json="--json" in (sys.argv if arguments is None else arguments))
        sys.exit(fault.exit_code)
