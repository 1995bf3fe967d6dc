"""Commands that people copy from a message into their shell."""

import os
import shlex
import subprocess
from pathlib import Path


def typed(*words: str | Path) -> str:
    """One command; a word with a space in it, such as a folder's name, stays one word."""
    texts = [os.fspath(word) for word in words]
    return subprocess.list2cmdline(texts) if os.name == "nt" else shlex.join(texts)
