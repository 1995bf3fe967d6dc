"""Stands in for ssh when rsync talks to a daemon inside TLS: `rsync -e "python -m transport.tls_pipe --connect=HOST:PORT"`.

Standard input and output are rsync's side, one verified TLS connection is the other. rsync appends what it would tell a
remote shell (`-l user host rsync --server --daemon .`); the daemon is behind the port already, so that is not needed.
"""

import argparse
import os
import select
import socket
import ssl
import sys
import threading
from contextlib import suppress

_BLOCK = 1 << 18
TLS_REFUSED = 124
"""Our exit code when the certificate is refused; rsync passes it on as its own."""
UNREACHABLE = 10


def main(argv: list[str]) -> int:
    """Pipe until either side ends. Returns the exit code; what went wrong is one line on standard error."""
    parser = argparse.ArgumentParser(prog="transport.tls_pipe", allow_abbrev=False)
    parser.add_argument("--connect", required=True)
    parser.add_argument("--ca-file")
    parser.add_argument("--server-name")
    parser.add_argument("--timeout", type=float, default=10.0)
    options, _ = parser.parse_known_args(argv)
    host, _, port = options.connect.rpartition(":")
    try:
        context = ssl.create_default_context(cafile=options.ca_file)
        plain = socket.create_connection((host, int(port)), timeout=options.timeout)
        # rsync speaks in turns: without this a short message waits 40 ms for the acknowledgement of the one before it.
        plain.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        line = context.wrap_socket(plain, server_hostname=options.server_name or host)
    except ssl.SSLCertVerificationError as exc:
        sys.stderr.write(f"certificate refused: {exc.verify_message}\n")
        return TLS_REFUSED
    except ssl.SSLError as exc:
        sys.stderr.write(f"TLS failed: {exc.reason or exc}\n")
        return TLS_REFUSED
    except OSError as exc:
        sys.stderr.write(f"cannot connect to {options.connect}: {exc}\n")
        return UNREACHABLE
    try:
        _pump(line)
    except OSError as exc:
        sys.stderr.write(f"connection lost: {exc}\n")
        return UNREACHABLE
    return 0


def _pump(line: ssl.SSLSocket) -> None:
    """Both ways at once, until the daemon has said all. Never blocks on one way while the other could go on."""
    line.settimeout(0)
    # Windows can only select on sockets, so what rsync says comes through one everywhere.
    inner, said = socket.socketpair()
    threading.Thread(target=_feed, args=(sys.stdin.fileno(), inner), daemon=True).start()
    waiting, open_ = b"", True
    while True:
        wanted: list[socket.socket] = [line, *([said] if open_ and not waiting else [])]
        ready = ([line], [], []) if line.pending() else select.select(wanted, [line] if waiting else [], [])
        if said in ready[0]:
            waiting = said.recv(_BLOCK)
            open_ = bool(waiting)
        if waiting:
            with suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
                waiting = waiting[line.send(waiting) :]
        with suppress(ssl.SSLWantReadError, ssl.SSLWantWriteError):
            data = line.recv(_BLOCK)
            if not data:
                return
            _write(sys.stdout.fileno(), data)


def _feed(source: int, inner: socket.socket) -> None:
    with suppress(OSError), inner:
        while data := os.read(source, _BLOCK):
            inner.sendall(data)


def _write(sink: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(sink, view) :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
