"""Runs a worker: the only place that uses the real client and the real signals."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import socket
from collections.abc import Sequence

from tq_client import AsyncClient
from tq_common import addresses
from tq_common.addresses import DEFAULT_ADDRESSES
from tq_common.event_loop import EventLoop
from tq_process import signals
from tq_worker.api.errors import UsageError
from tq_worker.broker.connection import Link
from tq_worker.cli.complain import complain
from tq_worker.cli.config import WorkerConfig
from tq_worker.pool.reload import Changes
from tq_worker.telemetry import logs, tracing
from tq_worker.wire import exits
from tq_worker.worker import Worker, WorkerOptions

MB = 1_000_000


def run(config: WorkerConfig) -> int:
    """Work until a signal says to leave; returns the exit code, or raises UsageError."""
    options = options_of(config)
    logs.configure(options.log_format)
    os.environ |= options.telling.environment()
    if options.reload:
        # Bytecode files record times in whole seconds: two changes within one look the same.
        os.environ["PYTHONDONTWRITEBYTECODE"] = "1"
    with asyncio.Runner(loop_factory=EventLoop) as runner:
        return runner.run(_run(options, config.address or DEFAULT_ADDRESSES))


def options_of(config: WorkerConfig) -> WorkerOptions:
    """Return the worker's options, with what the file leaves to the machine."""
    cores = len(os.sched_getaffinity(0))
    memory_mb_max = config.max_memory_per_child_mb
    metrics = config.metrics_listen
    return WorkerOptions(
        worker_id=config.worker_id or _drawn_id(),
        modules=config.handlers,
        queues=config.queues,
        concurrency=config.concurrency,
        processes=config.processes,
        process_slots=config.process_slots or min(config.concurrency, cores),
        limits=config.limit,
        tasks_max=config.max_tasks_per_child,
        memory_bytes_max=None if memory_mb_max is None else memory_mb_max * MB,
        lease_s=config.lease,
        drain_timeout_s=config.drain_timeout,
        deaf_after_s=config.deaf_after,
        unfit_for_s=config.unfit_for,
        reload=config.reload,
        metrics_listen=None if metrics is None else addresses.split(metrics),
        log_format=config.log.format,
        telling=tracing.Telling(
            otlp_endpoint=config.tracing.otlp_endpoint,
            ratio=config.tracing.ratio,
            log_tasks=config.log.tasks,
        ),
    )


def _drawn_id() -> str:
    return f"{socket.gethostname()[:150]}-{os.getpid()}-{secrets.token_hex(3)}"


async def _run(options: WorkerOptions, brokers: str | Sequence[str]) -> int:
    link = Link(lambda: AsyncClient(brokers, conversations=True))
    worker = Worker(options, link, link.reconnect)
    left = asyncio.Event()

    def leave() -> None:
        left.set()
        worker.leave()

    loop = asyncio.get_running_loop()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, leave)
    # Running handlers may finish: their processes ignore the terminal's signals.
    signals.on_hangup(loop, leave)
    signals.log_passed_over(loop)
    signals.tell_stacks_on_quit(loop)
    try:
        while True:
            try:
                undelivered = await worker.run()
            except UsageError as error:
                if not options.reload or not worker.sources():
                    raise
                complain([*error.problems, "waiting for the next change of a file"])
                if not await _changed(worker, left):
                    return exits.USAGE
                worker = Worker(options, link, link.reconnect)
            else:
                if worker.deaf:
                    return exits.DEAF
                return exits.UNDELIVERED if undelivered else 0
    finally:
        await link.close()


async def _changed(worker: Worker, left: asyncio.Event) -> bool:
    """Wait for a change of a handler's file; False if the worker must leave before."""
    changing = asyncio.ensure_future(Changes(worker.sources, worker.made_ns).next())
    leaving = asyncio.ensure_future(left.wait())
    done, waiting = await asyncio.wait([changing, leaving], return_when=asyncio.FIRST_COMPLETED)
    for each in waiting:
        each.cancel()
    return changing in done
