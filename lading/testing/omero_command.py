"""The real `omero` command, run as somebody else than root, whom it refuses."""

import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Self

OMERO = Path(sys.executable).with_name("omero")
_NOBODY = ("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups")
_ORDINARY = (
    _NOBODY,
    # Where nobody may not read our interpreter (it lies in root's home): still with root's rights on files, but not its number.
    (*_NOBODY, "--inh-caps=+dac_override", "--ambient-caps=+dac_override"),
    ("unshare", "--user", "--map-user=1000"),
)
# Running is not enough: an interpreter that may not read its own library takes another one's, and cannot start itself.
_SOUND = """
import os, subprocess, sys
assert os.geteuid() and sys.base_prefix == sys.argv[1]
import lading
subprocess.run([sys.executable, "-c", ""], check=True)
"""


def ordinary_user() -> tuple[str, ...]:
    """The words before a command that make it run as an ordinary user. Raises RuntimeError when this machine knows no way."""
    if not hasattr(os, "geteuid") or os.geteuid() != 0:
        return ()
    for words in _ORDINARY:
        tried = subprocess.run(
            [*words, sys.executable, "-c", _SOUND, sys.base_prefix],
            capture_output=True,
            check=False,
            cwd="/",
        )
        if tried.returncode == 0:
            return words
    raise RuntimeError("neither setpriv nor unshare runs this interpreter as an ordinary user")


class OmeroCommand:
    """`omero` with a home of its own, so that its session store is nobody else's. A context manager: the home goes with it.

    `home` is where it runs, and the place for whatever it shall read or write; pytest's own folders are closed to others.
    """

    def __init__(self, **environment: str) -> None:
        self._words = ordinary_user()
        self._folder = tempfile.TemporaryDirectory(prefix="omero-home-")
        self.home = Path(self._folder.name)
        self.home.chmod(0o777)
        self._environment = {"HOME": self._folder.name, "OMERO_USERDIR": str(self.home / "omero"), **environment}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._folder.cleanup()

    def run(
        self, *arguments: str, timeout: float = 120, environment: Mapping[str, str] | None = None
    ) -> subprocess.CompletedProcess[str]:
        """Type `omero ARGUMENTS`, with nobody there to answer questions."""
        keep = {k: v for k, v in os.environ.items() if not k.startswith(("OMERO", "LADING"))}
        return subprocess.run(
            [*self._words, str(OMERO), *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=timeout,
            cwd=self.home,
            env=keep | self._environment | dict(environment or {}),
            check=False,
        )
