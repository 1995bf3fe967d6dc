"""OMERO's generated classes, complete. They depend on each other in circles: whoever imports `omero.model` or `omero.cmd` first
gets half of them. So this module is where the importer has them from, and `omero.all` comes first here.
"""

from collections.abc import Iterable
from typing import Any

# isort: off
import omero
import omero.all
import omero.clients
import Glacier2
import Ice
from omero import cmd, grid, model
from omero.rtypes import rbool, rlist, rlong, rstring
from omero.sys import ParametersI


def unloaded(kind: str, number: int) -> "model.IObject":
    """An object of OMERO's that is there already, to link to: "Dataset", 12."""
    return getattr(model, f"{kind}I")(number, False)  # noqa: FBT003 - OMERO's constructors take "is it loaded" by position


def plain(rows: Iterable[Iterable[Any]]) -> list[list[Any]]:
    """The cells of a projection, None where there is nothing. omero-py's `unwrap` also looks for circles, which takes long."""
    return [[None if cell is None else cell.getValue() for cell in row] for row in rows]


__all__ = [
    "Glacier2",
    "Ice",
    "ParametersI",
    "cmd",
    "grid",
    "model",
    "omero",
    "plain",
    "rbool",
    "rlist",
    "rlong",
    "rstring",
    "unloaded",
]
