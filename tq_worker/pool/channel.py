"""The parent's end of the socket to a handler process."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import Callable

READ_BYTES = 256 * 1024


class Channel:
    """Sends and receives bytes without blocking the loop.

    It does not detect the process's death: bytes that can no longer be sent are dropped, and
    `drain` receives the last messages. (End of file would not do: a process that the handler
    started may hold the other end open.)
    """

    def __init__(self, connection: socket.socket, received: Callable[[bytes], None]) -> None:
        connection.setblocking(False)
        self._connection = connection
        self._received = received
        self._loop = asyncio.get_running_loop()
        self._unsent = bytearray()
        self._loop.add_reader(connection, self._read)

    def send(self, data: bytes) -> None:
        """Send what the socket takes now, and the rest later."""
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
        """Close the socket."""
        self._loop.remove_reader(self._connection)
        self._loop.remove_writer(self._connection)
        self._connection.close()

    def _read(self) -> bool:
        data = b""
        # Reset or empty: in both cases there is nothing more to read now.
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
