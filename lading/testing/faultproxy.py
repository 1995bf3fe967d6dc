"""A TCP proxy that misbehaves on request: cuts, stalls, slows down, flips a byte. Needs no root.

Uses asyncio in a thread of its own: aborting a socket while another thread sits in `recv` does not send the reset.
"""

import asyncio
import contextlib
import ctypes
import functools
import socket
import struct
import threading
from asyncio.trsock import TransportSocket
from dataclasses import dataclass
from types import TracebackType
from typing import Self

_BLOCK = 1 << 17
_SO_ATTACH_FILTER = 26


@dataclass
class Faults:
    """What goes wrong; may be changed at any time. Counts are bytes from client to server over all connections.

    cut_at: reset every connection, once, when so many bytes went by. lose_at: then the server's side of every connection is
    reset, and the client hears nothing of it (a half-open line); new connections work. flip_at: invert one bit pattern in that
    byte, once. flip_back_at: the same, counted in bytes from server to client. stall: hand nothing on.
    refuse: reset new connections. bytes_per_second: how fast, 0 is no limit.
    """

    cut_at: int | None = None
    flip_at: int | None = None
    flip_back_at: int | None = None
    lose_at: int | None = None
    stall: bool = False
    refuse: bool = False
    bytes_per_second: int = 0


class FaultProxy:
    """Listens on 127.0.0.1 (`port`) and connects to `target`, an address, or the folder and number of a PostgreSQL's socket.

    A context manager. `passed` and `returned` count the bytes from the clients and from the servers.
    """

    def __init__(self, target: tuple[str, int]) -> None:
        self.target = target
        self.faults = Faults()
        self.port = 0
        self.passed = 0
        self.returned = 0
        self.cuts = 0
        self._more: list[asyncio.Server] = []
        self._live: set[asyncio.StreamWriter] = set()
        self._lost: set[asyncio.StreamWriter] = set()
        self._never = asyncio.Event()
        self._up: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._main, daemon=True, name="fault-proxy")
        self._ready = threading.Event()

    def __enter__(self) -> Self:
        self._thread.start()
        self._ready.wait()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, exc: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._loop.call_soon_threadsafe(self._stop)
        self._thread.join(5)

    def also(self, own: tuple[str, int], target: tuple[str, int]) -> int:
        """Listen at `own` (port 0: any), too, and connect to `target`, with the same faults and counts. Returns the port."""
        made = asyncio.start_server(functools.partial(self._serve, target=target), *own, limit=_BLOCK)
        server = asyncio.run_coroutine_threadsafe(made, self._loop).result(10)
        self._more.append(server)
        port: int = server.sockets[0].getsockname()[1]
        return port

    def cut(self) -> None:
        """Reset every connection now."""
        self._loop.call_soon_threadsafe(self._cut_all)

    def vanish(self) -> None:
        """From now on nothing comes back, not even an acknowledgement: a host whose power is off, or a line that is cut. Linux."""
        asyncio.run_coroutine_threadsafe(self._vanish_all(), self._loop).result(10)

    def _main(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._serve, "127.0.0.1", 0, limit=_BLOCK))
        self.port = self._server.sockets[0].getsockname()[1]
        self._ready.set()
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(asyncio.sleep(0))
        self._loop.close()

    def _stop(self) -> None:
        for server in (self._server, *self._more):
            server.close()
        self._cut_all()
        self._loop.call_later(0.05, self._loop.stop)

    def _cut_all(self) -> None:
        self.cuts += 1
        for writer in self._live:
            _reset(writer)
        self._live.clear()

    async def _serve(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, target: tuple[str, int] | None = None
    ) -> None:
        if self.faults.refuse:
            _reset(writer)
            return
        try:
            up_reader, up_writer = await _connected(target or self.target)
        except OSError:
            _reset(writer)
            return
        self._live |= {writer, up_writer}
        self._up.add(up_writer)
        await asyncio.gather(
            self._pump(reader, up_writer, is_up=True),
            self._pump(up_reader, writer, is_up=False),
            return_exceptions=True,
        )
        for one in (writer, up_writer):
            self._live.discard(one)
            self._up.discard(one)
            one.close()

    async def _vanish_all(self) -> None:
        listening = [sock for server in (self._server, *self._more) for sock in server.sockets]
        accepted = [writer.get_extra_info("socket") for writer in self._live - self._up]
        for sock in (*listening, *accepted):
            _deafen(sock)

    def _lose_all(self) -> None:
        """Every line to a server is reset; whoever pumps into or out of it stands still until the proxy ends."""
        self._lost |= self._live
        for writer in self._live:
            if writer in self._up:
                _reset(writer)

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, is_up: bool) -> None:
        while True:
            data = await _next(reader)
            await self._held_up(data, writer, is_up=is_up)
            if not data:
                with contextlib.suppress(OSError, RuntimeError):
                    writer.write_eof()
                return
            data = self._tampered(data) if is_up else self._tampered_back(data)
            if is_up and self.faults.cut_at is not None and self.passed >= self.faults.cut_at:
                self.faults.cut_at = None
                self._cut_all()
                return
            writer.write(data)
            try:
                await writer.drain()
            except OSError:
                return

    async def _held_up(self, data: bytes, writer: asyncio.StreamWriter, *, is_up: bool) -> None:
        if is_up and self.faults.lose_at is not None and self.passed >= self.faults.lose_at:
            self.faults.lose_at = None
            self._lose_all()
        if writer in self._lost:
            await self._never.wait()
        while data and self.faults.stall:
            await asyncio.sleep(0.02)
        if self.faults.bytes_per_second:
            await asyncio.sleep(len(data) / self.faults.bytes_per_second)

    def _tampered(self, data: bytes) -> bytes:
        at = self.faults.flip_at
        if at is not None and self.passed <= at < self.passed + len(data):
            self.faults.flip_at = None
            data = _flipped(data, at - self.passed)
        self.passed += len(data)
        return data

    def _tampered_back(self, data: bytes) -> bytes:
        at = self.faults.flip_back_at
        if at is not None and self.returned <= at < self.returned + len(data):
            self.faults.flip_back_at = None
            data = _flipped(data, at - self.returned)
        self.returned += len(data)
        return data


async def _connected(target: tuple[str, int]) -> tuple[asyncio.StreamReader, asyncio.StreamWriter]:
    host, port = target
    if host.startswith("/"):
        return await asyncio.open_unix_connection(f"{host}/.s.PGSQL.{port}", limit=_BLOCK)
    return await asyncio.open_connection(host, port, limit=_BLOCK)


def _deafen(sock: socket.socket | TransportSocket) -> None:
    """The kernel drops whatever comes in for `sock` before TCP sees it, by a filter of one instruction ("keep 0 bytes")."""
    instruction = ctypes.create_string_buffer(struct.pack("HBBI", 0x06, 0, 0, 0))
    program = struct.pack("HP", 1, ctypes.addressof(instruction))
    sock.setsockopt(socket.SOL_SOCKET, _SO_ATTACH_FILTER, program)


def _flipped(data: bytes, index: int) -> bytes:
    return data[:index] + bytes([data[index] ^ 0xFF]) + data[index + 1 :]


async def _next(reader: asyncio.StreamReader) -> bytes:
    try:
        return await reader.read(_BLOCK)
    except OSError:
        return b""


def _reset(writer: asyncio.StreamWriter) -> None:
    sock = writer.get_extra_info("socket")
    if sock is not None:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()
