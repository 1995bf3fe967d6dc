"""Programs that tests start by the hundred load nothing that only somebody else on this machine needs."""

import atexit
import functools
import os
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path

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
    folder = tempfile.mkdtemp(prefix="lading-lean-")
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    Path(folder).chmod(0o755)  # tests run programs as other users too
    Path(folder, "pandas.py").write_text(_ABSENT)
    return folder
