"""Prometheus metrics over HTTP, served on the event loop.

Each connection gets one answer and is closed. Many or slow clients cost a bounded number of
descriptors and buffers, and no thread each.
"""

from __future__ import annotations

import asyncio
import gzip
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Final

from prometheus_client import CollectorRegistry, disable_created_metrics
from prometheus_client.exposition import choose_encoder

from tq_process.accepting import Listener, Reason

CONNECTIONS_MAX: Final = 64
PER_ADDRESS_MAX: Final = 16
HEAD_BYTES_MAX: Final = 8_192
"""The size limit of a request line and its headers."""
READ_S: Final = 5.0
"""How long a request may take to arrive."""
ANSWER_S: Final = 30.0
"""How long making and sending its answer may take."""
PATH: Final = "/metrics"
APART_S: Final = 0.2
"""The least time between the starts of two encodings of one form: more frequent requests wait for
the next."""

_PIECE_BYTES: Final = 65_536
_METHODS: Final = ("GET", "HEAD")
_LINE_PARTS: Final = 3
_TEXT: Final = ("Content-Type", "text/plain; charset=utf-8")


Encode = Callable[[CollectorRegistry], bytes]


@dataclass(frozen=True, slots=True)
class _Form:
    """The format in which a client wants the metrics; there are only a few."""

    content_type: str
    compressed: bool
    encode: Encode = field(compare=False)


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    body: bytes
    headers: tuple[tuple[str, str], ...] = (_TEXT,)


class MetricsPort:
    """Serves the metrics of one registry."""

    def __init__(
        self,
        registry: CollectorRegistry,
        *,
        refused: Callable[[Reason], None] | None = None,
        connections_max: int = CONNECTIONS_MAX,
        per_address_max: int = PER_ADDRESS_MAX,
        read_s: float = READ_S,
        answer_s: float = ANSWER_S,
    ) -> None:
        """``refused`` is called for every connection that is not accepted."""
        # They would add a series to each counter.
        disable_created_metrics()  # type: ignore[no-untyped-call]  # the library's own omission
        self._registry = registry
        self._loop = asyncio.get_running_loop()
        self._read_s = read_s
        self._answer_s = answer_s
        self._listener = Listener(
            "metrics",
            total_max=connections_max,
            per_address_max=per_address_max,
            refused=refused or (lambda _reason: None),
        )
        self._thread = ThreadPoolExecutor(1, "metrics")
        self._next: dict[_Form, asyncio.Task[_Answer]] = {}
        """The encodings that have not begun: all requests until then share them."""
        self._not_before_s: dict[_Form, float] = {}
        self._turn = asyncio.Lock()
        self._serving: set[asyncio.Task[None]] = set()

    @property
    def port(self) -> int:
        """The port that it listens on."""
        return self._listener.port

    @property
    def connections(self) -> int:
        """How many connections are open now."""
        return self._listener.connections

    async def start(self, host: str, port: int) -> None:
        """Serve; raises OSError if it cannot listen at the port."""
        await self._listener.listen(host, port, self._protocol)

    def stop(self) -> None:
        """Close the port and its connections."""
        self._listener.close()
        for task in (*self._serving, *self._next.values()):
            task.cancel()
        self._thread.shutdown(wait=False, cancel_futures=True)

    def _protocol(self) -> asyncio.BaseProtocol:
        return asyncio.StreamReaderProtocol(
            asyncio.StreamReader(limit=HEAD_BYTES_MAX), self._connected
        )

    def _connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = self._loop.create_task(self._serve(reader, writer))
        self._serving.add(task)
        task.add_done_callback(self._serving.discard)

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            method, answer = await self._read(reader)
            async with asyncio.timeout(self._answer_s):
                if isinstance(answer, _Form):
                    answer = await self._written(answer)
                await _send(writer, answer, with_body=method != "HEAD")
        except (OSError, TimeoutError, asyncio.IncompleteReadError):
            pass  # the client has gone, or is too slow
        finally:
            writer.transport.abort()

    async def _read(self, reader: asyncio.StreamReader) -> tuple[str, _Form | _Answer]:
        """Read a request; returns its method, and the form to encode or an error to answer."""
        try:
            async with asyncio.timeout(self._read_s):
                head = await reader.readuntil(b"\r\n\r\n")
        except TimeoutError:
            status = HTTPStatus.REQUEST_TIMEOUT
            return "", _wrong(status, f"the request was not whole within {self._read_s:g} s")
        except asyncio.LimitOverrunError:
            status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
            return "", _wrong(status, f"a request may have {HEAD_BYTES_MAX} bytes of headers")
        line, *fields = head.decode("latin-1").split("\r\n")
        parts = line.split(" ")
        if len(parts) != _LINE_PARTS or not parts[2].startswith("HTTP/1."):
            return "", _wrong(HTTPStatus.BAD_REQUEST, f"right is GET {PATH} HTTP/1.1")
        method, target, _ = parts
        if method not in _METHODS:
            answer = _wrong(HTTPStatus.METHOD_NOT_ALLOWED, "right is GET or HEAD")
            allowed = ("Allow", ", ".join(_METHODS))
            return method, _Answer(answer.status, answer.body, (*answer.headers, allowed))
        if target.partition("?")[0] != PATH:
            return method, _wrong(HTTPStatus.NOT_FOUND, f"the metrics are at {PATH}")
        headers = {
            name.strip().lower(): value.strip() for name, _, value in map(_split, fields) if name
        }
        compressed = "gzip" in headers.get("accept-encoding", "")
        encode, content_type = choose_encoder(headers.get("accept", ""))
        return method, _Form(content_type, compressed, encode)

    async def _written(self, form: _Form) -> _Answer:
        writing = self._next.get(form)
        if writing is None:
            writing = self._next[form] = self._loop.create_task(self._write_in_turn(form))
        return await asyncio.shield(writing)

    async def _write_in_turn(self, form: _Form) -> _Answer:
        await asyncio.sleep(self._not_before_s.get(form, 0.0) - self._loop.time())
        async with self._turn:
            # Later requests must not get values measured before them.
            del self._next[form]
            self._not_before_s[form] = self._loop.time() + APART_S
            return await self._loop.run_in_executor(self._thread, self._write, form)

    def _write(self, form: _Form) -> _Answer:
        body = form.encode(self._registry)
        headers: tuple[tuple[str, str], ...] = (("Content-Type", form.content_type),)
        if form.compressed:
            body = gzip.compress(body, compresslevel=1)
            headers = (*headers, ("Content-Encoding", "gzip"))
        return _Answer(HTTPStatus.OK, body, headers)


def _split(field: str) -> tuple[str, str, str]:
    return field.partition(":")


def _wrong(status: HTTPStatus, why: str) -> _Answer:
    return _Answer(status, f"{why}\n".encode())


async def _send(writer: asyncio.StreamWriter, answer: _Answer, *, with_body: bool) -> None:
    head = [
        f"HTTP/1.1 {answer.status.value} {answer.status.phrase}",
        f"Content-Length: {len(answer.body)}",
        "Connection: close",
        *(f"{name}: {value}" for name, value in answer.headers),
    ]
    writer.write(("\r\n".join(head) + "\r\n\r\n").encode("latin-1"))
    # In pieces, so that no copy of the whole body waits for a slow reader.
    for start in range(0, len(answer.body) if with_body else 0, _PIECE_BYTES):
        await writer.drain()
        writer.write(answer.body[start : start + _PIECE_BYTES])
    writer.close()
    await writer.wait_closed()
