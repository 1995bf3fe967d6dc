"""Carries a delivery over FTP inside TLS: the half of it that speaks the protocol. `transport.placing` does the rest.

Control and data connections are encrypted, always, and certificates are verified. A file grows under a temporary name and gets its
own when it is whole. FTP says names as lines of text: those that hold a line break or a control character are refused before
anything is sent.
"""

import ftplib
import re
import socket
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO, Self, cast

import attrs

from lading.config import structure
from lading.errors import AccessDenied, ConfigError, Corrupted, LadingError, OutOfSpace, Unreachable
from lading.manifest import NameLimits
from lading.ports import Settings
from transport.bodies import SmallBody
from transport.foreign import shown
from transport.ftps_connection import (
    Login,
    Session,
    is_missing,
    last_word,
    meaning,
    patience,
    refuse_unsayable,
    together,
    translating,
)
from transport.ftps_listing import YEAR_10000, lines_of, machine_answer, machine_entry, seconds_of, stamp_of, unix_entry
from transport.logins import password
from transport.placing import PlacingTransport
from transport.remote import BLOCK, Body, RemoteFile, RemoteFiles, RemoteTraits, part_path

_URL = re.compile(
    r"ftps?://(?P<host>\[[0-9A-Fa-f:.%]+\]|[A-Za-z0-9_][A-Za-z0-9_.-]*)(?::(?P<port>\d{1,5}))?(?P<path>/[^\x00-\x1f\x7f]*)?"
)
_PORT = 21
_KEPT_IN_MEMORY = 4 << 20  # of a listing
_SMALL = BLOCK  # a part of so little is written anew: asking costs as much
_PROBE = 4096
_HASHES = {"sha256": "SHA-256", "sha1": "SHA-1", "md5": "MD5"}
_EXTENDED = {"sha256": "XSHA256", "sha1": "XSHA1", "md5": "XMD5"}
NAMES = NameLimits(utf8_only=True, refused="".join(map(chr, (*range(1, 32), 127))))
"""What FTP can say: a line break in a name would end the command, and begin another."""


@attrs.frozen(kw_only=True)
class FtpsConfig:
    """`url`: the inbox, as `ftps://server/folder` (port 21 unless it names one; TLS begins with AUTH TLS).

    Logs in as `user` with `password`, given as "env:NAME", "file:PATH" (mode 0600) or "keyring:SERVICE/USER". `ca`: the
    certificates (PEM) of the authority that signed the server's; the system's when it is left out.
    `timeout`: seconds of silence before a connection counts as lost. `connect_timeout`: for each address of the server, IPv6
    first, and for the log-in. `streams`: connections at a time. `keep_times`: false for a server that keeps no times (vsftpd): then
    what an earlier attempt carried is known by its size, and need not be read back.
    """

    url: str
    user: str
    password: str
    ca: Path | None = None
    timeout: float = 60.0
    connect_timeout: float = 10.0
    streams: int = 4
    keep_times: bool = True


class FtpsPlace:
    """A folder on an FTP server; see the role RemotePlace."""

    def __init__(self, config: FtpsConfig) -> None:
        match = _URL.fullmatch(config.url)
        if not match or ".." in (match["path"] or "").split("/") or int(match["port"] or 1) > 65_535:
            raise ConfigError(
                "transport.url must look like ftps://server/folder, without user and password",
                next_command="lading doctor",
            )
        if config.streams < 1:
            raise ConfigError(f"streams = {config.streams} leaves no connection to carry over")
        self._config = config
        self._host, self._port = match["host"].strip("[]"), int(match["port"] or _PORT)
        self._root = (match["path"] or "").rstrip("/")

    @classmethod
    def from_settings(cls, settings: Settings) -> Self:
        """Made from the route's transport table. Raises ConfigError."""
        return cls(structure(settings, FtpsConfig, where="transport"))

    @property
    def name(self) -> str:
        """The address."""
        return self._config.url

    @property
    def traits(self) -> RemoteTraits:
        """Parts are continued. Every call has a time-out of its own, once per block."""
        return RemoteTraits(names=NAMES, keeps_mtime=self._config.keep_times, stall_s=None, two_handed=True)

    @property
    def streams(self) -> int:
        """As configured."""
        return self._config.streams

    def connect(self) -> "FtpsFiles":
        """See the role."""
        config = self._config
        login = Login(
            name=config.url,
            host=self._host,
            port=self._port,
            user=config.user,
            password=password(config.password, config.url),
            ca=config.ca.expanduser() if config.ca else None,
            connect_s=config.connect_timeout,
            silence_s=config.timeout,
        )
        session = Session(login)
        try:
            with translating(f"cannot log in to {config.url}", login):
                session.begin(login)
        except BaseException:
            session.close()
            raise
        return FtpsFiles(session, login, self._root)


