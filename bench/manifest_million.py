"""Times the manifest of a million tiny files against `find | xargs sha256sum`, and measures its memory.

    python bench/manifest_million.py                 1,000,000 files in folders of 1,000
    python bench/manifest_million.py --files 200000 --per-folder 200000        one flat folder

Both sides read the same files from the same (warm) cache, one after the other, `--rounds` times; each ends in a `sync`. The
peer does less: it neither looks for collisions and links, nor notices a file that changes, nor makes its list durable.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

PEER = "find . -type f -print0 | xargs -0 sha256sum > {sums} && sync -f {sums}"
OURS = """
import resource, sys
from pathlib import Path
from lading.manifest import make
manifest = make(Path(sys.argv[1]), Path(sys.argv[2]))
peak = [resource.getrusage(who).ru_maxrss // 1024 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
print(manifest.summary.files, *peak)
"""


def main() -> int:
    options = _options()
    root = Path(tempfile.mkdtemp(prefix="manifest-bench-", dir=options.tmp))
    try:
        _make_files(root / "data", options.files, options.per_folder)
        os.sync()
        ours, peer, peak, helper_peak = [], [], 0, 0
        for _ in range(options.rounds):
            peer.append(_time_peer(root))
            seconds, files, own, helper = _time_ours(root)
            if files != options.files:
                raise SystemExit(f"expected {options.files} files, the manifest has {files}")
            ours.append(seconds)
            peak, helper_peak = max(peak, own), max(helper_peak, helper)
        _compare_lists(root)
    finally:
        shutil.rmtree(root)
    best, best_peer = min(ours), min(peer)
    print(f"files                       {options.files:>12,}   in folders of {options.per_folder:,}")
    print(f"lading manifest             {options.files / best:>12,.0f} files/s   {best:.2f} s")
    print(f"find | xargs sha256sum      {options.files / best_peer:>12,.0f} files/s   {best_peer:.2f} s")
    print(f"ratio (time, ours / peer)   {best / best_peer:>12.2f}")
    print(f"peak memory                 {peak:>12} MB   (largest helper: {helper_peak} MB; limit 200 MB)")
    return 0 if peak < 200 else 1


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=1_000_000)
    parser.add_argument("--per-folder", type=int, default=1_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tmp", type=Path, default=None, help="where to make the files (default: the system's)")
    return parser.parse_args()


def _make_files(root: Path, files: int, per_folder: int) -> None:
    for start in range(0, files, per_folder):
        folder = root / f"{start // per_folder:05d}"
        folder.mkdir(parents=True)
        where = os.open(folder, os.O_RDONLY)
        for number in range(start, min(start + per_folder, files)):
            fd = os.open(f"IM_{number:07d}.dcm", os.O_CREAT | os.O_WRONLY, 0o644, dir_fd=where)
            os.write(fd, b"instance %d" % number)
            os.close(fd)
        os.close(where)


def _time_peer(root: Path) -> float:
    start = time.perf_counter()
    subprocess.run(["sh", "-c", PEER.format(sums=root / "peer")], cwd=root / "data", check=True)
    return time.perf_counter() - start


def _time_ours(root: Path) -> tuple[float, int, int, int]:
    papers = root / "papers"
    papers.mkdir(exist_ok=True)
    start = time.perf_counter()
    ran = subprocess.run(
        [sys.executable, "-c", OURS, str(root / "data"), str(papers)], check=True, capture_output=True, text=True
    )
    subprocess.run(["sync", "-f", papers / "manifest.jsonl"], check=True)
    seconds = time.perf_counter() - start
    files, own, helper = map(int, ran.stdout.split())
    return seconds, files, own, helper


def _compare_lists(root: Path) -> None:
    """Both sides must have found the same: the speed of a wrong answer is no use."""
    peer = sorted(line.replace(b"  ./", b"  ") for line in (root / "peer").read_bytes().splitlines())
    if peer != sorted((root / "papers" / "manifest-sha256.txt").read_bytes().splitlines()):
        raise SystemExit("the two lists differ")


if __name__ == "__main__":
    sys.exit(main())
