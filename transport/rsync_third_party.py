"""rsync between two other machines: we list the files and steer, the staging host pulls them from the data's own host.

This is how a synchrotron's file system is emptied from a workstation that sees it: the bytes go from the facility's transfer
host (`source.host`) straight to the staging host (`target`). We make the manifest from the files as we see them below
`source.seen_at`, start one rsync on the staging host by ssh, and lend it our key for that one hop and no other (ssh-agent
destination constraints, OpenSSH 8.9). It ends when we end: it watches its standard input.
"""

import json
import re
import shlex
from collections.abc import Callable, Iterable, Iterator
from copy import copy
from dataclasses import replace
from hashlib import sha256
from pathlib import Path, PurePosixPath
from typing import Self

import attrs

from lading.config import structure
from lading.delivery import Cargo, Slot
from lading.errors import AccessDenied, ConfigError, LadingError, SourceChanged, UnexpectedFault
from lading.manifest import Entry, Filtered, Manifest, survey
from lading.ports import PLANNED, Journal, Plan, Progress, Settings, TransportTraits
from lading.seal import is_sealed, read_seal
from transport.on_the_way import Load
from transport.pacing import Pace
from transport.rsync import RsyncTransport
from transport.rsync_opening import Opening
from transport.rsync_places import OverSsh, RsyncConfig, safe, ssh_words
from transport.rsync_run import Ended, Rsync, as_listed, unescaped
from transport.rsync_witness import Witness

_HOST = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.$-]*@[A-Za-z0-9_][A-Za-z0-9_.-]*")
_AGENT_LIFE_S = 7 * 24 * 3600
_NAMED = 5
_SAMPLE = 20
_EACH = "--out-format=%i %l %n"

# Runs on the staging host, in whatever POSIX shell is there: $1 bytes of names, then the rsync. When our side of the
# connection closes, for whatever reason, the rsync is ended (a terminal, ssh -t, would do that too, but eats bytes).
_STEERED = (
    'exec 3<&0; l=$(mktemp) || exit 11; trap \'rm -f "$l"\' EXIT; head -c "$1" <&3 >"$l" || exit 12; shift; '
    '"$@" "--files-from=$l" </dev/null & p=$!; '
    '(cat <&3; kill "$p") >/dev/null 2>&1 & w=$!; '
    'wait "$p"; c=$?; kill "$w" 2>/dev/null; exit "$c"'
)
# Runs here: an agent of our own that holds the key for this one journey, and dies with the ssh it was started for.
_LENDING = 'ssh-add -q -t "$1" -H "$2" -h "$3" -h "$4" "$5" </dev/null || exit 124; shift 5; exec "$@"'
# What the rsync on the staging host says about single files of the source.
_LOST = re.compile(
    r'(?:file has vanished: |\[sender\] link_stat )"(.*?)"|\[sender\] send_files failed to open "(.*?)".*?: (.*?) \(\d+\)'
)


@attrs.frozen(kw_only=True)
class SourceConfig:
    """The host that holds the data, as the staging host reaches it.

    `host`: user@host. `path`: the folder there that we see here as `seen_at`. `port`: of its sshd. `known_hosts`: a file on
    the staging host that pins its key ("" is the account's own). The account on it is only read.
    """

    host: str
    path: str
    seen_at: Path
    port: int = 22
    known_hosts: str = ""


@attrs.frozen(kw_only=True)
class ThirdPartyConfig(RsyncConfig):
    """As for rsync over ssh (`target` is the staging host's inbox), and `source`.

    `identity` is needed: it is what the staging host may use for the one hop to `source.host`. `known_hosts` must hold the keys
    of both hosts, under the names used here.
    """

    source: SourceConfig