class FtpsTransport(PlacingTransport):
    """FTPS: FTP inside TLS, as DESY offers it."""

    place_type = FtpsPlace


class FtpsFiles:
    """One FTP session; see the role RemoteFiles. While the blocks of `read` come in, nothing else is asked of it."""

    def __init__(self, session: Session, login: Login, root: str) -> None:
        self._ftp, self._login, self._root = session, login, root
        self._hash = ""

    def look(self, path: str) -> RemoteFile | None:
        """See the role. A server without MLST cannot say that something is a link; its listings do."""
        with translating(f"cannot look at {self._shown(path)}", self._login):
            if "MLST" not in self._ftp.features:
                return self._looked_otherwise(path)
            try:
                lines = self._ftp.sendcmd(f"MLST {self._absolute(path)}").splitlines()
            except ftplib.error_perm as exc:
                if is_missing(exc):
                    return None
                raise
            return machine_answer(lines[1] if len(lines) > 1 else "", path)

    def listed(self, folder: str) -> Iterator[RemoteFile]:
        """See the role. The listing is taken in whole, as text: other questions may be asked while it is read."""
        prefix = f"{folder}/" if folder else ""
        machine = "MLST" in self._ftp.features
        with tempfile.SpooledTemporaryFile(_KEPT_IN_MEMORY) as text:
            with translating(f"cannot list {self._shown(folder)}", self._login):
                if not self._enters(folder):
                    return
                # In the folder, without naming it: what its name holds is nobody's pattern.
                self._receive_into(cast("BinaryIO", text), "MLSD" if machine else "LIST -a")
            text.seek(0)
            for line in lines_of(cast("BinaryIO", text)):
                found = machine_entry(line, prefix) if machine else unix_entry(line, prefix)
                if found is not None:
                    yield found

    def make_folders(self, path: str) -> None:
        """See the role. What stands in the way and is no folder is removed."""
        if path:
            with translating(f"cannot make the folder {self._shown(path)}", self._login):
                self._make(path)

    def place(self, path: str, body: Body) -> None:
        """See the role."""
        part = part_path(path, body)
        doing = f"cannot write {self._shown(path)}"
        with translating(doing, self._login):
            self._absolute(path)  # before anything is sent
            offset = self._continued(part, body) if body.size > _SMALL else 0
            try:
                heard_all = self._send(part, body, offset, doing)
            except (Unreachable, ftplib.error_temp) as exc:
                self._raise_if_full(part, str(exc))
                raise
            # Few servers insist that TLS ends properly: to the others a line that was cut on the way is a shorter file.
            # One that answers the end has heard it; it is asked about large files all the same.
            arrived = body.size if heard_all and body.size <= _SMALL else self._size(part)
            if arrived != body.size:
                self._delete(part)
                raise Corrupted(f"{doing}: {arrived or 0:,} bytes arrived of {body.size:,}")
            self._set_time(part, body.mtime)
            self._rename_over(part, path)

    def read(self, path: str, offset: int = 0) -> Iterator[bytes]:
        """See the role."""
        doing = f"cannot read {self._shown(path)}"
        with translating(doing, self._login):
            size = self._size(path)
            if size is None:
                raise meaning("550 no such file", doing)
            data = self._ftp.transfercmd(f"RETR {self._absolute(path)}", rest=offset or None)
            whole = False
            try:
                while block := data.recv(BLOCK):
                    offset += len(block)
                    yield block
                whole = True
            finally:
                data.close()
                if not whole:
                    self._hear_the_end()
            self._ftp.voidresp()
        if offset != size:
            raise Corrupted(f"{doing}: it ended after {offset:,} of {size:,} bytes")

    def digests(self, path: str, algorithms: tuple[str, ...]) -> Mapping[str, str]:
        """See the role: HASH, or XSHA256 and its kin, where the server has them."""
        with translating(f"cannot ask for the checksum of {self._shown(path)}", self._login):
            for algorithm in algorithms:
                command = self._hash_command(algorithm, path)
                if not command:
                    continue
                self._ftp.control.settimeout(patience(self._size(path) or 0, self._login.silence_s))
                try:
                    found = _hex_in(self._ftp.sendcmd(command), algorithm)
                except (ftplib.error_perm, ftplib.error_temp):
                    return {}
                finally:
                    self._ftp.control.settimeout(self._login.silence_s)
                return {algorithm: found} if found else {}
        return {}

    def rename(self, old: str, new: str) -> None:
        """See the role."""
        with translating(f"cannot rename {self._shown(old)} to {shown(new)}", self._login):
            self._ftp.rename(self._absolute(old), self._absolute(new))

    def remove(self, path: str) -> None:
        """See the role."""
        with translating(f"cannot remove {self._shown(path)}", self._login):
            try:
                self._ftp.delete(self._absolute(path))
            except ftplib.error_perm as exc:
                # Only a listing tells a folder from a link to one, and what a link leads to is not ours to remove.
                folder = path.rpartition("/")[0]
                found = next((one for one in self.listed(folder) if one.path == path), None)
                if found is None:
                    return
                if not found.folder:
                    raise meaning(str(exc), f"cannot remove {self._shown(path)}") from exc
                self._remove(found)

    def free_bytes(self) -> int | None:
        """See the role: AVBL, where the server has it."""
        if "AVBL" not in self._ftp.features:
            return None
        with translating(f"cannot ask {self._login.name} for its free space", self._login):
            try:
                said = self._ftp.sendcmd(f"AVBL {self._absolute('')}")
            except ftplib.error_perm:
                return None
        match = re.match(r"213\s+(\d+)", said)
        return int(match[1]) if match else None

    def close(self) -> None:
        """See the role."""
        self._ftp.hang_up()

    # -- writing -----------------------------------------------------------------------------------------------------

    def _continued(self, part: str, body: Body) -> int:
        """Where to go on writing: behind what is proven, by the part's name and its last block, to be there; else 0."""
        there = self._size(part)
        if not there or there > body.size:
            return 0
        start = max(0, there - BLOCK)
        stored = b"".join(self.read(part, start))
        return there if stored == b"".join(body.blocks(start, there - start)) else 0

    def _send(self, part: str, body: Body, offset: int, doing: str) -> bool:
        """Whether the server has said that it heard the end of it."""
        blocks = body.blocks(offset)
        data = self._ftp.transfercmd(f"STOR {self._absolute(part)}", rest=offset or None)
        try:
            for block in self._of_source(blocks, data):
                with together(data):
                    data.sendall(block)
            heard_all = _ended(data)
        except OSError as exc:
            data.close()
            said = last_word(self._ftp)
            if said:
                raise meaning(said, doing) from exc
            raise
        data.close()
        self._ftp.voidresp()
        return heard_all

    def _raise_if_full(self, part: str, said: str) -> None:
        """proftpd calls the last write, of which half fits, an input/output error: a second one is told what is the matter."""
        if "451" not in said:
            return
        probe = f"{part}-room"
        try:
            with translating(said, self._login):
                self._send(probe, SmallBody(bytes(_PROBE)), 0, said)
        except OutOfSpace:
            raise
        except LadingError:
            return
        finally:
            with suppress(OSError, EOFError, ftplib.Error):
                self._delete(probe)

    def _of_source(self, blocks: Iterator[bytes], data: socket.socket) -> Iterator[bytes]:
        """`blocks`; when the source fails, the server keeps what it has, and the session goes on."""
        try:
            yield from blocks
        except LadingError:
            data.close()
            self._hear_the_end()
            raise

    def _hear_the_end(self) -> None:
        """What the server says of a transfer that we have ended early, whatever it is."""
        try:
            self._ftp.getmultiline()
        except (OSError, EOFError, ValueError, ftplib.Error):
            self._ftp.hang_up()

    def _set_time(self, path: str, mtime: float) -> None:
        if "MFMT" not in self._ftp.features or not 0 <= mtime < YEAR_10000:
            return
        # Some announce it, and allow it to nobody. The time is a convenience; the manifest has the true one.
        with suppress(ftplib.error_perm):
            self._ftp.voidcmd(f"MFMT {stamp_of(mtime)} {self._absolute(path)}")

    def _rename_over(self, part: str, path: str) -> None:
        try:
            self._ftp.rename(self._absolute(part), self._absolute(path))
        except ftplib.error_perm:
            # Many servers replace a file; others refuse to, and all of them refuse when a folder is in the way.
            if self.look(path) is None:
                raise
            self.remove(path)
            self._ftp.rename(self._absolute(part), self._absolute(path))

    # -- names -------------------------------------------------------------------------------------------------------

    def _make(self, path: str) -> None:
        try:
            self._ftp.voidcmd(f"MKD {self._absolute(path)}")
        except ftplib.error_perm:
            found = self.look(path)
            if found is not None and found.folder:
                return
            if found is not None:
                self.remove(path)
            parent = path.rpartition("/")[0]
            if parent:
                self._make(parent)
            self._ftp.voidcmd(f"MKD {self._absolute(path)}")

    def _remove(self, found: RemoteFile) -> None:
        if found.folder:
            for inner in list(self.listed(found.path)):
                self._remove(inner)
            with translating(f"cannot remove {self._shown(found.path)}", self._login):
                self._ftp.voidcmd("CWD /")  # some refuse to remove the folder that one is in
                self._remove_folder(found.path)
            return
        with translating(f"cannot remove {self._shown(found.path)}", self._login):
            self._delete(found.path)

    def _remove_folder(self, path: str) -> None:
        try:
            self._ftp.rmd(self._absolute(path))
        except ftplib.error_perm as exc:
            if not self._enters(path):
                return
            raise AccessDenied(
                f"cannot remove {self._shown(path)}: the server said {shown(str(exc))[:200]}; it may hold names with line breaks, "
                "which FTP cannot say",
                safe="nothing of this delivery is lost",
                next_command="remove that folder on the server itself",
            ) from exc

    def _delete(self, path: str) -> None:
        try:
            self._ftp.delete(self._absolute(path))
        except ftplib.error_perm as exc:
            if not is_missing(exc):
                raise

    # -- looking -----------------------------------------------------------------------------------------------------

    def _looked_otherwise(self, path: str) -> RemoteFile | None:
        size = self._size(path)
        if size is None:
            return RemoteFile(path, 0, None, folder=True) if self._enters(path) else None
        mtime = None
        with suppress(ftplib.error_perm):
            mtime = seconds_of(self._ftp.sendcmd(f"MDTM {self._absolute(path)}")[3:].strip())
        return RemoteFile(path, size, mtime)

    def _size(self, path: str) -> int | None:
        """Bytes of a file; None when there is no such file."""
        try:
            return self._ftp.size(self._absolute(path))
        except ftplib.error_perm as exc:
            if is_missing(exc):
                return None
            raise

    def _enters(self, folder: str) -> bool:
        try:
            self._ftp.voidcmd(f"CWD {self._absolute(folder)}")
        except ftplib.error_perm as exc:
            if is_missing(exc):
                return False
            raise
        return True

    def _receive_into(self, file: BinaryIO, command: str) -> None:
        try:
            data = self._ftp.transfercmd(command)
        except ftplib.error_perm as exc:
            if is_missing(exc):  # some say so of an empty folder
                return
            raise
        try:
            while block := data.recv(1 << 16):
                file.write(block)
        finally:
            data.close()
        self._ftp.voidresp()

    def _hash_command(self, algorithm: str, path: str) -> str:
        offered = self._ftp.features.get("HASH", "").upper().replace("*", "").split(";")
        wanted = _HASHES.get(algorithm, "-")
        if wanted in offered:
            if self._hash != algorithm:
                self._ftp.sendcmd(f"OPTS HASH {wanted}")
                self._hash = algorithm
            return f"HASH {self._absolute(path)}"
        # What follows a blank may be read as a range: no such names.
        extended = _EXTENDED.get(algorithm, "-")
        return f"{extended} {self._absolute(path)}" if extended in self._ftp.features and " " not in path else ""

    def _absolute(self, path: str) -> str:
        refuse_unsayable(path)
        return f"{self._root}/{path}" if path else self._root or "/"

    def _shown(self, path: str) -> str:
        return f"{shown(path) or 'the folder'} of {self._login.name}"


def _ended(data: socket.socket) -> bool:
    """Say properly that this is all: a server may take a line that breaks off for an attack. Whether the server answered."""
    unwrap = getattr(data, "unwrap", None)
    if unwrap is None:
        return False
    try:
        unwrap()
    except OSError:  # some do not answer, they have it all
        return False
    return True


def _hex_in(said: str, algorithm: str) -> str:
    """The checksum in a reply: `213 SHA-256 0-99 9f86… name`, `250 9f86…`."""
    length = {"sha256": 64, "sha1": 40, "md5": 32}[algorithm]
    match = re.search(rf"(?<![0-9A-Fa-f])[0-9A-Fa-f]{{{length}}}(?![0-9A-Fa-f])", said)
    return match[0].lower() if match else ""


def _is_remote_files(files: FtpsFiles) -> RemoteFiles:
    """For the type checker: the role is filled."""
    return files
