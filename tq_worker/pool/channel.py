"""The parent's end of the socket to a handler process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

READ_BYTES = 256 * 1024


class Channel:
    """Sends and receives bytes without ever blocking the loop.

    The process's death is somebody else's news: what cannot be sent any more is dropped here, and
    `drain` gets what it said last. (End of file would not do: a process that the handler started
    may hold the other end open.)
    """

    def __init__(self, connection: socket.socket, received: Callable[[bytes], None]) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._received = received
        self._loop = asyncio.get_running_loop()
        self._unsent = bytearray()
        self._loop.add_reader(connection, self._read)

    def send(self, data: bytes) -> None:
        """Send now what the socket takes and the rest when it can."""
        if self._unsent:
            self._unsent += data
            return
        sent = self._send_some(data)
        if sent < len(data):
            self._unsent += memoryview(data)[sent:]
            self._loop.add_writer(self._connection, self._write)

    def drain(self) -> None:
        """Receive everything that has arrived."""
        while self._read():
            pass

    def close(self) -> None:
        """Let go of the socket."""
        self._loop.remove_reader(self._connection)
        self._loop.remove_writer(self._connection)
        self._connection.close()

    def _read(self) -> bool:
        data = b""
        # Reset or nothing there: in both cases nothing more is to be had now.
        with contextlib.suppress(BlockingIOError, ConnectionError):
            data = self._connection.recv(READ_BYTES)
            if not data:
                self._loop.remove_reader(self._connection)
        if data:
            self._received(data)
        return bool(data)

    def _write(self) -> None:
        del self._unsent[: self._send_some(self._unsent)]
        if not self._unsent:
            self._loop.remove_writer(self._connection)

    def _send_some(self, data: bytes | bytearray) -> int:
        try:
            return self._connection.send(data)
        except BlockingIOError:
            return 0
        except ConnectionError:
            return len(data)
