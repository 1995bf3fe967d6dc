"""Bench of the transports: each, verified end to end, against the tool that a user would pick instead.

    python bench/transports.py [NAME ...] [--only small|large] [--folder DIR] [--rounds N] [--scale F] [--tool-verified]

2,000 files of 100 KB, and one file of 1 GiB, to a real server on loopback. Ours, as the agent and the server do it: the manifest
(every file hashed), the carry, and the inbox reading every byte back. Theirs: the tool alone, which proves nothing; or, with
`--tool-verified`, what its user has to type to know as much: `sha256sum` of the source, the tool, and `sha256sum -c` where the
files arrived. Both end in a `sync`; the rounds alternate, the medians are compared. Aims: at most 1.2 times for the large file,
1.0 for the many small ones. Names: rsync-ssh, sftp, s3, webdav, smb, ftps. The processor seconds of everybody who takes part,
the server too, are told beside: a busy machine changes them little.
"""

import argparse
import contextlib
import importlib
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from local_delivery import compare, give_space_back
from processors import adopt_orphans, metered

from lading.delivery import Cargo, Delivery, Labels, Slot, new_delivery_id
from lading.inbox import Inbox, InboxLimits
from lading.manifest import make
from lading.ports import NoProgress, Transport
from lading.seal import seal
from lading.testing.carrying import FileJournal
from lading.testing.certificates import certificates
from lading.testing.dav_servers import apache_dav
from lading.testing.ftp_servers import proftpd
from lading.testing.s3_servers import rclone, rclone_s3
from lading.testing.servers import sshd
from lading.testing.smb_server import smbd


@dataclass(frozen=True)
class Leg:
    """One protocol: our transport and its settings for an inbox, and the other tool's command for a folder.

    Every inbox and every target folder lies below `served`, which is what the server shows.
    """

    factory: str
    reach: Callable[[Path], Mapping[str, object]]
    tool: str
    command: Callable[[Path, Path], list[str]]
    environment: Mapping[str, str]
    batch: Callable[[Path, Path], str] | None = None


_NO_BASHRC = "SetEnv SHLVL=2"
"""What the account of whoever runs the bench has in its ~/.bashrc is no part of a transport: bash then leaves it alone."""


@contextlib.contextmanager
def rsync_ssh(served: Path, folder: Path) -> Iterator[Leg]:
    with sshd(folder / "sshd", extra=_NO_BASHRC) as server:
        shell = f"ssh -p {server.port} -i {server.identity} -o UserKnownHostsFile={server.known_hosts}"
        yield Leg(
            "transport.rsync:RsyncTransport",
            lambda inbox: {
                "target": f"{server.user}@127.0.0.1:{inbox}",
                "port": server.port,
                "identity": str(server.identity),
                "known_hosts": str(server.known_hosts),
            },
            "rsync -a over ssh",
            lambda source, target: ["rsync", "-a", "-e", shell, f"{source}/", f"{server.user}@127.0.0.1:{target}/"],
            {},
        )


@contextlib.contextmanager
def sftp(served: Path, folder: Path) -> Iterator[Leg]:
    with sshd(folder / "sshd", extra=_NO_BASHRC) as server:
        options = ["-P", str(server.port), "-i", str(server.identity), "-o", f"UserKnownHostsFile={server.known_hosts}"]
        yield Leg(
            "transport.sftp:SftpTransport",
            lambda inbox: {
                "target": f"{server.user}@127.0.0.1:{inbox}",
                "port": server.port,
                "identity": str(server.identity),
                "known_hosts": str(server.known_hosts),
            },
            "sftp put -r",
            lambda _source, _target: ["sftp", "-q", *options, "-b", "-", f"{server.user}@127.0.0.1"],
            {},
            lambda source, target: f"put -r {source} {target}/\n",
        )


@contextlib.contextmanager
def s3(served: Path, folder: Path) -> Iterator[Leg]:
    tls = certificates(folder / "tls")
    with rclone_s3(folder / "rclone", served.parent, tls=tls) as server:
        yield Leg(
            "transport.s3:S3Transport",
            lambda inbox: {
                "endpoint": server.endpoint,
                "bucket": served.name,
                "prefix": inbox.relative_to(served).as_posix(),
                "access_key": server.access_key,
                "secret_key": f"file:{server.secret_file}",
                "ca": str(tls.ca),
                "addressing": "path",
            },
            "rclone copy",
            lambda source, target: _rclone(source, f"there:{served.name}/{target.relative_to(served)}", tls.ca),
            {
                "RCLONE_CONFIG_THERE_TYPE": "s3",
                "RCLONE_CONFIG_THERE_PROVIDER": "Other",
                "RCLONE_CONFIG_THERE_ENDPOINT": server.endpoint,
                "RCLONE_CONFIG_THERE_ACCESS_KEY_ID": server.access_key,
                "RCLONE_CONFIG_THERE_SECRET_ACCESS_KEY": server.secret,
            },
        )


