"""OMERO's generated classes, complete. They depend on each other in circles: whoever imports `omero.model` or `omero.cmd` first
gets half of them. So this module is where the importer has them from, and `omero.all` comes first here.
"""

# isort: off
import omero
import omero.all
import omero.clients
import Glacier2
import Ice
from omero import cmd, grid, model
from omero.rtypes import rbool, rlist, rlong, rstring, unwrap
from omero.sys import ParametersI


def unloaded(kind: str, number: int) -> "model.IObject":
    """An object of OMERO's that is there already, to link to: "Dataset", 12."""
    return getattr(model, f"{kind}I")(number, False)  # noqa: FBT003 - OMERO's constructors take "is it loaded" by position


__all__ = [
    "Glacier2",
    "Ice",
    "ParametersI",
    "cmd",
    "grid",
    "model",
    "omero",
    "rbool",
    "rlist",
    "rlong",
    "rstring",
    "unloaded",
    "unwrap",
]
