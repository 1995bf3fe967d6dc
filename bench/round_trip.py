"""A line to this machine's own server on which every answer takes a while, as on a network: bytes wait, none are lost or slowed.

The copying and the waking take a while too, so `measured` says what a round trip really takes.
"""

import multiprocessing
import socket
import statistics
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from queue import SimpleQueue

_BLOCK = 1 << 18


@contextmanager
def line_to(port: int, seconds: float) -> Iterator[int]:
    """The port at which `port` of 127.0.0.1 is to be had with a round trip of `seconds` more; `port` itself for none."""
    if not seconds:
        yield port
        return
    with socket.create_server(("127.0.0.1", 0)) as listener:
        # A process: its waiting and copying is nobody's interpreter lock.
        process = multiprocessing.get_context("fork").Process(
            target=_serve, args=(listener, port, seconds / 2), daemon=True
        )
        process.start()
        try:
            yield listener.getsockname()[1]
        finally:
            process.terminate()
            process.join()


def measured(seconds: float) -> float:
    """The seconds that a small question and its answer take on such a line; the median of 200."""
    with socket.create_server(("127.0.0.1", 0)) as echo:
        threading.Thread(target=_echo, args=(echo,), daemon=True).start()
        with line_to(echo.getsockname()[1], seconds) as port, socket.create_connection(("127.0.0.1", port)) as asking:
            asking.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            return statistics.median(_asked(asking) for _ in range(200))


def _asked(asking: socket.socket) -> float:
    begun = time.perf_counter()
    asking.sendall(b"?")
    asking.recv(1)
    return time.perf_counter() - begun


def _echo(listener: socket.socket) -> None:
    with suppress(OSError), listener.accept()[0] as connection:
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        while data := connection.recv(16):
            connection.sendall(data)


def _serve(listener: socket.socket, port: int, delay: float) -> None:
    while True:
        near, _ = listener.accept()
        far = socket.create_connection(("127.0.0.1", port))
        for source, target in ((near, far), (far, near)):
            source.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            waiting: SimpleQueue[tuple[float, bytes]] = SimpleQueue()
            threading.Thread(target=_take, args=(source, waiting, delay), daemon=True).start()
            threading.Thread(target=_give, args=(target, waiting), daemon=True).start()


def _take(source: socket.socket, waiting: "SimpleQueue[tuple[float, bytes]]", delay: float) -> None:
    block = b"?"
    while block:
        try:
            block = source.recv(_BLOCK)
        except OSError:
            block = b""
        waiting.put((time.monotonic() + delay, block))


def _give(target: socket.socket, waiting: "SimpleQueue[tuple[float, bytes]]") -> None:
    with suppress(OSError):
        while True:
            due, block = waiting.get()
            if (left := due - time.monotonic()) > 0:
                time.sleep(left)
            if not block:
                target.shutdown(socket.SHUT_WR)
                return
            target.sendall(block)
