"""Runs every benchmark of this folder, one after the other, on a machine that should do nothing else meanwhile.

python bench/run_all.py [NAME ...]
"""

import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
ALL = (
    "local_delivery",
    "rsync_delivery",
    "transports",
    "dicom_nodes",
    "dicom_check",
    "manifest_million",
    "server_line",
    "omero_import",
)


def main() -> int:
    """The exit code is the number of benchmarks that missed their aim."""
    missed = 0
    for name in sys.argv[1:] or ALL:
        print(f"== {name}", flush=True)
        missed += subprocess.run([sys.executable, str(HERE / f"{name}.py")], check=False).returncode != 0
    return missed


if __name__ == "__main__":
    sys.exit(main())