@contextlib.contextmanager
def webdav(served: Path, folder: Path) -> Iterator[Leg]:
    tls = certificates(folder / "tls")
    with apache_dav(folder / "apache", served, tls) as server:
        yield Leg(
            "transport.webdav:WebdavTransport",
            lambda inbox: {
                "url": f"{server.url}/{inbox.relative_to(served).as_posix()}",
                "user": server.user,
                "password": f"file:{server.password_file}",
                "ca": str(tls.ca),
            },
            "rclone copy",
            lambda source, target: _rclone(source, f"there:{target.relative_to(served)}", tls.ca),
            {
                "RCLONE_CONFIG_THERE_TYPE": "webdav",
                "RCLONE_CONFIG_THERE_VENDOR": "other",
                "RCLONE_CONFIG_THERE_URL": server.url,
                "RCLONE_CONFIG_THERE_USER": server.user,
                "RCLONE_CONFIG_THERE_PASS": _obscured(server.password),
            },
        )


@contextlib.contextmanager
def smb(served: Path, folder: Path) -> Iterator[Leg]:
    with smbd(folder / "samba", served) as server:
        yield Leg(
            "transport.smb:SmbTransport",
            lambda inbox: {
                "share": f"//127.0.0.1/inbox/{inbox.relative_to(served).as_posix()}",
                "port": server.port,
                "user": server.user,
                "password": f"file:{server.password_file}",
            },
            "rclone copy",
            lambda source, target: _rclone(source, f"there:inbox/{target.relative_to(served)}"),
            {
                "RCLONE_CONFIG_THERE_TYPE": "smb",
                "RCLONE_CONFIG_THERE_HOST": "127.0.0.1",
                "RCLONE_CONFIG_THERE_PORT": str(server.port),
                "RCLONE_CONFIG_THERE_USER": server.user,
                "RCLONE_CONFIG_THERE_PASS": _obscured(server.password),
            },
        )


@contextlib.contextmanager
def ftps(served: Path, folder: Path) -> Iterator[Leg]:
    tls = certificates(folder / "tls")
    with proftpd(folder / "proftpd", served, tls) as server:
        yield Leg(
            "transport.ftps:FtpsTransport",
            lambda inbox: {
                "url": f"ftps://127.0.0.1:{server.port}/{inbox.relative_to(served).as_posix()}",
                "user": server.user,
                "password": f"file:{server.password_file}",
                "ca": str(tls.ca),
            },
            "lftp mirror -R -P4",
            lambda _source, _target: ["lftp", "--norc"],
            {"LFTP_PASSWORD": server.password},
            lambda source, target: (
                f"set ssl:ca-file {tls.ca}\nset ftp:ssl-force true\nset ftp:ssl-protect-data true\nset cmd:fail-exit yes\n"
                f"open --env-password -u {server.user} ftp://127.0.0.1:{server.port}\n"
                f"mirror -R -P4 --no-perms {source} /{target.relative_to(served)}\n"
            ),
        )


LEGS = {"rsync-ssh": rsync_ssh, "sftp": sftp, "s3": s3, "webdav": webdav, "smb": smb, "ftps": ftps}


def _rclone(source: Path, target: str, ca: Path | None = None) -> list[str]:
    trusting = ["--ca-cert", str(ca)] if ca else []
    return [str(rclone()), "copy", "--config", "", *trusting, "--inplace", "-q", str(source), target]


def _obscured(password: str) -> str:
    """As rclone wants it."""
    argv = [str(rclone()), "obscure", "-"]
    return subprocess.run(argv, input=password, capture_output=True, text=True, check=True).stdout.strip()


Prepare = Callable[[Path, Path], Callable[[], None]]


def counted(prepare: Prepare, seconds: list[float]) -> Prepare:
    """The same, which also notes the processor seconds of every round in `seconds`."""
    return lambda source, work: metered(prepare(source, work), seconds.append)


def verified(prepare: Prepare) -> Prepare:
    """The tool, and what its user types to know that all of it arrived."""

    def prepare_both(source: Path, work: Path) -> Callable[[], None]:
        run = prepare(source, work)
        names = sorted(path.name for path in source.iterdir())
        target = target_of(work)

        def run_all() -> None:
            sums = work / "sums"
            with sums.open("wb") as out:
                subprocess.run(["sha256sum", "--", *names], cwd=source, stdout=out, check=True)
            run()
            arrived = next(target.rglob(names[0])).parent
            subprocess.run(["sha256sum", "--quiet", "-c", sums], cwd=arrived, check=True)

        return run_all

    return prepare_both


