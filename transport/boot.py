"""Which boot of this machine it is: what was written in another one, and not flushed, a power cut may have taken.

In the file's length it may still be there, as zeros.
"""

import ctypes
import secrets
import sys
import time
from contextlib import suppress
from functools import cache
from pathlib import Path

_LINUX = Path("/proc/sys/kernel/random/boot_id")
_STEP_S = 10.0


@cache
def this_boot() -> str:
    """A word for it: the same in every process until the machine is started again, and never again after that.

    Where the system does not say, it is this process's own word: what other processes wrote counts as written in another boot.
    """
    return _said() or f"process {secrets.token_hex(16)}"


def _said() -> str:
    said = ""
    with suppress(OSError, AttributeError, ValueError):
        if sys.platform.startswith("linux"):
            said = _LINUX.read_text(encoding="ascii").strip()
        elif sys.platform == "darwin":
            said = _of_macos()
        elif sys.platform == "win32":
            # Told only as a moment, by a clock that people set: a word that changes costs a part, never its content.
            started = time.time() - ctypes.windll.kernel32.GetTickCount64() / 1000
            said = f"started {round(started / _STEP_S)}"
    return said


def _of_macos() -> str:
    word, length = ctypes.create_string_buffer(64), ctypes.c_size_t(64)
    failed = ctypes.CDLL(None).sysctlbyname(b"kern.bootsessionuuid", word, ctypes.byref(length), None, 0)
    return "" if failed else word.value.decode("ascii")
