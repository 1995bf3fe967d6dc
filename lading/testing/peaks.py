"""How much memory one carry takes at its peak: `peak_of(errand)`, in a process of its own.

What a process starts with counts as its peak too, and a child starts with its parent's: so the process is started by a small shell,
and says itself what it, or the largest of its children, came to.
"""

import json
import subprocess
import sys
from dataclasses import asdict
from pathlib import Path

from lading.testing.carrying import Errand

_SHELL = '"$0" -m lading.testing.peaks "$1"; exit $?'  # not the last command: a shell would turn into it


def peak_of(errand: Errand, *, timeout: float = 900.0) -> int:
    """Carry the sealed `errand`; the largest resident size, in KiB, of the process or of one that it started and waited for.

    Raises AssertionError when the carry failed.
    """
    spec = Path(errand.state, f"{errand.delivery}.peak.json")
    spec.write_text(json.dumps(asdict(errand)))
    done = subprocess.run(
        ["sh", "-c", _SHELL, sys.executable, str(spec)],
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
        timeout=timeout,
    )
    assert done.returncode == 0, f"{done.stdout[-2000:]}\n{done.stderr[-4000:]}"
    return int(done.stdout.splitlines()[-1])


def main(spec: str) -> None:
    """Carry what the file `spec` says, and print the peak."""
    import resource  # noqa: PLC0415 - not on Windows

    Errand(**json.loads(Path(spec).read_text())).carry()
    peaks = (resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    print(max(peaks))  # noqa: T201 - its answer


if __name__ == "__main__":
    main(sys.argv[1])
