"""Metrics are served on the loop, to few callers at a time, and not for as long as they like."""

from __future__ import annotations

import asyncio
import gzip
import threading
from collections.abc import AsyncIterator, Iterator

import pytest
from prometheus_client import CollectorRegistry, Gauge
from prometheus_client.metrics_core import GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from tests.service.fakes import until
from tq_process.metrics_port import HEAD_BYTES_MAX, MetricsPort


class Large(Collector):
    """Takes a megabyte to write down; counts how often that was done."""

    def __init__(self) -> None:
        self.collected = 0
        self.go_on = threading.Event()
        self.go_on.set()

    def collect(self) -> Iterator[Metric]:
        self.collected += 1
        self.go_on.wait()
        family = GaugeMetricFamily("large", "Much.", labels=["name"])
        for number in range(20_000):
            family.add_metric([f"{number:050}"], 1.0)
        yield family


@pytest.fixture
def registry() -> CollectorRegistry:
    made = CollectorRegistry()
    Gauge("tq_term", "The term.", registry=made).set(7)
    return made


class Caller:
    """Speaks HTTP by hand."""

    def __init__(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.reader = reader
        self.writer = writer

    @classmethod
    async def connect(cls, port: MetricsPort) -> Caller:
        return cls(*await asyncio.open_connection("127.0.0.1", port.port))

    async def ask(self, request: str) -> tuple[str, dict[str, str], bytes]:
        self.writer.write(request.replace("\n", "\r\n").encode())
        return await self.answer()

    async def answer(self) -> tuple[str, dict[str, str], bytes]:
        """Status, headers and body of an answer that the port's closing ends."""
        head, _, body = (await self.reader.read()).partition(b"\r\n\r\n")
        status, *lines = head.decode().split("\r\n")
        self.writer.close()
        headers = dict(line.split(": ", 1) for line in lines)
        return status.removeprefix("HTTP/1.1 "), headers, body


@pytest.fixture
async def port(registry: CollectorRegistry) -> AsyncIterator[MetricsPort]:
    served = MetricsPort(registry, read_s=0.2, answer_s=5.0, connections_max=4, per_address_max=4)
    await served.start("127.0.0.1", 0)
    yield served
    served.stop()


async def ask(port: MetricsPort, request: str) -> tuple[str, dict[str, str], bytes]:
    return await (await Caller.connect(port)).ask(request)


async def test_prometheus_is_answered(port: MetricsPort) -> None:
    status, headers, body = await ask(port, "GET /metrics?x=1 HTTP/1.1\nHost: n1\n\n")

    assert status == "200 OK"
    assert b"tq_term 7.0" in body
    assert int(headers["Content-Length"]) == len(body)
    assert headers["Content-Type"].startswith("text/plain")


async def test_the_form_is_the_callers_to_choose(port: MetricsPort) -> None:
    accept = "Accept: application/openmetrics-text; version=1.0.0\nAccept-Encoding: gzip\n\n"
    status, headers, body = await ask(port, f"GET /metrics HTTP/1.1\n{accept}")

    assert (status, headers["Content-Encoding"]) == ("200 OK", "gzip")
    assert headers["Content-Type"].startswith("application/openmetrics-text")
    assert gzip.decompress(body).endswith(b"# EOF\n")


async def test_a_head_request_is_answered_without_a_body(port: MetricsPort) -> None:
    status, headers, body = await ask(port, "HEAD /metrics HTTP/1.1\n\n")
    assert (status, body) == ("200 OK", b"")
    assert int(headers["Content-Length"]) > 0


@pytest.mark.parametrize(
    ("request_", "status", "said"),
    [
        ("POST /metrics HTTP/1.1\nContent-Length: 0\n\n", "405 Method Not Allowed", "GET or HEAD"),
        ("GET /other HTTP/1.1\n\n", "404 Not Found", "the metrics are at /metrics"),
        ("GET /metrics\n\n", "400 Bad Request", "right is GET /metrics HTTP/1.1"),
        ("\x16\x03\x01\n\n", "400 Bad Request", "right is GET /metrics HTTP/1.1"),
        (
            f"GET /metrics HTTP/1.1\nX: {'x' * 2 * HEAD_BYTES_MAX}\n\n",
            "431 Request Header Fields Too Large",
            f"{HEAD_BYTES_MAX} bytes",
        ),
    ],
)
async def test_what_cannot_be_answered_is_told_what_would_be_right(
    port: MetricsPort, request_: str, status: str, said: str
) -> None:
    answered, _, body = await ask(port, request_)
    assert answered == status
    assert said in body.decode()


async def test_a_request_that_does_not_come_is_not_waited_for(port: MetricsPort) -> None:
    caller = await Caller.connect(port)
    caller.writer.write(b"GET /metrics HTT")
    status, _, body = await caller.answer()
    assert status == "408 Request Timeout"
    assert b"not whole within 0.2 s" in body
    await until(lambda: port.connections == 0, "its connection is gone")


async def test_idle_callers_cost_no_thread_and_leave_room_for_others(
    registry: CollectorRegistry, port: MetricsPort
) -> None:
    threads = threading.active_count()
    idle = [await Caller.connect(port) for _ in range(40)]
    assert port.connections <= 4
    assert threading.active_count() == threads

    # Each is given up after a moment; then there is room.
    for caller in idle:
        await caller.reader.read()
    status, _, _ = await ask(port, "GET /metrics HTTP/1.1\n\n")
    assert status == "200 OK"


async def test_a_caller_that_does_not_read_is_given_up(registry: CollectorRegistry) -> None:
    registry.register(Large())
    port = MetricsPort(registry, answer_s=0.3)
    await port.start("127.0.0.1", 0)
    stalled = await Caller.connect(port)
    stalled.writer.transport.pause_reading()  # type: ignore[attr-defined]  # it is a socket's
    stalled.writer.write(b"GET /metrics HTTP/1.1\r\n\r\n")
    await until(lambda: port.connections == 1, "it is being answered")

    await until(lambda: port.connections == 0, "it is given up")

    stalled.writer.close()
    port.stop()


async def test_however_many_ask_the_metrics_are_written_once_for_those_who_wait(
    registry: CollectorRegistry,
) -> None:
    large = Large()
    registry.register(large)
    registered = large.collected
    large.go_on.clear()
    port = MetricsPort(registry)
    await port.start("127.0.0.1", 0)

    first = asyncio.create_task(ask(port, "GET /metrics HTTP/1.1\n\n"))
    await until(lambda: large.collected > registered, "it is being written")
    # In words of their own, all for the same form; the loop is free to let them come.
    others = [
        asyncio.create_task(ask(port, f"GET /metrics HTTP/1.1\nAccept: text/plain;q=0.{n}\n\n"))
        for n in range(8)
    ]
    await until(lambda: len(port._serving) == 9, "all have asked")
    large.go_on.set()
    answers = await asyncio.gather(first, *others)

    assert {status for status, _, _ in answers} == {"200 OK"}
    assert large.collected - registered == 2, "once for the first, once for all who came after"
    port.stop()
