"""Where a transport's tests take place: a site to reach, an inbox, sources, small disks, and eyes on all of them."""

import contextlib
import os
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NoReturn

import pytest

from lading.inbox import Inbox, InboxLimits
from lading.ports import Settings
from lading.seal import SEAL_NAME, is_sealed
from lading.testing import trees
from lading.testing.carrying import Errand
from lading.testing.faultproxy import FaultProxy

NOT_APPLICABLE = "does not apply: "
"""How the reason of a skip begins when a transport cannot have the case; any other skip is a question for this machine."""


def does_not_apply(reason: str) -> NoReturn:
    """End a test that a transport cannot have; `lading.testing.transport_counts` counts it apart from other skips."""
    pytest.skip(NOT_APPLICABLE + reason)


def not_for(reason: str) -> pytest.MarkDecorator:
    """The same as a mark, for a test that a class overrides."""
    return pytest.mark.skip(reason=NOT_APPLICABLE + reason)


@dataclass(frozen=True)
class Site:
    """How the suite gets at a transport.

    `factory`: "module:Class.from_settings", also found from another process. `reach(folder)`: settings that reach an inbox at
    `folder`. `denied`, `unreachable`: by reason, changes to the settings that make the server refuse us, or be absent;
    `untrusted`: that make it somebody whom we do not trust (another CA, another host key).
    `server`: host and port that a proxy may stand in front of; `through(proxy)`: changes to the settings that go through it,
    with a time-out of a few seconds. `secrets`: texts that must never be shown. `stricter`: by the reason for it, the nasty names
    that the transport refuses although this very server would keep them as they are. `loses`: by reason, names that only this
    server loses, and not what it stands for; they are left out of the nasty source. `look`: called before the suite looks at an
    inbox, for a server that keeps its files where nobody can look: it brings the folder up to what the server holds.
    `unseen(folder)`: bytes that have come for files in `folder` and do not show there before the file is whole.
    """

    factory: str
    reach: Callable[[Path], Settings]
    denied: Mapping[str, Settings] = field(default_factory=dict)
    unreachable: Mapping[str, Settings] = field(default_factory=dict)
    untrusted: Mapping[str, Settings] = field(default_factory=dict)
    server: tuple[str, int] | None = None
    through: Callable[[FaultProxy], Settings] | None = None
    secrets: tuple[str, ...] = ()
    stricter: Mapping[str, frozenset[bytes]] = field(default_factory=dict)
    loses: Mapping[str, Callable[[str], bool]] = field(default_factory=dict)
    look: Callable[[], None] = lambda: None
    unseen: Callable[[Path], int] = lambda _: 0


class Desk:
    """What a test works with: an inbox, sources, errands between them."""

    def __init__(self, folder: Path, site: Site) -> None:
        self.folder, self.site = folder, site
        self._inbox = Inbox.create(folder / "inbox", limits=InboxLimits(keep_free_bytes=0))
        self.state = folder / "state"
        self.state.mkdir()
        self._count = 0

    @property
    def inbox(self) -> Inbox:
        """The inbox, as the server has it now."""
        self.site.look()
        return self._inbox

    def errand(self, source: Path, changes: Settings | None = None, *, inbox: Path | None = None) -> Errand:
        """A new, unsealed errand for `source`."""
        self._count += 1
        settings = {**self.site.reach(inbox or self.inbox.root), **(changes or {})}
        name = f"test-delivery-{self._count}"
        return Errand(self.site.factory, settings, str(source), str(self.folder / name), str(self.state), name)

    def plain(self, **shape: int) -> Path:
        """A new plain source."""
        self._count += 1
        return trees.plain_tree(self.folder / f"source-{self._count}", **shape)

    def data(self, errand: Errand) -> Path:
        """Where the files of the errand should be."""
        return self.inbox.root / errand.slot.data

    def is_sealed(self, errand: Errand) -> bool:
        """Whether the server would see a finished delivery."""
        return is_sealed(self.inbox.root / errand.slot.path)


@contextlib.contextmanager
def small_disk(folder: Path, size: str) -> Iterator[Path]:
    """A disk of `size` (as mount understands it) at `folder`; skips the test where that takes more rights than ours."""
    if os.name != "posix" or os.geteuid() != 0:
        pytest.skip("a small disk can only be mounted by root")
    folder.mkdir()
    run("mount", "-t", "tmpfs", "-o", f"size={size}", "lading-test", str(folder))
    try:
        yield folder
    finally:
        run("umount", "-l", str(folder))


def run(*argv: str) -> None:
    """Run a command that must succeed."""
    subprocess.run(argv, check=True, stdin=subprocess.DEVNULL)


def watch_until(
    desk: Desk,
    errand: Errand,
    whole: Mapping[str, tuple[int, str]],
    enough: int,
    process: "subprocess.Popen[bytes]",
) -> list[str]:
    """Wait until enough bytes are in the slot; what was visible under a final name before it was whole."""
    early: list[str] = []
    while process.poll() is None:
        sealed = desk.is_sealed(errand)  # looked at first: between the two looks the last files may come, and the seal
        sizes = _sizes(desk.data(errand))
        early += [path for path, size in sizes.items() if path in whole and size != whole[path][0]]
        if sealed and len([path for path in sizes if path in whole]) < len(whole):
            early.append(SEAL_NAME)
        if sum(sizes.values()) + desk.site.unseen(desk.data(errand)) >= enough:
            break
    return early


def _sizes(folder: Path) -> dict[str, int]:
    sizes = {}
    for parent, _, names in os.walk(folder):
        for name in names:
            with contextlib.suppress(OSError):
                sizes[Path(parent, name).relative_to(folder).as_posix()] = Path(parent, name).stat().st_size
    return sizes


def settle(desk: Desk, errand: Errand) -> None:
    """Wait until the other side of a cut connection has noticed: nothing changes in the slot any more."""
    before, quiet = None, 0
    while quiet < 5:
        now = _sizes(desk.inbox.root / errand.slot.path)
        quiet = quiet + 1 if now == before else 0
        before = now
        time.sleep(0.05)


def inodes(folder: Path) -> dict[str, tuple[int, int, int]]:
    """Inode and times of every file: they tell a file that was written anew from one that was left alone.

    A new file may well get the inode of the removed one and, by preserved times, its time: nobody can set the time of change.
    """
    seen = {path.relative_to(folder).as_posix(): path.stat() for path in folder.rglob("*") if path.is_file()}
    return {path: (info.st_ino, info.st_mtime_ns, info.st_ctime_ns) for path, info in seen.items()}


def flip_a_byte(path: Path) -> None:
    """Damage the content, keep size and times."""
    info = path.stat()
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    os.utime(path, ns=(info.st_atime_ns, info.st_mtime_ns))


def command_lines() -> list[str]:
    """What every user of this machine can see of every process."""
    lines = []
    for place in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):
            lines.append(place.read_bytes().replace(b"\0", b" ").decode(errors="replace"))
    return lines


@contextlib.contextmanager
def proxied(site: Site) -> Iterator[tuple[FaultProxy, Settings]]:
    """A proxy before the site's server, and the changes to the settings that go through it; skips where there is none."""
    if site.server is None or site.through is None:
        does_not_apply("nothing goes over a network that a proxy could stand in")
    with FaultProxy(site.server) as proxy:
        yield proxy, site.through(proxy)
