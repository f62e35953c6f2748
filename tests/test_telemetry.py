"""What a node says of itself: log lines, percentiles, the longest hold of its loop, metrics."""

from __future__ import annotations

import asyncio
import io
import json
import logging
import time
import urllib.request
from collections.abc import Iterator

import pytest

from chaos.cluster.ports import free_addresses
from tests.patience import PATIENCE_S
from tests.service.fakes import until
from tq_cluster.beats import BEAT_S
from tq_cluster.telemetry import logs
from tq_cluster.telemetry.loop_hold import FINE_BEAT_S, LoopHold
from tq_cluster.telemetry.metrics import Metrics
from tq_cluster.telemetry.samples import Samples
from tq_common.log_lines import TextFormatter
from tq_worker.telemetry import logs as worker_logs


def read(address: str) -> str:
    with urllib.request.urlopen(f"http://{address}/metrics", timeout=PATIENCE_S) as reply:
        text: str = reply.read().decode()
        return text


@pytest.fixture
def root_logger() -> Iterator[logging.Logger]:
    """The root logger, given back as it was."""
    root = logging.getLogger()
    handlers, level = root.handlers[:], root.level
    yield root
    root.handlers[:] = handlers
    root.setLevel(level)


@pytest.mark.usefixtures("root_logger")
def test_a_log_line_is_an_event_and_its_keys() -> None:
    stream = io.StringIO()
    logs.set_up(node_id="n1", style="text", level="info", stream=stream)

    logging.getLogger("tq").info("lease expired", extra={"task_id": "t 1", "attempt": 3})
    logging.getLogger("tq").debug("not at this level")

    [line] = stream.getvalue().splitlines()
    assert line.endswith('Z n1 info     lease expired task_id="t 1" attempt=3')


@pytest.mark.parametrize(
    "formatter",
    [TextFormatter(logs.keys_of, "n1"), TextFormatter(worker_logs.keys_of)],
)
def test_an_id_neither_breaks_its_line_nor_tells_the_terminal_something(
    formatter: logging.Formatter,
) -> None:
    record = logging.makeLogRecord({"msg": "lease expired", "task_id": "a\nb\x1b[2J\u202ec"})

    line = formatter.format(record)

    assert line.endswith(r'lease expired task_id="a\nb\u001b[2J\u202ec"')


@pytest.mark.usefixtures("root_logger")
def test_an_answer_that_finds_its_caller_gone_is_no_error() -> None:
    stream = io.StringIO()
    logs.set_up(node_id="n1", style="text", level="info", stream=stream)
    grpc_core = logging.getLogger("grpc._cython.cygrpc")

    grpc_core.error("ExecuteBatchError raised in core by servicer method [%s]", "/tq.v1/Submit")
    grpc_core.error("something else")

    [line] = stream.getvalue().splitlines()
    assert line.endswith("something else")


@pytest.mark.usefixtures("root_logger")
def test_a_json_line_is_one_object_with_the_keys_beside_the_event() -> None:
    stream = io.StringIO()
    logs.set_up(node_id="n1", style="json", level="debug", stream=stream)

    try:
        int("why")
    except ValueError:
        logging.getLogger("tq.x").exception("it broke", extra={"term": 4})

    [line] = stream.getvalue().splitlines()
    found = json.loads(line)
    assert {key: found[key] for key in ("node", "level", "logger", "event", "term")} == {
        "node": "n1",
        "level": "error",
        "logger": "tq.x",
        "event": "it broke",
        "term": 4,
    }
    assert "ValueError: invalid literal" in found["exception"]


def test_percentiles_are_those_of_the_last_measurements() -> None:
    samples = Samples(kept=100)
    assert samples.percentiles(0.5) == [0.0]

    for value in range(1000):
        samples.add(float(value))

    assert samples.percentiles(0.0, 0.5, 0.99, 1.0) == [900.0, 950.0, 999.0, 999.0]


async def test_what_held_the_loop_longest_is_known() -> None:
    seen: list[float] = []
    hold = LoopHold(seen.append)
    hold.start()
    try:
        await until(lambda: len(seen) >= 1, "a beat")
        time.sleep(0.3)  # noqa: ASYNC251  # holds the loop, which is the point
        # Known before the beat that it made late: a caller may ask before that beat.
        assert hold.longest().wall_s > 0.1
        await until(lambda: max(seen) > 0.1, "the hold is noted")
        held_s = hold.longest().wall_s
        await asyncio.sleep(0)
    finally:
        hold.stop()

    assert held_s == max(seen)


async def test_a_hold_in_which_the_machine_ran_something_else_took_no_processor_time() -> None:
    used_s = iter(n / 1000 for n in range(10_000))  # a millisecond of work between two looks
    seen: list[float] = []
    hold = LoopHold(seen.append, cpu_s=lambda: next(used_s))
    hold.start()
    try:
        # Longer than the time until the first beat, stands for a neighbour that has the processor.
        time.sleep(3 * BEAT_S)  # noqa: ASYNC251
        await until(lambda: bool(seen), "a beat")
        longest = hold.longest()
    finally:
        hold.stop()

    assert longest.wall_s > 0.1
    assert longest.cpu_s == pytest.approx(0.001)


async def test_a_hold_is_looked_for_as_far_back_as_asked_and_closer_once_watched() -> None:
    seen: list[float] = []
    hold = LoopHold(seen.append)
    hold.start()
    try:
        time.sleep(3 * BEAT_S)  # noqa: ASYNC251  # longer than the first beat is away
        await until(lambda: len(seen) >= 2, "beats")
        assert hold.longest(span_s=60).wall_s > 0.1
        await until(lambda: hold.longest(span_s=0.001).wall_s < 0.1, "it is longer ago than that")
        assert hold.beat_s == BEAT_S
        hold.watch()
        assert hold.beat_s == FINE_BEAT_S
        before = len(seen)
        await until(lambda: len(seen) >= before + 2, "it beats on")
    finally:
        hold.stop()


async def test_metrics_are_served_with_units_in_their_names() -> None:
    metrics = Metrics()
    metrics.fsynced(0.003)
    metrics.stands(leads=True, term=7, commit_index=9, applied_index=8)
    [address] = free_addresses(1)
    host, port = address.split(":")

    stop = await metrics.serve(host, int(port))
    try:
        text = await asyncio.to_thread(read, address)
    finally:
        stop()

    assert "tq_journal_fsync_seconds_count 1.0" in text
    assert "tq_term 7.0" in text
    assert "tq_leads 1.0" in text


async def test_a_metrics_port_in_use_is_an_error() -> None:
    [address] = free_addresses(1)
    host, port = address.split(":")
    stop = await Metrics().serve(host, int(port))
    try:
        with pytest.raises(OSError, match="in use"):
            await Metrics().serve(host, int(port))
    finally:
        stop()