class ThirdPartyRsync(RsyncTransport):
    """rsync from the data's own host straight to the staging host, steered from here.

    The bytes do not pass through the caller. Papers do: they are small, and ours.
    """

    def __init__(self, config: ThirdPartyConfig, *, state: Path, pace: Pace | None = None) -> None:
        super().__init__(config, state=state, pace=pace)
        place = self._place
        if not isinstance(place, OverSsh) or config.identity is None or config.known_hosts is None:
            raise ConfigError(
                "a third-party rsync needs target = 'user@host:/path', identity and known_hosts",
                next_command="lading doctor",
            )
        if not _HOST.fullmatch(config.source.host) or not config.source.path.startswith("/"):
            raise ConfigError("transport.source needs host = 'user@host' and an absolute path")
        self._third, self._staging = config, place
        self._steering = Rsync("ssh-agent")
        self._journal: Journal | None = None
        self._planned: _Moves | None = None

    @classmethod
    def from_settings(cls, settings: Settings, *, state: Path) -> Self:
        """Made from the route's transport table. Raises ConfigError."""
        return cls(structure(settings, ThirdPartyConfig, where="transport"), state=state)

    @property
    def traits(self) -> TransportTraits:
        """Those of rsync; the bytes go from host to host."""
        return replace(super().traits, lists_on_the_way=False, third_party=True)

    def paced(self, pace: Pace) -> Self:
        """The same journey, slower. The rate is the one that holds when it begins."""
        return type(self)(self._third, state=self._state, pace=pace)

    def plan(self, cargo: Cargo, slot: Slot) -> Plan:
        """See the role. The two hosts are asked about a cargo without a seal, too: they may see other files than we do."""
        if is_sealed(cargo.papers):
            manifest = Manifest.trusted(cargo.papers, read_seal(cargo.papers).summary)
            names: Iterable[str] = _Names(manifest)
            files = manifest.summary.files
        else:
            looked = survey(cargo.root, rules=cargo.rules, limits=self.traits.names)
            names = [seen.path for seen in looked if not isinstance(seen, Filtered)]
            files = looked.files
        moves = _Moves()
        sample: list[str] = []

        def seen(line: bytes) -> None:
            moves.line(line)
            if line[:2] == b">f" and len(sample) < _SAMPLE:
                sample.append(unescaped(line.split(b" ", 2)[2]))

        self._refuse_failed_plan(self._steered(["--dry-run", _EACH], slot.data, cargo.root, names, seen))
        told_by = f"{self._third.source.host} and {self._staging.host}"
        return Plan(moves.files, moves.bytes, files - moves.files, tuple(sample), told_by)

    def carry(self, cargo: Cargo, slot: Slot, journal: Journal, progress: Progress) -> None:
        """See the role. The dry run is noted first; a run that moves anything else is SourceChanged, and is not sealed."""
        if not is_sealed(cargo.papers):
            raise UnexpectedFault(f"{slot.delivery} has no sealed papers: {self!r} carries what a manifest lists")
        one = copy(self)  # what is planned belongs to this delivery alone
        one._journal = journal  # noqa: SLF001 - our own copy
        # Not `carry`: what shares one log-in there is a plain rsync, and the bytes would pass through us.
        RsyncTransport.bring(one, cargo, slot, journal, progress)

    def _send_files(
        self,
        root: Path,
        load: Load,
        slot: Slot,
        progress: Progress,
        witness: Witness,  # noqa: ARG002 - the rsync over there says what it moves, which is compared with the plan
        *,
        opening: Opening,
        by_content: bool,
    ) -> None:
        opening.make()
        planned = _Moves()
        options = ["--dry-run", _EACH, *(["--checksum"] if by_content else [])]
        self._refuse_failed_plan(self._move(options, slot.data, root, load, planned.line))
        if self._journal:
            self._journal.note(PLANNED, planned.as_json())
        self._planned = planned
        super()._send_files(root, load, slot, progress, Witness(wanted=False), opening=opening, by_content=by_content)

    def _refuse_failed_plan(self, ended: Ended) -> None:
        if ended.code:
            raise ended.error(f"cannot plan what {self._staging.host} would fetch from {self._third.source.host}")

    def _move(
        self,
        options: list[str],
        folder: str,
        root: Path,
        load: Load,
        on_line: Callable[[bytes], None],
        *,
        pace: Pace | None = None,
        patience: float | None = None,  # noqa: ARG002 - the rsync over there receives, and knows silence when it meets it
    ) -> Ended:
        moved = _Moves()

        def seen(line: bytes) -> None:
            moved.line(line)
            on_line(line)

        options = [_EACH if option == "--out-format=%i" else option for option in options]
        ended = self._steered(options, folder, root, _Names(load.entries), seen, pace=pace)
        if "--dry-run" not in options and not ended.code and self._planned != moved:
            raise SourceChanged(f"{root}: the plan was {self._planned}, the run moved {moved}")
        return ended

    def _steered(
        self,
        options: list[str],
        folder: str,
        root: Path,
        names: Iterable[str],
        on_line: Callable[[bytes], None],
        *,
        pace: Pace | None = None,
    ) -> Ended:
        """One rsync on the staging host, of `names` (read twice). Raises SourceChanged, AccessDenied for single files."""
        size = sum(len(as_listed(name)) for name in names)
        ended = self._steering.run(
            self._lending(
                shlex.join(["sh", "-c", _STEERED, "sh", str(size), *self._pull(options, folder, root, pace)])
            ),
            cwd=root,
            names=names,
            on_line=on_line,
            hold=True,
        )
        if lost := _lost(ended, f"cannot fetch {root} from {self._third.source.host}"):
            raise lost
        return ended

    def _pull(self, options: list[str], folder: str, root: Path, pace: Pace | None) -> list[str]:
        """The rsync that runs on the staging host."""
        source = self._third.source
        shell = ["ssh", "-x", "-a", "-p", str(source.port), "-o", f"ConnectTimeout={self._third.connect_timeout}"]
        shell += safe(self._third.timeout)
        if source.known_hosts:
            shell += ["-o", f"UserKnownHostsFile={source.known_hosts}"]
        rate = pace.rate() if pace else None
        return [
            self._third.remote_program or "rsync",
            *(option for option in self._what() if option != "--files-from=-"),
            *([f"--bwlimit={max(1, int(rate / 1024))}"] if rate is not None else []),
            *options,
            "--outbuf=L",
            f"--timeout={self._third.timeout}",
            f"--rsh={shlex.join(shell)}",
            f"{source.host}:{self._there(root)}/",
            f"{self._staging.root.rstrip('/')}/{folder}/",
        ]

    def _there(self, root: Path) -> PurePosixPath:
        """`root` as the data's host knows it. Raises ConfigError."""
        source = self._third.source
        try:
            below = root.resolve().relative_to(source.seen_at.resolve())
        except ValueError as exc:
            raise ConfigError(f"{root} is not below {source.seen_at}, which is what {source.host} serves") from exc
        return PurePosixPath(source.path, below.as_posix())

    def _lending(self, command: str) -> list[str]:
        """The arguments of ssh-agent: an ssh to the staging host, with the key lent for the one hop from there."""
        config, source = self._third, self._third.source
        staging = _known_as(self._staging.host, config.port)
        data = _known_as(source.host, source.port)
        ssh = [word for word in ssh_words(config) if word != "-a"]
        return [
            *("sh", "-c", _LENDING, "sh", str(_AGENT_LIFE_S), str(config.known_hosts), staging),
            *(f"{staging.rpartition('@')[2]}>{data}", str(config.identity)),
            *(*ssh, "-A", self._staging.host, command),
        ]


