"""Programs that tests start by the hundred load nothing that only somebody else on this machine needs."""

import functools
import os
from collections.abc import Mapping

from lading.testing.guardian import shared_folder

_ABSENT = 'raise ImportError("left out of programs that tests start", name=__name__)\n'


def without_pandas() -> Mapping[str, str]:
    """The environment for a program with xnatpy in it, as where only `lading[xnat]` is installed.

    xnatpy imports pandas wherever it finds it, for tables that we never ask for; pyxnat's tests brought it here. That takes a
    program longer than all the rest of its start.
    """
    path = [_folder(), *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(path)}


@functools.cache
def _folder() -> str:
    folder = shared_folder() / "without-pandas"
    folder.mkdir()
    (folder / "pandas.py").write_text(_ABSENT)
    return str(folder)