def target_of(work: Path) -> Path:
    """Where the tool's files go: as deep as our slot, for some servers look at every folder on the way, for every request."""
    return work / "target" / "1" / "2" / "3" / "data"


def with_tool(leg: Leg) -> Prepare:
    def prepare(source: Path, work: Path) -> Callable[[], None]:
        target = target_of(work)
        target.mkdir(parents=True)
        text = leg.batch(source, target) if leg.batch else None

        def run() -> None:
            argv = leg.command(source, target)
            subprocess.run(
                argv,
                check=True,
                input=text,
                text=True,
                stdout=subprocess.DEVNULL,
                env={**os.environ, **leg.environment},
            )
            assert sum(1 for path in target.rglob("*") if path.is_file()) == sum(1 for _ in source.iterdir())

        return run

    return prepare


def with_lading(leg: Leg) -> Prepare:
    def prepare(source: Path, work: Path) -> Callable[[], None]:
        inbox = Inbox.create(work / "inbox", limits=InboxLimits(keep_free_bytes=0))
        (work / "papers").mkdir()
        delivery = Delivery(new_delivery_id(), "bench", Labels("P", "s", "e"))
        cargo = Cargo(delivery, source, work / "papers")
        module, _, name = leg.factory.partition(":")
        transport: Transport = getattr(importlib.import_module(module), name).from_settings(
            leg.reach(inbox.root), state=work
        )

        def run() -> None:
            if not transport.traits.lists_on_the_way:
                seal(cargo.papers, delivery, make(source, cargo.papers))
            transport.carry(cargo, Slot(delivery.id), FileJournal(work / "journal"), NoProgress())
            inbox.accept(delivery.id)

        return run

    return prepare


def many_small(folder: Path, scale: float) -> None:
    folder.mkdir()
    for number in range(int(2000 * scale)):
        (folder / f"{number:05}.tif").write_bytes(os.urandom(100_000))


def one_large(folder: Path, scale: float) -> None:
    folder.mkdir()
    with (folder / "large.czi").open("wb") as out:
        for _ in range(int(1024 * scale)):
            out.write(os.urandom(1 << 20))


CASES = {
    "small": ("2,000 files of 100 KB", many_small, 1.0),
    "large": ("1 file of 1 GiB", one_large, 1.2),
}


def run_leg(name: str, case: str, source: Path, served: Path, *, rounds: int, tool_verified: bool) -> bool:
    """One row: whether the aim is reached."""
    folder = served.parent / f"{name}-{case}"
    folder.mkdir()
    title, _, aim = CASES[case]
    our_seconds: list[float] = []
    their_seconds: list[float] = []
    with LEGS[name](served, folder) as leg:
        theirs_alone = with_tool(leg)
        tool = f"{leg.tool} and sha256sum" if tool_verified else leg.tool
        reached = compare(
            f"{name}, {title}",
            source,
            served,
            rounds,
            aim,
            ours=counted(with_lading(leg), our_seconds),
            theirs=counted(verified(theirs_alone) if tool_verified else theirs_alone, their_seconds),
            other=tool,
        )
    ours, theirs = statistics.median(our_seconds), statistics.median(their_seconds)
    print(f"  processor seconds of all: lading {ours:.2f}, {tool} {theirs:.2f}: {ours / theirs:.2f} x", flush=True)
    return reached


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"of {', '.join(LEGS)}")
    parser.add_argument("--only", choices=list(CASES), help="the many small files, or the large one")
    parser.add_argument("--folder", type=Path, help="where to work (default: the system's folder for temporary files)")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--scale", type=float, default=1.0, help="a fraction of the work, for a quick look")
    parser.add_argument("--tool-verified", action="store_true", help="the tool's user also runs sha256sum at both ends")
    options = parser.parse_args()
    adopt_orphans()
    reached = []
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="lading-bench-") as name:
        folder = Path(name)
        folder.chmod(0o755)
        served = folder / "served"
        served.mkdir()
        for case in [options.only] if options.only else CASES:
            source = folder / case
            CASES[case][1](source, options.scale)
            for leg_name in options.names or LEGS:
                reached.append(
                    run_leg(leg_name, case, source, served, rounds=options.rounds, tool_verified=options.tool_verified)
                )
            give_space_back(source)
    return 0 if all(reached) else 1


if __name__ == "__main__":
    sys.exit(main())