class _Names:
    """The paths of a list, read anew each time: it may be long."""

    def __init__(self, entries: Iterable[Entry]) -> None:
        self._entries = entries

    def __iter__(self) -> Iterator[str]:
        return (entry.path for entry in self._entries)


class _Moves:
    """What an rsync said it moves: how many files and bytes, and a digest of their names in any order."""

    def __init__(self) -> None:
        self.files = self.bytes = self._names = 0

    def line(self, line: bytes) -> None:
        change, _, rest = line.partition(b" ")
        if change[:2] in (b"<f", b">f"):
            size, _, name = rest.partition(b" ")
            self.files += 1
            self.bytes += int(size)
            self._names ^= int.from_bytes(sha256(unescaped(name).encode("utf-8", "surrogateescape")).digest())

    def as_json(self) -> str:
        return json.dumps({"files": self.files, "bytes": self.bytes, "names": f"{self._names:064x}"})

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Moves) and self.as_json() == other.as_json()

    __hash__ = None  # type: ignore[assignment]  # it counts on

    def __str__(self) -> str:
        return f"{self.files} files, {self.bytes:,} bytes ({self._names:064x}"[:-56] + ")"


def _lost(ended: Ended, doing: str) -> LadingError | None:
    """The files that the data's host could not give, by name; what came is kept, and the next attempt completes it."""
    vanished: set[str] = set()
    refused: set[str] = set()
    for match in _LOST.finditer(ended.stderr):
        (vanished if match[1] else refused).add(match[1] or f"{match[2]} ({match[3]})")
    if not vanished and not refused:
        return None
    named = [f"vanished: {name}" for name in sorted(vanished)] + [f"cannot be read: {name}" for name in sorted(refused)]
    more = f" and {len(named) - _NAMED} more" if len(named) > _NAMED else ""
    kind = SourceChanged if vanished else AccessDenied
    return kind(
        f"{doing}: {'; '.join(named[:_NAMED])}{more} (rsync exit code {ended.code})",
        safe="what has arrived is kept, nothing is sealed",
        next_command="" if vanished else "lading retry",
    )


def _known_as(host: str, port: int) -> str:
    """user@host as known_hosts, and so ssh-add's constraints, write it."""
    user, _, name = host.rpartition("@")
    name = f"[{name}]:{port}" if port not in (0, 22) else name
    return f"{user}@{name}" if user else name
